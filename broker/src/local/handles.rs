//! What callers hold of the in-process broker: handles that do one locked step each and clean up when dropped.

use std::num::NonZeroU16;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::LocalBroker;
use super::queue::ConsumerId;
use super::state::ConnectionId;
use crate::confirmation::Confirmation;
use crate::consumer::ConsumerEnd;
use crate::ending::Ending;
use crate::error::BrokerError;
use crate::message::{ChannelId, Delivery, DeliveryTag, Message};
use crate::spec::{QueueDepth, QueueSpec, Topology};

/// A connection; it ends with its last handle, those inside channels and consumers included.
#[derive(Clone, Debug)]
pub(crate) struct LocalConnection(Arc<ConnectionHandle>);

#[derive(Debug)]
struct ConnectionHandle {
    broker: LocalBroker,
    id: ConnectionId,
    ending: Ending,
}

impl Drop for ConnectionHandle {
    fn drop(&mut self) {
        self.broker
            .lock()
            .end_connection(self.id, "its last handle was dropped");
    }
}

impl LocalConnection {
    pub(super) fn new(broker: LocalBroker, id: ConnectionId, ending: Ending) -> Self {
        Self(Arc::new(ConnectionHandle { broker, id, ending }))
    }

    pub(crate) fn channel(&self) -> Result<LocalChannel, BrokerError> {
        let opened = self.0.broker.lock().open_channel(self.0.id);
        // A connection that has ended knows better why.
        let (id, ending) = opened.map_err(|error| self.0.ending.get().unwrap_or(error))?;
        Ok(LocalChannel(Arc::new(ChannelHandle {
            connection: self.clone(),
            id,
            ending,
        })))
    }

    pub(crate) fn ending(&self) -> &Ending {
        &self.0.ending
    }

    pub(crate) fn close(&self) {
        self.0
            .broker
            .lock()
            .end_connection(self.0.id, "closed by us");
    }
}

/// A channel; it ends with its last handle, those inside consumers included.
#[derive(Clone, Debug)]
pub(crate) struct LocalChannel(Arc<ChannelHandle>);

#[derive(Debug)]
struct ChannelHandle {
    connection: LocalConnection,
    id: ChannelId,
    ending: Ending,
}

impl Drop for ChannelHandle {
    fn drop(&mut self) {
        self.connection
            .0
            .broker
            .lock()
            .end_channel(self.id, &closed_by_us());
    }
}

impl LocalChannel {
    pub(crate) fn id(&self) -> ChannelId {
        self.0.id
    }

    pub(crate) fn ending(&self) -> &Ending {
        &self.0.ending
    }

    pub(crate) fn declare(&self, topology: &Topology) -> Result<(), BrokerError> {
        let done = self.broker().lock().declare(self.0.id, topology);
        self.explained(done)
    }

    pub(crate) fn declare_queue(&self, queue: &QueueSpec) -> Result<QueueDepth, BrokerError> {
        let done = self.broker().lock().declare_queue(self.0.id, queue);
        self.explained(done)
    }

    pub(crate) fn delete_queue(&self, name: &str) -> Result<(), BrokerError> {
        let done = self.broker().lock().delete_queue(self.0.id, name);
        self.explained(done)
    }

    pub(crate) fn delete_idle_queue(&self, name: &str) -> Result<(), BrokerError> {
        let done = self.broker().lock().delete_idle_queue(self.0.id, name);
        self.explained(done)
    }

    pub(crate) fn consume(
        &self,
        queue: &str,
        prefetch: NonZeroU16,
    ) -> Result<LocalConsumer, BrokerError> {
        let done = self.broker().lock().consume(self.0.id, queue, prefetch);
        let subscription = self.explained(done)?;
        Ok(LocalConsumer {
            channel: self.clone(),
            id: subscription.id,
            deliveries: subscription.deliveries,
        })
    }

    pub(crate) fn get(&self, queue: &str) -> Result<Option<Delivery>, BrokerError> {
        let done = self.broker().lock().get(self.0.id, queue);
        self.explained(done)
    }

    pub(crate) fn publish(&self, message: Message) -> Result<Confirmation, BrokerError> {
        let done = self.broker().lock().publish(self.0.id, message);
        self.explained(done)
    }

    pub(crate) fn ack(&self, tag: DeliveryTag) -> Result<(), BrokerError> {
        let done = self.broker().lock().acknowledge(self.0.id, tag);
        self.explained(done)
    }

    pub(crate) fn ack_up_to(&self, tag: DeliveryTag) -> Result<(), BrokerError> {
        let done = self.broker().lock().acknowledge_up_to(self.0.id, tag);
        self.explained(done)
    }

    pub(crate) fn reject(&self, tag: DeliveryTag, requeue: bool) -> Result<(), BrokerError> {
        let done = self.broker().lock().reject(self.0.id, tag, requeue);
        self.explained(done)
    }

    pub(crate) fn close(&self) {
        self.broker().lock().end_channel(self.0.id, &closed_by_us());
    }

    fn broker(&self) -> &LocalBroker {
        &self.0.connection.0.broker
    }

    /// An operation on a channel that has ended fails for the reason that ended it.
    fn explained<T>(&self, outcome: Result<T, BrokerError>) -> Result<T, BrokerError> {
        outcome.map_err(|error| self.0.ending.get().unwrap_or(error))
    }
}

/// A subscription; dropping it cancels it.
#[derive(Debug)]
pub(crate) struct LocalConsumer {
    channel: LocalChannel,
    id: ConsumerId,
    deliveries: mpsc::UnboundedReceiver<Delivery>,
}

impl Drop for LocalConsumer {
    fn drop(&mut self) {
        // An ended channel has no consumers to cancel.
        let _ = self
            .channel
            .broker()
            .lock()
            .cancel(self.channel.0.id, self.id);
    }
}

impl LocalConsumer {
    pub(crate) async fn next(&mut self) -> Result<Delivery, ConsumerEnd> {
        let delivery = self.deliveries.recv().await;
        match self.channel.0.ending.get() {
            Some(reason) => Err(ConsumerEnd::from_error(reason)),
            None => delivery.ok_or(ConsumerEnd::CancelledByBroker),
        }
    }

    pub(crate) fn try_next(&mut self) -> Option<Delivery> {
        if self.channel.0.ending.is_set() {
            return None;
        }
        self.deliveries.try_recv().ok()
    }

    pub(crate) fn cancel(mut self) -> Result<Vec<Delivery>, BrokerError> {
        let done = self
            .channel
            .broker()
            .lock()
            .cancel(self.channel.0.id, self.id);
        self.channel.explained(done)?;
        Ok(std::iter::from_fn(|| self.deliveries.try_recv().ok()).collect())
    }
}

fn closed_by_us() -> BrokerError {
    BrokerError::ChannelClosed {
        code: 200,
        reason: "closed by us".to_owned(),
    }
}
