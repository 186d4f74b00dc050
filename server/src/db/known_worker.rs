use std::time::Duration;

use scitq_shared::Timestamp;
use scitq_shared::execution::FailureReason;
use scitq_shared::ids::{AttemptId, DispatchId, IncarnationId, TaskId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::transition::AttemptState;
use scitq_shared::worker::{DesiredState, Lease};

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
    /// The start of the agent that is to be followed by another one, where that is asked for and not done.
    pub restart: Option<u32>,
}

/// A worker was heard of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SignOfLife {
    /// The worker.
    pub worker: WorkerName,
    /// Which life of its state directory.
    pub incarnation: IncarnationId,
    /// How many times its agent was started on that directory.
    pub boots: u32,
}

/// What is wanted of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The life of its directory that has its name, and the newest start of its agent that was heard of.
    pub start: (IncarnationId, u32),
    /// What it is to be.
    pub desired: DesiredState,
    /// The start of its agent that is to be followed by another one, where that is asked for and not done.
    pub restart: Option<u32>,
}

/// What became of a request for a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// This start of the agent, as its last hello counted them, is to be followed by another one.
    Requested(u32),
    /// The start that was meant has been followed by another one already.
    Done,
    /// Its agent is a part of another program.
    Impossible,
    /// Which start its agent is has not been heard of yet.
    Unheard,
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
    /// How long it may be silent before its attempts are lost.
    pub lost_after: Option<Lease>,
}

/// One life of a worker's directory that was silent for longer than its lease (D7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silent {
    /// The worker.
    pub worker: WorkerName,
    /// Which life.
    pub incarnation: IncarnationId,
    /// How long it may be silent.
    pub lease: Duration,
    /// When it was last heard of, by the database's clock.
    pub since: Timestamp,
    /// True when another life has the worker's name now.
    pub former: bool,
}

/// How an attempt of a worker ended, for judging the worker (D13).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentEnd {
    /// Its task.
    pub task: TaskId,
    /// Why it failed; none when it succeeded.
    pub reason: Option<FailureReason>,
    /// The same in words.
    pub detail: String,
}

/// What two failures must have in common to be the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The reason as a word.
    pub reason: FailureReason,
    /// Of the words, what does not depend on the worker and the attempt: [`scitq_shared::fault::key`].
    pub key: String,
}

/// What the database holds for judging a worker that could not run an attempt (D13).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultHistory {
    /// True when it is paused already.
    pub paused: bool,
    /// True when the batch is paused already.
    pub batch_paused: bool,
    /// Only executions with a higher id are in `recent`.
    pub counted_after: i64,
    /// Its attempts that succeeded or failed last, the last one first, since it was paused for this or resumed, or its batch
    /// was.
    pub recent: Vec<RecentEnd>,
    /// What paused other workers of the batch within the last hour: worker, and the failure.
    pub others: Vec<(String, Fault)>,
}

/// Why a worker, or its batch, is to be paused. Nothing is done when its failures have come to be counted anew since it was
/// judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The worker.
    pub worker: WorkerName,
    /// The batch of what it could not run.
    pub batch: BatchName,
    /// [`FaultHistory::counted_after`] as it was judged.
    pub counted_after: i64,
    /// What failed.
    pub fault: Fault,
    /// The reason in words, for people.
    pub why: String,
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
