//! A database that never forgets: tables in memory, one call one transaction, fenced by the leader's epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use scitq_server::db::{
    BatchLoad, Capacity, Claim, HeldAttempts, ListedAttempt, LiveAttempt, Loaded, LoadedAttempt,
    LoadedTask,
};
use scitq_server::events::{Happening, SideEffects, needs, project};
use scitq_shared::Timestamp;
use scitq_shared::definition::TaskDefinition;
use scitq_shared::ids::{AttemptId, DispatchId, Epoch, IncarnationId, Revision, TaskId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::protocol::{AttemptReport, TaskMessage};
use scitq_shared::transition::{AttemptState, Decision, Event, TaskState, transition};
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
                let definition = definition(task.revision);
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

    /// Applies happenings through the real projection, and outputs.
    pub fn project(
        &mut self,
        epoch: Epoch,
        happenings: &[Happening],
        outputs: &[AttemptId],
    ) -> Result<Projected, Refused> {
        self.fence(epoch)?;
        let wanted = needs(happenings);
        let mut loaded = Loaded::default();
        for id in &wanted.tasks {
            if let Some(task) = self.tasks.get(id) {
                let task = LoadedTask {
                    id: *id,
                    batch: task.batch.clone(),
                    state: task.state,
                    retries_left: task.retries_left,
                    revision: task.revision,
                };
                loaded.tasks.insert(*id, task);
            }
        }
        for id in &wanted.attempts {
            if let Some(attempt) = self.attempts.get(id) {
                let attempt = LoadedAttempt {
                    attempt: *id,
                    task: attempt.task,
                    state: attempt.state,
                    worker: attempt.worker.clone(),
                    incarnation: attempt.incarnation,
                };
                loaded.attempts.insert(*id, attempt);
            }
        }
        let (projection, effects) = project(&loaded, happenings);
        let mut projected = Projected {
            effects,
            ..Projected::default()
        };
        for change in projection.tasks {
            if let Some(task) = self.tasks.get_mut(&change.task) {
                if change.to == TaskState::Pending && change.from != TaskState::Pending {
                    projected.pending.insert(task.batch.clone());
                }
                task.state = change.to;
                task.retries_left = change.retries_left;
            }
        }
        let mut touched: BTreeSet<AttemptId> = outputs.iter().copied().collect();
        self.outputs.extend(outputs);
        for change in projection.attempts {
            touched.insert(change.attempt);
            let known = self.attempts.entry(change.attempt);
            let attempt = match known {
                std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::btree_map::Entry::Vacant(new) => {
                    let Some(report) = &change.report else {
                        continue;
                    };
                    new.insert(Attempt {
                        task: report.task,
                        worker: change.worker.clone(),
                        incarnation: change.incarnation,
                        dispatch: report.dispatch,
                        state: change.state,
                        was_lost: false,
                        announced_sequence: change.announced_sequence,
                        report: None,
                        complete: false,
                    })
                }
            };
            attempt.state = change.state;
            attempt.was_lost |= change.state == AttemptState::Lost;
            if let Some(report) = change.report {
                // What was known stays known.
                let old = attempt.report.take();
                let old = old.as_ref();
                attempt.report = Some(AttemptReport {
                    started_at: report.started_at.or(old.and_then(|old| old.started_at)),
                    ended_at: report.ended_at.or(old.and_then(|old| old.ended_at)),
                    exit: report.exit.or(old.and_then(|old| old.exit)),
                    stdout: report.stdout.or(old.and_then(|old| old.stdout)),
                    stderr: report.stderr.or(old.and_then(|old| old.stderr)),
                    outcome: report
                        .outcome
                        .clone()
                        .or(old.and_then(|old| old.outcome.clone())),
                    ..report
                });
            }
        }
        for id in touched {
            if let Some(attempt) = self.attempts.get_mut(&id) {
                let stored = attempt.report.as_ref().is_some_and(|report| {
                    let kept = |end: scitq_shared::output::StreamEnd| end.kept();
                    report
                        .stdout
                        .is_some_and(|end| kept(end) == 0 || self.outputs.contains(&id))
                });
                let over = attempt.state.is_over();
                if !attempt.complete && over && (stored || attempt.state == AttemptState::Released)
                {
                    attempt.complete = true;
                    projected.complete.push((attempt.worker.clone(), id));
                }
            }
        }
        Ok(projected)
    }

    /// A worker says hello.
    pub fn greet(
        &mut self,
        epoch: Epoch,
        name: &WorkerName,
        incarnation: IncarnationId,
        initial: &DesiredState,
        now: Duration,
    ) -> Result<DesiredState, Refused> {
        self.fence(epoch)?;
        let worker = self.workers.entry(name.clone()).or_insert_with(|| Worker {
            desired: DesiredState {
                version: 1,
                ..initial.clone()
            },
            incarnation,
            heard: now,
            online: true,
            lost: false,
            departed: false,
            earlier_from: None,
        });
        if worker.incarnation != incarnation {
            worker.earlier_from = Some(now);
        }
        worker.incarnation = incarnation;
        worker.heard = now;
        worker.online = true;
        worker.lost = false;
        worker.departed = false;
        Ok(worker.desired.clone())
    }

    /// A worker ends on purpose.
    pub fn farewell(
        &mut self,
        epoch: Epoch,
        name: &WorkerName,
        incarnation: IncarnationId,
        departed: bool,
    ) -> Result<(), Refused> {
        self.fence(epoch)?;
        if let Some(worker) = self.workers.get_mut(name)
            && worker.incarnation == incarnation
        {
            worker.online = false;
            worker.departed = departed;
        }
        Ok(())
    }

    /// A sign of life; true when the worker was offline.
    pub fn heard(
        &mut self,
        epoch: Epoch,
        name: &WorkerName,
        incarnation: IncarnationId,
        now: Duration,
    ) -> Result<bool, Refused> {
        self.fence(epoch)?;
        let Some(worker) = self.workers.get_mut(name) else {
            return Ok(false);
        };
        if worker.incarnation != incarnation {
            return Ok(false);
        }
        worker.heard = now;
        worker.lost = false;
        Ok(!std::mem::replace(&mut worker.online, true))
    }

    /// A new leader gives everyone the whole time again.
    pub fn forgive_silence(&mut self, now: Duration) {
        for worker in self.workers.values_mut() {
            worker.heard = now;
        }
    }

    /// Workers that were silent for this long go offline; true when some did.
    pub fn set_offline(
        &mut self,
        epoch: Epoch,
        silent_for: Duration,
        now: Duration,
    ) -> Result<bool, Refused> {
        self.fence(epoch)?;
        let mut some = false;
        for worker in self.workers.values_mut() {
            if worker.online && worker.heard + silent_for < now {
                worker.online = false;
                some = true;
            }
        }
        Ok(some)
    }

    /// Live attempts whose lease has expired, to be declared lost: of workers that are silent, and of earlier
    /// incarnations.
    pub fn expired(
        &mut self,
        epoch: Epoch,
        silent_for: Duration,
        now: Duration,
    ) -> Result<Vec<Happening>, Refused> {
        self.fence(epoch)?;
        for worker in self.workers.values_mut() {
            worker.lost |= worker.heard + silent_for < now;
        }
        let expired = self.attempts.iter().filter(|(_, attempt)| {
            let worker = self.workers.get(&attempt.worker);
            !attempt.state.is_over()
                && worker.is_some_and(|worker| {
                    let earlier = worker.incarnation != attempt.incarnation
                        && worker
                            .earlier_from
                            .is_some_and(|from| from + silent_for < now);
                    worker.lost || earlier
                })
        });
        Ok(expired.map(|(id, attempt)| lost_of(*id, attempt)).collect())
    }

    /// Changes what a worker is to be.
    pub fn change(&mut self, name: &WorkerName, change: impl FnOnce(&mut DesiredState)) {
        if let Some(worker) = self.workers.get_mut(name) {
            change(&mut worker.desired);
            worker.desired.version += 1;
        }
    }

    /// True when the output of an attempt is stored.
    pub fn has_output(&self, attempt: &AttemptId) -> bool {
        self.outputs.contains(attempt)
    }

    /// See the real one.
    pub fn capacity(&self) -> Vec<(BatchName, Capacity)> {
        let mut capacity: BTreeMap<BatchName, Capacity> = BTreeMap::new();
        for worker in self.workers.values() {
            if worker.online && !worker.desired.paused {
                let of = capacity.entry(worker.desired.batch.clone()).or_default();
                of.workers += 1;
                of.slots_and_prefetch +=
                    i64::from(worker.desired.concurrency) + i64::from(worker.desired.prefetch);
            }
        }
        capacity.into_iter().collect()
    }

    /// See the real one.
    pub fn held(
        &self,
        name: &WorkerName,
        incarnation: IncarnationId,
        listed: &[AttemptId],
    ) -> HeldAttempts {
        let live = self.attempts.iter().filter(|(_, it)| {
            it.worker == *name && it.incarnation == incarnation && !it.state.is_over()
        });
        let live = live.map(|(id, it)| LiveAttempt {
            attempt: *id,
            task: it.task,
            dispatch: it.dispatch,
            state: it.state,
            announced_sequence: it.announced_sequence,
        });
        let known = listed
            .iter()
            .filter_map(|id| self.attempts.get(id).map(|attempt| (*id, attempt)));
        let listed = known.map(|(id, it)| ListedAttempt {
            attempt: id,
            task: it.task,
            state: it.state,
            complete: it.complete,
            stdout_from: (!self.outputs.contains(&id)).then_some(0),
            stderr_from: None,
        });
        HeldAttempts {
            live: live.collect(),
            listed: listed.collect(),
        }
    }
}

fn lost_of(id: AttemptId, attempt: &Attempt) -> Happening {
    Happening::Lost {
        attempt: id,
        dispatch: attempt.dispatch,
        task: attempt.task,
        detail: "silent past its lease".to_owned(),
    }
}

/// A moment of the simulation as a time of day.
pub fn wall(now: Duration) -> Timestamp {
    let begin = chrono::DateTime::UNIX_EPOCH + chrono::TimeDelta::days(20_000);
    begin + chrono::TimeDelta::from_std(now).unwrap_or_default()
}

fn definition(revision: Revision) -> TaskDefinition {
    TaskDefinition {
        revision,
        name: None,
        command: "true".to_owned(),
        shell: None,
        container: None,
        container_options: None,
        input: Vec::new(),
        output: None,
        resource: Vec::new(),
        download_timeout_seconds: None,
        run_timeout_seconds: None,
        use_cache: false,
        weight: 1,
        uid: None,
        gid: None,
    }
}
