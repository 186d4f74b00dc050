//! Tasks and their dispatches.

use std::collections::BTreeSet;
use std::time::Duration;

use scitq_server::db::{BatchLoad, Claim};
use scitq_shared::definition::TaskDefinition;
use scitq_shared::ids::{DispatchId, Epoch, Revision, TaskId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::protocol::TaskMessage;
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
            retries_left: retries,
            revision: Revision(1),
            dispatched_at: Duration::ZERO,
        };
        self.tasks.insert(id, task);
        id
    }

    /// Changes a task that is pending; true when it was.
    pub fn rewrite(&mut self, id: TaskId) -> bool {
        match self.tasks.get_mut(&id) {
            Some(task) if task.state == TaskState::Pending => {
                task.revision = Revision(task.revision.0 + 1);
                true
            }
            _ => false,
        }
    }

    fn count(&self, batch: &BatchName, is: impl Fn(TaskState) -> bool) -> usize {
        let tasks = self.tasks.values();
        tasks
            .filter(|task| task.batch == *batch && is(task.state))
            .count()
    }

    /// See the real one.
    pub fn dispatchable(&self) -> Vec<(BatchName, BatchLoad)> {
        let batches: BTreeSet<&BatchName> = self.tasks.values().map(|task| &task.batch).collect();
        let number = |count| i64::try_from(count).unwrap_or(i64::MAX);
        batches
            .into_iter()
            .map(|batch| {
                let load = BatchLoad {
                    pending: number(self.count(batch, |it| it == TaskState::Pending)),
                    assigned: number(
                        self.count(batch, |it| matches!(it, TaskState::Assigned { .. })),
                    ),
                };
                (batch.clone(), load)
            })
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
        let assigned = self.count(batch, |it| matches!(it, TaskState::Assigned { .. }));
        let mut pending: Vec<(i32, TaskId)> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.batch == *batch && task.state == TaskState::Pending)
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
                task.state = to;
                task.dispatched_at = now;
                let definition = TaskDefinition {
                    revision: task.revision,
                    ..TaskDefinition::bare("true")
                };
                let message =
                    TaskMessage::new(epoch, dispatch, *id, batch.clone(), wall(now), definition);
                tasks.push(message);
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
        highest.is_some_and(|highest| {
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
