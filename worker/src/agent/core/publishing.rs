//! State events: how they are numbered, what waits for their confirmation, and what is published again.

use std::sync::Arc;
use std::time::Duration;

use scitq_shared::ids::{AttemptId, DispatchId, Epoch};
use scitq_shared::protocol::{
    AttemptPhase, Heartbeat, Hello, InventoryItem, PROTOCOL_VERSION, TaskMessage, WorkerEvent,
    WorkerMessage,
};

use super::held::{Announced, Phase};
use super::input::{ChannelNumber, Effect, Execution, Now, Place, PublicationNumber};
use super::{Core, Mode};

/// What a confirmation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Publication {
    /// Our introduction.
    Hello,
    /// The acceptance of an attempt.
    Accepted(AttemptId),
    /// The start of an attempt, which is executed on confirmation.
    Started(AttemptId),
    /// The end of an attempt.
    Ended(AttemptId),
    /// An attempt given back.
    Released(AttemptId),
    /// A redelivered message.
    Returned(Place),
    /// Something said before, again: nothing depends on it.
    Repetition,
    /// Our farewell.
    Goodbye,
}

/// A publication whose confirmation is outstanding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) what: Publication,
    pub(super) on: Option<ChannelNumber>,
}

impl Core {
    pub(super) fn link_up(&mut self, now: Now) {
        self.link_up = true;
        self.next_beat = now.elapsed;
        self.say_hello(now, None);
        let released: Vec<AttemptId> = self.released.keys().copied().collect();
        for attempt in released {
            self.publish_released(now, attempt);
        }
        let ended: Vec<AttemptId> = self
            .ended
            .iter()
            .filter(|(_, ended)| !ended.reported)
            .map(|(attempt, _)| *attempt)
            .collect();
        for attempt in ended {
            self.publish_ended(now, attempt);
        }
    }

    /// Introduces the worker, at the end of a recount with the epoch of whoever asked for it.
    pub(super) fn say_hello(&mut self, now: Now, recounted: Option<Epoch>) {
        let hello = Hello {
            hostname: self.identity.hostname.clone(),
            program_version: self.identity.program_version.clone(),
            cores: self.identity.cores,
            memory_bytes: self.identity.memory_bytes,
            initial: self.rules.initial.clone(),
            desired_version: self.desired_version(),
            boots: self.identity.boots,
            can_restart: self.rules.can_restart,
            batch: self.desired.as_ref().map(|desired| desired.batch.clone()),
            recounted,
            inventory: self.inventory(),
        };
        self.publish(now, None, Publication::Hello, WorkerEvent::Hello(hello));
    }

    /// Nothing of the old connection counts any more; what it left unconfirmed is published again by the next one.
    pub(super) fn link_down(&mut self, now: Now) {
        self.link_up = false;
        self.sent.clear();
        self.channel = None;
        self.tombstones.clear();
        self.consumer = super::Consumer::closed();
        self.void(now, true, |_| true);
    }

    /// Publishes, if there is a connection. Without one the next connection finds what is to be said.
    fn publish(
        &mut self,
        now: Now,
        on: Option<ChannelNumber>,
        what: Publication,
        event: WorkerEvent,
    ) {
        // A number that is used up even if nothing is sent does no harm: numbers only have to rise.
        self.counter += 1;
        if !self.link_up {
            return;
        }
        let publication = PublicationNumber(self.next_number());
        let message = WorkerMessage {
            version: PROTOCOL_VERSION,
            worker: self.identity.worker.clone(),
            incarnation: self.identity.incarnation,
            epoch: self.epoch,
            sequence: self.sequence(),
            sent_at: now.wall,
            event,
        };
        self.sent.insert(publication, Sent { what, on });
        self.effects.push(Effect::Publish {
            publication,
            on,
            message: Box::new(message),
        });
    }

    /// The channel of a delivery, while it is open: what is said about the delivery goes by it.
    fn channel_of(&self, place: Option<Place>) -> Option<ChannelNumber> {
        place
            .map(|place| place.channel)
            .filter(|channel| self.channel == Some(*channel))
    }

    pub(super) fn publish_accepted(&mut self, now: Now, attempt: AttemptId) {
        let Some(active) = self.active.get_mut(&attempt) else {
            return;
        };
        if active.phase == Phase::Waiting(Announced::No) {
            active.phase = Phase::Waiting(Announced::Sent);
            let (report, channel) = (active.report.clone(), active.origin.channel);
            self.publish(
                now,
                Some(channel),
                Publication::Accepted(attempt),
                WorkerEvent::Accepted(report),
            );
        }
    }

    pub(super) fn publish_started(&mut self, now: Now, attempt: AttemptId) {
        let Some(active) = self.active.get_mut(&attempt) else {
            return;
        };
        active.phase = Phase::Starting;
        active.report.started_at = Some(now.wall);
        let (report, channel) = (active.report.clone(), active.origin.channel);
        self.publish(
            now,
            Some(channel),
            Publication::Started(attempt),
            WorkerEvent::Started(report),
        );
    }

    pub(super) fn publish_ended(&mut self, now: Now, attempt: AttemptId) {
        let Some(ended) = self.ended.get(&attempt) else {
            return;
        };
        let (report, channel) = (ended.report.clone(), self.channel_of(ended.unacked));
        self.publish(
            now,
            channel,
            Publication::Ended(attempt),
            WorkerEvent::Ended(report),
        );
    }

    pub(super) fn publish_released(&mut self, now: Now, attempt: AttemptId) {
        let Some(released) = self.released.get(&attempt) else {
            return;
        };
        let (report, channel) = (released.report.clone(), self.channel_of(released.unacked));
        let event = WorkerEvent::Released {
            report,
            reason: released.reason,
        };
        self.publish(now, channel, Publication::Released(attempt), event);
    }

    pub(super) fn publish_returned(&mut self, now: Now, place: Place, message: Arc<TaskMessage>) {
        let event = WorkerEvent::Returned {
            dispatch: message.dispatch,
            task: message.task,
            message: Some(Box::new(Arc::unwrap_or_clone(message))),
        };
        self.publish(
            now,
            Some(place.channel),
            Publication::Returned(place),
            event,
        );
    }

    /// Says what a dispatch asks to be run.
    pub(super) fn publish_described(&mut self, now: Now, message: Arc<TaskMessage>) {
        let message = Box::new(Arc::unwrap_or_clone(message));
        let event = WorkerEvent::Described { message };
        // A server that lacks it asks again.
        self.publish(now, None, Publication::Repetition, event);
    }

    pub(super) fn publish_absent(&mut self, now: Now, dispatches: Vec<DispatchId>) {
        let event = WorkerEvent::Absent { dispatches };
        // Whoever asked asks again when the answer gets lost.
        self.publish(now, None, Publication::Repetition, event);
    }

    pub(super) fn publish_goodbye(&mut self, now: Now) {
        let reason = "the worker was told to end".to_owned();
        let kept = u32::try_from(self.ended.len() + self.released.len()).unwrap_or(u32::MAX);
        if kept == 0 {
            // From now on nobody expects that this worker has anything. Its next start takes nothing before the server has
            // answered its hello: a hello can be lost with the broker, and what was taken after it would be nobody's.
            self.effects.push(Effect::Forget);
        }
        let goodbye = WorkerEvent::Goodbye { reason, kept };
        self.publish(now, None, Publication::Goodbye, goodbye);
    }

    /// Says again how far an attempt is, for a server that asks.
    pub(super) fn repeat(&mut self, now: Now, attempt: AttemptId) {
        let (event, place) = if let Some(active) = self.active.get(&attempt) {
            let report = active.report.clone();
            let event = if active.is_started() {
                WorkerEvent::Started(report)
            } else {
                WorkerEvent::Accepted(report)
            };
            (event, Some(active.origin))
        } else if let Some(ended) = self.ended.get(&attempt) {
            (WorkerEvent::Ended(ended.report.clone()), ended.unacked)
        } else {
            return;
        };
        let channel = self.channel_of(place);
        self.publish(now, channel, Publication::Repetition, event);
    }

    pub(super) fn confirmed(&mut self, now: Now, publication: PublicationNumber, stored: bool) {
        let Some(Sent { what, on }) = self.sent.remove(&publication) else {
            return;
        };
        if !stored {
            self.not_stored(now, what, on);
            return;
        }
        match what {
            Publication::Hello | Publication::Repetition => {}
            Publication::Goodbye => self.mode = Mode::Over,
            Publication::Accepted(attempt) => {
                if let Some(active) = self.active.get_mut(&attempt)
                    && active.phase == Phase::Waiting(Announced::Sent)
                {
                    active.phase = Phase::Waiting(Announced::Confirmed);
                }
            }
            Publication::Started(attempt) => self.start_is_confirmed(now, attempt, on),
            Publication::Ended(attempt) => {
                if let Some(ended) = self.ended.get_mut(&attempt) {
                    ended.reported = true;
                    self.effects.extend(ended.unacked.take().map(Effect::Ack));
                }
            }
            Publication::Released(attempt) => {
                if let Some(released) = self.released.remove(&attempt) {
                    self.effects.extend(released.unacked.map(Effect::Ack));
                    if released.kept {
                        self.effects.push(Effect::Discard { attempt });
                    }
                }
            }
            Publication::Returned(place) => self.effects.push(Effect::Ack(place)),
        }
    }

    /// The one place where an attempt gets executed.
    fn start_is_confirmed(&mut self, now: Now, attempt: AttemptId, on: Option<ChannelNumber>) {
        let Some(active) = self.active.get_mut(&attempt) else {
            return;
        };
        if active.phase != Phase::Starting
            || on != Some(active.origin.channel)
            || on != self.channel
        {
            return;
        }
        active.phase = Phase::Running;
        let execution = Execution {
            report: active.report.clone(),
            message: std::sync::Arc::clone(&active.message),
            concurrency: self
                .desired
                .as_ref()
                .map_or(1, |desired| desired.concurrency),
        };
        self.effects.push(Effect::Execute(Box::new(execution)));
        self.limit_run(now.elapsed, attempt, Duration::ZERO);
    }

    /// The broker refused it, or its channel went before the answer.
    fn not_stored(&mut self, now: Now, what: Publication, on: Option<ChannelNumber>) {
        match (what, on) {
            (Publication::Repetition, _) => {}
            // By itself an end or a release may go by any channel; the one it went by is lost or refuses.
            (Publication::Ended(attempt), Some(_)) => {
                if let Some(ended) = self.ended.get_mut(&attempt) {
                    ended.unacked = ended.unacked.filter(|_| on == self.channel);
                    let event = WorkerEvent::Ended(ended.report.clone());
                    self.publish(now, None, what, event);
                }
            }
            (Publication::Released(attempt), Some(_)) => {
                if let Some(released) = self.released.get_mut(&attempt) {
                    released.unacked = released.unacked.filter(|_| on == self.channel);
                    let event = WorkerEvent::Released {
                        report: released.report.clone(),
                        reason: released.reason,
                    };
                    self.publish(now, None, what, event);
                }
            }
            // The delivery waits for this very message: with the channel closed, it is void and goes back.
            (_, Some(channel)) if self.channel == Some(channel) => {
                self.effects.push(Effect::CloseChannel { channel });
            }
            (_, Some(_)) => {}
            (_, None) => {
                let reason = "the broker did not take a state event".to_owned();
                self.effects.push(Effect::Reconnect { reason });
            }
        }
    }

    pub(super) fn beat(&mut self, now: Now) {
        if !self.link_up || now.elapsed < self.next_beat {
            return;
        }
        self.next_beat = now.elapsed + self.rules.heartbeat_every;
        self.effects.push(Effect::Beat(Box::new(Heartbeat {
            version: PROTOCOL_VERSION,
            worker: self.identity.worker.clone(),
            incarnation: self.identity.incarnation,
            epoch: self.epoch,
            sequence: self.sequence(),
            sent_at: now.wall,
            desired_version: self.desired_version(),
            inventory: self.inventory(),
        })));
    }

    /// Every attempt that was announced and is kept.
    pub(super) fn inventory(&self) -> Vec<InventoryItem> {
        let active = self
            .active
            .values()
            .filter_map(super::Active::inventory_item);
        let ended = self.ended.values().map(|ended| InventoryItem {
            attempt: ended.report.attempt,
            task: ended.report.task,
            phase: AttemptPhase::Ended,
        });
        // What is given back is held until the broker has that: left out, it would be called lost before the word comes.
        let released = self.released.values().map(|released| InventoryItem {
            attempt: released.report.attempt,
            task: released.report.task,
            phase: AttemptPhase::Accepted,
        });
        active.chain(ended).chain(released).collect()
    }

    /// The number of the latest announcement: over restarts of the agent too it only rises.
    fn sequence(&self) -> u64 {
        scitq_shared::protocol::sequence(self.identity.boots, self.counter)
    }

    fn desired_version(&self) -> i64 {
        self.desired.as_ref().map_or(0, |desired| desired.version)
    }
}
