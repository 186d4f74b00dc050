//! What is known about restorations of the database from backups (D12).

use std::collections::BTreeSet;

use scitq_shared::ids::{Epoch, ExecutionId, TaskId};
use scitq_shared::names::{BatchName, WorkerName};

/// How far ids, epochs and versions jump over those that may have been given after the backup.
pub const LEAP: i64 = 1_000_000;

/// One restoration: where the backup ended, and where this database goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restoration {
    /// Dispatches of lower epochs may be unknown.
    pub epoch: Epoch,
    /// The last task of the backup.
    pub last_task: TaskId,
    /// The last id that is left free for tasks submitted after the backup.
    pub last_free_task: TaskId,
    /// The last execution of the backup.
    pub last_execution: ExecutionId,
    /// False until the workers have been heard.
    pub heard: bool,
}

/// All restorations, from the first to the latest. None for nearly every database: then nothing is believed that is not
/// known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restorations(pub Vec<Restoration>);

impl Restorations {
    /// True when the database was never restored.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True while workers have to be heard before anything is dispatched.
    pub fn is_open(&self) -> bool {
        self.0.iter().any(|restoration| !restoration.heard)
    }

    /// True when an unknown dispatch of this epoch may have been made after a backup, of a task that was there then or has
    /// an id that was left free.
    pub fn believes(&self, epoch: Epoch, task: TaskId) -> bool {
        let mut possible = self.0.iter();
        possible.any(|it| epoch < it.epoch && task <= it.last_free_task)
    }

    /// True when an unknown task with this id may have been submitted after a backup.
    pub fn may_import(&self, epoch: Epoch, task: TaskId) -> bool {
        let left_free = |it: &Restoration| it.last_task < task && task <= it.last_free_task;
        let mut possible = self.0.iter();
        possible.any(|it| epoch < it.epoch && left_free(it))
    }

    /// True when an execution was in the backup after which an unknown dispatch of this epoch was made: it is older.
    pub fn precedes(&self, execution: ExecutionId, epoch: Epoch) -> bool {
        let mut possible = self.0.iter();
        possible.any(|it| epoch < it.epoch && execution <= it.last_execution)
    }
}

/// Who may hold what a restored database does not know, and where it may wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whereabouts {
    /// All workers that are not lost and have not departed.
    pub workers: BTreeSet<WorkerName>,
    /// All batches.
    pub batches: BTreeSet<BatchName>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_have_been_after_a_backup() {
        // Restored twice: the second backup has what came after the first restoration.
        let restoration = |epoch, last_task, last_execution| Restoration {
            epoch: Epoch(epoch),
            last_task: TaskId(last_task),
            last_free_task: TaskId(last_task + LEAP),
            last_execution: ExecutionId(last_execution),
            heard: true,
        };
        let never = Restorations::default();
        let twice = Restorations(vec![
            restoration(LEAP + 5, 100, 90),
            restoration(2 * LEAP + 7, LEAP + 150, LEAP + 120),
        ]);
        // (epoch, task) → believed, to be imported
        let table = [
            ((5, 50), (true, false)),
            ((5, 100), (true, false)),
            ((5, 101), (true, true)),
            ((6, LEAP + 100), (true, true)),
            // Of the time between the two restorations: in the second backup, or submitted after it.
            ((LEAP + 6, LEAP + 101), (true, false)),
            ((LEAP + 6, LEAP + 151), (true, true)),
            // Of a leader since the last restoration: what it has not written down it has not done.
            ((2 * LEAP + 7, LEAP + 151), (false, false)),
            // Ids that only this database gives.
            ((5, 2 * LEAP + 151), (false, false)),
        ];
        for ((epoch, task), expected) in table {
            let (epoch, task) = (Epoch(epoch), TaskId(task));
            let found = (twice.believes(epoch, task), twice.may_import(epoch, task));
            assert_eq!(found, expected, "epoch {epoch}, task {task}");
            assert!(!never.believes(epoch, task) && !never.may_import(epoch, task));
        }
        assert!(twice.precedes(ExecutionId(90), Epoch(5)));
        assert!(twice.precedes(ExecutionId(LEAP + 120), Epoch(LEAP + 6)));
        assert!(!twice.precedes(ExecutionId(LEAP + 121), Epoch(LEAP + 6)));
        assert!(!twice.precedes(ExecutionId(90), Epoch(2 * LEAP + 8)));
    }
}
