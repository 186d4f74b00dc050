//! What really happened, seen by nobody but the judge: processes, their starts and their ends.

use std::collections::BTreeMap;
use std::time::Duration;

use scitq_server::db::Revised;
use scitq_server::dispatch::core::Out;
use scitq_shared::execution::Exit;
use scitq_shared::ids::{AttemptId, DispatchId, IncarnationId, Revision, TaskId};
use scitq_shared::names::WorkerName;
use scitq_shared::transition::{AttemptState, TaskState};

use crate::broker::Body;
use crate::database::{Task, wall};
use crate::faults::Fault;
use crate::world::World;

/// A process that was started.
#[derive(Debug)]
struct Start {
    task: TaskId,
    /// By the clock of its machine.
    at: Duration,
}

/// A process that ended by itself.
#[derive(Debug)]
struct End {
    task: TaskId,
    code: i32,
    /// By the clock of its machine.
    at: Duration,
}

/// A change that was answered.
#[derive(Debug)]
struct Answered {
    revision: Revision,
    /// The dispatch of an earlier revision that was named as still out.
    unconfirmed: Option<DispatchId>,
}

/// The judge's book.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    starts: BTreeMap<AttemptId, Start>,
    started: BTreeMap<TaskId, u32>,
    live: BTreeMap<TaskId, Vec<AttemptId>>,
    /// Processes that ended by themselves, whether their agent lived or not.
    ends: BTreeMap<AttemptId, End>,
    /// Processes that ended by themselves with another code than 0.
    failures: BTreeMap<TaskId, u32>,
    /// Attempts of machines that are gone.
    forgotten: BTreeMap<AttemptId, TaskId>,
    answered: BTreeMap<TaskId, Vec<Answered>>,
    /// When a leader last read a heartbeat.
    heard: BTreeMap<(WorkerName, IncarnationId), Duration>,
    /// Changes of tasks that were answered, and those of them that were named unconfirmed.
    pub(crate) changed: (u32, u32),
}

impl Ledger {
    pub(crate) fn all_starts(&self) -> u32 {
        self.started.values().sum()
    }

    /// A process is gone, whatever came of it.
    pub(crate) fn gone(&mut self, task: TaskId, attempt: AttemptId) {
        if let Some(live) = self.live.get_mut(&task) {
            live.retain(|other| *other != attempt);
        }
    }

    /// A process ended by itself, and its keeper knows.
    pub(crate) fn exited(&mut self, task: TaskId, attempt: AttemptId, code: i32, at: Duration) {
        self.ends.insert(attempt, End { task, code, at });
        if code != 0 {
            *self.failures.entry(task).or_default() += 1;
        }
    }

    /// The machine is gone with everything on it: nobody can know any more.
    pub(crate) fn forgotten(&mut self, task: TaskId, attempt: AttemptId) {
        self.ends.remove(&attempt);
        self.starts.remove(&attempt);
        self.forgotten.insert(attempt, task);
    }

    /// A leader has read a heartbeat.
    pub(crate) fn heard(&mut self, worker: &WorkerName, incarnation: IncarnationId, now: Duration) {
        self.heard.insert((worker.clone(), incarnation), now);
    }

    /// Whoever wanted a change is told what came of it.
    pub(crate) fn answered(&mut self, revised: &[(TaskId, Revised)], unconfirmed: &[Out]) {
        for (task, revised) in revised {
            if let Revised::Changed { revision, .. } = revised {
                let named = unconfirmed.iter().find(|out| out.task == *task);
                self.changed.0 += 1;
                self.changed.1 += u32::from(named.is_some());
                self.answered.entry(*task).or_default().push(Answered {
                    revision: *revision,
                    unconfirmed: named.map(|out| out.dispatch),
                });
            }
        }
    }
}

impl World {
    /// A process starts: the one moment that everything is about.
    pub(crate) fn process_starts(
        &mut self,
        worker: usize,
        task: TaskId,
        attempt: AttemptId,
        (dispatch, revision): (DispatchId, Revision),
    ) {
        let at = self.workers[worker].clock(self.now);
        self.ledger.starts.insert(attempt, Start { task, at });
        *self.ledger.started.entry(task).or_default() += 1;
        let was_lost = |attempt: &AttemptId| {
            let known = self.database.attempts.get(attempt);
            known.is_some_and(|known| known.was_lost)
        };
        let others = self.ledger.live.entry(task).or_default();
        let other = others.iter().copied().find(|other| !was_lost(other));
        others.push(attempt);
        // One that had announced its start and was declared lost since is as good as started.
        let excused = was_lost(&attempt);
        let mut answered = self.ledger.answered.get(&task).into_iter().flatten();
        let broken = answered
            .find(|it| revision < it.revision && it.unconfirmed != Some(dispatch))
            .map(|it| it.revision)
            .filter(|_| !excused);
        if let Some(other) = other {
            self.violated(format!(
                "task {task}: attempt {attempt} starts while {other} is alive and not lost"
            ));
        }
        if let Some(answered) = broken {
            self.violated(format!(
                "task {task}: attempt {attempt} starts with revision {}, {} was answered",
                revision.0, answered.0
            ));
        }
    }

    /// A worker is declared lost for its silence: it must have been silent.
    pub(crate) fn check_silence(
        &mut self,
        worker: &WorkerName,
        incarnation: IncarnationId,
        lease: Duration,
    ) {
        let heard = self.ledger.heard.get(&(worker.clone(), incarnation));
        if let Some(ago) = heard.map(|heard| self.now.saturating_sub(*heard))
            && ago < lease
        {
            self.violated(format!("{worker} is lost, and was heard {ago:?} ago"));
        }
    }

    /// True when there is nothing left to happen but heartbeats.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.unfinished().is_none()
    }

    fn unfinished(&self) -> Option<String> {
        if let Some(id) = self
            .database
            .tasks
            .keys()
            .find(|id| self.is_unfinished(**id))
        {
            let state = self.database.tasks.get(id).map(|task| task.state);
            return Some(format!("task {id} does not end: {state:?}"));
        }
        if let Some(change) = self.changes.keys().next() {
            return Some(format!("change {} is never answered", change.0));
        }
        let mut attempts = self.database.attempts.iter();
        self.left_at_workers()
            .or_else(|| {
                let (id, attempt) = attempts.find(|(_, attempt)| !attempt.state.is_over())?;
                let (task, state) = (attempt.task, attempt.state);
                Some(format!("attempt {id} of task {task} stays {state:?}"))
            })
            .or_else(|| self.left_in_queues())
            .or_else(|| {
                let mut servers = self.servers.iter();
                let barred = servers.find_map(|server| server.barred(self.now).pop());
                barred.map(|batch| format!("batch {batch} stays barred"))
            })
    }

    fn left_at_workers(&self) -> Option<String> {
        for worker in &self.workers {
            let held = worker.held();
            if held > 0 {
                return Some(format!(
                    "{}: {held} attempts occupy slots for nothing",
                    worker.name
                ));
            }
            if let Some(attempt) = worker.disk.attempts.keys().next() {
                return Some(format!(
                    "{} keeps the directory of attempt {attempt}",
                    worker.name
                ));
            }
        }
        None
    }

    /// Every message that means something. In the queue of a batch that nobody works for, a message of a dispatch that is
    /// over may wait until somebody does: then it is returned.
    fn left_in_queues(&self) -> Option<String> {
        let consumed = self.broker.consumed();
        self.broker.messages().find_map(|(queue, message)| {
            let means_something = match &message.body {
                Body::Beat(_) => false,
                Body::State(_) | Body::Marker(_) | Body::Output(_) => true,
                Body::Task(task) => {
                    let known = self.database.tasks.get(&task.task);
                    let counts =
                        known.is_some_and(|known| known.state.dispatch() == Some(task.dispatch));
                    counts || consumed.contains(queue)
                }
            };
            means_something.then(|| format!("a message stays in the queue {queue:?}"))
        })
    }

    /// What must hold when everything has come to rest.
    pub(crate) fn check_the_end(&self) -> Option<String> {
        self.unfinished()
            .or_else(|| {
                let mut tasks = self.database.tasks.iter();
                tasks.find_map(|(id, task)| self.check_task(*id, task))
            })
            .or_else(|| self.check_history())
            .or_else(|| self.check_counters())
    }

    fn check_task(&self, id: TaskId, task: &Task) -> Option<String> {
        let starts = self.ledger.started.get(&id).copied().unwrap_or(0);
        let failures = self.ledger.failures.get(&id).copied().unwrap_or(0);
        let attempts = || {
            let all = self.database.attempts.values();
            all.filter(|attempt| attempt.task == id)
        };
        let lost = attempts().filter(|attempt| attempt.was_lost).count();
        // The word of a start was lost with the broker, and the machine with it.
        let unheard = self.ledger.forgotten.iter().filter(|(attempt, task)| {
            **task == id && !self.database.attempts.contains_key(attempt)
        });
        let lost = lost + unheard.count();
        let allowed = 1 + failures as usize + lost;
        if starts as usize > allowed {
            return Some(format!(
                "task {id} was started {starts} times: {failures} failures and {lost} losses allow {allowed}"
            ));
        }
        // One that was lost and comes back with its end when the task has moved on stays in the history only.
        let mut succeeded = attempts().filter(|it| it.state == AttemptState::Succeeded);
        let fits = if task.state == TaskState::Succeeded {
            succeeded.next().is_some()
        } else {
            succeeded.all(|attempt| attempt.was_lost)
        };
        if !fits {
            return Some(format!(
                "task {id} is {:?}, though its history says otherwise",
                task.state
            ));
        }
        // Where nothing was lost each failure has used up a retry, but the last.
        let used = u32::from(task.retries) - u32::from(task.retries_left);
        let expected = failures - u32::from(task.state == TaskState::Failed && failures > 0);
        let wrong = lost == 0 && used != expected;
        (wrong || used > failures).then(|| {
            format!("task {id} has used {used} retries for {failures} failures and {lost} losses")
        })
    }

    /// Each start and each end of a process stands in the history, with its time, and no others.
    fn check_history(&self) -> Option<String> {
        let known = |attempt: &AttemptId| {
            let known = self.database.attempts.get(attempt)?;
            Some((known, known.report.as_ref()?))
        };
        for (attempt, start) in &self.ledger.starts {
            let Some((_, report)) = known(attempt) else {
                let task = start.task;
                return Some(format!(
                    "attempt {attempt} of task {task} ran and is not in the history"
                ));
            };
            let Some(started) = report.started_at else {
                return Some(format!(
                    "attempt {attempt} is in the history without a start"
                ));
            };
            let queued = report.queued_at > report.accepted_at
                && !self.faults.contains_key(&Fault::DatabaseClockJumped);
            if queued || report.accepted_at > started || started > wall(start.at) {
                return Some(format!(
                    "attempt {attempt} started at {}, the history says {report:?}",
                    wall(start.at)
                ));
            }
        }
        for (attempt, end) in &self.ledger.ends {
            let Some((known, report)) = known(attempt) else {
                return Some(format!(
                    "attempt {attempt} of task {} ended and is not in the history",
                    end.task
                ));
            };
            let state = if end.code == 0 {
                AttemptState::Succeeded
            } else {
                AttemptState::Failed
            };
            if report.exit != Some(Exit::Code(end.code)) || known.state != state {
                return Some(format!(
                    "attempt {attempt} exited with {}, the history says {:?}, {:?}",
                    end.code, report.exit, known.state
                ));
            }
            if report.ended_at != Some(wall(end.at)) {
                return Some(format!(
                    "attempt {attempt} ended at {}, the history says {:?}",
                    wall(end.at),
                    report.ended_at
                ));
            }
            if !self.database.has_output(attempt) {
                return Some(format!("the output of attempt {attempt} is lost"));
            }
        }
        self.database.attempts.iter().find_map(|(id, attempt)| {
            let exit = attempt.report.as_ref()?.exit?;
            let known = self.ledger.ends.contains_key(id) || self.ledger.forgotten.contains_key(id);
            (matches!(exit, Exit::Code(_)) && !known)
                .then(|| format!("attempt {id} never ended, the history says {exit:?}"))
        })
    }

    fn check_counters(&self) -> Option<String> {
        let mut counted: BTreeMap<_, BTreeMap<_, i64>> = BTreeMap::new();
        for task in self.database.tasks.values() {
            let of = counted.entry(task.batch.clone()).or_default();
            *of.entry(task.state.status()).or_default() += 1;
        }
        self.database.counters.iter().find_map(|(batch, counters)| {
            counters.iter().find_map(|(status, count)| {
                let there = counted.get(batch).and_then(|of| of.get(status)).copied();
                let there = there.unwrap_or(0);
                (there != *count)
                    .then(|| format!("{count} tasks of {batch} are counted {status}, {there} are"))
            })
        })
    }
}
