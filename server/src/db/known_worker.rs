use scitq_shared::ids::{AttemptId, DispatchId, IncarnationId, TaskId};
use scitq_shared::names::BatchName;
use scitq_shared::transition::AttemptState;
use scitq_shared::worker::DesiredState;

/// The answer to a worker's hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeted {
    /// What the worker is to be: what the server held, or for a new one what it asked for.
    pub desired: DesiredState,
    /// True when the server knew the name before.
    pub known: bool,
    /// The incarnation that held the name before this hello, where there was one; the same one after a restart of the
    /// agent.
    pub previous_incarnation: Option<IncarnationId>,
}

/// What is to change about a worker; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerChange {
    /// The batch it listens to.
    pub batch: Option<BatchName>,
    /// Its slots.
    pub concurrency: Option<u16>,
    /// Tasks kept ready beyond those running.
    pub prefetch: Option<u16>,
    /// True when no new task may start.
    pub paused: Option<bool>,
}

/// What the workers of a batch can take; only workers in status running are counted (D3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// How many workers.
    pub workers: i64,
    /// Their slots and prefetch, summed.
    pub slots_and_prefetch: i64,
}

/// What the database holds against a worker's inventory (D9).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldAttempts {
    /// Attempts of this worker and incarnation that are not over.
    pub live: Vec<LiveAttempt>,
    /// Those of the asked-for attempts that exist.
    pub listed: Vec<ListedAttempt>,
}

/// An attempt that is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveAttempt {
    /// The attempt.
    pub attempt: AttemptId,
    /// Its task.
    pub task: TaskId,
    /// The dispatch it accepted.
    pub dispatch: DispatchId,
    /// Where it stands.
    pub state: AttemptState,
    /// Sequence of the message that announced it: an inventory of a lower sequence does not speak of it.
    pub announced_sequence: u64,
}

/// How much the database holds of an attempt that a worker lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedAttempt {
    /// The attempt.
    pub attempt: AttemptId,
    /// Its task.
    pub task: TaskId,
    /// Where it stands.
    pub state: AttemptState,
    /// True when its end and all its kept output are stored: the worker may forget it.
    pub complete: bool,
    /// First kept byte of standard output that is lacking; none when nothing is lacking or the end is unknown.
    pub stdout_from: Option<u64>,
    /// First kept byte of standard error that is lacking.
    pub stderr_from: Option<u64>,
}
