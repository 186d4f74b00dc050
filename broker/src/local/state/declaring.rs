//! Exchanges, queues and bindings come and go.

use super::super::queue::{Queue, QueueId};
use super::super::routing::Exchange;
use super::{ConnectionId, State, channel_ended, no_exchange};
use crate::error::BrokerError;
use crate::message::ChannelId;
use crate::spec::{Binding, ExchangeSpec, QueueDepth, QueueSpec, Topology};

impl State {
    pub(in crate::local) fn declare(
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

    pub(in crate::local) fn declare_queue(
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

    pub(in crate::local) fn delete_queue(
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

    pub(in crate::local) fn delete_idle_queue(
        &mut self,
        channel: ChannelId,
        name: &str,
    ) -> Result<(), BrokerError> {
        self.channel(channel)?;
        if !self.queue_names.contains_key(name) {
            return Ok(());
        }
        let (id, queue) = self.usable_queue(channel, name)?;
        let depth = queue.depth();
        if depth.messages > 0 || depth.consumers > 0 {
            let what = format!("queue '{name}' is not empty or in use");
            return Err(self.fail(channel, BrokerError::PreconditionFailed { what }));
        }
        self.remove_queue(id);
        Ok(())
    }

    /// A queue that the channel may use; otherwise the channel ends.
    pub(super) fn usable_queue(
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
    pub(super) fn remove_queue(&mut self, id: QueueId) {
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
