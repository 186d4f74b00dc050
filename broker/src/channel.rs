//! One channel of a connection: everything that is asked of a broker goes through one.

use std::num::NonZeroU16;

use crate::amqp::AmqpChannel;
use crate::confirmation::Confirmation;
use crate::consumer::Consumer;
use crate::error::BrokerError;
use crate::local::LocalChannel;
use crate::message::{ChannelId, Delivery, DeliveryTag, Message, check_short};
use crate::spec::{QueueDepth, QueueSpec, Topology};

/// An open channel; clones are handles of the same one. Errors of the broker (something missing, in use, declared
/// otherwise) close it, not its connection: open another. When it closes, its consumers end, its unacknowledged
/// deliveries go back to their queues and its outstanding confirmations are lost. It closes when the last handle of it
/// and of its consumers is dropped.
#[derive(Clone, Debug)]
pub struct Channel(Backend);

#[derive(Clone, Debug)]
enum Backend {
    Amqp(AmqpChannel),
    Local(LocalChannel),
}

impl Channel {
    pub(crate) fn from_amqp(channel: AmqpChannel) -> Self {
        Self(Backend::Amqp(channel))
    }

    pub(crate) fn from_local(channel: LocalChannel) -> Self {
        Self(Backend::Local(channel))
    }

    /// Names this channel; no other channel of this process has or will have the same id.
    pub fn id(&self) -> ChannelId {
        match &self.0 {
            Backend::Amqp(channel) => channel.id(),
            Backend::Local(channel) => channel.id(),
        }
    }

    /// Whether it has not ended as far as is known.
    pub fn is_open(&self) -> bool {
        match &self.0 {
            Backend::Amqp(channel) => !channel.ending().is_set(),
            Backend::Local(channel) => !channel.ending().is_set(),
        }
    }

    /// Declares exchanges, then queues with their bindings. Stops at the first error, which closes the channel.
    pub async fn declare(&self, topology: &Topology) -> Result<(), BrokerError> {
        topology.check()?;
        match &self.0 {
            Backend::Amqp(channel) => channel.declare(topology).await,
            Backend::Local(channel) => channel.declare(topology),
        }
    }

    /// Declares a queue with its bindings and tells how full it is. [`BrokerError::InUse`] when another connection has
    /// it exclusively, [`BrokerError::PreconditionFailed`] when it exists with other properties.
    pub async fn declare_queue(&self, queue: &QueueSpec) -> Result<QueueDepth, BrokerError> {
        queue.check()?;
        match &self.0 {
            Backend::Amqp(channel) => channel.declare_queue(queue).await,
            Backend::Local(channel) => channel.declare_queue(queue),
        }
    }

    /// Deletes a queue with its messages; its consumers are cancelled. A queue that does not exist is deleted alike.
    pub async fn delete_queue(&self, name: &str) -> Result<(), BrokerError> {
        check_short("queue name", name)?;
        match &self.0 {
            Backend::Amqp(channel) => channel.delete_queue(name).await,
            Backend::Local(channel) => channel.delete_queue(name),
        }
    }

    /// Deletes a queue that holds no message and has no consumer. One that does is left alone, and
    /// [`BrokerError::PreconditionFailed`] says so, which closes the channel: use one of its own. A queue that does not
    /// exist is deleted alike.
    pub async fn delete_idle_queue(&self, name: &str) -> Result<(), BrokerError> {
        check_short("queue name", name)?;
        match &self.0 {
            Backend::Amqp(channel) => channel.delete_idle_queue(name).await,
            Backend::Local(channel) => channel.delete_idle_queue(name),
        }
    }

    /// Starts to consume a queue, at most `prefetch` deliveries unacknowledged at a time. What an earlier consumer of
    /// this channel left unacknowledged does not count.
    pub async fn consume(
        &self,
        queue: &str,
        prefetch: NonZeroU16,
    ) -> Result<Consumer, BrokerError> {
        check_short("queue name", queue)?;
        match &self.0 {
            Backend::Amqp(channel) => channel
                .consume(queue, prefetch)
                .await
                .map(Consumer::from_amqp),
            Backend::Local(channel) => channel.consume(queue, prefetch).map(Consumer::from_local),
        }
    }

    /// Takes one message, if one is ready; to be acknowledged like any other. Messages out for delivery, to consumers
    /// too, are not ready.
    pub async fn get(&self, queue: &str) -> Result<Option<Delivery>, BrokerError> {
        check_short("queue name", queue)?;
        match &self.0 {
            Backend::Amqp(channel) => channel.get(queue).await,
            Backend::Local(channel) => channel.get(queue),
        }
    }

    /// Hands a message to the connection in the order of the calls; the [`Confirmation`] says what became of it. Many
    /// may be outstanding; it waits only while too many bytes are queued to the network (or the broker has blocked
    /// publishers). Once it has returned, the message is on its way; if it is dropped before, the message was not sent.
    ///
    /// Acknowledgements may overtake messages: await the confirmation before an [`ack`](Self::ack) that depends on it.
    pub async fn publish(&self, message: Message) -> Result<Confirmation, BrokerError> {
        message.check()?;
        match &self.0 {
            Backend::Amqp(channel) => channel.publish(message).await,
            Backend::Local(channel) => channel.publish(message),
        }
    }

    /// Acknowledges one delivery of this channel. Ok means handed to the connection; an unknown tag closes the channel.
    #[expect(
        clippy::unused_async,
        reason = "callers need not know that no backend waits today"
    )]
    pub async fn ack(&self, tag: DeliveryTag) -> Result<(), BrokerError> {
        match &self.0 {
            Backend::Amqp(channel) => channel.ack(tag, false),
            Backend::Local(channel) => channel.ack(tag),
        }
    }

    /// Acknowledges a delivery and all earlier ones of this channel that are still open, of all its consumers.
    #[expect(
        clippy::unused_async,
        reason = "callers need not know that no backend waits today"
    )]
    pub async fn ack_up_to(&self, tag: DeliveryTag) -> Result<(), BrokerError> {
        match &self.0 {
            Backend::Amqp(channel) => channel.ack(tag, true),
            Backend::Local(channel) => channel.ack_up_to(tag),
        }
    }

    /// Gives a delivery back: to its queue, or to where the queue's dead letters go.
    #[expect(
        clippy::unused_async,
        reason = "callers need not know that no backend waits today"
    )]
    pub async fn reject(&self, tag: DeliveryTag, requeue: bool) -> Result<(), BrokerError> {
        match &self.0 {
            Backend::Amqp(channel) => channel.reject(tag, requeue),
            Backend::Local(channel) => channel.reject(tag, requeue),
        }
    }

    /// Completes once the channel has ended, with or without its connection, and says why. Cancel-safe.
    pub async fn closed(&self) -> BrokerError {
        match &self.0 {
            Backend::Amqp(channel) => channel.ending().reached().await,
            Backend::Local(channel) => channel.ending().reached().await,
        }
    }

    /// Closes the channel; what was delivered and not acknowledged goes back to its queue.
    pub async fn close(&self) {
        match &self.0 {
            Backend::Amqp(channel) => channel.close().await,
            Backend::Local(channel) => channel.close(),
        }
    }
}
