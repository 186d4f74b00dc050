//! What a leader reads: state events, output and heartbeats, applied and acknowledged in two steps.

use std::time::Duration;

use scitq_server::dispatch::core::Input;
use scitq_server::events::{Answer, Happening, Verdict, compare, judge};
use scitq_shared::ids::{AttemptId, DispatchId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::protocol::{
    ControlCommand, Heartbeat, InventoryItem, WorkerEvent, WorkerMessage,
};

use super::{ASK_AFTER, Done, Over, Taken};
use crate::broker::Request;
use crate::broker::{Body, QueueName};
use crate::database::{Projected, Refused};
use crate::mutant::Mutant;
use crate::world::{Event, World};

/// After so many failures of its own in a row a worker is paused.
const PAUSE_AFTER: u32 = 3;

impl World {
    /// Starts readers for whom there is something to read.
    pub(crate) fn wake_readers(&mut self) {
        let waiting = [QueueName::State, QueueName::Output, QueueName::Heartbeat]
            .iter()
            .any(|queue| self.broker.depth(queue) > 0);
        if !waiting {
            return;
        }
        for index in 0..self.servers.len() {
            let Some(term) = &mut self.servers[index].term else {
                continue;
            };
            if !term.reading_now && self.broker.has(term.reading) {
                term.reading_now = true;
                let number = term.number;
                let delay = self.milliseconds(0..10);
                self.at(delay, Event::ServerReads(index, number));
            }
        }
    }

    pub(crate) fn server_reads(&mut self, index: usize, number: u64) {
        if let Some(until) = self.servers[index].is_stopped(self.now) {
            return self.schedule(until, Event::ServerReads(index, number));
        }
        let acks_first = self.mutant == Some(Mutant::AcksBeforeCommit);
        let up = self.database.up;
        let Some(term) = self.servers[index].term(number) else {
            return;
        };
        if !up {
            return self.at(
                Duration::from_millis(500),
                Event::ServerReads(index, number),
            );
        }
        let id = term.reading;
        let mut taken = Taken::default();
        for (queue, most) in [
            (QueueName::Output, 8),
            (QueueName::State, 16),
            (QueueName::Heartbeat, 16),
        ] {
            for (tag, message) in self.broker.take(id, &queue, most) {
                taken.tags.push(tag);
                match queue {
                    QueueName::Output => taken.outputs.push(message),
                    QueueName::State => taken.states.push(message),
                    _ => taken.beats.push(message),
                }
            }
        }
        if acks_first {
            self.broker.settle(id, &taken.tags);
        }
        if let Some(term) = self.servers[index].term(number) {
            term.taken = Some(taken);
        }
        let delay = if acks_first {
            self.milliseconds(0..500)
        } else {
            Duration::ZERO
        };
        self.at(delay, Event::ServerApplies(index, number));
    }

    pub(crate) fn server_applies(&mut self, index: usize, number: u64) {
        if let Some(until) = self.servers[index].is_stopped(self.now) {
            return self.schedule(until, Event::ServerApplies(index, number));
        }
        if !self.database.up {
            let delay = Duration::from_millis(500);
            return self.at(delay, Event::ServerApplies(index, number));
        }
        let Some(taken) = self.servers[index]
            .term(number)
            .and_then(|term| term.taken.take())
        else {
            return;
        };
        let tags = taken.tags.clone();
        if self.apply(index, taken).is_err() {
            return self.end_term(index);
        }
        if let Some(term) = self.servers[index].term(number) {
            term.acks = tags;
        }
        let delay = self.milliseconds(0..20);
        self.at(delay, Event::ServerAcks(index, number));
    }

    pub(crate) fn server_acks(&mut self, index: usize, number: u64) {
        if let Some(until) = self.servers[index].is_stopped(self.now) {
            return self.schedule(until, Event::ServerAcks(index, number));
        }
        if let Some(term) = self.servers[index].term(number) {
            term.reading_now = false;
            let (id, mut tags) = (term.reading, std::mem::take(&mut term.acks));
            if self.mutant == Some(Mutant::LeavesMessages) {
                tags.pop();
            }
            self.send(id, Request::Settle(tags));
        }
    }

    fn apply(&mut self, index: usize, taken: Taken) -> Done {
        let outputs: Vec<AttemptId> = taken
            .outputs
            .iter()
            .filter_map(|message| match &message.body {
                Body::Output(attempt) => Some(*attempt),
                _ => None,
            })
            .collect();
        self.store(index, &[], &outputs)?;
        let mut happenings = Vec::new();
        let epoch = self.servers[index].term.as_ref().map(|term| term.epoch);
        for message in taken.states {
            let said = match &message.body {
                Body::State(message) => message.epoch,
                Body::Marker(marker) => marker.epoch,
                _ => continue,
            };
            if Some(said) > epoch {
                return Err(Over);
            }
            match message.body {
                Body::State(message) => match Happening::of(&message) {
                    Ok(Some(happening)) => {
                        self.break_returns(&happening);
                        happenings.push(happening);
                    }
                    Ok(None) => {
                        self.store(index, &std::mem::take(&mut happenings), &[])?;
                        self.about_worker(index, &message)?;
                    }
                    Err(why) => self.violated(format!("a message contradicts itself: {why}")),
                },
                Body::Marker(marker) => {
                    happenings.extend(marker.returned.iter().map(|it| Happening::Returned {
                        dispatch: it.dispatch,
                        task: it.task,
                    }));
                    self.store(index, &std::mem::take(&mut happenings), &[])?;
                    let read = self.servers[index]
                        .term
                        .as_mut()
                        .and_then(|term| term.markers.remove(&marker.marker));
                    if let Some(marker) = read {
                        self.dispatcher_hears(index, Input::MarkerRead { marker });
                    }
                    self.own_word_read(index, marker.marker)?;
                }
                _ => {}
            }
        }
        self.store(index, &happenings, &[])?;
        for message in taken.beats {
            if let Body::Beat(heartbeat) = message.body {
                self.heartbeat(index, &heartbeat)?;
            }
        }
        Ok(())
    }

    /// The mutant that dispatches anew whatever comes back.
    fn break_returns(&mut self, happening: &Happening) {
        if self.mutant == Some(Mutant::TrustsReturns)
            && let Happening::Returned { task, .. } = happening
            && let Some(known) = self.database.tasks.get(task)
            && !known.state.status().is_final()
        {
            let batch = known.batch.clone();
            self.database.force_pending(*task);
            self.nudge(&batch);
        }
    }

    pub(super) fn store(
        &mut self,
        index: usize,
        happenings: &[Happening],
        outputs: &[AttemptId],
    ) -> Done {
        if happenings.is_empty() && outputs.is_empty() {
            return Ok(());
        }
        let Some(term) = &self.servers[index].term else {
            return Err(Over);
        };
        let projected = self.database.project(term.epoch, happenings, outputs);
        let projected = projected.map_err(|_: Refused| Over)?;
        self.follow_up(index, projected)
    }

    /// A worker that could not run an attempt is judged by the real judge.
    fn judge_worker(&mut self, index: usize, worker: &WorkerName, batch: &BatchName) -> Done {
        let Some(term) = &self.servers[index].term else {
            return Err(Over);
        };
        let epoch = term.epoch;
        let history = self
            .database
            .fault_history(worker, batch, PAUSE_AFTER, self.now);
        match judge(&history, PAUSE_AFTER) {
            Verdict::Nothing => {}
            Verdict::PauseWorker(fault) => {
                let desired = self
                    .database
                    .pause_faulty_worker(epoch, worker, batch, fault, self.now)
                    .map_err(|_| Over)?;
                self.paused_for_faults.0 += 1;
                if let Some(desired) = desired {
                    let worker = worker.clone();
                    self.dispatcher_hears(index, Input::Greeted { worker, desired });
                }
            }
            Verdict::PauseBatch(..) => {
                self.paused_for_faults.1 += 1;
                self.database
                    .pause_faulty_batch(epoch, batch)
                    .map_err(|_| Over)?;
                let batch = batch.clone();
                self.dispatcher_hears(index, Input::Paused { batch });
            }
        }
        Ok(())
    }

    fn follow_up(&mut self, index: usize, projected: Projected) -> Done {
        let effects = projected.effects;
        for (worker, batch) in effects.faults {
            self.judge_worker(index, &worker, &batch)?;
        }
        if let Some(refused) = effects.refused.first() {
            self.violated(format!("an event is refused: {refused}"));
        }
        if !effects.room.is_empty() {
            let room = effects.room;
            self.dispatcher_hears(index, Input::Room { room });
        }
        if !projected.pending.is_empty() {
            let batches = projected.pending;
            self.dispatcher_hears(index, Input::Pending { batches });
        }
        for (worker, attempt) in effects.stop {
            let attempts = vec![attempt];
            self.control(index, &worker, ControlCommand::Stop { attempts });
        }
        for (batch, dispatches) in effects.revoke {
            self.revoke(index, &batch, &dispatches);
        }
        for (worker, attempt) in projected.complete {
            self.applied(index, &worker, attempt);
        }
        Ok(())
    }

    /// Every worker of the batch is asked to give dispatches back that count no more.
    fn revoke(&mut self, index: usize, batch: &BatchName, dispatches: &[DispatchId]) {
        let workers = self.database.workers.iter();
        let workers: Vec<WorkerName> = workers
            .filter(|(_, worker)| worker.desired.batch == *batch)
            .map(|(name, _)| name.clone())
            .collect();
        for worker in workers {
            let dispatches = dispatches.to_vec();
            self.control(index, &worker, ControlCommand::Revoke { dispatches });
        }
    }

    fn applied(&mut self, index: usize, worker: &WorkerName, attempt: AttemptId) {
        let attempts = vec![attempt];
        self.control(index, worker, ControlCommand::Applied { attempts });
    }

    fn about_worker(&mut self, index: usize, message: &WorkerMessage) -> Done {
        let Some(term) = &self.servers[index].term else {
            return Err(Over);
        };
        let epoch = term.epoch;
        let (name, incarnation) = (&message.worker, message.incarnation);
        match &message.event {
            WorkerEvent::Hello(hello) => {
                let desired = self
                    .database
                    .greet(epoch, name, incarnation, hello, self.now);
                let (desired, restart) = desired.map_err(|_| Over)?;
                if let Some(boots) = restart {
                    self.control(index, name, ControlCommand::Restart { boots });
                }
                for answer in self.answers(message, &hello.inventory) {
                    match answer {
                        Answer::Applied(attempt) => self.applied(index, name, attempt),
                        Answer::Lost { .. } => self.lose(index, &answer)?,
                        Answer::Alive { .. } => self.lives(index, name, &answer)?,
                        Answer::Stop(_) | Answer::Resend { .. } => {}
                    }
                }
                let worker = name.clone();
                self.dispatcher_hears(index, Input::Greeted { worker, desired });
            }
            WorkerEvent::Goodbye { kept, .. } => {
                let gone = self.database.farewell(epoch, name, incarnation, *kept == 0);
                gone.map_err(|_| Over)?;
                self.dispatcher_hears(index, Input::WorkersChanged);
            }
            WorkerEvent::Absent { dispatches } => {
                let (worker, dispatches) = (name.clone(), dispatches.clone());
                self.dispatcher_hears(index, Input::Absent { worker, dispatches });
            }
            _ => {}
        }
        Ok(())
    }

    fn answers(&self, message: &WorkerMessage, inventory: &[InventoryItem]) -> Vec<Answer> {
        self.compared(
            &message.worker,
            message.incarnation,
            inventory,
            message.sequence,
        )
    }

    fn compared(
        &self,
        worker: &WorkerName,
        incarnation: scitq_shared::ids::IncarnationId,
        inventory: &[InventoryItem],
        sequence: u64,
    ) -> Vec<Answer> {
        let ids: Vec<AttemptId> = inventory.iter().map(|item| item.attempt).collect();
        let held = self.database.held(worker, incarnation, &ids);
        let sequence = if self.mutant == Some(Mutant::OverratesInventories) {
            u64::MAX
        } else {
            sequence
        };
        let mut answers = compare(&held, inventory, sequence);
        if self.mutant == Some(Mutant::ForgetsOutput) {
            for answer in &mut answers {
                if let Answer::Resend {
                    attempt,
                    end: false,
                    ..
                } = answer
                {
                    *answer = Answer::Applied(*attempt);
                }
            }
        }
        answers
    }

    fn lose(&mut self, index: usize, answer: &Answer) -> Done {
        let Answer::Lost {
            attempt,
            dispatch,
            task,
        } = answer
        else {
            return Ok(());
        };
        let lost = Happening::Lost {
            attempt: *attempt,
            dispatch: *dispatch,
            task: *task,
            detail: "unknown to its worker".to_owned(),
        };
        self.store(index, &[lost], &[])
    }

    /// One that was declared lost lives after all.
    fn lives(&mut self, index: usize, worker: &WorkerName, answer: &Answer) -> Done {
        let Answer::Alive {
            attempt,
            task,
            phase,
        } = answer
        else {
            return Ok(());
        };
        let lives = Happening::Alive {
            worker: worker.clone(),
            attempt: *attempt,
            task: *task,
            phase: *phase,
        };
        self.store(index, &[lives], &[])
    }

    fn heartbeat(&mut self, index: usize, heartbeat: &Heartbeat) -> Done {
        let now = self.now;
        let Some(term) = &mut self.servers[index].term else {
            return Err(Over);
        };
        let (name, incarnation) = (&heartbeat.worker, heartbeat.incarnation);
        term.listening.heard(name, now);
        self.ledger.heard(name, incarnation, now);
        let Some(term) = &self.servers[index].term else {
            return Err(Over);
        };
        let came = self
            .database
            .heard(term.epoch, name, incarnation, self.now)
            .map_err(|_| Over)?;
        if came {
            self.dispatcher_hears(index, Input::WorkersChanged);
        }
        for answer in self.compared(name, incarnation, &heartbeat.inventory, heartbeat.sequence) {
            match answer {
                Answer::Lost { .. } => self.lose(index, &answer)?,
                Answer::Alive { .. } => self.lives(index, name, &answer)?,
                Answer::Applied(attempt) => self.applied(index, name, attempt),
                Answer::Stop(attempt) => {
                    let attempts = vec![attempt];
                    self.control(index, name, ControlCommand::Stop { attempts });
                }
                Answer::Resend {
                    attempt,
                    end,
                    stdout_from,
                    stderr_from,
                } => {
                    if self.waited_enough(index, attempt) {
                        let command = ControlCommand::Resend {
                            attempt,
                            end,
                            stdout_from,
                            stderr_from,
                        };
                        self.control(index, name, command);
                    }
                }
            }
        }
        let known = self.database.workers.get(name);
        if let Some(boots) = known.and_then(|it| it.restart) {
            self.control(index, name, ControlCommand::Restart { boots });
        }
        let wanted = self.database.workers.get(name).map(|it| it.desired.clone());
        if let Some(desired) = wanted.filter(|it| it.version > heartbeat.desired_version) {
            let worker = name.clone();
            self.dispatcher_hears(index, Input::Greeted { worker, desired });
        }
        Ok(())
    }

    fn waited_enough(&mut self, index: usize, attempt: AttemptId) -> bool {
        let now = self.now;
        let Some(term) = &mut self.servers[index].term else {
            return false;
        };
        let since = term.ended_since.entry(attempt).or_insert(now);
        let enough = *since + ASK_AFTER <= now;
        if enough {
            *since = now;
        }
        enough
    }
}
