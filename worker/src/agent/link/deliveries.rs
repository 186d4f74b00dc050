//! The channel that brings deliveries, and its subscription.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use scitq_broker::{BrokerError, Channel, Consumer, ConsumerEnd, Delivery, DeliveryTag};

use crate::agent::core::{ChannelNumber, ConsumerNumber, DeliveryNumber, Place};

/// The channel that brings deliveries.
pub(super) struct Deliveries {
    pub(super) number: ChannelNumber,
    pub(super) channel: Channel,
    /// Deliveries that are not acknowledged.
    pub(super) tags: BTreeMap<DeliveryNumber, DeliveryTag>,
    /// Those of them that are no task, with the reason; at most as many as may be held.
    pub(super) unreadable: BTreeMap<DeliveryNumber, (Delivery, String)>,
    pub(super) consumer: Option<(ConsumerNumber, Consumer)>,
    closed: BoxFuture<'static, BrokerError>,
}

pub(super) enum Happened {
    Delivery(ConsumerNumber, Delivery),
    ConsumerEnded(ConsumerNumber),
    Closed(BrokerError),
}

impl Deliveries {
    pub(super) fn new(number: ChannelNumber, channel: Channel) -> Self {
        let watched = channel.clone();
        let closed = Box::pin(async move { watched.closed().await });
        Self {
            number,
            channel,
            tags: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            consumer: None,
            closed,
        }
    }

    /// What happens next. Cancel-safe.
    pub(super) async fn next(&mut self) -> Happened {
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
    pub(super) fn take(&mut self, place: Place) -> Option<(&Channel, DeliveryTag)> {
        if self.number != place.channel {
            return None;
        }
        let tag = self.tags.remove(&place.delivery)?;
        Some((&self.channel, tag))
    }
}
