//! A database that never forgets: tables in memory, one call one transaction, fenced by the leader's epoch.

mod projection;
mod tasks;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use scitq_server::events::SideEffects;
use scitq_shared::Timestamp;
use scitq_shared::ids::{AttemptId, DispatchId, Epoch, IncarnationId, Revision, TaskId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::protocol::AttemptReport;
use scitq_shared::transition::{AttemptState, TaskState};
use scitq_shared::worker::DesiredState;

/// A task.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its batch.
    pub batch: BatchName,
    /// Its priority.
    pub priority: i32,
    /// Where it stands.
    pub state: TaskState,
    /// Retries left.
    pub retries_left: u16,
    /// Revision of its definition; every change was answered to whoever made it.
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
    /// Since when it has another incarnation.
    earlier_from: Option<Duration>,
}

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
    outputs: BTreeSet<AttemptId>,
    last_task: i64,
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
            ..Self::default()
        }
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
