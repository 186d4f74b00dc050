//! One queue: the messages that are ready, and the consumers that have room for more.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::confirms::ConfirmKey;
use super::state::ConnectionId;
use crate::message::{ChannelId, Delivery, Message};
use crate::spec::{Binding, Overflow, QueueDepth, QueueSpec};

/// Names one life of a queue: one that is deleted and declared again is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct QueueId(pub(super) u64);

/// Names a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ConsumerId(pub(super) u64);

/// A message in a queue or out for delivery.
#[derive(Debug)]
pub(super) struct Stored {
    /// Order of arrival in its queue; what comes back goes where it was.
    position: u64,
    pub(super) message: Arc<Message>,
    pub(super) redelivered: bool,
    /// Whom to tell once it is settled.
    pub(super) confirm: Option<ConfirmKey>,
}

impl Stored {
    fn bytes(&self) -> u64 {
        self.message.body.len() as u64
    }
}

/// A subscription.
#[derive(Debug)]
pub(super) struct ConsumerEntry {
    pub(super) channel: ChannelId,
    /// Never holds more than `prefetch` deliveries, so that it needs no bound of its own.
    pub(super) deliveries: mpsc::UnboundedSender<Delivery>,
    prefetch: usize,
    in_flight: usize,
    /// Whether it stands in the ring of consumers with room.
    in_ring: bool,
}

impl ConsumerEntry {
    pub(super) fn new(
        channel: ChannelId,
        prefetch: u16,
        deliveries: mpsc::UnboundedSender<Delivery>,
    ) -> Self {
        Self {
            channel,
            deliveries,
            prefetch: usize::from(prefetch),
            in_flight: 0,
            in_ring: false,
        }
    }
}

/// A queue and its consumers.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) spec: QueueSpec,
    /// The connection it belongs to, if exclusive.
    pub(super) owner: Option<ConnectionId>,
    ready: VecDeque<Stored>,
    ready_bytes: u64,
    last_position: u64,
    consumers: HashMap<ConsumerId, ConsumerEntry>,
    /// Consumers with room, next first.
    ring: VecDeque<ConsumerId>,
}

impl Queue {
    pub(super) fn new(spec: QueueSpec, owner: Option<ConnectionId>) -> Self {
        Self {
            spec,
            owner,
            ready: VecDeque::new(),
            ready_bytes: 0,
            last_position: 0,
            consumers: HashMap::new(),
            ring: VecDeque::new(),
        }
    }

    pub(super) fn depth(&self) -> QueueDepth {
        QueueDepth {
            messages: self.ready.len() as u64,
            consumers: self.consumers.len() as u64,
        }
    }

    /// Remembers a binding, to undo it when the queue goes.
    pub(super) fn remember_binding(&mut self, binding: &Binding) {
        if !self.spec.bindings.contains(binding) {
            self.spec.bindings.push(binding.clone());
        }
    }

    /// Whether it refuses a message of that size now.
    pub(super) fn refuses(&self, bytes: usize) -> bool {
        let overflow = self.spec.limit.map(|limit| limit.overflow);
        overflow == Some(Overflow::RejectPublish)
            && self.exceeds(self.ready.len() as u64 + 1, self.ready_bytes + bytes as u64)
    }

    /// The oldest message of a queue that holds more than it may and drops from the head.
    pub(super) fn pop_excess(&mut self) -> Option<Stored> {
        let overflow = self.spec.limit.map(|limit| limit.overflow);
        let full = overflow == Some(Overflow::DropHead)
            && self.exceeds(self.ready.len() as u64, self.ready_bytes);
        if full { self.pop() } else { None }
    }

    fn exceeds(&self, messages: u64, bytes: u64) -> bool {
        self.spec.limit.is_some_and(|limit| {
            limit.messages.is_some_and(|most| messages > most)
                || limit.bytes.is_some_and(|most| bytes > most)
        })
    }

    /// Adds a new message at the tail.
    pub(super) fn push(&mut self, message: Arc<Message>, confirm: Option<ConfirmKey>) {
        self.last_position += 1;
        let stored = Stored {
            position: self.last_position,
            message,
            redelivered: false,
            confirm,
        };
        self.ready_bytes += stored.bytes();
        self.ready.push_back(stored);
    }

    /// Takes back a message that was out for delivery, to where it was: before all that came after it. Those stand
    /// near the head, so the search is short.
    pub(super) fn push_back_in(&mut self, stored: Stored) {
        self.ready_bytes += stored.bytes();
        let place = self
            .ready
            .iter()
            .position(|other| other.position > stored.position);
        let place = place.unwrap_or(self.ready.len());
        self.ready.insert(
            place,
            Stored {
                redelivered: true,
                ..stored
            },
        );
    }

    /// Takes the oldest message.
    pub(super) fn pop(&mut self) -> Option<Stored> {
        let stored = self.ready.pop_front()?;
        self.ready_bytes -= stored.bytes();
        Some(stored)
    }

    /// Takes the oldest message together with the consumer whose turn it is, if there are both.
    pub(super) fn pop_for_consumer(&mut self) -> Option<(Stored, ConsumerId, &ConsumerEntry)> {
        if self.ready.is_empty() {
            return None;
        }
        let id = self.ring.pop_front()?;
        let stored = self.pop()?;
        let consumer = self.consumers.get_mut(&id)?;
        consumer.in_flight += 1;
        consumer.in_ring = consumer.in_flight < consumer.prefetch;
        if consumer.in_ring {
            self.ring.push_back(id);
        }
        Some((stored, id, consumer))
    }

    pub(super) fn add_consumer(&mut self, id: ConsumerId, mut consumer: ConsumerEntry) {
        consumer.in_ring = true;
        self.consumers.insert(id, consumer);
        self.ring.push_back(id);
    }

    /// Removes a consumer; what it holds stays out for delivery.
    pub(super) fn remove_consumer(&mut self, id: ConsumerId) -> Option<ConsumerEntry> {
        let consumer = self.consumers.remove(&id)?;
        if consumer.in_ring {
            self.ring.retain(|other| *other != id);
        }
        Some(consumer)
    }

    /// A delivery of that consumer is settled: it has room again.
    pub(super) fn release(&mut self, id: ConsumerId) {
        if let Some(consumer) = self.consumers.get_mut(&id) {
            consumer.in_flight -= 1;
            if !consumer.in_ring {
                consumer.in_ring = true;
                self.ring.push_back(id);
            }
        }
    }

    pub(super) fn has_consumers(&self) -> bool {
        !self.consumers.is_empty()
    }

    /// Everything it consists of, when it is deleted.
    pub(super) fn into_parts(
        self,
    ) -> (
        QueueSpec,
        VecDeque<Stored>,
        HashMap<ConsumerId, ConsumerEntry>,
    ) {
        (self.spec, self.ready, self.consumers)
    }
}
