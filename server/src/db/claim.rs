use std::collections::BTreeSet;

use scitq_shared::ids::{DispatchId, TaskId};
use scitq_shared::names::WorkerName;
use scitq_shared::protocol::TaskMessage;

/// What a claim took out of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The dispatches to publish, in the order of publication. They are committed: each counts as published (D3).
    pub tasks: Vec<TaskMessage>,
    /// Dispatches of the batch that are not accepted yet, these included.
    pub assigned: usize,
    /// True when the batch has more pending tasks.
    pub pending_left: bool,
}

/// What a batch has for the dispatcher, from its counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchLoad {
    /// Tasks ready to be dispatched.
    pub pending: i64,
    /// Tasks dispatched and not yet accepted.
    pub assigned: i64,
}

/// Dispatches that are not accepted, and who may have got them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unaccepted {
    /// By the ids of their tasks.
    pub dispatches: Vec<(TaskId, DispatchId)>,
    /// All workers that are not lost and have not departed.
    pub workers: BTreeSet<WorkerName>,
}

/// What a batch's dispatches come to against the depth of its queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surplus {
    /// The oldest dispatches that are old enough to count, as many as there are more of them than messages in the queue.
    pub surplus: Vec<DispatchId>,
    /// All dispatches that are not accepted, whatever their age.
    pub assigned: usize,
}

/// A dispatch that has not started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unstarted {
    /// Its task.
    pub task: TaskId,
    /// The dispatch.
    pub dispatch: DispatchId,
    /// The worker that has accepted it, where one has.
    pub holder: Option<WorkerName>,
}
