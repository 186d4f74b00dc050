//! A subscription to a queue.

use crate::amqp::AmqpConsumer;
use crate::error::BrokerError;
use crate::local::LocalConsumer;
use crate::message::Delivery;

/// Why a consumer gets nothing more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsumerEnd {
    /// The broker cancelled it, for instance because its queue was deleted. Its channel is still good.
    #[error("the broker cancelled the consumer")]
    CancelledByBroker,
    /// Its channel ended; the connection may still be good.
    #[error("the channel of the consumer ended: {0}")]
    ChannelClosed(BrokerError),
    /// Its connection ended.
    #[error("the connection of the consumer ended: {0}")]
    ConnectionLost(BrokerError),
}

impl ConsumerEnd {
    /// Tells a lost connection from a closed channel.
    pub(crate) fn from_error(error: BrokerError) -> Self {
        if error.is_connection_lost() {
            Self::ConnectionLost(error)
        } else {
            Self::ChannelClosed(error)
        }
    }
}

/// Receives a queue's messages, in the queue's order. Dropping it cancels it in the background; deliveries it still
/// buffered then stay unacknowledged until the channel closes, so prefer [`cancel`](Self::cancel).
#[derive(Debug)]
pub struct Consumer(Backend);

#[derive(Debug)]
enum Backend {
    Amqp(Box<AmqpConsumer>),
    Local(LocalConsumer),
}

impl Consumer {
    pub(crate) fn from_amqp(consumer: AmqpConsumer) -> Self {
        Self(Backend::Amqp(Box::new(consumer)))
    }

    pub(crate) fn from_local(consumer: LocalConsumer) -> Self {
        Self(Backend::Local(consumer))
    }

    /// The next delivery, or why there are no more. Cancel-safe: a delivery is never lost between two calls. Once the
    /// channel has ended, buffered deliveries are not handed out any more: they are void.
    pub async fn next(&mut self) -> Result<Delivery, ConsumerEnd> {
        match &mut self.0 {
            Backend::Amqp(consumer) => consumer.next().await,
            Backend::Local(consumer) => consumer.next().await,
        }
    }

    /// A delivery that has arrived already, if any: to take a batch after [`next`](Self::next) without waiting.
    pub fn try_next(&mut self) -> Option<Delivery> {
        match &mut self.0 {
            Backend::Amqp(consumer) => consumer.try_next(),
            Backend::Local(consumer) => consumer.try_next(),
        }
    }

    /// Ends the subscription; nothing is delivered to it afterwards. Deliveries handed out stay unacknowledged on the
    /// channel; those still buffered here are returned, to be acknowledged or rejected likewise.
    pub async fn cancel(self) -> Result<Vec<Delivery>, BrokerError> {
        match self.0 {
            Backend::Amqp(consumer) => consumer.cancel().await,
            Backend::Local(consumer) => consumer.cancel(),
        }
    }
}
