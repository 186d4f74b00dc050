use std::collections::BTreeSet;

use scitq_shared::ids::{Epoch, IncarnationId, TaskId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::transition::{AttemptState, TaskState};

use crate::db::{Database, DbError};
use crate::events::{Happening, needs, project};

/// Attempts lost in one transaction.
const AT_ONCE: usize = 256;

/// What was lost with a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// How many attempts.
    pub attempts: usize,
    /// The tasks that are pending again.
    pub tasks: BTreeSet<TaskId>,
    /// Their batches: there is something to dispatch.
    pub batches: BTreeSet<BatchName>,
}

/// Gives up the live attempts of a worker, or of one life of its directory: they are lost, and their tasks are dispatched
/// anew without using a retry (D7). Marks the worker lost then, so what is broken off in between is done again.
pub async fn lose(
    database: &Database,
    epoch: Epoch,
    worker: &WorkerName,
    incarnation: Option<IncarnationId>,
    detail: &str,
) -> Result<Loss, DbError> {
    let live = database.live_attempts(worker, incarnation).await?;
    let mut loss = Loss::default();
    for some in live.chunks(AT_ONCE) {
        let happened: Vec<Happening> = some
            .iter()
            .map(|live| Happening::Lost {
                attempt: live.attempt,
                dispatch: live.dispatch,
                task: live.task,
                detail: detail.to_owned(),
            })
            .collect();
        let mut written = (0, BTreeSet::new());
        let projected = database
            .project(epoch, &needs(&happened), Vec::new(), |loaded| {
                let (projection, _) = project(loaded, &happened);
                let attempts = projection.attempts.iter();
                let pending = projection
                    .tasks
                    .iter()
                    .filter(|change| change.to == TaskState::Pending);
                // One that ended meanwhile keeps its end.
                written = (
                    attempts
                        .filter(|change| change.state == AttemptState::Lost)
                        .count(),
                    pending.map(|change| change.task).collect(),
                );
                projection
            })
            .await?;
        loss.attempts += written.0;
        loss.tasks.extend(written.1);
        loss.batches.extend(projected.newly_pending.into_keys());
    }
    database.set_lost(epoch, worker, incarnation).await?;
    Ok(loss)
}
