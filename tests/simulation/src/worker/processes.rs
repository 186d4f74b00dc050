//! Processes: started, ended by themselves or killed, and what the disk keeps of them.

use std::time::Duration;

use rand::Rng as _;
use scitq_shared::execution::{Exit, FailureReason, Outcome};
use scitq_shared::ids::AttemptId;
use scitq_worker::agent::core::{AttemptEnd, Execution, Input};

use super::{Journal, Process, end};
use crate::mutant::Mutant;
use crate::world::{Event, World};

impl World {
    pub(super) fn execute(&mut self, index: usize, execution: Execution) {
        let worker = &mut self.workers[index];
        let attempt = execution.report.attempt;
        let mut definition = execution.message.definition.clone();
        let first = worker.first_seen.entry(execution.report.task);
        let first = *first.or_insert(definition.revision);
        if self.mutant == Some(Mutant::RunsOldRevisions) {
            definition.revision = first;
        }
        let journal = Journal {
            report: execution.report,
            definition,
            started: false,
            end: None,
            kill: None,
        };
        worker.disk.attempts.insert(attempt, journal);
        let boot = worker.boot;
        let delay = self.milliseconds(0..20);
        self.at(delay, Event::Launch(index, boot, attempt));
    }

    /// The process is made, unless the agent has died in the last moment.
    pub(crate) fn launch(&mut self, index: usize, boot: u64, attempt: AttemptId) {
        if let Some(until) = self.workers[index].is_stopped(self.now) {
            return self.schedule(until, Event::Launch(index, boot, attempt));
        }
        let worker = &mut self.workers[index];
        if worker.boot != boot || worker.agent.is_none() {
            return;
        }
        let Some(journal) = worker.disk.attempts.get_mut(&attempt) else {
            return;
        };
        if self.now < worker.full_until {
            let outcome = Outcome::Failed {
                reason: FailureReason::DiskFull,
                detail: "no space left on device".to_owned(),
            };
            let at = worker.clock(self.now);
            return self.record(index, attempt, end(at, None, outcome));
        }
        journal.started = true;
        let (task, revision) = (journal.report.task, journal.definition.revision);
        let dispatch = journal.report.dispatch;
        let kill = journal.kill.take();
        let code = i32::from(self.random.random_ratio(1, 8));
        worker.processes.insert(attempt, Process { task, code });
        self.process_starts(index, task, attempt, (dispatch, revision));
        // Many are short, some are longer than the early ack.
        let longest = if self.random.random_ratio(1, 4) {
            60_000
        } else {
            3_000
        };
        let lasts = self.milliseconds(1..longest);
        self.at(lasts, Event::ProcessEnds(index, attempt));
        if let Some(outcome) = kill {
            self.kill(index, attempt, outcome);
        }
    }

    pub(crate) fn process_ends(&mut self, index: usize, attempt: AttemptId) {
        let worker = &mut self.workers[index];
        let Some(process) = worker.processes.get(&attempt).copied() else {
            return;
        };
        if let Some(until) = worker.is_stopped(self.now) {
            // The process is gone; its agent learns of it later.
            self.ledger.gone(process.task, attempt);
            return self.schedule(until, Event::ProcessEnds(index, attempt));
        }
        worker.processes.remove(&attempt);
        self.ledger.gone(process.task, attempt);
        let at = self.workers[index].clock(self.now);
        self.ledger.exited(process.task, attempt, process.code, at);
        let white = self.mutant == Some(Mutant::WhitewashesExits);
        let exit = Exit::Code(if white { 0 } else { process.code });
        let late = self.mutant == Some(Mutant::MisdatesEnds);
        let at = if late {
            at + Duration::from_secs(1)
        } else {
            at
        };
        // Its keeper writes it down also when there is no agent to be told.
        self.record(index, attempt, end(at, Some(exit), Outcome::of_exit(exit)));
    }

    pub(super) fn kill(&mut self, index: usize, attempt: AttemptId, outcome: Outcome) {
        let worker = &mut self.workers[index];
        if let Some(process) = worker.processes.remove(&attempt) {
            self.ledger.gone(process.task, attempt);
            let exit = Some(Exit::Signal(9));
            let at = self.workers[index].clock(self.now);
            if self.mutant != Some(Mutant::HidesKilledProcesses) {
                self.record(index, attempt, end(at, exit, outcome));
            }
        } else if let Some(journal) = worker.disk.attempts.get_mut(&attempt)
            && journal.end.is_none()
        {
            journal.kill = Some(outcome);
        }
    }

    pub(super) fn record(&mut self, index: usize, attempt: AttemptId, end: AttemptEnd) {
        if let Some(journal) = self.workers[index].disk.attempts.get_mut(&attempt) {
            journal.end = Some(end.clone());
        }
        self.tell(index, Input::ProcessEnded { attempt, end });
    }
}
