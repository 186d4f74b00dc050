//! Changes of tasks that have not started (D8), as far as the dispatcher makes them: recalled by the core, committed here.

use std::collections::{BTreeMap, BTreeSet};

use scitq_shared::ids::TaskId;
use scitq_shared::names::BatchName;
use tokio::sync::oneshot;

use super::core::{Input, Out, RecallNumber};
use super::dispatcher::{Desk, Dispatcher};
use crate::db::{NewRevision, Revised};
use crate::events::Consumed;
use crate::notices::Notice;
use crate::patience::patiently;

/// Tasks of one batch that are to be changed before they start.
#[derive(Debug)]
pub struct Revise {
    /// Their batch.
    pub batch: BatchName,
    /// What they are to be.
    pub revisions: Vec<NewRevision>,
    /// Who is told what came of it. Dropped when this term of leadership ends before: then nothing is changed.
    pub answer: oneshot::Sender<RevisionAnswer>,
}

/// What came of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevisionAnswer {
    /// By task.
    pub revised: Vec<(TaskId, Revised)>,
    /// Of the changed tasks those with an earlier dispatch that is still out, and who may have it: the change stands unless
    /// that dispatch starts. No other starts as it was before.
    pub unconfirmed: Vec<Out>,
}

/// Names of those that are unconfirmed. Pure: `out` is what could not be taken back, `revised` where the tasks stand since.
pub fn unconfirmed(out: Vec<Out>, revised: &[(TaskId, Revised)]) -> Vec<Out> {
    let still: BTreeMap<TaskId, _> = revised
        .iter()
        .filter_map(|(task, revised)| match revised {
            Revised::Changed { unconfirmed, .. } => Some((*task, (*unconfirmed)?)),
            _ => None,
        })
        .collect();
    let mut unconfirmed = out;
    unconfirmed.retain(|out| still.get(&out.task) == Some(&out.dispatch));
    unconfirmed
}

impl Dispatcher {
    /// Takes the wish for a change: its tasks are recalled first.
    pub(super) fn take_revision(desk: &mut Desk, revise: Revise) {
        desk.last_recall += 1;
        let recall = RecallNumber(desk.last_recall);
        desk.inputs.push_back(Input::Recall {
            recall,
            batch: revise.batch.clone(),
            tasks: revise.revisions.iter().map(|wanted| wanted.task).collect(),
        });
        desk.revisions.insert(recall, revise);
    }

    pub(super) async fn list_unstarted(
        &self,
        batch: BatchName,
        recall: RecallNumber,
        desk: &mut Desk,
    ) -> Result<(), Consumed> {
        let (unstarted, workers) = patiently!(
            &self.stop,
            "the dispatcher",
            self.database.unstarted(&batch).await
        )?;
        desk.inputs.push_back(Input::Unstarted {
            batch,
            recall,
            unstarted,
            workers,
        });
        Ok(())
    }

    /// Commits a change, and answers.
    pub(super) async fn change(
        &self,
        batch: BatchName,
        recall: RecallNumber,
        out: Vec<Out>,
        desk: &mut Desk,
    ) -> Result<(), Consumed> {
        let mut pending = BTreeSet::new();
        if let Some(revise) = desk.revisions.remove(&recall) {
            let revised = patiently!(
                &self.stop,
                "the dispatcher",
                self.database
                    .revise(self.epoch, &batch, &revise.revisions)
                    .await
            )?;
            let unconfirmed = unconfirmed(out, &revised);
            tracing::info!(%batch, tasks = revised.len(), unconfirmed = unconfirmed.len(), "tasks are changed");
            pending.extend(revise.revisions.into_iter().map(|wanted| wanted.batch));
            self.notices.tell(Notice::Tasks);
            // Whoever asked may have gone.
            let _ = revise.answer.send(RevisionAnswer {
                revised,
                unconfirmed,
            });
        }
        desk.inputs.push_back(Input::Changed {
            batch,
            recall,
            pending,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use scitq_shared::ids::{DispatchId, Revision};

    use super::*;

    #[test]
    fn only_what_is_still_out_is_unconfirmed() {
        let dispatch = |n| DispatchId(uuid::Uuid::from_u128(n));
        let out = |task, n| Out {
            task: TaskId(task),
            dispatch: dispatch(n),
            holders: BTreeSet::new(),
        };
        let changed = |unconfirmed| Revised::Changed {
            revision: Revision(2),
            unconfirmed,
        };
        let revised = [
            (TaskId(1), changed(Some(dispatch(1)))),
            // Given back, started, or gone while the change was made.
            (TaskId(2), changed(None)),
            (TaskId(3), Revised::Started),
            (TaskId(5), changed(None)),
        ];
        let all = (1..=4).map(|n| out(n, n.unsigned_abs().into())).collect();
        assert_eq!(unconfirmed(all, &revised), [out(1, 1)]);
    }
}
