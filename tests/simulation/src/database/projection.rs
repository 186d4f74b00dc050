//! What is reported, applied through the real projection.

use std::collections::BTreeSet;

use scitq_server::db::{Loaded, LoadedAttempt};
use scitq_server::events::{Happening, needs, project};
use scitq_shared::ids::{AttemptId, Epoch};
use scitq_shared::protocol::AttemptReport;
use scitq_shared::transition::{AttemptState, TaskState};

use super::{Attempt, Database, Projected, Refused};
use crate::mutant::Mutant;

impl Database {
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
            if let Some(task) = self.loaded_task(*id) {
                loaded.tasks.insert(*id, task);
            }
        }
        for id in &wanted.attempts {
            if let Some(attempt) = self.attempts.get(id) {
                let attempt = LoadedAttempt {
                    attempt: *id,
                    task: attempt.task,
                    dispatch: attempt.dispatch,
                    revision: attempt.revision,
                    state: attempt.state,
                    worker: attempt.worker.clone(),
                    incarnation: attempt.incarnation,
                    ended: attempt
                        .report
                        .as_ref()
                        .is_some_and(|report| report.ended_at.is_some()),
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
                if self.mutant != Some(Mutant::KeepsRetries) {
                    task.retries_left = change.retries_left;
                }
                self.moved(change.task, change.to);
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
                    self.last_attempt += 1;
                    new.insert(Attempt {
                        number: self.last_attempt,
                        failure: None,
                        task: report.task,
                        worker: change.worker.clone(),
                        incarnation: change.incarnation,
                        dispatch: report.dispatch,
                        revision: report.revision,
                        state: change.state,
                        was_lost: false,
                        announced_sequence: change.announced_sequence,
                        report: None,
                        complete: false,
                    })
                }
            };
            attempt.state = change.state;
            attempt.failure = change.failure;
            attempt.was_lost |= change.state == AttemptState::Lost;
            if let Some(report) = change.report {
                // What was known stays known.
                let old = attempt.report.take();
                let old = old.as_ref();
                let started = report.started_at.or(old.and_then(|old| old.started_at));
                let omits = self.mutant == Some(Mutant::OmitsStarts);
                attempt.report = Some(AttemptReport {
                    started_at: started.filter(|_| !omits),
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
                    report
                        .stdout
                        .is_some_and(|end| end.kept() == 0 || self.outputs.contains(&id))
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

    /// True when the output of an attempt is stored.
    pub fn has_output(&self, attempt: &AttemptId) -> bool {
        self.outputs.contains(attempt)
    }
}
