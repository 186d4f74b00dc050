use scitq_shared::ids::TaskId;
use scitq_shared::names::BatchName;
use scitq_shared::task::TaskStatus;

/// A submitted task, in the place of its submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// Its id.
    pub task: TaskId,
    /// Its batch.
    pub batch: BatchName,
    /// Its status after the submission.
    pub status: TaskStatus,
    /// False when a task with the same idempotency key was there already: that one is named.
    pub created: bool,
}
