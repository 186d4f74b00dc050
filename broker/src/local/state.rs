//! What the in-process broker holds and how each operation changes it; no waiting, no locks.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroU16;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::confirms::{ConfirmKey, Confirms};
use super::queue::{ConsumerEntry, ConsumerId, Queue, QueueId, Stored};
use super::routing::Exchange;
use crate::confirmation::{Confirmation, PublishFailure};
use crate::ending::Ending;
use crate::error::BrokerError;
use crate::message::{ChannelId, Delivery, DeliveryTag, Message};
use crate::spec::{Binding, ExchangeSpec, QueueDepth, QueueSpec, Topology};

const NO_ROUTE: u16 = 312;

/// Names a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ConnectionId(u64);

/// All of the broker.
#[derive(Debug, Default)]
pub(super) struct State {
    refusing: bool,
    last_id: u64,
    connections: HashMap<ConnectionId, ConnectionState>,
    channels: HashMap<ChannelId, ChannelState>,
    exchanges: HashMap<String, Exchange>,
    queues: HashMap<QueueId, Queue>,
    queue_names: HashMap<String, QueueId>,
}

#[derive(Debug)]
struct ConnectionState {
    name: String,
    ending: Ending,
    channels: HashSet<ChannelId>,
    exclusive_queues: HashSet<QueueId>,
}

#[derive(Debug)]
struct ChannelState {
    connection: ConnectionId,
    ending: Ending,
    last_tag: u64,
    unacknowledged: BTreeMap<u64, Unacknowledged>,
    consumers: HashMap<ConsumerId, QueueId>,
    confirms: Confirms,
}

impl ChannelState {
    /// Puts a message out for delivery by this channel.
    fn hand_out(
        &mut self,
        id: ChannelId,
        stored: Stored,
        queue: QueueId,
        consumer: Option<ConsumerId>,
    ) -> Delivery {
        self.last_tag += 1;
        let message = &stored.message;
        let delivery = Delivery {
            tag: DeliveryTag(self.last_tag),
            channel: id,
            redelivered: stored.redelivered,
            exchange: message.exchange.clone(),
            routing_key: message.routing_key.clone(),
            properties: message.properties.clone(),
            body: message.body.clone(),
        };
        self.unacknowledged.insert(
            self.last_tag,
            Unacknowledged {
                stored,
                queue,
                consumer,
            },
        );
        delivery
    }
}

#[derive(Debug)]
struct Unacknowledged {
    stored: Stored,
    queue: QueueId,
    consumer: Option<ConsumerId>,
}

/// What a consumer gets from the broker when it subscribes.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) id: ConsumerId,
    pub(super) deliveries: mpsc::UnboundedReceiver<Delivery>,
}

// Connections and channels.
impl State {
    pub(super) fn refuse_connections(&mut self, refuse: bool) {
        self.refusing = refuse;
    }

    pub(super) fn connect(&mut self, name: &str) -> Result<(ConnectionId, Ending), BrokerError> {
        if self.refusing {
            return Err(BrokerError::Unreachable {
                address: "in-process".to_owned(),
                reason: "connections are refused".to_owned(),
            });
        }
        let id = ConnectionId(self.next_id());
        let ending = Ending::new();
        let connection = ConnectionState {
            name: name.to_owned(),
            ending: ending.clone(),
            channels: HashSet::new(),
            exclusive_queues: HashSet::new(),
        };
        self.connections.insert(id, connection);
        Ok((id, ending))
    }

    pub(super) fn cut_connections(&mut self) {
        let ids: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for id in ids {
            self.end_connection(id, "the connection was cut");
        }
    }

    /// Ends a connection with all it has; one that has ended already stays as it is.
    pub(super) fn end_connection(&mut self, id: ConnectionId, reason: &str) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        tracing::debug!(
            connection = connection.name,
            reason,
            "in-process connection ended"
        );
        let reason = BrokerError::ConnectionLost {
            reason: reason.to_owned(),
        };
        connection.ending.set(reason.clone());
        for channel in connection.channels {
            self.end_channel(channel, &reason);
        }
        for queue in connection.exclusive_queues {
            self.remove_queue(queue);
        }
    }

    pub(super) fn open_channel(
        &mut self,
        connection: ConnectionId,
    ) -> Result<(ChannelId, Ending), BrokerError> {
        let Some(owner) = self.connections.get_mut(&connection) else {
            return Err(connection_ended());
        };
        let id = ChannelId::next();
        let ending = Ending::new();
        owner.channels.insert(id);
        let channel = ChannelState {
            connection,
            ending: ending.clone(),
            last_tag: 0,
            unacknowledged: BTreeMap::new(),
            consumers: HashMap::new(),
            confirms: Confirms::default(),
        };
        self.channels.insert(id, channel);
        Ok((id, ending))
    }

    /// Ends a channel: its consumers end, what it holds goes back, its publishers learn that nobody will answer.
    pub(super) fn end_channel(&mut self, id: ChannelId, reason: &BrokerError) {
        let Some(channel) = self.channels.remove(&id) else {
            return;
        };
        if let Some(connection) = self.connections.get_mut(&channel.connection) {
            connection.channels.remove(&id);
        }
        // First the reason, then what makes waiting consumers look at it.
        channel.ending.set(reason.clone());
        channel.confirms.lose(reason);
        let mut changed = HashSet::new();
        let mut abandoned = Vec::new();
        for (consumer, queue) in channel.consumers {
            if self.remove_consumer(queue, consumer) {
                abandoned.push(queue);
            }
        }
        // Latest first, so that each finds its place at the head at once.
        for unacknowledged in channel.unacknowledged.into_values().rev() {
            changed.insert(unacknowledged.queue);
            self.take_back(unacknowledged);
        }
        for queue in abandoned {
            self.remove_queue(queue);
        }
        for queue in changed {
            self.trim(queue);
            self.deliver(queue);
        }
    }

    fn fail(&mut self, channel: ChannelId, error: BrokerError) -> BrokerError {
        self.end_channel(channel, &error);
        error
    }

    fn channel(&mut self, id: ChannelId) -> Result<&mut ChannelState, BrokerError> {
        self.channels.get_mut(&id).ok_or_else(channel_ended)
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

// Topology.
impl State {
    pub(super) fn declare(
        &mut self,
        channel: ChannelId,
        topology: &Topology,
    ) -> Result<(), BrokerError> {
        self.channel(channel)?;
        for exchange in &topology.exchanges {
            self.declare_exchange(channel, exchange)?;
        }
        for queue in &topology.queues {
            self.declare_queue(channel, queue)?;
        }
        Ok(())
    }

    fn declare_exchange(
        &mut self,
        channel: ChannelId,
        spec: &ExchangeSpec,
    ) -> Result<(), BrokerError> {
        let exchange = self
            .exchanges
            .entry(spec.name.clone())
            .or_insert_with(|| Exchange::new(spec.kind));
        if exchange.kind() != spec.kind {
            let what = format!("exchange '{}' exists with another type", spec.name);
            return Err(self.fail(channel, BrokerError::PreconditionFailed { what }));
        }
        Ok(())
    }

    pub(super) fn declare_queue(
        &mut self,
        channel: ChannelId,
        spec: &QueueSpec,
    ) -> Result<QueueDepth, BrokerError> {
        let connection = self.channel(channel)?.connection;
        let id = if self.queue_names.contains_key(&spec.name) {
            let (id, queue) = self.usable_queue(channel, &spec.name)?;
            if !same_properties(&queue.spec, spec) {
                let what = format!("queue '{}' exists with other properties", spec.name);
                return Err(self.fail(channel, BrokerError::PreconditionFailed { what }));
            }
            id
        } else {
            self.create_queue(connection, spec)
        };
        for binding in &spec.bindings {
            let Some(exchange) = self.exchanges.get_mut(&binding.exchange) else {
                return Err(self.fail(channel, no_exchange(&binding.exchange)));
            };
            exchange.bind(&binding.routing_key, id);
            if let Some(queue) = self.queues.get_mut(&id) {
                queue.remember_binding(binding);
            }
        }
        Ok(self.queues.get(&id).map(Queue::depth).unwrap_or_default())
    }

    fn create_queue(&mut self, connection: ConnectionId, spec: &QueueSpec) -> QueueId {
        let id = QueueId(self.next_id());
        let owner = spec.exclusive.then_some(connection);
        if let Some(owner) = owner.and_then(|owner| self.connections.get_mut(&owner)) {
            owner.exclusive_queues.insert(id);
        }
        // Bindings are added as they are made.
        let spec = QueueSpec {
            bindings: Vec::new(),
            ..spec.clone()
        };
        self.queue_names.insert(spec.name.clone(), id);
        self.queues.insert(id, Queue::new(spec, owner));
        id
    }

    pub(super) fn delete_queue(
        &mut self,
        channel: ChannelId,
        name: &str,
    ) -> Result<(), BrokerError> {
        self.channel(channel)?;
        if self.queue_names.contains_key(name) {
            let (id, _) = self.usable_queue(channel, name)?;
            self.remove_queue(id);
        }
        Ok(())
    }

    /// A queue that the channel may use; otherwise the channel ends.
    fn usable_queue(
        &mut self,
        channel: ChannelId,
        name: &str,
    ) -> Result<(QueueId, &mut Queue), BrokerError> {
        let connection = self.channel(channel)?.connection;
        let found = self.queue_names.get(name).copied();
        let owner = found
            .and_then(|id| self.queues.get(&id))
            .map(|queue| queue.owner);
        let error = match owner {
            None => BrokerError::NotFound {
                what: format!("no queue '{name}'"),
            },
            Some(Some(owner)) if owner != connection => BrokerError::InUse {
                what: format!("queue '{name}' belongs exclusively to another connection"),
            },
            Some(_) => {
                let usable = found.and_then(|id| self.queues.get_mut(&id).map(|queue| (id, queue)));
                return usable.ok_or_else(channel_ended);
            }
        };
        Err(self.fail(channel, error))
    }

    /// Deletes a queue: its consumers are cancelled, its messages are gone.
    fn remove_queue(&mut self, id: QueueId) {
        let Some(queue) = self.queues.remove(&id) else {
            return;
        };
        if let Some(owner) = queue
            .owner
            .and_then(|owner| self.connections.get_mut(&owner))
        {
            owner.exclusive_queues.remove(&id);
        }
        let (spec, ready, consumers) = queue.into_parts();
        self.queue_names.remove(&spec.name);
        for Binding {
            exchange,
            routing_key,
        } in &spec.bindings
        {
            if let Some(exchange) = self.exchanges.get_mut(exchange) {
                exchange.unbind(routing_key, id);
            }
        }
        for (consumer, entry) in consumers {
            if let Some(channel) = self.channels.get_mut(&entry.channel) {
                channel.consumers.remove(&consumer);
            }
        }
        for confirm in ready.into_iter().filter_map(|stored| stored.confirm) {
            self.refuse_confirm(confirm);
        }
    }
}

// Consuming.
impl State {
    pub(super) fn consume(
        &mut self,
        channel: ChannelId,
        queue: &str,
        prefetch: NonZeroU16,
    ) -> Result<Subscription, BrokerError> {
        let (queue_id, _) = self.usable_queue(channel, queue)?;
        let id = ConsumerId(self.next_id());
        // Bounded by the prefetch: see ConsumerEntry.
        let (sender, deliveries) = mpsc::unbounded_channel();
        self.channel(channel)?.consumers.insert(id, queue_id);
        if let Some(queue) = self.queues.get_mut(&queue_id) {
            queue.add_consumer(id, ConsumerEntry::new(channel, prefetch.get(), sender));
        }
        self.deliver(queue_id);
        Ok(Subscription { id, deliveries })
    }

    /// Ends a subscription; what it was delivered stays out for delivery.
    pub(super) fn cancel(
        &mut self,
        channel: ChannelId,
        consumer: ConsumerId,
    ) -> Result<(), BrokerError> {
        if let Some(queue) = self.channel(channel)?.consumers.remove(&consumer)
            && self.remove_consumer(queue, consumer)
        {
            self.remove_queue(queue);
        }
        Ok(())
    }

    /// Takes a consumer off its queue; true if the queue is to go with it.
    fn remove_consumer(&mut self, queue: QueueId, consumer: ConsumerId) -> bool {
        self.queues.get_mut(&queue).is_some_and(|queue| {
            queue.remove_consumer(consumer).is_some()
                && queue.spec.auto_delete
                && !queue.has_consumers()
        })
    }

    pub(super) fn get(
        &mut self,
        channel: ChannelId,
        queue: &str,
    ) -> Result<Option<Delivery>, BrokerError> {
        let (queue_id, queue) = self.usable_queue(channel, queue)?;
        let Some(stored) = queue.pop() else {
            return Ok(None);
        };
        let delivery = self
            .channel(channel)?
            .hand_out(channel, stored, queue_id, None);
        Ok(Some(delivery))
    }

    pub(super) fn acknowledge(
        &mut self,
        channel: ChannelId,
        tag: DeliveryTag,
    ) -> Result<(), BrokerError> {
        let unacknowledged = self.unacknowledged(channel, tag)?;
        let queue = unacknowledged.queue;
        self.settle(&unacknowledged);
        self.deliver(queue);
        Ok(())
    }

    pub(super) fn acknowledge_up_to(
        &mut self,
        channel: ChannelId,
        tag: DeliveryTag,
    ) -> Result<(), BrokerError> {
        let state = self.channel(channel)?;
        let later = state.unacknowledged.split_off(&(tag.0 + 1));
        let settled = std::mem::replace(&mut state.unacknowledged, later);
        if settled.is_empty() && tag.0 > state.last_tag {
            return Err(self.fail(channel, unknown_tag(tag)));
        }
        let mut queues = HashSet::new();
        for unacknowledged in settled.into_values() {
            queues.insert(unacknowledged.queue);
            self.settle(&unacknowledged);
        }
        for queue in queues {
            self.deliver(queue);
        }
        Ok(())
    }

    pub(super) fn reject(
        &mut self,
        channel: ChannelId,
        tag: DeliveryTag,
        requeue: bool,
    ) -> Result<(), BrokerError> {
        let unacknowledged = self.unacknowledged(channel, tag)?;
        let queue = unacknowledged.queue;
        if requeue {
            self.take_back(unacknowledged);
            self.trim(queue);
        } else {
            self.dead_letter(queue, &unacknowledged.stored.message, "rejected");
            self.settle(&unacknowledged);
        }
        self.deliver(queue);
        Ok(())
    }

    fn unacknowledged(
        &mut self,
        channel: ChannelId,
        tag: DeliveryTag,
    ) -> Result<Unacknowledged, BrokerError> {
        match self.channel(channel)?.unacknowledged.remove(&tag.0) {
            Some(unacknowledged) => Ok(unacknowledged),
            None => Err(self.fail(channel, unknown_tag(tag))),
        }
    }

    /// A delivery is done with: its consumer has room again, its publisher is told.
    fn settle(&mut self, unacknowledged: &Unacknowledged) {
        let queue = self.queues.get_mut(&unacknowledged.queue);
        if let (Some(queue), Some(consumer)) = (queue, unacknowledged.consumer) {
            queue.release(consumer);
        }
        if let Some(confirm) = unacknowledged.stored.confirm {
            self.settle_confirm(confirm);
        }
    }

    /// A delivery goes back to its queue, to where it was.
    fn take_back(&mut self, unacknowledged: Unacknowledged) {
        let Unacknowledged {
            stored,
            queue,
            consumer,
        } = unacknowledged;
        match self.queues.get_mut(&queue) {
            Some(queue) => {
                if let Some(consumer) = consumer {
                    queue.release(consumer);
                }
                queue.push_back_in(stored);
            }
            None => {
                if let Some(confirm) = stored.confirm {
                    self.refuse_confirm(confirm);
                }
            }
        }
    }

    /// Hands ready messages to consumers with room, in turn.
    fn deliver(&mut self, queue_id: QueueId) {
        let Some(queue) = self.queues.get_mut(&queue_id) else {
            return;
        };
        while let Some((stored, consumer_id, consumer)) = queue.pop_for_consumer() {
            let Some(channel) = self.channels.get_mut(&consumer.channel) else {
                // A channel leaves its consumers before it goes.
                debug_assert!(false, "consumer without a channel");
                continue;
            };
            let delivery = channel.hand_out(consumer.channel, stored, queue_id, Some(consumer_id));
            // A receiver that is being dropped cancels its consumer next; the delivery stays unacknowledged as it
            // would on a wire.
            let _ = consumer.deliveries.send(delivery);
        }
    }
}

// Publishing.
impl State {
    pub(super) fn publish(
        &mut self,
        channel: ChannelId,
        message: Message,
    ) -> Result<Confirmation, BrokerError> {
        self.channel(channel)?;
        let Some(queues) = self.route(&message.exchange, &message.routing_key) else {
            let error = self.fail(channel, no_exchange(&message.exchange));
            return Ok(Confirmation::ready(Err(PublishFailure::Lost(error))));
        };
        if queues.is_empty() {
            let outcome = if message.mandatory {
                Err(PublishFailure::Returned {
                    code: NO_ROUTE,
                    reason: "NO_ROUTE".to_owned(),
                })
            } else {
                Ok(())
            };
            return Ok(Confirmation::ready(outcome));
        }
        let bytes = message.body.len();
        let count = queues.len();
        let accepting: Vec<QueueId> = queues
            .into_iter()
            .filter(|id| {
                self.queues
                    .get(id)
                    .is_some_and(|queue| !queue.refuses(bytes))
            })
            .collect();
        let refused = accepting.len() < count;
        let waiting = |id: &&QueueId| {
            self.queues
                .get(id)
                .is_some_and(|queue| queue.spec.confirm_when_settled)
        };
        let copies = if refused {
            0
        } else {
            accepting.iter().filter(waiting).count()
        };
        let (confirm, confirmation) = if refused {
            (None, Confirmation::ready(Err(PublishFailure::Refused)))
        } else if copies == 0 {
            (None, Confirmation::ready(Ok(())))
        } else {
            let (key, confirmation) = self.channel(channel)?.confirms.open(channel, copies);
            (Some(key), confirmation)
        };
        let message = Arc::new(message);
        for queue in accepting {
            self.enqueue(queue, Arc::clone(&message), confirm);
            self.trim(queue);
            self.deliver(queue);
        }
        Ok(confirmation)
    }

    /// The queues for a message; `None` if the exchange does not exist.
    fn route(&self, exchange: &str, routing_key: &str) -> Option<Vec<QueueId>> {
        if exchange.is_empty() {
            return Some(
                self.queue_names
                    .get(routing_key)
                    .copied()
                    .into_iter()
                    .collect(),
            );
        }
        self.exchanges
            .get(exchange)
            .map(|exchange| exchange.route(routing_key))
    }

    fn enqueue(&mut self, queue: QueueId, message: Arc<Message>, confirm: Option<ConfirmKey>) {
        if let Some(queue) = self.queues.get_mut(&queue) {
            let confirm = confirm.filter(|_| queue.spec.confirm_when_settled);
            queue.push(message, confirm);
        }
    }

    /// Drops the oldest messages of a queue that holds too many.
    fn trim(&mut self, id: QueueId) {
        while let Some(stored) = self.queues.get_mut(&id).and_then(Queue::pop_excess) {
            self.dead_letter(id, &stored.message, "maxlen");
            if let Some(confirm) = stored.confirm {
                self.settle_confirm(confirm);
            }
        }
    }

    /// Publishes a message to where dead letters of the queue go, if anywhere. What is full there does not take it,
    /// and what it displaces there is gone, so that dead letters cannot run in circles.
    fn dead_letter(&mut self, queue: QueueId, message: &Message, reason: &str) {
        let Some(queue) = self.queues.get(&queue) else {
            return;
        };
        let Some(target) = &queue.spec.dead_letter else {
            return;
        };
        let mut letter = message.clone();
        let headers = &mut letter.properties.headers;
        headers
            .entry("x-first-death-queue".to_owned())
            .or_insert_with(|| queue.spec.name.clone());
        headers
            .entry("x-first-death-reason".to_owned())
            .or_insert_with(|| reason.to_owned());
        headers
            .entry("x-first-death-exchange".to_owned())
            .or_insert_with(|| message.exchange.clone());
        letter.exchange.clone_from(&target.exchange);
        if let Some(key) = &target.routing_key {
            letter.routing_key.clone_from(key);
        }
        let letter = Arc::new(letter);
        let bytes = letter.body.len();
        for id in self
            .route(&letter.exchange, &letter.routing_key)
            .unwrap_or_default()
        {
            let Some(queue) = self
                .queues
                .get_mut(&id)
                .filter(|queue| !queue.refuses(bytes))
            else {
                continue;
            };
            queue.push(Arc::clone(&letter), None);
            while let Some(displaced) = queue.pop_excess() {
                if let Some(confirm) = displaced.confirm
                    && let Some(channel) = self.channels.get_mut(&confirm.channel)
                {
                    channel.confirms.settle(confirm);
                }
            }
            self.deliver(id);
        }
    }

    fn settle_confirm(&mut self, confirm: ConfirmKey) {
        if let Some(channel) = self.channels.get_mut(&confirm.channel) {
            channel.confirms.settle(confirm);
        }
    }

    fn refuse_confirm(&mut self, confirm: ConfirmKey) {
        if let Some(channel) = self.channels.get_mut(&confirm.channel) {
            channel.confirms.refuse(confirm);
        }
    }
}

/// Whether a declaration asks for the queue that exists. Bindings add up; when confirms are given is not a property of
/// the queue for RabbitMQ either.
fn same_properties(existing: &QueueSpec, asked: &QueueSpec) -> bool {
    let QueueSpec {
        name,
        queue_type,
        durable,
        exclusive,
        auto_delete,
        limit,
        dead_letter,
        ..
    } = existing;
    *name == asked.name
        && *queue_type == asked.queue_type
        && *durable == asked.durable
        && *exclusive == asked.exclusive
        && *auto_delete == asked.auto_delete
        && *limit == asked.limit
        && *dead_letter == asked.dead_letter
}

fn no_exchange(name: &str) -> BrokerError {
    BrokerError::NotFound {
        what: format!("no exchange '{name}'"),
    }
}

fn unknown_tag(tag: DeliveryTag) -> BrokerError {
    BrokerError::PreconditionFailed {
        what: format!("unknown delivery tag {tag}"),
    }
}

fn channel_ended() -> BrokerError {
    BrokerError::ChannelClosed {
        code: 200,
        reason: "the channel has ended".to_owned(),
    }
}

fn connection_ended() -> BrokerError {
    BrokerError::ConnectionLost {
        reason: "the connection has ended".to_owned(),
    }
}
