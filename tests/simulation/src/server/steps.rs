//! The dispatcher's shell: does what the core decides, one thing after the other, so that a crash may come between any two.

use std::collections::BTreeSet;
use std::time::Duration;

use scitq_server::dispatch::core::{Effect, Input, Out, Question, RecallNumber};
use scitq_server::dispatch::unconfirmed;
use scitq_server::events::Happening;
use scitq_shared::ids::{DispatchId, Epoch, TaskId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::protocol::{
    ControlCommand, ControlMessage, Marker, PROTOCOL_VERSION, ReturnedDispatch,
};
use scitq_shared::worker::DesiredState;
use uuid::Uuid;

use super::{Awaited, Done, Over, Step};
use crate::broker::{Body, QueueName, Request};
use crate::database::Refused;
use crate::mutant::Mutant;
use crate::world::{Event, World};

impl World {
    /// The dispatcher does one thing.
    pub(crate) fn server_steps(&mut self, index: usize, number: u64) {
        if let Some(until) = self.servers[index].is_stopped(self.now) {
            return self.schedule(until, Event::ServerSteps(index, number));
        }
        let now = self.now;
        let Some(term) = self.servers[index].term(number) else {
            return;
        };
        term.stepping = false;
        if term.steps.is_empty()
            && let Some(input) = term.inputs.pop_front()
        {
            let effects = term.core.handle(now.saturating_sub(term.began), input);
            term.steps.extend(effects.into_iter().map(Step::Effect));
        }
        if let Some(step) = term.steps.pop_front() {
            if !self.database.up {
                // It waits for the database.
                if let Some(term) = self.servers[index].term(number) {
                    term.steps.push_front(step);
                    term.stepping = true;
                    self.at(
                        Duration::from_millis(500),
                        Event::ServerSteps(index, number),
                    );
                }
                return;
            }
            if self.step(index, step).is_err() {
                return self.end_term(index);
            }
        }
        self.keep_stepping(index);
        self.set_server_alarm(index);
    }

    fn set_server_alarm(&mut self, index: usize) {
        let now = self.now;
        let Some(term) = &mut self.servers[index].term else {
            return;
        };
        let Some(deadline) = term.core.next_deadline(now.saturating_sub(term.began)) else {
            return;
        };
        let at = (term.began + deadline).max(now) + Duration::from_millis(1);
        if term.wakes_at.is_none_or(|set| at < set) {
            term.wakes_at = Some(at);
            let number = term.number;
            self.schedule(at, Event::ServerWakes(index, number));
        }
    }

    fn step(&mut self, index: usize, step: Step) -> Done {
        let now = self.now;
        let mutant = self.mutant;
        let Some(term) = &mut self.servers[index].term else {
            return Err(Over);
        };
        let (epoch, commanding) = (term.epoch, term.commanding);
        if self.tracing {
            println!("           server {index}: {step:?}");
        }
        match step {
            Step::Effect(Effect::LoadWorkers) => {
                let capacities = self.database.capacity();
                term.inputs.push_front(Input::Workers { capacities });
            }
            // The simulated database is never restored from a backup.
            Step::Effect(
                Effect::LookAround | Effect::Recount { .. } | Effect::EndListening { .. },
            ) => {}
            Step::Effect(Effect::Declare { batch }) => {
                term.awaited = Some(Awaited::Declared);
                self.send(commanding, Request::Declare(batch));
            }
            Step::Effect(Effect::DeleteQueue { batch }) => {
                term.awaited = Some(Awaited::Deleted);
                self.send(commanding, Request::DeleteIdle(batch));
            }
            Step::Effect(Effect::Welcome { worker, desired }) => {
                self.welcome(index, &worker, desired);
            }
            Step::Effect(Effect::Claim { batch, window }) => {
                let uuids = &mut self.uuids;
                let fresh = || {
                    *uuids += 1;
                    DispatchId(Uuid::from_u128(*uuids))
                };
                let mut undone = None;
                if mutant == Some(Mutant::PublishesBeforeCommit) {
                    undone = Some((self.database.tasks.clone(), self.database.counters.clone()));
                }
                let claim = self.database.claim(epoch, &batch, window, now, fresh);
                let claim = claim.map_err(|_| Over)?;
                if let Some(before) = undone {
                    // Published first; the commit may never come, if the server dies in between.
                    for task in &claim.tasks {
                        let task = std::sync::Arc::new(task.clone());
                        self.send(commanding, Request::Task(task));
                    }
                    if !claim.tasks.is_empty() && rand::Rng::random_ratio(&mut self.random, 1, 4) {
                        (self.database.tasks, self.database.counters) = before;
                        return Err(Over);
                    }
                    if let Some(term) = &mut self.servers[index].term {
                        term.inputs.push_front(Input::Claimed {
                            batch,
                            dispatches: claim.tasks.len(),
                            assigned: claim.assigned,
                            pending_left: claim.pending_left,
                        });
                    }
                    return Ok(());
                }
                term.steps.push_front(Step::Publish {
                    batch,
                    tasks: claim.tasks,
                    assigned: claim.assigned,
                    pending_left: claim.pending_left,
                });
            }
            Step::Publish {
                batch,
                tasks,
                assigned,
                pending_left,
            } => {
                let dispatches = tasks.len();
                term.inputs.push_front(Input::Claimed {
                    batch,
                    dispatches,
                    assigned,
                    pending_left,
                });
                for task in tasks {
                    self.send(commanding, Request::Task(std::sync::Arc::new(task)));
                }
            }
            Step::Effect(Effect::Compare { batch }) => {
                let overtaken = self.database.is_overtaken(&batch);
                term.inputs.push_front(Input::Compared { batch, overtaken });
            }
            Step::Effect(Effect::Withdraw { batch }) => {
                let queue = QueueName::Batch(batch.clone());
                term.awaited = Some(Awaited::Got { batch });
                self.send(commanding, Request::Get { queue, most: 8 });
            }
            Step::TakeBack { batch, taken } => {
                let (mut fresh, mut redelivered) = (Vec::new(), Vec::new());
                for (_, message) in &taken {
                    let Body::Task(task) = &message.body else {
                        continue;
                    };
                    let (dispatch, task) = (task.dispatch, task.task);
                    if message.redelivered && mutant != Some(Mutant::BypassesStateQueue) {
                        redelivered.push(ReturnedDispatch { dispatch, task });
                    } else {
                        fresh.push(Happening::Returned { dispatch, task });
                    }
                }
                self.database
                    .project(epoch, &fresh, &[])
                    .map_err(|_| Over)?;
                let marker = self.uuid();
                let Some(term) = &mut self.servers[index].term else {
                    return Err(Over);
                };
                if !redelivered.is_empty() {
                    term.awaited = Some(Awaited::Confirm {
                        batch,
                        tags: taken.iter().map(|(tag, _)| *tag).collect(),
                        dispatches: fresh.len(),
                    });
                    let message = Marker {
                        version: PROTOCOL_VERSION,
                        epoch,
                        marker,
                        returned: redelivered,
                    };
                    self.send(commanding, Request::ConfirmedMarker(message));
                } else if taken.is_empty() {
                    let dispatches = std::mem::take(&mut term.withdrawn);
                    term.inputs
                        .push_front(Input::Withdrawn { batch, dispatches });
                } else {
                    let tags = taken.iter().map(|(tag, _)| *tag).collect();
                    let dispatches = fresh.len();
                    term.steps.push_front(Step::Settle {
                        batch,
                        tags,
                        dispatches,
                    });
                }
            }
            Step::Settle {
                batch,
                tags,
                dispatches,
            } => {
                term.withdrawn += dispatches;
                term.steps
                    .push_front(Step::Effect(Effect::Withdraw { batch }));
                self.send(commanding, Request::Settle(tags));
            }
            Step::Effect(Effect::Count { batch, age }) => {
                term.awaited = Some(Awaited::Depth {
                    batch: batch.clone(),
                    age,
                });
                self.send(commanding, Request::Declare(batch));
            }
            Step::Counted { batch, age, depth } => {
                let mut surplus = self.database.dispatches_beyond(&batch, age, depth, now);
                if mutant == Some(Mutant::CallsNoRoll) {
                    surplus.clear();
                }
                term.inputs.push_front(Input::Counted {
                    batch: batch.clone(),
                    surplus,
                    assigned: self.database.assigned_tasks(&batch),
                });
            }
            Step::Effect(Effect::List { batch, question }) => {
                let among = match &question {
                    Question::All => None,
                    Question::Suspects(some) | Question::Asked(some) => Some(&some[..]),
                };
                let (unstarted, workers) = self.database.unaccepted(&batch, among);
                term.inputs.push_front(Input::Listed {
                    batch,
                    question,
                    unstarted,
                    workers,
                });
            }
            Step::Effect(Effect::ListUnstarted { batch, recall }) => {
                let mut unstarted = self.database.unstarted(&batch);
                let (_, workers) = self.database.unaccepted(&batch, Some(&[]));
                if mutant == Some(Mutant::RecallsNothing) {
                    unstarted.clear();
                }
                term.inputs.push_front(Input::Unstarted {
                    batch,
                    recall,
                    unstarted,
                    workers,
                });
            }
            Step::Effect(Effect::Change { batch, recall, out }) => {
                let pending = self.make_change(epoch, &batch, recall, out)?;
                if mutant == Some(Mutant::BarsForEver) {
                    return Ok(());
                }
                if let Some(term) = &mut self.servers[index].term {
                    term.inputs.push_front(Input::Changed {
                        batch,
                        recall,
                        pending,
                    });
                }
            }
            Step::Effect(Effect::Revoke { worker, dispatches }) => {
                if mutant == Some(Mutant::BelievesInAbsence) {
                    term.inputs.push_back(Input::Absent { worker, dispatches });
                    return Ok(());
                }
                self.control(index, &worker, ControlCommand::Revoke { dispatches });
            }
            Step::Effect(Effect::Marker { marker }) => {
                let id = Uuid::from_u64_pair(epoch.0.unsigned_abs(), marker.0);
                term.markers.insert(id, marker);
                let message = Marker {
                    version: PROTOCOL_VERSION,
                    epoch,
                    marker: id,
                    returned: Vec::new(),
                };
                self.send(commanding, Request::Marker(message));
            }
            Step::Effect(Effect::Return { batch, dispatches }) => {
                let count = dispatches.len();
                let returned: Vec<Happening> = dispatches
                    .into_iter()
                    .map(
                        |(task, dispatch): (TaskId, DispatchId)| Happening::Returned {
                            dispatch,
                            task,
                        },
                    )
                    .collect();
                self.database
                    .project(epoch, &returned, &[])
                    .map_err(|_| Over)?;
                if let Some(term) = &mut self.servers[index].term {
                    term.inputs.push_front(Input::Returned {
                        batch,
                        dispatches: count,
                    });
                }
            }
        }
        Ok(())
    }

    /// A change of tasks is committed, and its author is told.
    fn make_change(
        &mut self,
        epoch: Epoch,
        batch: &BatchName,
        recall: RecallNumber,
        out: Vec<Out>,
    ) -> Result<BTreeSet<BatchName>, Over> {
        let Some(change) = self.changes.get(&recall) else {
            return Ok(BTreeSet::new());
        };
        let wanted = change.revisions.clone();
        let revised = self
            .database
            .revise(epoch, batch, &wanted)
            .map_err(|_: Refused| Over)?;
        self.changes.remove(&recall);
        let mut unconfirmed = unconfirmed(out, &revised);
        if self.mutant == Some(Mutant::ConfirmsEverything) {
            unconfirmed.clear();
        }
        self.ledger.answered(&revised, &unconfirmed);
        Ok(wanted.into_iter().map(|wanted| wanted.batch).collect())
    }

    fn welcome(&mut self, index: usize, worker: &WorkerName, desired: DesiredState) {
        let program_version = "0".to_owned();
        let command = ControlCommand::Welcome {
            desired,
            program_version,
        };
        self.control(index, worker, command);
    }

    pub(super) fn control(&mut self, index: usize, worker: &WorkerName, command: ControlCommand) {
        let Some(term) = &self.servers[index].term else {
            return;
        };
        let message = Box::new(ControlMessage::new(term.epoch, command));
        let (id, worker) = (term.commanding, worker.clone());
        self.send(id, Request::Control { worker, message });
    }
}
