use std::collections::{BTreeMap, BTreeSet};

use scitq_shared::execution::FailureReason;
use scitq_shared::ids::{AttemptId, DispatchId, ExecutionId, IncarnationId, Revision, TaskId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::output::{Chunk, Stream};
use scitq_shared::protocol::AttemptReport;
use scitq_shared::transition::{AttemptState, TaskState};

/// What a batch of events is about: these are locked and loaded before anything is decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Every task that may change, and the task of every attempt that may be written.
    pub tasks: BTreeSet<TaskId>,
    /// Every attempt that may be written.
    pub attempts: BTreeSet<AttemptId>,
    /// Those of the tasks whose earlier failures by no doing of theirs are to be counted.
    pub hindered: BTreeSet<TaskId>,
}

/// What the database holds of the [`Needs`]. What is missing here does not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The tasks.
    pub tasks: BTreeMap<TaskId, LoadedTask>,
    /// The attempts.
    pub attempts: BTreeMap<AttemptId, LoadedAttempt>,
    /// How many attempts of a task failed by what spares it ([`FailureReason::spares_task`]); only of [`Needs::hindered`].
    pub hindrances: BTreeMap<TaskId, u32>,
    /// Those of the attempts that are lost because their own worker said so: they do not come back.
    pub given_up: BTreeSet<AttemptId>,
}

/// A task, locked until the end of the transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedTask {
    /// Its id.
    pub id: TaskId,
    /// Its batch.
    pub batch: BatchName,
    /// Where it stands.
    pub state: TaskState,
    /// Repetitions left.
    pub retries_left: u16,
    /// Revision of its definition.
    pub revision: Revision,
}

/// An attempt that has an execution already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedAttempt {
    /// Its id.
    pub attempt: AttemptId,
    /// Its task.
    pub task: TaskId,
    /// The dispatch that it accepted.
    pub dispatch: DispatchId,
    /// Revision of what it runs.
    pub revision: Revision,
    /// Where it stands.
    pub state: AttemptState,
    /// The worker that holds or held it.
    pub worker: WorkerName,
    /// Which life of that worker's state directory.
    pub incarnation: IncarnationId,
}

/// What is to be written: the answers of the state machine to a batch of events.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Projection {
    /// Tasks that change. Several changes of one task are taken in order, each from the state the one before led to.
    pub tasks: Vec<TaskChange>,
    /// Attempts that are written. Several entries of one attempt are taken in order.
    pub attempts: Vec<AttemptChange>,
}

/// A task goes from one state to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskChange {
    /// The task, one of [`Needs::tasks`].
    pub task: TaskId,
    /// Where it stood.
    pub from: TaskState,
    /// Where it stands now.
    pub to: TaskState,
    /// Repetitions left now.
    pub retries_left: u16,
    /// True when it succeeded: the tasks that wait for it have one requirement less.
    pub meet_requirements: bool,
    /// The attempt whose event led there, where it was one's: the task shows it as its newest.
    pub moved_by: Option<AttemptId>,
}

/// What is known of an attempt now. A new attempt is inserted, with the definition of its task where the revision is the
/// same; of a known one the state is written and other columns are filled, never emptied.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptChange {
    /// The attempt, one of [`Needs::attempts`].
    pub attempt: AttemptId,
    /// Where the attempt stands now.
    pub state: AttemptState,
    /// Everything its worker said of it; cumulative. Its task is one of [`Needs::tasks`]. `None` where the server itself
    /// decided (a lost attempt): nothing is written then about an attempt that is not known.
    pub report: Option<AttemptReport>,
    /// Who holds it.
    pub worker: WorkerName,
    /// Which life of the worker's state directory.
    pub incarnation: IncarnationId,
    /// Sequence of the message that first announced it; kept when the attempt is known already.
    pub announced_sequence: u64,
    /// Why it did not succeed, where the server knows better than the report's outcome.
    pub failure: Option<(FailureReason, String)>,
}

/// A piece of output to be stored. Bytes that are stored already are dropped, whatever the boundaries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewChunk {
    /// The attempt that wrote it; may be unknown yet.
    pub attempt: AttemptId,
    /// Its task.
    pub task: TaskId,
    /// Its stream.
    pub stream: Stream,
    /// Where in the stream it begins, in bytes.
    pub offset: u64,
    /// The bytes, packed.
    pub chunk: Chunk,
}

/// What came of a projection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Projected {
    /// How many tasks became pending, by batch: there is something to dispatch.
    pub newly_pending: BTreeMap<BatchName, u64>,
    /// Attempts that are over and whose output became complete by this; each is told once.
    pub complete: Vec<(WorkerName, AttemptId)>,
    /// Executions that were written or whose output grew.
    pub executions: Vec<(AttemptId, ExecutionId)>,
}
