//! What the core is told and what it asks for: plain values, so that a simulation can stand in for database and broker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use scitq_shared::ids::{DispatchId, TaskId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::worker::DesiredState;

use super::hearing::ListeningTimes;
use crate::db::{BatchLoad, Capacity, Unstarted, Whereabouts};

/// A marker of this dispatcher in the state queue; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MarkerNumber(pub u64);

/// A change of tasks that are not to start as they are; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecallNumber(pub u64);

/// A dispatch that could not be taken back in time: it may start as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Out {
    /// Its task.
    pub task: TaskId,
    /// The dispatch.
    pub dispatch: DispatchId,
    /// The workers that may have it.
    pub holders: BTreeSet<WorkerName>,
}

/// Which dispatches the database is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// All that are not accepted.
    All,
    /// Whether these are still not accepted, for they may be missing.
    Suspects(Vec<DispatchId>),
    /// Whether these are still not accepted, for workers were asked about them.
    Asked(Vec<DispatchId>),
}

/// What the core is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// The term begins; this is what the database holds.
    Loaded {
        /// By batch, those with anything pending or assigned.
        loads: Vec<(BatchName, BatchLoad)>,
    },
    /// The database was restored from a backup, and nobody has listened to the workers yet. Comes before anything else.
    Restored {
        /// How long is listened.
        times: ListeningTimes,
    },
    /// Answer to [`Effect::LookAround`].
    Around(Whereabouts),
    /// A worker of a restored database has given a sign of life.
    Seen {
        /// The worker.
        worker: WorkerName,
        /// True when it speaks of attempts that the database does not know, or is unknown itself.
        lacking: bool,
    },
    /// A worker has answered [`Effect::Recount`], and what it said is applied.
    Heard {
        /// The worker.
        worker: WorkerName,
        /// The batch that it worked for.
        batch: Option<BatchName>,
    },
    /// The workers that there are; batches not named have none.
    Workers {
        /// By batch.
        capacities: Vec<(BatchName, Capacity)>,
    },
    /// Workers came, went or changed.
    WorkersChanged,
    /// A worker is to be told what is wanted of it, once its batch's queue is there.
    Greeted {
        /// The worker.
        worker: WorkerName,
        /// What is wanted.
        desired: DesiredState,
    },
    /// These batches have newly pending tasks.
    Pending {
        /// The batches.
        batches: BTreeSet<BatchName>,
    },
    /// What the database holds, looked at in the middle of a term in case that nobody told.
    Looked {
        /// By batch, those with anything pending or assigned.
        loads: Vec<(BatchName, BatchLoad)>,
    },
    /// A batch is paused, and the database says so: what is dispatched of it is to come back.
    Paused {
        /// The batch.
        batch: BatchName,
    },
    /// Dispatches were accepted or came back, or accepted ones have started.
    Room {
        /// How many have left the window, by batch.
        room: BTreeMap<BatchName, usize>,
    },
    /// What a claim came to: so many dispatches are committed and given to the broker.
    Claimed {
        /// The batch.
        batch: BatchName,
        /// How many; each is answered by `Confirmed` or `Refused`.
        dispatches: usize,
        /// Dispatches of the batch that are not accepted, these included.
        assigned: usize,
        /// True when more tasks are pending.
        pending_left: bool,
    },
    /// The broker has a dispatch.
    Confirmed {
        /// Its batch.
        batch: BatchName,
    },
    /// The broker certainly does not have a dispatch.
    Refused {
        /// Its batch.
        batch: BatchName,
        /// Its task.
        task: TaskId,
        /// The dispatch.
        dispatch: DispatchId,
    },
    /// Dispatches were committed as returned, and have left the window.
    Returned {
        /// Their batch.
        batch: BatchName,
        /// How many.
        dispatches: usize,
    },
    /// Answer to [`Effect::Compare`].
    Compared {
        /// The batch.
        batch: BatchName,
        /// True when a pending task is more urgent than one in the queue.
        overtaken: bool,
    },
    /// Answer to [`Effect::Withdraw`]: the queue is empty.
    Withdrawn {
        /// The batch.
        batch: BatchName,
        /// How many messages were taken back.
        dispatches: usize,
    },
    /// Answer to [`Effect::Count`].
    Counted {
        /// The batch.
        batch: BatchName,
        /// The oldest dispatches, as many as there are more of that age than messages in the queue.
        surplus: Vec<DispatchId>,
        /// All dispatches that are not accepted, whatever their age.
        assigned: usize,
    },
    /// Answer to [`Effect::List`].
    Listed {
        /// The batch.
        batch: BatchName,
        /// What was asked.
        question: Question,
        /// Those that are not accepted.
        unstarted: Vec<(TaskId, DispatchId)>,
        /// All workers that may have got them.
        workers: BTreeSet<WorkerName>,
    },
    /// A worker has none of these dispatches, and will not start any of them (D4).
    Absent {
        /// The worker.
        worker: WorkerName,
        /// The dispatches.
        dispatches: Vec<DispatchId>,
    },
    /// Tasks are to be changed: what is dispatched of them is to be taken back first (D4, D8).
    Recall {
        /// Names the change.
        recall: RecallNumber,
        /// Their batch.
        batch: BatchName,
        /// The tasks.
        tasks: BTreeSet<TaskId>,
    },
    /// Answer to [`Effect::ListUnstarted`].
    Unstarted {
        /// The batch.
        batch: BatchName,
        /// For which change it was asked.
        recall: RecallNumber,
        /// Its dispatches that have not started.
        unstarted: Vec<Unstarted>,
        /// All workers that may have got them.
        workers: BTreeSet<WorkerName>,
    },
    /// Answer to [`Effect::Change`]: the change is made, or could not be made.
    Changed {
        /// The batch.
        batch: BatchName,
        /// The change.
        recall: RecallNumber,
        /// Other batches that have newly pending tasks by it.
        pending: BTreeSet<BatchName>,
    },
    /// Everything that was in the state queue before this marker has been applied.
    MarkerRead {
        /// The marker.
        marker: MarkerNumber,
    },
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Read what workers there are.
    LoadWorkers,
    /// Ask the database who may hold what it does not know, and where that may wait.
    LookAround,
    /// Ask a worker to give back what has not started and to say everything else anew.
    Recount {
        /// The worker.
        worker: WorkerName,
    },
    /// Note that the workers have been heard, and read the database anew: answered by [`Input::Loaded`].
    EndListening {
        /// Those that have not answered.
        silent: Vec<WorkerName>,
    },
    /// Make sure that the queue of a batch is there.
    Declare {
        /// The batch.
        batch: BatchName,
    },
    /// Delete the queue of a batch, if it is empty and nobody consumes it.
    DeleteQueue {
        /// The batch.
        batch: BatchName,
    },
    /// Tell a worker what is wanted of it.
    Welcome {
        /// The worker.
        worker: WorkerName,
        /// What is wanted.
        desired: DesiredState,
    },
    /// Commit dispatches until so many are not accepted, and publish them.
    Claim {
        /// The batch.
        batch: BatchName,
        /// How many.
        window: usize,
    },
    /// Ask the database whether a pending task is more urgent than one that is dispatched.
    Compare {
        /// The batch.
        batch: BatchName,
    },
    /// Take everything out of a queue: commit it as returned, then ack it.
    Withdraw {
        /// The batch.
        batch: BatchName,
    },
    /// Compare the number of dispatches of at least this age with the depth of the queue.
    Count {
        /// The batch.
        batch: BatchName,
        /// From which age they count.
        age: Duration,
    },
    /// Ask the database which dispatches are not accepted.
    List {
        /// The batch.
        batch: BatchName,
        /// Which.
        question: Question,
    },
    /// Tell a worker to give dispatches back or to say that it does not have them.
    Revoke {
        /// The worker.
        worker: WorkerName,
        /// The dispatches.
        dispatches: Vec<DispatchId>,
    },
    /// Publish a marker to the state queue.
    Marker {
        /// Which.
        marker: MarkerNumber,
    },
    /// Commit dispatches as returned: they are certainly not with the broker nor with any worker.
    Return {
        /// Their batch.
        batch: BatchName,
        /// The dispatches.
        dispatches: Vec<(TaskId, DispatchId)>,
    },
    /// Ask the database which dispatches of a batch have not started, and who has accepted them.
    ListUnstarted {
        /// The batch.
        batch: BatchName,
        /// For which change.
        recall: RecallNumber,
    },
    /// Commit a change and answer whoever wants it. Nothing else of its tasks can start as they were.
    Change {
        /// The batch.
        batch: BatchName,
        /// The change.
        recall: RecallNumber,
        /// What could not be taken back in time.
        out: Vec<Out>,
    },
}
