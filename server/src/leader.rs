//! The life of a server as leader, or in waiting (D12).
//!
//! The leader holds the exclusive queue `scitq.leader` on the connection that works on the batches' queues. When
//! anything of that ends, the leadership ends, and everything begins anew from the database.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use scitq_broker::{Broker, BrokerError, Channel, Connection, Consumer, QueueType, topology};
use scitq_shared::ids::Epoch;
use scitq_shared::protocol::ControlCommand;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::control::ControlSender;
use crate::db::Database;
use crate::dispatch::core::ListeningTimes;
use crate::dispatch::{DispatchInput, DispatchSender, Dispatcher};
use crate::events::{Consumed, EventsConsumer, HeartbeatConsumer, Markers, Present};
use crate::maintenance::{LeaseCheck, SilenceCheck};
use crate::notices::Notices;
use crate::nudge::{Nudge, Nudger, WAITING_NUDGES};
use crate::patience::patiently;
use crate::readiness::{Part, Readiness};

/// How long a server in waiting waits before it tries for the leadership again. The broker has no event for it.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// For how many times the silence after which a worker is shown offline those are waited for that a restored database knows.
const LISTENED_FOR: u32 = 4;

/// Everything that a term of leadership needs.
#[derive(Clone)]
pub struct Leader {
    /// The broker.
    pub broker: Broker,
    /// The database.
    pub database: Database,
    /// Name of this server, for the leadership's record.
    pub name: String,
    /// Kind of the batches' queues.
    pub queue_type: QueueType,
    /// How long a worker may be silent before it is shown offline.
    pub offline_after: Duration,
    /// How long a worker may be silent before its attempts are lost, where it has no lease of its own.
    pub lost_after: Duration,
    /// After how many failures in a row of its own a worker is paused.
    pub pause_worker_after: u32,
    /// Tells waiting requests.
    pub notices: Notices,
    /// Through which requests tell the leader.
    pub nudger: Nudger,
    /// What can be reached.
    pub readiness: Readiness,
}

impl Leader {
    /// Leads, or waits to lead, until cancelled. Transactions that have begun are finished; what is not acknowledged
    /// then is read again by the next leader.
    pub async fn run(self, stop: CancellationToken) {
        let mut first = true;
        let mut later_than = Epoch(0);
        let mut pause = Duration::from_millis(100);
        loop {
            let began = tokio::time::Instant::now();
            let Err(reason) = self.term(&mut first, later_than, &stop).await;
            self.nudger.lead(None);
            if let Consumed::Superseded(epoch) = reason {
                later_than = later_than.max(epoch);
            }
            if stop.is_cancelled() {
                break;
            }
            tracing::warn!(%reason, "the leader's work has ended; it begins anew");
            if matches!(reason, Consumed::Broker(_)) {
                self.readiness.lost(
                    Part::Broker,
                    format!("the broker at {}: {reason}", self.broker.address()),
                );
            }
            // A term that lasted is no reason to wait long; one that fails at once is.
            pause = if began.elapsed() > Duration::from_secs(10) {
                Duration::from_millis(100)
            } else {
                (pause * 2).min(Duration::from_secs(5))
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn connect(&self, name: &str) -> Connection {
        let connection = self
            .broker
            .connect_until_ready(name, |error, delay| {
                let reason = format!(
                    "the broker at {} cannot be reached: {error}",
                    self.broker.address()
                );
                tracing::warn!(retry_in = ?delay, "{reason}");
                self.readiness.lost(Part::Broker, reason);
            })
            .await;
        self.readiness.reached(Part::Broker);
        connection
    }

    /// One term: from the wait for the leadership to its end.
    async fn term(
        &self,
        first: &mut bool,
        later_than: Epoch,
        server_stop: &CancellationToken,
    ) -> Result<Infallible, Consumed> {
        let stop = server_stop.child_token();
        let prepared = async {
            let commanding = self.connect("scitq-server leader").await;
            let leader_queue = self.become_leader(&commanding).await?;
            let reading = self.connect("scitq-server events").await;
            Ok::<_, Consumed>((commanding, leader_queue, reading))
        };
        let (commanding, leader_queue, reading) = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Consumed::Stopped),
            prepared = prepared => prepared?,
        };
        let epoch = self.take_epoch(later_than, &stop).await?;
        tracing::info!(%epoch, broker = %self.broker.address(), "this server leads");
        if std::mem::take(first) && !self.broker.outlives_process() {
            let returned = self.database.return_all_dispatches(epoch).await?;
            if returned > 0 {
                tracing::info!(
                    tasks = returned,
                    "dispatched tasks that the in-process broker has forgotten are pending again"
                );
            }
        }
        let restorations = patiently!(&stop, "the leadership", self.database.restorations().await)?;
        let restorations = Arc::new(restorations);
        let (dispatcher, inputs) = DispatchSender::new();
        let (nudge_sender, nudge_receiver) = mpsc::channel(WAITING_NUDGES);
        let control = ControlSender::new(commanding.channel().await?, epoch);
        let dispatching = Dispatcher {
            database: self.database.clone(),
            epoch,
            connection: commanding.clone(),
            channel: commanding.channel().await?,
            queue_type: self.queue_type,
            control: control.clone(),
            inputs,
            restorations: Arc::clone(&restorations),
            listening: ListeningTimes {
                least: self.offline_after,
                most: self.offline_after * LISTENED_FOR,
            },
            notices: self.notices.clone(),
            stop: stop.clone(),
        };
        let (state_channel, state) = consume(&reading, topology::STATE_QUEUE, 1024).await?;
        let (output_channel, output) = consume(&reading, topology::OUTPUT_QUEUE, 32).await?;
        let (heartbeat_channel, heartbeats) =
            consume(&reading, topology::HEARTBEAT_QUEUE, 256).await?;
        let markers = Markers::default();
        let present = Present::default();
        let events = EventsConsumer {
            database: self.database.clone(),
            epoch,
            state_channel,
            state,
            output_channel,
            output,
            control: control.clone(),
            dispatcher: dispatcher.clone(),
            notices: self.notices.clone(),
            markers: markers.clone(),
            restorations: Arc::clone(&restorations),
            present: present.clone(),
            pause_worker_after: self.pause_worker_after,
            stop: stop.clone(),
        };
        let heartbeat = HeartbeatConsumer {
            database: self.database.clone(),
            epoch,
            channel: heartbeat_channel,
            consumer: heartbeats,
            control: control.clone(),
            dispatcher: dispatcher.clone(),
            restorations,
            notices: self.notices.clone(),
            present: present.clone(),
            ended_since: BTreeMap::new(),
            stop: stop.clone(),
        };
        let silence = SilenceCheck {
            database: self.database.clone(),
            epoch,
            offline_after: self.offline_after,
            present: present.clone(),
            dispatcher: dispatcher.clone(),
            stop: stop.clone(),
        };
        let leases = LeaseCheck {
            database: self.database.clone(),
            epoch,
            lost_after: self.lost_after,
            offline_after: self.offline_after,
            present: present.clone(),
            markers,
            channel: commanding.channel().await?,
            dispatcher: dispatcher.clone(),
            notices: self.notices.clone(),
            stop: stop.clone(),
        };
        let listening = NudgeListener {
            channel: leader_queue.0,
            queue: leader_queue.1,
            local: nudge_receiver,
            dispatcher,
            control,
            present,
            stop: stop.clone(),
        };
        self.nudger.lead(Some(nudge_sender));
        let mut parts = JoinSet::new();
        parts.spawn(dispatching.run());
        parts.spawn(events.run());
        parts.spawn(heartbeat.run());
        parts.spawn(silence.run());
        parts.spawn(leases.run());
        parts.spawn(listening.run());
        parts.spawn(until_lost(commanding.clone(), stop.clone()));
        parts.spawn(until_lost(reading.clone(), stop.clone()));
        let reason = ended(parts.join_next().await);
        // The others finish the transaction they are in, and end.
        stop.cancel();
        while parts.join_next().await.is_some() {}
        commanding.close().await;
        reading.close().await;
        Err(reason)
    }

    /// Waits for the leadership: the exclusive queue, declared on this connection.
    async fn become_leader(
        &self,
        connection: &Connection,
    ) -> Result<(Channel, Consumer), Consumed> {
        let mut told = false;
        loop {
            let channel = connection.channel().await?;
            channel.declare(&topology::base_topology()).await?;
            match channel.declare_queue(&topology::leader_queue()).await {
                Ok(_) => {
                    let consumer = channel
                        .consume(topology::LEADER_QUEUE, prefetch(256))
                        .await?;
                    return Ok((channel, consumer));
                }
                Err(error) if error.is_in_use() => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::info!("another server leads; this one waits");
                    }
                    tokio::select! {
                        error = connection.lost() => return Err(error.into()),
                        () = tokio::time::sleep(TRY_AGAIN_AFTER) => {}
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn take_epoch(
        &self,
        later_than: Epoch,
        stop: &CancellationToken,
    ) -> Result<Epoch, Consumed> {
        patiently!(
            stop,
            "the leadership",
            self.database.take_leadership(&self.name, later_than).await
        )
    }
}

/// Why the first part ended.
fn ended(outcome: Option<Result<Result<Infallible, Consumed>, JoinError>>) -> Consumed {
    match outcome {
        Some(Ok(Err(reason))) => reason,
        Some(Err(error)) => Consumed::Broker(format!("a part of the leader failed: {error}")),
        None => Consumed::Stopped,
    }
}

async fn until_lost(
    connection: Connection,
    stop: CancellationToken,
) -> Result<Infallible, Consumed> {
    tokio::select! {
        () = stop.cancelled() => Err(Consumed::Stopped),
        error = connection.lost() => Err(error.into()),
    }
}

fn prefetch(messages: u16) -> NonZeroU16 {
    NonZeroU16::new(messages).unwrap_or(NonZeroU16::MIN)
}

async fn consume(
    connection: &Connection,
    queue: &str,
    messages: u16,
) -> Result<(Channel, Consumer), BrokerError> {
    let channel = connection.channel().await?;
    let consumer = channel.consume(queue, prefetch(messages)).await?;
    Ok((channel, consumer))
}

/// Hears nudges of this server and, through the leader's queue, of others.
struct NudgeListener {
    channel: Channel,
    queue: Consumer,
    local: mpsc::Receiver<Nudge>,
    dispatcher: DispatchSender,
    control: ControlSender,
    present: Present,
    stop: CancellationToken,
}

impl NudgeListener {
    async fn run(mut self) -> Result<Infallible, Consumed> {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Err(Consumed::Stopped),
                Some(nudge) = self.local.recv() => self.hear(nudge).await?,
                delivery = self.queue.next() => {
                    let delivery = delivery?;
                    match serde_json::from_slice(&delivery.body) {
                        Ok(nudge) => self.hear(nudge).await?,
                        Err(error) => tracing::warn!(%error, "a nudge cannot be read and is dropped"),
                    }
                    self.channel.ack(delivery.tag).await?;
                }
            }
        }
    }

    async fn hear(&self, nudge: Nudge) -> Result<(), Consumed> {
        match nudge {
            Nudge::Pending { batches } => {
                self.dispatcher.send(DispatchInput::Pending(batches)).await;
            }
            Nudge::Paused { batch } => {
                self.dispatcher.send(DispatchInput::Paused(batch)).await;
            }
            Nudge::Worker { worker, desired } => {
                self.dispatcher
                    .send(DispatchInput::Greeted { worker, desired })
                    .await;
            }
            Nudge::Lost { worker, batches } => {
                // Should it live, its next sign of life is news.
                self.present.remove(&worker);
                self.dispatcher.send(DispatchInput::WorkersChanged).await;
                self.dispatcher.send(DispatchInput::Pending(batches)).await;
            }
            Nudge::Restart { worker, boots } => {
                let restart = ControlCommand::Restart { boots };
                self.control.tell(&worker, restart).await?;
            }
        }
        Ok(())
    }
}
