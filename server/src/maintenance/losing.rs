use std::collections::BTreeSet;
use std::time::Duration;

use scitq_shared::ids::{Epoch, IncarnationId, TaskId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::transition::{AttemptState, TaskState};

use crate::db::{Database, DbError};
use crate::dispatch::{DispatchInput, DispatchSender};
use crate::events::{Happening, needs, project};
use crate::nudge::{Nudge, Nudger};

/// Attempts lost in one transaction.
const AT_ONCE: usize = 256;

/// What was lost with a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// How many attempts.
    pub attempts: usize,
    /// The tasks that are pending again.
    pub tasks: BTreeSet<TaskId>,
}

/// Whose attempts are given up.
#[derive(Clone, Debug)]
pub struct Loser {
    /// The worker.
    pub worker: WorkerName,
    /// Only what this life of its directory ran; none: all of them.
    pub incarnation: Option<IncarnationId>,
    /// How long it must have been silent to be marked lost; none: a person says so.
    pub silent_for: Option<Duration>,
    /// Why, in words.
    pub detail: String,
}

/// Who is told that there is something to dispatch.
#[derive(Clone)]
pub enum Told {
    /// The dispatcher of this leader.
    Dispatcher(DispatchSender),
    /// Whoever leads.
    Leader(Nudger),
}

impl Told {
    async fn pending(&self, batches: BTreeSet<BatchName>) {
        match self {
            Self::Dispatcher(dispatcher) => dispatcher.send(DispatchInput::Pending(batches)).await,
            Self::Leader(nudger) => nudger.nudge(Nudge::Pending { batches }).await,
        }
    }
}

/// Gives up the live attempts of a worker, or of one life of its directory: they are lost, and their tasks are dispatched
/// anew without using a retry (D7). Marks the worker lost then, so what is broken off in between is done again.
///
/// What was lost is added to `loss`, transaction by transaction, and `told` hears of each, be it only begun: whatever comes
/// after it fails, and whether or not the answer of a commit arrives, nothing that is pending waits unseen.
pub async fn lose(
    database: &Database,
    epoch: Epoch,
    loser: &Loser,
    told: &Told,
    loss: &mut Loss,
) -> Result<(), DbError> {
    let live = database
        .live_attempts(&loser.worker, loser.incarnation)
        .await?;
    for some in live.chunks(AT_ONCE) {
        let happened: Vec<Happening> = some
            .iter()
            .map(|live| Happening::Lost {
                attempt: live.attempt,
                dispatch: live.dispatch,
                task: live.task,
                detail: loser.detail.clone(),
            })
            .collect();
        let mut written = (0, BTreeSet::new());
        let mut batches = BTreeSet::new();
        let projected = database
            .project(epoch, &needs(&happened), Vec::new(), |loaded| {
                batches.extend(loaded.tasks.values().map(|task| task.batch.clone()));
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
            .await;
        if !batches.is_empty() {
            told.pending(batches).await;
        }
        projected?;
        loss.attempts += written.0;
        loss.tasks.extend(written.1);
    }
    database
        .set_lost(epoch, &loser.worker, loser.incarnation, loser.silent_for)
        .await
}
