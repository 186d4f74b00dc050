//! What clients and the broker say to each other.

use std::sync::Arc;

use scitq_shared::ids::AttemptId;
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::protocol::{ControlMessage, Heartbeat, Marker, TaskMessage, WorkerMessage};
use scitq_worker::agent::core::{ChannelNumber, ConsumerNumber, PublicationNumber};

/// A connection, by number; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// A worker, by index.
    Worker(usize),
    /// A server, by index.
    Server(usize),
}

/// What a message carries.
#[derive(Clone, Debug)]
pub enum Body {
    /// A task.
    Task(Arc<TaskMessage>),
    /// A state event.
    State(Box<WorkerMessage>),
    /// A marker of the leader.
    Marker(Marker),
    /// The whole output of an attempt.
    Output(AttemptId),
    /// A heartbeat.
    Beat(Box<Heartbeat>),
}

/// A message in a queue.
#[derive(Clone, Debug)]
pub struct Message {
    /// What it carries.
    pub body: Body,
    /// True when it was delivered before.
    pub redelivered: bool,
    /// Its place in the order of publication.
    pub number: u64,
}

/// Names of queues.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum QueueName {
    /// Of a batch.
    Batch(BatchName),
    /// State events.
    State,
    /// Output.
    Output,
    /// Heartbeats.
    Heartbeat,
}

/// What a client asks of the broker.
#[derive(Clone, Debug)]
pub enum Request {
    /// Publish a state event of a worker.
    State {
        /// Its number, for the confirm.
        publication: PublicationNumber,
        /// The channel for deliveries, or the one for everything else.
        on: Option<ChannelNumber>,
        /// The event.
        message: Box<WorkerMessage>,
    },
    /// Publish the output of an attempt.
    Output(AttemptId),
    /// Publish a heartbeat.
    Beat(Box<Heartbeat>),
    /// Publish a task.
    Task(Arc<TaskMessage>),
    /// Publish a marker.
    Marker(Marker),
    /// Publish a control message.
    Control {
        /// To whom.
        worker: WorkerName,
        /// What.
        message: Box<ControlMessage>,
    },
    /// Publish a marker that is to be confirmed.
    ConfirmedMarker(Marker),
    /// Take messages out of a queue.
    Get {
        /// The queue.
        queue: QueueName,
        /// How many at most.
        most: usize,
    },
    /// Acknowledge what was taken or read.
    Settle(Vec<u64>),
    /// Make a batch's queue, or look how full it is.
    Declare(BatchName),
    /// Delete a batch's queue if it is empty and unused.
    DeleteIdle(BatchName),
    /// Acknowledge.
    Ack {
        /// The channel.
        channel: ChannelNumber,
        /// The delivery's tag.
        tag: u64,
        /// True when the message goes back to its queue instead.
        reject: bool,
    },
    /// Consume.
    Consume {
        /// The channel.
        channel: ChannelNumber,
        /// The consumer's number.
        consumer: ConsumerNumber,
        /// The queue.
        batch: BatchName,
        /// Most unacknowledged deliveries.
        qos: u16,
    },
    /// Cancel the consumer of a channel.
    Cancel {
        /// The channel.
        channel: ChannelNumber,
        /// The consumer's number.
        consumer: ConsumerNumber,
    },
    /// Close a channel.
    Close {
        /// The channel.
        channel: ChannelNumber,
    },
}

/// What the broker tells a client.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A state event is stored.
    Confirmed(PublicationNumber),
    /// The output is stored.
    OutputConfirmed(AttemptId),
    /// A task is stored, or has no queue.
    TaskAnswered {
        /// The task.
        task: Arc<TaskMessage>,
        /// False when it was returned.
        stored: bool,
    },
    /// A marker is stored.
    MarkerConfirmed,
    /// What a queue had.
    Got(Vec<(u64, Message)>),
    /// The queue is there, with so many messages.
    Declared(usize),
    /// The queue is gone, or in use.
    Deleted,
    /// A control message for a worker.
    Control(Box<ControlMessage>),
    /// A consumer is there.
    ConsumeOk {
        /// The channel.
        channel: ChannelNumber,
        /// The consumer.
        consumer: ConsumerNumber,
    },
    /// There is no such queue; the channel is closed.
    ConsumeFailed {
        /// The channel.
        channel: ChannelNumber,
        /// The consumer.
        consumer: ConsumerNumber,
    },
    /// A consumer is no more, as asked.
    CancelOk(ConsumerNumber),
    /// A consumer was ended by the broker.
    ConsumerEnded {
        /// The channel.
        channel: ChannelNumber,
        /// The consumer.
        consumer: ConsumerNumber,
    },
    /// A channel was closed by the broker, or as asked.
    ChannelClosed(ChannelNumber),
    /// A delivery.
    Delivery {
        /// The channel.
        channel: ChannelNumber,
        /// The consumer.
        consumer: ConsumerNumber,
        /// Its tag.
        tag: u64,
        /// The message.
        message: Message,
    },
}
