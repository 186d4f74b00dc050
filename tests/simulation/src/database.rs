//! A database that never forgets: tables in memory, one call one transaction, fenced by the leader's epoch.

mod faults;
mod projection;
mod tasks;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use scitq_server::db::Fault;
use scitq_server::events::SideEffects;
use scitq_shared::Timestamp;
use scitq_shared::execution::FailureReason;
use scitq_shared::ids::{AttemptId, DispatchId, Epoch, IncarnationId, Revision, TaskId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::protocol::AttemptReport;
use scitq_shared::task::TaskStatus;
use scitq_shared::transition::{AttemptState, TaskState};
use scitq_shared::worker::DesiredState;

use crate::mutant::Mutant;

/// A task.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its batch.
    pub batch: BatchName,
    /// Its priority.
    pub priority: i32,
    /// Where it stands.
    pub state: TaskState,
    /// Retries that it had in the beginning.
    pub retries: u16,
    /// Retries left.
    pub retries_left: u16,
    /// Revision of its definition.
    pub revision: Revision,
    dispatched_at: Duration,
}

/// An attempt.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Its task.
    pub task: TaskId,
    /// Its worker.
    pub worker: WorkerName,
    incarnation: IncarnationId,
    dispatch: DispatchId,
    revision: Revision,
    /// Where it stands.
    pub state: AttemptState,
    /// True once it was declared lost, whatever came later.
    pub was_lost: bool,
    announced_sequence: u64,
    /// Its place in the order in which the database heard of them.
    number: u64,
    /// Why it failed, where it did.
    failure: Option<(FailureReason, String)>,
    /// All that was reported.
    pub report: Option<AttemptReport>,
    complete: bool,
}

/// A worker.
#[derive(Clone, Debug)]
pub struct Worker {
    /// What is wanted of it.
    pub desired: DesiredState,
    incarnation: IncarnationId,
    heard: Duration,
    online: bool,
    /// True when its lease has expired.
    pub lost: bool,
    departed: bool,
    /// How often its directory's agent had started when it last said hello.
    pub boots: u32,
    /// The start of its agent that is to be the last.
    pub restart: Option<u32>,
    /// What paused it, of which batch, and when.
    fault: Option<(Fault, BatchName, Duration)>,
    /// Attempts up to this number count no more against it.
    faults_counted_after: u64,
}

/// How far all clocks are ahead of the beginning of time when a schedule begins: they may jump back.
pub const BEGINNING: Duration = Duration::from_secs(1_000_000);

/// The whole database.
#[derive(Debug, Default)]
pub struct Database {
    epoch: i64,
    /// False while it cannot be reached.
    pub up: bool,
    /// Tasks.
    pub tasks: BTreeMap<TaskId, Task>,
    /// Attempts.
    pub attempts: BTreeMap<AttemptId, Attempt>,
    /// Workers.
    pub workers: BTreeMap<WorkerName, Worker>,
    /// Earlier lives of workers' directories, and when they were last heard of.
    former: BTreeMap<(WorkerName, IncarnationId), Duration>,
    outputs: BTreeSet<AttemptId>,
    /// Batches of which nothing is dispatched.
    pub paused: BTreeSet<BatchName>,
    /// How many tasks of each batch are in each status, kept with each change.
    pub counters: BTreeMap<BatchName, BTreeMap<TaskStatus, i64>>,
    /// How far its clock is ahead of the beginning.
    ahead: Duration,
    last_task: i64,
    last_attempt: u64,
    /// What is broken about it.
    pub mutant: Option<Mutant>,
}

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Another leader has taken over.
    Fenced,
    /// It cannot be reached.
    Away,
}

/// What a projection came to.
#[derive(Debug, Default)]
pub struct Projected {
    /// Batches with newly pending tasks.
    pub pending: BTreeSet<BatchName>,
    /// Attempts that are complete now.
    pub complete: Vec<(WorkerName, AttemptId)>,
    /// What else follows.
    pub effects: SideEffects,
}

impl Database {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            up: true,
            ahead: BEGINNING,
            ..Self::default()
        }
    }

    /// Its clock at a moment.
    fn clock(&self, now: Duration) -> Duration {
        self.ahead + now
    }

    /// Its clock jumps.
    pub fn move_clock(&mut self, forward: bool, by: Duration) {
        self.ahead = if forward {
            self.ahead + by
        } else {
            self.ahead.saturating_sub(by)
        };
    }

    fn count(&mut self, batch: &BatchName, status: TaskStatus, delta: i64) {
        let of = self.counters.entry(batch.clone()).or_default();
        *of.entry(status).or_default() += delta;
    }

    /// A task goes to another state, and the counters with it.
    fn moved(&mut self, id: TaskId, to: TaskState) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let from = std::mem::replace(&mut task.state, to).status();
        let batch = task.batch.clone();
        if self.mutant != Some(Mutant::MiscountsTasks) || from != TaskStatus::Running {
            self.count(&batch, from, -1);
        }
        self.count(&batch, to.status(), 1);
    }

    /// A task becomes pending by an order of nobody.
    pub fn force_pending(&mut self, id: TaskId) {
        self.moved(id, TaskState::Pending);
    }

    fn fence(&self, epoch: Epoch) -> Result<(), Refused> {
        if !self.up {
            Err(Refused::Away)
        } else if epoch.0 == self.epoch {
            Ok(())
        } else {
            Err(Refused::Fenced)
        }
    }

    /// Takes the leadership.
    pub fn lead(&mut self) -> Result<Epoch, Refused> {
        if !self.up {
            return Err(Refused::Away);
        }
        self.epoch += 1;
        Ok(Epoch(self.epoch))
    }
}

/// A moment of the simulation as a time of day.
pub fn wall(now: Duration) -> Timestamp {
    let begin = chrono::DateTime::UNIX_EPOCH + chrono::TimeDelta::days(20_000);
    begin + chrono::TimeDelta::from_std(now).unwrap_or_default()
}
