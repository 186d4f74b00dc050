//! What really happened, seen by nobody but the judge: processes, their starts and their ends.

use std::collections::BTreeMap;

use scitq_shared::execution::Exit;
use scitq_shared::ids::{AttemptId, TaskId};
use scitq_shared::transition::{AttemptState, TaskState};

use crate::world::World;

/// The judge's book.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    starts: BTreeMap<TaskId, u32>,
    live: BTreeMap<TaskId, Vec<AttemptId>>,
    /// Exit codes of processes that ended by themselves, whether their agent lived or not.
    exits: BTreeMap<AttemptId, (TaskId, i32)>,
    /// Processes that ended by themselves with another code than 0.
    failures: BTreeMap<TaskId, u32>,
    /// Attempts of machines that are gone.
    forgotten: Vec<(TaskId, AttemptId)>,
}

impl Ledger {
    pub(crate) fn all_starts(&self) -> u32 {
        self.starts.values().sum()
    }

    /// A process is gone, whatever came of it.
    pub(crate) fn gone(&mut self, task: TaskId, attempt: AttemptId) {
        if let Some(live) = self.live.get_mut(&task) {
            live.retain(|other| *other != attempt);
        }
    }

    /// A process ended by itself, and its agent knows.
    pub(crate) fn exited(&mut self, task: TaskId, attempt: AttemptId, code: i32) {
        self.exits.insert(attempt, (task, code));
        if code != 0 {
            *self.failures.entry(task).or_default() += 1;
        }
    }

    /// The machine is gone with everything on it: nobody can know any more.
    pub(crate) fn forgotten(&mut self, task: TaskId, attempt: AttemptId) {
        self.exits.remove(&attempt);
        self.forgotten.push((task, attempt));
    }
}

impl World {
    /// A process starts: the one moment that everything is about.
    pub(crate) fn process_starts(&mut self, task: TaskId, attempt: AttemptId, revision: i64) {
        *self.ledger.starts.entry(task).or_default() += 1;
        let others = self.ledger.live.entry(task).or_default();
        let other = others.iter().copied().find(|other| {
            let known = self.database.attempts.get(other);
            !known.is_some_and(|known| known.was_lost)
        });
        others.push(attempt);
        if let Some(other) = other {
            self.violated(format!(
                "task {task}: attempt {attempt} starts while {other} is alive and not lost"
            ));
        }
        let answered = self.database.tasks.get(&task).map(|task| task.revision.0);
        if answered.is_some_and(|answered| revision < answered) {
            self.violated(format!(
                "task {task}: attempt {attempt} starts with revision {revision}, {answered:?} was answered"
            ));
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
        if let Some((id, attempt)) = self
            .database
            .attempts
            .iter()
            .find(|(_, attempt)| !attempt.state.is_over())
        {
            return Some(format!(
                "attempt {id} of task {} stays {:?}",
                attempt.task, attempt.state
            ));
        }
        for worker in &self.workers {
            if let Some(attempt) = worker.disk.attempts.keys().next() {
                return Some(format!(
                    "{} keeps the directory of attempt {attempt}",
                    worker.name
                ));
            }
        }
        let waiting = self.broker.waiting_tasks();
        (waiting > 0).then(|| format!("{waiting} task messages stay in the broker"))
    }

    /// What must hold when everything has come to rest.
    pub(crate) fn check_the_end(&self) -> Option<String> {
        if let Some(what) = self.unfinished() {
            return Some(what);
        }
        for (id, task) in &self.database.tasks {
            let starts = self.ledger.starts.get(id).copied().unwrap_or(0);
            let failures = self.ledger.failures.get(id).copied().unwrap_or(0);
            let attempts = || {
                let all = self.database.attempts.values();
                all.filter(|attempt| attempt.task == *id)
            };
            let lost = attempts().filter(|attempt| attempt.was_lost).count();
            // The word of a start was lost with the broker, and the machine with it.
            let unheard = self.ledger.forgotten.iter().filter(|(task, attempt)| {
                task == id && !self.database.attempts.contains_key(attempt)
            });
            let lost = lost + unheard.count();
            let allowed = 1 + failures as usize + lost;
            if starts as usize > allowed {
                return Some(format!(
                    "task {id} was started {starts} times: {failures} failures and {lost} losses allow {allowed}"
                ));
            }
            let succeeded = attempts().any(|attempt| attempt.state == AttemptState::Succeeded);
            if (task.state == TaskState::Succeeded) != succeeded {
                return Some(format!(
                    "task {id} is {:?}, though its history says otherwise",
                    task.state
                ));
            }
        }
        for (attempt, (task, code)) in &self.ledger.exits {
            let Some(known) = self.database.attempts.get(attempt) else {
                return Some(format!(
                    "attempt {attempt} of task {task} ran and is not in the history"
                ));
            };
            let exit = known.report.as_ref().and_then(|report| report.exit);
            let state = if *code == 0 {
                AttemptState::Succeeded
            } else {
                AttemptState::Failed
            };
            if exit != Some(Exit::Code(*code)) || known.state != state {
                return Some(format!(
                    "attempt {attempt} of task {task} exited with {code}, the history says {exit:?}, {:?}",
                    known.state
                ));
            }
            if !self.database.has_output(attempt) {
                return Some(format!("the output of attempt {attempt} is lost"));
            }
        }
        self.check_slots()
    }

    fn check_slots(&self) -> Option<String> {
        self.workers.iter().find_map(|worker| {
            let held = worker.held();
            (held > 0).then(|| format!("{}: {held} attempts occupy slots for nothing", worker.name))
        })
    }
}
