//! Serving a connection: what the core asks is done, what the broker says is told.

use std::convert::Infallible;
use std::num::NonZeroU16;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use scitq_broker::topology::{self, EVENTS_EXCHANGE};
use scitq_broker::{Channel, Connection, Consumer, Delivery, Message, PublishFailure};
use scitq_shared::ids::AttemptId;
use scitq_shared::names::BatchName;
use scitq_shared::protocol::{ControlMessage, WorkerMessage, decode, encode};

use super::deliveries::{Deliveries, Happened};
use super::{Command, Link, PAUSE, SessionEnd, What};
use crate::agent::core::{
    ChannelNumber, ConsumerNumber, DeliveryNumber, Input, Place, PublicationNumber,
};
use crate::agent::shell::Told;

impl Link {
    /// Serves a connection until it ends.
    pub(super) async fn session(
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
        let mut rejections: FuturesUnordered<
            BoxFuture<'static, (Place, Result<(), PublishFailure>)>,
        > = FuturesUnordered::new();
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
                            let unreadable = deliveries.as_mut().filter(|open| open.number == place.channel)
                                .and_then(|open| Some((open.channel.clone(), open.unreadable.remove(&place.delivery)?)));
                            if let Some((channel, (delivery, reason))) = unreadable {
                                rejections.push(Box::pin(async move {
                                    (place, put_aside(&channel, delivery, reason).await)
                                }));
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
                Some((place, put_aside)) = rejections.next(), if !rejections.is_empty() => {
                    if let Some((open, tag)) = deliveries.as_mut().and_then(|open| open.take(place)) {
                        // A channel that fails here is noticed as closed.
                        let _ = match put_aside {
                            Ok(()) => open.ack(tag).await,
                            // At least aside, without the reason.
                            Err(_) => open.reject(tag, false).await,
                        };
                    }
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
                let input = self.delivered(open, consumer, &delivery);
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
        delivery: &Delivery,
    ) -> Input {
        let number = DeliveryNumber(self.next_number());
        open.tags.insert(number, delivery.tag);
        let content = decode(&delivery.body)
            .map(Arc::new)
            .map_err(|error| error.to_string());
        if let Err(reason) = &content {
            tracing::warn!(
                reason,
                key = delivery.routing_key,
                "a message that is no task is moved to scitq.rejected"
            );
            open.unreadable
                .insert(number, (delivery.clone(), reason.clone()));
        }
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
        let open = if let Some(open) = deliveries {
            open
        } else {
            let channel = connection.channel().await?;
            deliveries.insert(Deliveries::new(ChannelNumber(self.next_number()), channel))
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
                    let input = self.delivered(open, consumer, &delivery);
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
}

/// Publishes a message that is no task to `scitq.rejected`, with the reason in a header, as the server does with events.
async fn put_aside(
    channel: &Channel,
    delivery: Delivery,
    reason: String,
) -> Result<(), PublishFailure> {
    let mut properties = delivery.properties;
    properties.headers.extend([
        ("scitq-reason".to_owned(), reason),
        ("scitq-exchange".to_owned(), delivery.exchange),
        ("scitq-routing-key".to_owned(), delivery.routing_key),
    ]);
    let message = Message {
        exchange: topology::REJECTED_EXCHANGE.to_owned(),
        routing_key: topology::REJECTED_QUEUE.to_owned(),
        body: delivery.body,
        mandatory: true,
        persistent: true,
        properties,
    };
    let confirmation = channel.publish(message).await;
    confirmation.map_err(PublishFailure::Lost)?.await
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
