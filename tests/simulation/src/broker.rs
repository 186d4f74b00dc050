//! A broker with queues, consumers, confirms and connections that break at both ends at different times.
//!
//! What a client sends arrives in order, some time later, or not at all once the connection is cut; so does what the
//! broker answers. The broker itself acts in one instant per operation, but writes to its disk later: what it has not
//! written yet is not confirmed yet, and a crash may lose it, messages and acknowledgements alike.

mod message;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::SmallRng;
use scitq_shared::names::{BatchName, WorkerName};
use scitq_worker::agent::core::{ChannelNumber, ConsumerNumber};

pub use self::message::{Body, Client, ConnectionId, Message, QueueName, Reply, Request};

#[derive(Debug)]
struct Subscription {
    consumer: ConsumerNumber,
    queue: QueueName,
    qos: u16,
    unacked: u16,
}

#[derive(Debug, Default)]
struct BrokerChannel {
    subscription: Option<Subscription>,
    /// Tag, queue, message, and the consumer that it counts for.
    unacked: BTreeMap<u64, (QueueName, Message, Option<ConsumerNumber>)>,
}

/// A connection as the broker sees it.
#[derive(Debug)]
pub struct Connection {
    /// Who is at the other end.
    pub client: Client,
    channels: BTreeMap<ChannelNumber, BrokerChannel>,
    /// Channels that are closed at this end: nothing is done on them any more.
    closed: BTreeSet<ChannelNumber>,
    /// The worker whose control queue it owns.
    control_of: Option<WorkerName>,
    leads: bool,
    /// What arrives after this moment is lost.
    pub deaf_from: Option<Duration>,
    /// What is sent after this moment is lost.
    pub mute_from: Option<Duration>,
    /// Arrival of the last thing sent, in each direction: nothing overtakes it.
    pub last_in: Duration,
    /// See `last_in`.
    pub last_out: Duration,
}

/// The broker.
#[derive(Debug, Default)]
pub struct Broker {
    /// False while it is down.
    pub up: bool,
    queues: BTreeMap<QueueName, VecDeque<Message>>,
    /// Its living connections.
    pub connections: BTreeMap<ConnectionId, Connection>,
    /// What is to be told, in order.
    pub replies: Vec<(ConnectionId, Reply)>,
    turn: usize,
    /// Messages that are not on the disk yet, with the confirms that wait for it.
    unwritten: BTreeMap<u64, Option<(ConnectionId, Reply)>>,
    /// Messages whose acknowledgements are not on the disk yet.
    unwritten_acks: Vec<(QueueName, Message)>,
    next_message: u64,
    next_tag: u64,
    next_connection: u64,
}

impl Broker {
    /// An empty broker that runs.
    pub fn new() -> Self {
        Self {
            up: true,
            ..Self::default()
        }
    }

    /// A new connection.
    pub fn connect(&mut self, client: Client, now: Duration) -> Option<ConnectionId> {
        if !self.up {
            return None;
        }
        self.next_connection += 1;
        let id = ConnectionId(self.next_connection);
        let connection = Connection {
            client,
            channels: BTreeMap::new(),
            closed: BTreeSet::new(),
            control_of: None,
            leads: false,
            deaf_from: None,
            mute_from: None,
            last_in: now,
            last_out: now,
        };
        self.connections.insert(id, connection);
        for queue in [QueueName::State, QueueName::Output, QueueName::Heartbeat] {
            self.queues.entry(queue).or_default();
        }
        Some(id)
    }

    /// Declares the control queue of a worker; false when another connection has it.
    pub fn own_control_queue(&mut self, id: ConnectionId, worker: &WorkerName) -> bool {
        if self.control_queue(worker).is_some() {
            return false;
        }
        match self.connections.get_mut(&id) {
            Some(connection) => {
                connection.control_of = Some(worker.clone());
                true
            }
            None => false,
        }
    }

    fn control_queue(&self, worker: &WorkerName) -> Option<ConnectionId> {
        let mut all = self.connections.iter();
        all.find(|(_, connection)| connection.control_of.as_ref() == Some(worker))
            .map(|(id, _)| *id)
    }

    /// Declares the leader's queue; false when another connection has it.
    pub fn own_leader_queue(&mut self, id: ConnectionId) -> bool {
        if self.connections.values().any(|connection| connection.leads) {
            return false;
        }
        match self.connections.get_mut(&id) {
            Some(connection) => {
                connection.leads = true;
                true
            }
            None => false,
        }
    }

    /// True while the connection lives at this end.
    pub fn has(&self, id: ConnectionId) -> bool {
        self.up && self.connections.contains_key(&id)
    }

    /// Makes a batch's queue.
    pub fn declare(&mut self, batch: &BatchName) {
        let queue = QueueName::Batch(batch.clone());
        self.queues.entry(queue).or_default();
    }

    /// Deletes a batch's queue if it is empty and unused.
    pub fn delete_idle(&mut self, batch: &BatchName) {
        let name = QueueName::Batch(batch.clone());
        let used = self.subscriptions().any(|queue| *queue == name);
        if !used && self.depth(&name) == 0 {
            self.queues.remove(&name);
        }
    }

    fn subscriptions(&self) -> impl Iterator<Item = &QueueName> {
        self.connections
            .values()
            .flat_map(|connection| connection.channels.values())
            .filter_map(|channel| channel.subscription.as_ref())
            .map(|subscription| &subscription.queue)
    }

    /// Deletes a batch's queue with everything in it, behind everyone's back.
    pub fn destroy(&mut self, batch: &BatchName) {
        let name = QueueName::Batch(batch.clone());
        self.queues.remove(&name);
        for (id, connection) in &mut self.connections {
            for (number, channel) in &mut connection.channels {
                if let Some(ended) = channel.subscription.take_if(|it| it.queue == name) {
                    let (channel, consumer) = (*number, ended.consumer);
                    self.replies
                        .push((*id, Reply::ConsumerEnded { channel, consumer }));
                }
            }
        }
    }

    /// Messages ready in a queue.
    pub fn depth(&self, queue: &QueueName) -> usize {
        self.queues.get(queue).map_or(0, VecDeque::len)
    }

    /// The queues that somebody consumes.
    pub fn consumed(&self) -> BTreeSet<&QueueName> {
        self.subscriptions().collect()
    }

    /// Takes up to so many messages; to be acknowledged under the tags answered.
    pub fn take(
        &mut self,
        id: ConnectionId,
        queue: &QueueName,
        most: usize,
    ) -> Vec<(u64, Message)> {
        let mut taken = Vec::new();
        let Some(connection) = self.connections.get_mut(&id) else {
            return taken;
        };
        let channel = connection.channels.entry(ChannelNumber(0)).or_default();
        let Some(messages) = self.queues.get_mut(queue) else {
            return taken;
        };
        while taken.len() < most {
            let Some(message) = messages.pop_front() else {
                break;
            };
            self.next_tag += 1;
            let tag = self.next_tag;
            let held = (queue.clone(), message.clone(), None);
            channel.unacked.insert(tag, held);
            taken.push((tag, message));
        }
        taken
    }

    /// Acknowledges what was taken.
    pub fn settle(&mut self, id: ConnectionId, tags: &[u64]) {
        if let Some(connection) = self.connections.get_mut(&id)
            && let Some(channel) = connection.channels.get_mut(&ChannelNumber(0))
        {
            for tag in tags {
                if let Some((queue, message, _)) = channel.unacked.remove(tag) {
                    self.unwritten_acks.push((queue, message));
                }
            }
        }
    }

    /// A connection has ended at this end.
    pub fn disconnect(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.remove(&id) {
            for channel in connection.channels.into_values() {
                self.requeue(channel);
            }
        }
        self.deliver();
    }

    fn requeue(&mut self, channel: BrokerChannel) {
        // Back to where they were, in their order.
        for (queue, mut message, _) in channel.unacked.into_values().rev() {
            message.redelivered = true;
            if let Some(messages) = self.queues.get_mut(&queue) {
                messages.push_front(message);
            }
        }
    }

    /// True while something is not on the disk.
    pub fn has_unwritten(&self) -> bool {
        !(self.unwritten.is_empty() && self.unwritten_acks.is_empty())
    }

    /// Everything is on the disk now: it is confirmed.
    pub fn write(&mut self) {
        self.unwritten_acks.clear();
        for (id, confirm) in std::mem::take(&mut self.unwritten).into_values().flatten() {
            if self.connections.contains_key(&id) {
                self.replies.push((id, confirm));
            }
        }
    }

    /// Messages that stand in a queue or are held by a connection unacknowledged.
    pub fn messages(&self) -> impl Iterator<Item = (&QueueName, &Message)> {
        let waiting = self
            .queues
            .iter()
            .flat_map(|(name, messages)| messages.iter().map(move |message| (name, message)));
        let held = self
            .connections
            .values()
            .flat_map(|connection| connection.channels.values())
            .flat_map(|channel| channel.unacked.values())
            .map(|(name, message, _)| (name, message));
        waiting.chain(held)
    }

    /// The broker goes down: every connection is gone. `wiped`: so is everything that it kept; else what it had not written
    /// may be lost, each message and each acknowledgement for itself.
    pub fn crash(&mut self, wiped: bool, random: &mut SmallRng) {
        let ids: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for id in ids {
            self.disconnect(id);
        }
        self.replies.clear();
        self.up = false;
        let unwritten = std::mem::take(&mut self.unwritten);
        let acked = std::mem::take(&mut self.unwritten_acks);
        if wiped {
            self.queues.clear();
        }
        for (queue, mut message) in acked {
            if random.random()
                && let Some(messages) = self.queues.get_mut(&queue)
            {
                message.redelivered = true;
                messages.push_back(message);
            }
        }
        for messages in self.queues.values_mut() {
            messages.retain(|message| !unwritten.contains_key(&message.number) || random.random());
            messages
                .make_contiguous()
                .sort_unstable_by_key(|message| message.number);
            // Classic queues take what comes back for delivered before, whether it was or not; quorum queues know.
            for message in messages {
                message.redelivered |= random.random::<bool>();
            }
        }
    }

    /// Closes the channel for deliveries of a connection, as after a consumer timeout.
    pub fn close_channel(&mut self, id: ConnectionId) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else {
            return false;
        };
        let number = connection.channels.keys().copied().find(|it| it.0 > 0);
        let Some(number) = number else { return false };
        connection.closed.insert(number);
        if let Some(channel) = connection.channels.remove(&number) {
            self.requeue(channel);
        }
        self.replies.push((id, Reply::ChannelClosed(number)));
        self.deliver();
        true
    }

    /// A request has arrived.
    pub fn handle(&mut self, id: ConnectionId, request: Request) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        match request {
            Request::State {
                publication,
                on,
                message,
            } => {
                // A channel that was closed at this end takes nothing more.
                if on.is_some_and(|on| !connection.channels.contains_key(&on)) {
                    return;
                }
                let confirm = (id, Reply::Confirmed(publication));
                self.push(&QueueName::State, Body::State(message), Some(confirm));
            }
            Request::Output(attempt) => {
                let confirm = (id, Reply::OutputConfirmed(attempt));
                self.push(&QueueName::Output, Body::Output(attempt), Some(confirm));
            }
            Request::Beat(beat) => self.push(&QueueName::Heartbeat, Body::Beat(beat), None),
            Request::Marker(marker) => self.push(&QueueName::State, Body::Marker(marker), None),
            Request::ConfirmedMarker(marker) => {
                let confirm = (id, Reply::MarkerConfirmed);
                self.push(&QueueName::State, Body::Marker(marker), Some(confirm));
            }
            Request::Task(task) => {
                let queue = QueueName::Batch(task.batch.clone());
                let stored = self.queues.contains_key(&queue);
                let body = Body::Task(Arc::clone(&task));
                let answer = (id, Reply::TaskAnswered { task, stored });
                if stored {
                    self.push(&queue, body, Some(answer));
                } else {
                    self.replies.push(answer);
                }
            }
            Request::Get { queue, most } => {
                let taken = self.take(id, &queue, most);
                self.replies.push((id, Reply::Got(taken)));
            }
            Request::Settle(tags) => self.settle(id, &tags),
            Request::Declare(batch) => {
                self.declare(&batch);
                let depth = self.depth(&QueueName::Batch(batch));
                self.replies.push((id, Reply::Declared(depth)));
            }
            Request::DeleteIdle(batch) => {
                self.delete_idle(&batch);
                self.replies.push((id, Reply::Deleted));
            }
            Request::Control { worker, message } => {
                if let Some(to) = self.control_queue(&worker) {
                    self.replies.push((to, Reply::Control(message)));
                }
            }
            Request::Ack {
                channel,
                tag,
                reject,
            } => {
                let Some(channel) = connection.channels.get_mut(&channel) else {
                    return;
                };
                if let Some((queue, message, consumer)) = channel.unacked.remove(&tag) {
                    self.unwritten_acks.push((queue, message));
                    if let Some(subscription) = &mut channel.subscription
                        && consumer == Some(subscription.consumer)
                    {
                        subscription.unacked -= 1;
                    }
                }
                debug_assert!(!reject, "every message of the simulation can be read");
            }
            Request::Consume {
                channel,
                consumer,
                batch,
                qos,
            } => {
                if connection.closed.contains(&channel) {
                    return;
                }
                let queue = QueueName::Batch(batch);
                if !self.queues.contains_key(&queue) {
                    connection.closed.insert(channel);
                    if let Some(gone) = connection.channels.remove(&channel) {
                        self.requeue(gone);
                    }
                    self.replies
                        .push((id, Reply::ConsumeFailed { channel, consumer }));
                    return;
                }
                let subscription = Subscription {
                    consumer,
                    queue,
                    qos,
                    unacked: 0,
                };
                connection.channels.entry(channel).or_default().subscription = Some(subscription);
                self.replies
                    .push((id, Reply::ConsumeOk { channel, consumer }));
            }
            Request::Cancel { channel, consumer } => {
                if let Some(channel) = connection.channels.get_mut(&channel) {
                    channel
                        .subscription
                        .take_if(|subscription| subscription.consumer == consumer);
                    self.replies.push((id, Reply::CancelOk(consumer)));
                }
            }
            Request::Close { channel } => {
                connection.closed.insert(channel);
                if let Some(gone) = connection.channels.remove(&channel) {
                    self.requeue(gone);
                }
                self.replies.push((id, Reply::ChannelClosed(channel)));
            }
        }
        self.deliver();
    }

    fn push(&mut self, queue: &QueueName, body: Body, confirm: Option<(ConnectionId, Reply)>) {
        self.next_message += 1;
        let number = self.next_message;
        let message = Message {
            body,
            redelivered: false,
            number,
        };
        if let Some(messages) = self.queues.get_mut(queue) {
            messages.push_back(message);
            self.unwritten.insert(number, confirm);
        }
    }

    /// Gives what is ready to consumers that have room, in turns.
    fn deliver(&mut self) {
        loop {
            let mut open: Vec<(ConnectionId, ChannelNumber)> = Vec::new();
            for (id, connection) in &self.connections {
                for (number, channel) in &connection.channels {
                    if let Some(subscription) = &channel.subscription
                        && subscription.unacked < subscription.qos
                        && self.depth(&subscription.queue) > 0
                    {
                        open.push((*id, *number));
                    }
                }
            }
            if open.is_empty() {
                return;
            }
            self.turn += 1;
            let (id, number) = open[self.turn % open.len()];
            let Some(channel) = self
                .connections
                .get_mut(&id)
                .and_then(|connection| connection.channels.get_mut(&number))
            else {
                return;
            };
            let Some(subscription) = &mut channel.subscription else {
                return;
            };
            let Some(message) = self
                .queues
                .get_mut(&subscription.queue)
                .and_then(VecDeque::pop_front)
            else {
                return;
            };
            subscription.unacked += 1;
            self.next_tag += 1;
            let (tag, consumer) = (self.next_tag, subscription.consumer);
            let held = (subscription.queue.clone(), message.clone(), Some(consumer));
            channel.unacked.insert(tag, held);
            let delivery = Reply::Delivery {
                channel: number,
                consumer,
                tag,
                message,
            };
            self.replies.push((id, delivery));
        }
    }
}
