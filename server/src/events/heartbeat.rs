use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use scitq_broker::{Channel, Consumer};
use scitq_shared::ids::{AttemptId, Epoch, IncarnationId};
use scitq_shared::names::WorkerName;
use scitq_shared::protocol::{
    AttemptPhase, ControlCommand, Heartbeat, ProtocolError, boots_of, decode,
};
use tokio_util::sync::CancellationToken;

use super::consume::{Consumed, happenings_of, resend_of};
use super::inventory::{Answer, compare, unknown};
use super::project::{SideEffects, needs, project};
use super::read::dead_letter;
use crate::control::ControlSender;
use crate::db::{Database, HeldAttempts, Restorations, SignOfLife, Wish};
use crate::dispatch::{DispatchInput, DispatchSender};
use crate::notices::{Notice, Notices};

/// How long an ended attempt may stand in inventories before the server asks for what it lacks: what is on its way in
/// the queues has long arrived by then.
const ASK_AFTER: Duration = Duration::from_secs(15);
/// Most heartbeats handled at once.
const MAX_BATCH: usize = 256;

/// The workers that the leader has heard of, and when, by its own clock, which never jumps. Shared with the checks for
/// silent ones.
#[derive(Clone, Debug, Default)]
pub struct Present(Arc<Mutex<BTreeMap<WorkerName, Heard>>>);

#[derive(Clone, Copy, Debug)]
struct Heard {
    at: Instant,
    /// False once it has been noticed to be gone.
    present: bool,
}

impl Present {
    /// A sign of life was received, whether or not it can be noted.
    pub fn heard(&self, worker: &WorkerName) {
        let at = Instant::now();
        let mut workers = self.lock();
        // Names are cloned for newcomers only.
        if let Some(heard) = workers.get_mut(worker) {
            heard.at = at;
        } else {
            let present = false;
            workers.insert(worker.clone(), Heard { at, present });
        }
    }

    /// A worker was heard; true when it was not present before.
    pub fn insert(&self, worker: WorkerName) -> bool {
        let (at, present) = (Instant::now(), true);
        let before = self.lock().insert(worker, Heard { at, present });
        !before.is_some_and(|heard| heard.present)
    }

    /// A worker is offline, or lost.
    pub fn remove(&self, worker: &WorkerName) {
        if let Some(heard) = self.lock().get_mut(worker) {
            heard.present = false;
        }
    }

    /// How long a worker has been silent, as far as this leader remembers.
    pub fn silent_for(&self, worker: &WorkerName) -> Option<Duration> {
        self.lock().get(worker).map(|heard| heard.at.elapsed())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<WorkerName, Heard>> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What a heartbeat says about its worker.
fn sign_of_life(heartbeat: &Heartbeat) -> SignOfLife {
    SignOfLife {
        worker: heartbeat.worker.clone(),
        incarnation: heartbeat.incarnation,
        boots: boots_of(heartbeat.sequence),
    }
}

/// True when an agent speaks that has been followed by another start on the same directory: its words waited for long.
fn is_of_the_past(heartbeat: &Heartbeat, start: (IncarnationId, u32)) -> bool {
    start.0 == heartbeat.incarnation && boots_of(heartbeat.sequence) < start.1
}

/// Reads heartbeats: notes that their workers live, and answers their inventories.
pub struct HeartbeatConsumer {
    /// Where things are noted.
    pub database: Database,
    /// The leader's epoch.
    pub epoch: Epoch,
    /// Channel of the consumer.
    pub channel: Channel,
    /// Consumer of the heartbeat queue.
    pub consumer: Consumer,
    /// Answers workers.
    pub control: ControlSender,
    /// Told when a worker is back.
    pub dispatcher: DispatchSender,
    /// What is known of restorations of the database.
    pub restorations: Arc<Restorations>,
    /// Tells waiting requests.
    pub notices: Notices,
    /// Workers heard of in this session and not offline since.
    pub present: Present,
    /// Since when attempts stand in inventories as ended.
    pub ended_since: BTreeMap<AttemptId, Instant>,
    /// Ends the work between two batches.
    pub stop: CancellationToken,
}

impl HeartbeatConsumer {
    /// Works until something ends.
    pub async fn run(mut self) -> Result<Infallible, Consumed> {
        loop {
            let first = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Consumed::Stopped),
                delivery = self.consumer.next() => delivery?,
            };
            let mut deliveries = vec![first];
            while deliveries.len() < MAX_BATCH {
                let Some(delivery) = self.consumer.try_next() else {
                    break;
                };
                deliveries.push(delivery);
            }
            let last = deliveries.last().map(|delivery| delivery.tag);
            // Only the newest word of each worker counts.
            let mut newest = BTreeMap::new();
            for delivery in &deliveries {
                match decode::<Heartbeat>(&delivery.body) {
                    Ok(heartbeat) => {
                        newest.insert((heartbeat.worker.clone(), heartbeat.incarnation), heartbeat);
                    }
                    Err(error) => {
                        let error: ProtocolError = error;
                        dead_letter(&self.channel, delivery, &error.to_string()).await?;
                    }
                }
            }
            match self.note(newest.into_values().collect()).await {
                Ok(()) => {}
                // A heartbeat is not worth waiting for, and no reason to end a term: the next one comes.
                Err(Consumed::Database(error)) => {
                    tracing::warn!(%error, "heartbeats cannot be noted now");
                }
                Err(other) => return Err(other),
            }
            if let Some(tag) = last {
                self.channel.ack_up_to(tag).await?;
            }
        }
    }

    async fn note(&mut self, heartbeats: Vec<Heartbeat>) -> Result<(), Consumed> {
        let signs: Vec<SignOfLife> = heartbeats.iter().map(sign_of_life).collect();
        for sign in &signs {
            self.present.heard(&sign.worker);
        }
        let unknown = self.database.heard_from(self.epoch, &signs).await?;
        for worker in unknown {
            tracing::debug!(%worker, "a heartbeat of a worker whose hello has not been applied");
            if !self.restorations.is_empty() {
                // It may have said its hello to the database that was there before.
                let lacking = true;
                let seen = DispatchInput::Seen { worker, lacking };
                self.dispatcher.send(seen).await;
            }
        }
        let mut came = false;
        for heartbeat in &heartbeats {
            came |= self.present.insert(heartbeat.worker.clone());
        }
        if came {
            self.dispatcher.send(DispatchInput::WorkersChanged).await;
        }
        for heartbeat in heartbeats {
            match self.respond(&heartbeat).await {
                // One that the database cannot deal with is nobody else's misfortune.
                Err(Consumed::Database(error)) => {
                    let worker = &heartbeat.worker;
                    tracing::warn!(%worker, %error, "a heartbeat cannot be answered");
                }
                outcome => outcome?,
            }
        }
        Ok(())
    }

    async fn respond(&mut self, heartbeat: &Heartbeat) -> Result<(), Consumed> {
        let wish = self.database.wish(&heartbeat.worker).await?;
        self.answer(heartbeat, wish.as_ref()).await?;
        match wish {
            Some(wish) => self.repeat_wish(heartbeat, wish).await,
            None => Ok(()),
        }
    }

    /// A worker that follows an older version of what is wanted of it, or whose agent is to start anew and has not, missed
    /// a message: it is told again (D12).
    async fn repeat_wish(&self, heartbeat: &Heartbeat, wish: Wish) -> Result<(), Consumed> {
        if let Some(boots) = wish.restart {
            self.tell(heartbeat, ControlCommand::Restart { boots })
                .await?;
        }
        if wish.desired.version > heartbeat.desired_version {
            let (worker, desired) = (heartbeat.worker.clone(), wish.desired);
            self.dispatcher
                .send(DispatchInput::Greeted { worker, desired })
                .await;
        }
        Ok(())
    }

    async fn answer(&mut self, heartbeat: &Heartbeat, wish: Option<&Wish>) -> Result<(), Consumed> {
        let ids: Vec<_> = heartbeat
            .inventory
            .iter()
            .map(|item| item.attempt)
            .collect();
        let held = self
            .database
            .held_attempts(&heartbeat.worker, heartbeat.incarnation, &ids)
            .await?;
        self.tell_of_restored(heartbeat, &held).await;
        let mut answers = compare(&held, &heartbeat.inventory, heartbeat.sequence);
        if wish.is_some_and(|wish| is_of_the_past(heartbeat, wish.start)) {
            // A later start of the agent has said what is left of these.
            answers.retain(|answer| !matches!(answer, Answer::Alive { .. }));
        }
        let happened = happenings_of(&answers, &heartbeat.worker);
        if !happened.is_empty() {
            let mut effects = SideEffects::default();
            let projected = self
                .database
                .project(self.epoch, &needs(&happened), Vec::new(), |loaded| {
                    let (projection, side_effects) = project(loaded, &happened);
                    effects = side_effects;
                    projection
                })
                .await?;
            if !effects.room.is_empty() {
                self.dispatcher
                    .send(DispatchInput::Room(effects.room))
                    .await;
            }
            let batches = projected.newly_pending.into_keys().collect();
            self.dispatcher.send(DispatchInput::Pending(batches)).await;
            self.control.stop(effects.stop).await?;
            self.control.revoke(&self.database, &effects.revoke).await?;
            self.notices.tell(Notice::Tasks);
        }
        let (mut applied, mut stop) = (Vec::new(), Vec::new());
        for answer in &answers {
            match answer {
                Answer::Applied(attempt) => applied.push((heartbeat.worker.clone(), *attempt)),
                Answer::Stop(attempt) => stop.push((heartbeat.worker.clone(), *attempt)),
                Answer::Resend { attempt, .. } if self.waited_enough(*attempt) => {
                    if let Some(command) = resend_of(answer) {
                        self.tell(heartbeat, command).await?;
                    }
                }
                Answer::Lost { .. } | Answer::Alive { .. } | Answer::Resend { .. } => {}
            }
        }
        self.forget_applied(heartbeat, &applied);
        self.control.applied(applied).await?;
        self.control.stop(stop).await?;
        Ok(())
    }

    /// Workers of a restored database are listened to (D12). What is on its way in the queues is given time to arrive.
    async fn tell_of_restored(&mut self, heartbeat: &Heartbeat, held: &HeldAttempts) {
        if self.restorations.is_empty() {
            return;
        }
        let unknown = unknown(held, &heartbeat.inventory);
        let lacking = unknown
            .into_iter()
            .filter(|attempt| self.waited_enough(*attempt))
            .count()
            > 0;
        if lacking || self.restorations.is_open() {
            let worker = heartbeat.worker.clone();
            let seen = DispatchInput::Seen { worker, lacking };
            self.dispatcher.send(seen).await;
        }
    }

    async fn tell(&self, heartbeat: &Heartbeat, command: ControlCommand) -> Result<(), Consumed> {
        Ok(self.control.tell(&heartbeat.worker, command).await?)
    }

    /// True once an attempt has stood in inventories long enough; then the time starts again.
    fn waited_enough(&mut self, attempt: AttemptId) -> bool {
        let now = Instant::now();
        let since = self.ended_since.entry(attempt).or_insert(now);
        let enough = now.duration_since(*since) >= ASK_AFTER;
        if enough {
            *since = now;
        }
        enough
    }

    /// Keeps the map from growing: what was applied, and what no inventory has named for long, is forgotten.
    fn forget_applied(&mut self, heartbeat: &Heartbeat, applied: &[(WorkerName, AttemptId)]) {
        for (_, attempt) in applied {
            self.ended_since.remove(attempt);
        }
        let named = |attempt: &AttemptId| {
            let mut items = heartbeat.inventory.iter();
            items.any(|item| item.attempt == *attempt && item.phase == AttemptPhase::Ended)
        };
        self.ended_since
            .retain(|attempt, since| since.elapsed() < ASK_AFTER * 4 || named(attempt));
    }
}

#[cfg(test)]
mod tests {
    use scitq_shared::protocol::{PROTOCOL_VERSION, sequence};

    use super::*;

    #[test]
    fn an_agent_of_the_past_is_known_by_its_numbers() {
        let (one, other) = (IncarnationId::generate(), IncarnationId::generate());
        let says = |boots, counter| Heartbeat {
            version: PROTOCOL_VERSION,
            worker: WorkerName::new("w").unwrap(),
            incarnation: one,
            epoch: Epoch(1),
            sequence: sequence(boots, counter),
            sent_at: scitq_shared::now(),
            desired_version: 1,
            inventory: Vec::new(),
        };
        assert_eq!(sign_of_life(&says(3, 1 << 31)).boots, 3);
        let table = [
            (2, (one, 3), true),
            (3, (one, 3), false),
            (4, (one, 3), false),
            (2, (other, 3), false),
        ];
        for (boots, start, past) in table {
            assert_eq!(is_of_the_past(&says(boots, 7), start), past, "{boots}");
        }
    }
}
