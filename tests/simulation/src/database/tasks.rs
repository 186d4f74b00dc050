//! Tasks and their dispatches.

use std::collections::BTreeSet;
use std::time::Duration;

use scitq_server::db::{BatchLoad, Claim, LoadedTask, NewRevision, Revised, Unstarted, revise};
use scitq_shared::definition::TaskDefinition;
use scitq_shared::ids::{DispatchId, Epoch, Revision, TaskId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::protocol::TaskMessage;
use scitq_shared::task::TaskStatus;
use scitq_shared::transition::{AttemptState, Decision, Event, TaskState, transition};

use super::{Database, Refused, Task, wall};

impl Database {
    /// A new task.
    pub fn submit(&mut self, batch: &BatchName, priority: i32, retries: u16) -> TaskId {
        self.last_task += 1;
        let id = TaskId(self.last_task);
        let task = Task {
            batch: batch.clone(),
            priority,
            state: TaskState::Pending,
            retries,
            retries_left: retries,
            revision: Revision(1),
            dispatched_at: Duration::ZERO,
        };
        self.tasks.insert(id, task);
        self.count(batch, TaskStatus::Pending, 1);
        id
    }

    fn counted(&self, batch: &BatchName, status: TaskStatus) -> i64 {
        let of = self.counters.get(batch);
        of.and_then(|of| of.get(&status).copied()).unwrap_or(0)
    }

    /// How many dispatches of a batch are not accepted.
    pub fn assigned_tasks(&self, batch: &BatchName) -> usize {
        usize::try_from(self.counted(batch, TaskStatus::Assigned)).unwrap_or(0)
    }

    /// What a task is, as the basis of a change.
    pub fn definition(&self, id: TaskId) -> Option<(BatchName, NewRevision)> {
        let task = self.tasks.get(&id)?;
        let definition = TaskDefinition {
            revision: task.revision,
            ..TaskDefinition::bare("true")
        };
        let revision = NewRevision {
            task: id,
            batch: task.batch.clone(),
            priority: task.priority,
            definition,
        };
        Some((task.batch.clone(), revision))
    }

    /// See the real one: the same function decides.
    pub fn revise(
        &mut self,
        epoch: Epoch,
        batch: &BatchName,
        wanted: &[NewRevision],
    ) -> Result<Vec<(TaskId, Revised)>, Refused> {
        self.fence(epoch)?;
        let mut answers = Vec::new();
        for wanted in wanted {
            let loaded = self.loaded_task(wanted.task);
            let revised = revise(loaded.as_ref(), batch, wanted);
            answers.push((wanted.task, revised));
            let Revised::Changed { revision, .. } = revised else {
                continue;
            };
            if let Some(task) = self.tasks.get_mut(&wanted.task) {
                let status = task.state.status();
                task.revision = revision;
                task.priority = wanted.priority;
                task.batch = wanted.batch.clone();
                self.count(batch, status, -1);
                self.count(&wanted.batch, status, 1);
            }
        }
        Ok(answers)
    }

    /// See the real one.
    pub fn unstarted(&self, batch: &BatchName) -> Vec<Unstarted> {
        let tasks = self.tasks.iter().filter(|(_, task)| task.batch == *batch);
        tasks
            .filter_map(|(id, task)| match task.state {
                TaskState::Assigned { dispatch } => Some((*id, dispatch, None)),
                TaskState::Accepted { dispatch, attempt } => {
                    let attempt = self.attempts.get(&attempt);
                    Some((*id, dispatch, attempt.map(|it| it.worker.clone())))
                }
                _ => None,
            })
            .map(|(task, dispatch, holder)| Unstarted {
                task,
                dispatch,
                holder,
            })
            .collect()
    }

    /// A task as the real database loads it.
    pub(super) fn loaded_task(&self, id: TaskId) -> Option<LoadedTask> {
        self.tasks.get(&id).map(|task| LoadedTask {
            id,
            batch: task.batch.clone(),
            state: task.state,
            retries_left: task.retries_left,
            revision: task.revision,
        })
    }

    /// See the real one.
    pub fn dispatchable(&self) -> Vec<(BatchName, BatchLoad)> {
        let loads = self.counters.keys().map(|batch| {
            let load = BatchLoad {
                pending: self.counted(batch, TaskStatus::Pending),
                assigned: self.counted(batch, TaskStatus::Assigned),
            };
            (batch.clone(), load)
        });
        loads
            .filter(|(_, load)| load.pending > 0 || load.assigned > 0)
            .collect()
    }

    /// See the real one.
    pub fn claim(
        &mut self,
        epoch: Epoch,
        batch: &BatchName,
        window: usize,
        now: Duration,
        mut fresh: impl FnMut() -> DispatchId,
    ) -> Result<Claim, Refused> {
        self.fence(epoch)?;
        let now = self.clock(now);
        let assigned = self.assigned_tasks(batch);
        let paused = self.paused.contains(batch);
        let mut pending: Vec<(i32, TaskId)> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.batch == *batch && task.state == TaskState::Pending && !paused)
            .map(|(id, task)| (-task.priority, *id))
            .collect();
        pending.sort_unstable();
        let room = window.saturating_sub(assigned);
        let mut tasks = Vec::new();
        for (_, id) in pending.iter().take(room) {
            let Some(task) = self.tasks.get_mut(id) else {
                continue;
            };
            let dispatch = fresh();
            let event = Event::Dispatched { dispatch };
            if let Decision::Changed { task: to, .. } =
                transition(task.state, task.retries_left, AttemptState::Unknown, event)
            {
                task.dispatched_at = now;
                let definition = TaskDefinition {
                    revision: task.revision,
                    ..TaskDefinition::bare("true")
                };
                let message =
                    TaskMessage::new(epoch, dispatch, *id, batch.clone(), wall(now), definition);
                tasks.push(message);
                self.moved(*id, to);
            }
        }
        Ok(Claim {
            assigned: assigned + tasks.len(),
            pending_left: pending.len() > tasks.len(),
            tasks,
        })
    }

    /// See the real one.
    pub fn is_overtaken(&self, batch: &BatchName) -> bool {
        let of = |wanted: fn(TaskState) -> bool| {
            let tasks = self.tasks.values();
            tasks
                .filter(move |task| task.batch == *batch && wanted(task.state))
                .map(|task| task.priority)
        };
        let highest = of(|it| it == TaskState::Pending).max();
        !self.paused.contains(batch)
            && highest.is_some_and(|highest| {
                of(|it| matches!(it, TaskState::Assigned { .. })).any(|priority| priority < highest)
            })
    }

    /// See the real one.
    pub fn dispatches_beyond(
        &self,
        batch: &BatchName,
        age: Duration,
        depth: usize,
        now: Duration,
    ) -> Vec<DispatchId> {
        let now = self.clock(now);
        let mut old: Vec<(Duration, TaskId, DispatchId)> = self
            .assigned(batch)
            .filter(|(_, _, at)| *at + age < now)
            .map(|(task, dispatch, at)| (at, task, dispatch))
            .collect();
        old.sort_unstable();
        old.reverse();
        old.into_iter()
            .skip(depth)
            .map(|(_, _, dispatch)| dispatch)
            .collect()
    }

    fn assigned(&self, batch: &BatchName) -> impl Iterator<Item = (TaskId, DispatchId, Duration)> {
        self.tasks
            .iter()
            .filter(move |(_, task)| task.batch == *batch)
            .filter_map(|(id, task)| match task.state {
                TaskState::Assigned { dispatch } => Some((*id, dispatch, task.dispatched_at)),
                _ => None,
            })
    }

    /// See the real one.
    pub fn unaccepted(
        &self,
        batch: &BatchName,
        among: Option<&[DispatchId]>,
    ) -> (Vec<(TaskId, DispatchId)>, BTreeSet<WorkerName>) {
        let dispatches = self
            .assigned(batch)
            .filter(|(_, dispatch, _)| among.is_none_or(|some| some.contains(dispatch)))
            .map(|(task, dispatch, _)| (task, dispatch))
            .collect();
        let workers = self
            .workers
            .iter()
            .filter(|(_, worker)| !worker.lost && !worker.departed);
        (dispatches, workers.map(|(name, _)| name.clone()).collect())
    }
}
