//! What the in-process broker holds and how each operation changes it; no waiting, no locks.

mod consuming;
mod declaring;
mod publishing;

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio::sync::mpsc;

use super::confirms::Confirms;
use super::queue::{ConsumerId, Queue, QueueId, Stored};
use super::routing::Exchange;
use crate::ending::Ending;
use crate::error::BrokerError;
use crate::message::{ChannelId, Delivery, DeliveryTag};

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

fn no_exchange(name: &str) -> BrokerError {
    BrokerError::NotFound {
        what: format!("no exchange '{name}'"),
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
