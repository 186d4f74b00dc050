//! The connection for work: deliveries, the control queue and state events share it (D7).
//!
//! It turns what the broker says into [`Input`]s and performs what the core asks of the broker. It decides nothing but
//! when to connect again.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use scitq_broker::topology::{self, EVENTS_EXCHANGE};
use scitq_broker::{
    Broker, BrokerError, Channel, Connection, Consumer, ConsumerEnd, Delivery, DeliveryTag,
    Message, PublishFailure,
};
use scitq_shared::ids::AttemptId;
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::protocol::{ControlMessage, WorkerMessage, decode, encode};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::core::{ChannelNumber, ConsumerNumber, DeliveryNumber, Input, Place, PublicationNumber};
use super::shell::Told;
use crate::error::WorkerError;

/// Between two connections; longer after one that the core gave up, so that a broken broker is not hammered.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Between two tries to get the control queue.
const NAME_PAUSE: Duration = Duration::from_secs(1);
/// Control messages that may wait here.
const CONTROL_PREFETCH: NonZeroU16 = NonZeroU16::new(64).unwrap();

/// What the agent asks of the connection. Commands of an earlier session are left undone: their channels are gone.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) session: u64,
    pub(crate) what: What,
}

/// See [`super::core::Effect`].
#[derive(Debug)]
pub(crate) enum What {
    Publish {
        publication: PublicationNumber,
        on: Option<ChannelNumber>,
        message: Box<WorkerMessage>,
    },
    Ack(Place),
    Reject(Place),
    Consume {
        consumer: ConsumerNumber,
        batch: BatchName,
        qos: NonZeroU16,
    },
    Cancel {
        consumer: ConsumerNumber,
    },
    CloseChannel {
        channel: ChannelNumber,
    },
    Reconnect {
        reason: String,
    },
}

/// Runs beside the agent for as long as the worker lives.
pub(crate) struct Link {
    pub(crate) broker: Broker,
    pub(crate) worker: WorkerName,
    pub(crate) double_after: Duration,
    pub(crate) tell: mpsc::Sender<Told>,
    pub(crate) commands: mpsc::Receiver<Command>,
    /// Told when commands are lost because they are too many: the session has to begin anew.
    pub(crate) reset: Arc<Notify>,
    numbers: u64,
    sessions: u64,
    had_name: bool,
}

/// Why a session ended.
enum SessionEnd {
    /// The connection is of no use any more; why, and whether to take time.
    Again(String, Duration),
    /// The agent is gone.
    AgentGone,
}

impl From<BrokerError> for SessionEnd {
    fn from(error: BrokerError) -> Self {
        Self::Again(error.to_string(), PAUSE.0)
    }
}

impl<T> From<mpsc::error::SendError<T>> for SessionEnd {
    fn from(_: mpsc::error::SendError<T>) -> Self {
        Self::AgentGone
    }
}

impl Link {
    pub(crate) fn new(
        broker: Broker,
        worker: WorkerName,
        double_after: Duration,
        tell: mpsc::Sender<Told>,
        commands: mpsc::Receiver<Command>,
        reset: Arc<Notify>,
    ) -> Self {
        Self {
            broker,
            worker,
            double_after,
            tell,
            commands,
            reset,
            numbers: 0,
            sessions: 0,
            had_name: false,
        }
    }

    /// Runs until the agent is gone, or another worker turns out to have the name.
    pub(crate) async fn run(mut self) -> Result<(), WorkerError> {
        let name = format!("scitq-worker {}", self.worker);
        loop {
            let mut waiting = false;
            let connection = self.broker.connect_until_ready(&name, |error, _| {
                if !waiting {
                    tracing::warn!(%error, "waits for the broker");
                }
                waiting = true;
            });
            let connection = connection.await;
            if waiting {
                tracing::info!(address = self.broker.address(), "the broker is back");
            }
            let end = match self.enter(&connection).await {
                Ok((channel, control)) => self.session(&connection, &channel, control).await,
                Err(Entry::NameInUse(error)) => return Err(error),
                Err(Entry::Failed(error)) => SessionEnd::Again(error.to_string(), PAUSE.1),
            };
            connection.close().await;
            match end {
                SessionEnd::AgentGone => return Ok(()),
                SessionEnd::Again(reason, pause) => {
                    tracing::warn!(reason, "the connection for work ended, a new one is made");
                    if self.tell.send(Input::LinkDown.into()).await.is_err() {
                        return Ok(());
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Declares what is shared and gets the control queue.
    async fn enter(&mut self, connection: &Connection) -> Result<(Channel, Consumer), Entry> {
        let since = Instant::now();
        let queue = topology::worker_control_queue(self.worker.as_str());
        connection
            .channel()
            .await?
            .declare(&topology::base_topology())
            .await?;
        let mut told = false;
        loop {
            let channel = connection.channel().await?;
            match channel.declare_queue(&queue).await {
                Ok(_) => {
                    self.had_name = true;
                    let control = channel.consume(&queue.name, CONTROL_PREFETCH).await?;
                    return Ok((channel, control));
                }
                Err(error) if error.is_in_use() => {
                    // Whoever has the name after us may be our own former connection; and what runs here is reported.
                    if since.elapsed() >= self.double_after && !self.had_name {
                        return Err(Entry::NameInUse(WorkerError::NameInUse {
                            name: self.worker.clone(),
                            address: self.broker.address(),
                            tried_for: self.double_after,
                        }));
                    }
                    if !told {
                        tracing::warn!(
                            worker = %self.worker,
                            "another connection has this worker's name; it may be a broken one of its own: tries again"
                        );
                        told = true;
                    }
                    tokio::time::sleep(NAME_PAUSE.min(self.double_after / 4)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Serves a connection until it ends.
    async fn session(
        &mut self,
        connection: &Connection,
        control_channel: &Channel,
        control: Consumer,
    ) -> SessionEnd {
        match self.serve(connection, control_channel, control).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn serve(
        &mut self,
        connection: &Connection,
        control_channel: &Channel,
        mut control: Consumer,
    ) -> Result<Infallible, SessionEnd> {
        self.sessions += 1;
        self.tell
            .send(Told::Up {
                session: self.sessions,
            })
            .await?;
        let mut deliveries: Option<Deliveries> = None;
        let mut confirmations: FuturesUnordered<BoxFuture<'static, Input>> =
            FuturesUnordered::new();
        let lost = connection.lost();
        tokio::pin!(lost);
        let reset = Arc::clone(&self.reset);
        loop {
            tokio::select! {
                error = &mut lost => return Err(error.into()),
                () = reset.notified() => {
                    return Err(SessionEnd::Again("too many commands wait for the broker".to_owned(), PAUSE.1));
                }
                command = self.commands.recv() => {
                    let Command { session, what } = command.ok_or(SessionEnd::AgentGone)?;
                    if session != self.sessions {
                        continue;
                    }
                    match what {
                        What::Publish { publication, on, message } => {
                            let channel = match on {
                                None => Some(control_channel),
                                Some(number) => deliveries.as_ref().filter(|it| it.number == number).map(|it| &it.channel),
                            };
                            let confirmation = publish(channel, publication, &message).await;
                            confirmations.push(confirmation);
                        }
                        What::Consume { consumer, batch, qos } => {
                            self.consume(connection, &mut deliveries, consumer, &batch, qos).await?;
                        }
                        What::Cancel { consumer } => self.cancel(&mut deliveries, consumer).await?,
                        What::Ack(place) => {
                            if let Some((open, tag)) = deliveries.as_mut().and_then(|open| open.take(place)) {
                                // A channel that fails here is noticed as closed.
                                let _ = open.ack(tag).await;
                            }
                        }
                        What::Reject(place) => {
                            if let Some((open, tag)) = deliveries.as_mut().and_then(|open| open.take(place)) {
                                let _ = open.reject(tag, false).await;
                            }
                        }
                        What::CloseChannel { channel } => {
                            if let Some(open) = deliveries.take_if(|open| open.number == channel) {
                                open.channel.close().await;
                                self.tell.send(Input::ChannelClosed { channel }.into()).await?;
                            }
                        }
                        What::Reconnect { reason } => return Err(SessionEnd::Again(reason, PAUSE.1)),
                    }
                }
                Some(outcome) = confirmations.next(), if !confirmations.is_empty() => {
                    self.tell.send(outcome.into()).await?;
                }
                happened = async { deliveries.as_mut()?.next().await.into() }, if deliveries.is_some() => {
                    let Some(happened) = happened else { continue };
                    self.happened(&mut deliveries, happened).await?;
                }
                message = control.next() => {
                    let message = message.map_err(|end| SessionEnd::Again(end.to_string(), PAUSE.0))?;
                    self.control(control_channel, message).await?;
                }
            }
        }
    }

    async fn happened(
        &mut self,
        deliveries: &mut Option<Deliveries>,
        happened: Happened,
    ) -> Result<(), SessionEnd> {
        let Some(open) = deliveries else {
            return Ok(());
        };
        match happened {
            Happened::Delivery(consumer, delivery) => {
                let input = self.delivered(open, consumer, delivery);
                self.tell.send(input.into()).await?;
            }
            Happened::ConsumerEnded(consumer) => {
                open.consumer = None;
                self.tell
                    .send(Input::ConsumerEnded { consumer }.into())
                    .await?;
            }
            Happened::Closed(error) => {
                tracing::info!(%error, "the channel for deliveries ended");
                let channel = open.number;
                *deliveries = None;
                self.tell
                    .send(Input::ChannelClosed { channel }.into())
                    .await?;
            }
        }
        Ok(())
    }

    fn delivered(
        &mut self,
        open: &mut Deliveries,
        consumer: ConsumerNumber,
        delivery: Delivery,
    ) -> Input {
        let number = DeliveryNumber(self.next_number());
        open.tags.insert(number, delivery.tag);
        let content = decode(&delivery.body).map(Arc::new).map_err(|error| {
            tracing::warn!(%error, key = delivery.routing_key, "a message that is no task was rejected");
            error.to_string()
        });
        let place = Place {
            channel: open.number,
            consumer,
            delivery: number,
        };
        Input::Delivered {
            place,
            redelivered: delivery.redelivered,
            content,
            attempt: AttemptId::generate(),
        }
    }

    async fn consume(
        &mut self,
        connection: &Connection,
        deliveries: &mut Option<Deliveries>,
        consumer: ConsumerNumber,
        batch: &BatchName,
        qos: NonZeroU16,
    ) -> Result<(), SessionEnd> {
        let open = match deliveries {
            Some(open) => open,
            None => {
                let channel = connection.channel().await?;
                deliveries.insert(Deliveries::new(ChannelNumber(self.next_number()), channel))
            }
        };
        let queue = topology::batch_queue_name(batch.as_str());
        let number = open.number;
        match open.channel.consume(&queue, qos).await {
            Ok(subscription) => {
                open.consumer = Some((consumer, subscription));
                self.tell
                    .send(
                        Input::Consuming {
                            consumer,
                            channel: number,
                        }
                        .into(),
                    )
                    .await?;
            }
            Err(error) if error.is_connection_lost() => return Err(error.into()),
            Err(error) => {
                if error.is_not_found() {
                    tracing::debug!(%batch, "the queue of the batch does not exist: there is no work");
                } else {
                    tracing::warn!(%batch, %error, "the queue of the batch cannot be consumed");
                }
                *deliveries = None;
                self.tell
                    .send(Input::ChannelClosed { channel: number }.into())
                    .await?;
                self.tell
                    .send(Input::ConsumeFailed { consumer }.into())
                    .await?;
            }
        }
        Ok(())
    }

    async fn cancel(
        &mut self,
        deliveries: &mut Option<Deliveries>,
        consumer: ConsumerNumber,
    ) -> Result<(), SessionEnd> {
        let Some(open) = deliveries else {
            return Ok(());
        };
        // One that has ended was told of already.
        let Some((_, subscription)) = open.consumer.take_if(|(number, _)| *number == consumer)
        else {
            return Ok(());
        };
        match subscription.cancel().await {
            Ok(buffered) => {
                for delivery in buffered {
                    let input = self.delivered(open, consumer, delivery);
                    self.tell.send(input.into()).await?;
                }
                self.tell.send(Input::Cancelled { consumer }.into()).await?;
            }
            Err(error) if error.is_connection_lost() => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "the channel for deliveries ended");
                let channel = open.number;
                *deliveries = None;
                self.tell
                    .send(Input::ChannelClosed { channel }.into())
                    .await?;
            }
        }
        Ok(())
    }

    async fn control(&self, channel: &Channel, delivery: Delivery) -> Result<(), SessionEnd> {
        match decode::<ControlMessage>(&delivery.body) {
            Ok(message) => {
                channel.ack(delivery.tag).await?;
                self.tell.send(Input::Control(message).into()).await?;
            }
            Err(error) => {
                tracing::warn!(%error, "a control message that cannot be read was left out");
                channel.reject(delivery.tag, false).await?;
            }
        }
        Ok(())
    }

    fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }
}

/// Why the control queue could not be had.
enum Entry {
    NameInUse(WorkerError),
    Failed(BrokerError),
}

impl From<BrokerError> for Entry {
    fn from(error: BrokerError) -> Self {
        Self::Failed(error)
    }
}

/// Publishes; the future answers what became of it.
async fn publish(
    channel: Option<&Channel>,
    publication: PublicationNumber,
    message: &WorkerMessage,
) -> BoxFuture<'static, Input> {
    let not_stored = Input::Confirmed {
        publication,
        stored: false,
    };
    let Some(channel) = channel else {
        return Box::pin(std::future::ready(not_stored));
    };
    let key = format!("state.{}", message.event.kind());
    match channel
        .publish(Message::new(EVENTS_EXCHANGE, key, encode(message)))
        .await
    {
        Ok(confirmation) => Box::pin(async move {
            let outcome = confirmation.await;
            if let Err(failure @ (PublishFailure::Returned { .. } | PublishFailure::Refused)) =
                &outcome
            {
                tracing::warn!(%failure, "a state event was not taken");
            }
            Input::Confirmed {
                publication,
                stored: outcome.is_ok(),
            }
        }),
        Err(_) => Box::pin(std::future::ready(not_stored)),
    }
}

/// The channel that brings deliveries.
struct Deliveries {
    number: ChannelNumber,
    channel: Channel,
    /// Deliveries that are not acknowledged.
    tags: BTreeMap<DeliveryNumber, DeliveryTag>,
    consumer: Option<(ConsumerNumber, Consumer)>,
    closed: BoxFuture<'static, BrokerError>,
}

enum Happened {
    Delivery(ConsumerNumber, Delivery),
    ConsumerEnded(ConsumerNumber),
    Closed(BrokerError),
}

impl Deliveries {
    fn new(number: ChannelNumber, channel: Channel) -> Self {
        let watched = channel.clone();
        let closed = Box::pin(async move { watched.closed().await });
        Self {
            number,
            channel,
            tags: BTreeMap::new(),
            consumer: None,
            closed,
        }
    }

    /// What happens next. Cancel-safe.
    async fn next(&mut self) -> Happened {
        let Some((number, consumer)) = &mut self.consumer else {
            return Happened::Closed((&mut self.closed).await);
        };
        tokio::select! {
            error = &mut self.closed => Happened::Closed(error),
            delivery = consumer.next() => match delivery {
                Ok(delivery) => Happened::Delivery(*number, delivery),
                Err(ConsumerEnd::CancelledByBroker) => Happened::ConsumerEnded(*number),
                Err(ConsumerEnd::ChannelClosed(error) | ConsumerEnd::ConnectionLost(error)) => Happened::Closed(error),
            }
        }
    }

    /// Takes a delivery to settle it, if it is still to be settled here.
    fn take(&mut self, place: Place) -> Option<(&Channel, DeliveryTag)> {
        if self.number != place.channel {
            return None;
        }
        let tag = self.tags.remove(&place.delivery)?;
        Some((&self.channel, tag))
    }
}
