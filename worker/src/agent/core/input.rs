//! What the core is told and what it asks for: plain values, so that a simulation can stand in for broker and processes.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use scitq_shared::Timestamp;
use scitq_shared::execution::{Exit, Outcome, Usage};
use scitq_shared::ids::{AttemptId, TaskId};
use scitq_shared::names::BatchName;
use scitq_shared::output::StreamEnd;
use scitq_shared::protocol::{
    AttemptReport, ControlMessage, Heartbeat, TaskMessage, WorkerMessage,
};
use scitq_shared::worker::DesiredState;

/// The two clocks of one moment.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For deadlines: time since the agent started; never goes back.
    pub elapsed: Duration,
    /// For people: what reports say.
    pub wall: Timestamp,
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);
    };
}

number!(
    /// A channel that brings deliveries; never used twice.
    ChannelNumber
);
number!(
    /// One subscription to a batch's queue; never used twice.
    ConsumerNumber
);
number!(
    /// One delivery; never used twice.
    DeliveryNumber
);
number!(
    /// One published state event; never used twice.
    PublicationNumber
);

/// Where a delivery came from. It can be acknowledged on that channel only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The channel that brought it.
    pub channel: ChannelNumber,
    /// The subscription that brought it.
    pub consumer: ConsumerNumber,
    /// Which delivery.
    pub delivery: DeliveryNumber,
}

impl Place {
    /// Of what came to an agent before this one: no number of a channel, subscription or delivery is 0.
    pub const NOWHERE: Self = Self {
        channel: ChannelNumber(0),
        consumer: ConsumerNumber(0),
        delivery: DeliveryNumber(0),
    };
}

/// How an attempt ended, as far as its machine knows.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AttemptEnd {
    /// When.
    pub ended_at: Timestamp,
    /// How the process ended; none when there was no process, or nobody saw its end.
    pub exit: Option<Exit>,
    /// What the attempt came to.
    pub outcome: Outcome,
    /// What the process used, where there was one.
    pub usage: Option<Usage>,
    /// Bytes of standard output that it wrote.
    pub stdout_bytes: u64,
    /// Bytes of standard error that it wrote.
    pub stderr_bytes: u64,
}

/// What has happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Connected, and the control queue is ours.
    LinkUp,
    /// The connection for work is gone, with all its channels.
    LinkDown,
    /// The subscription is there, on this channel.
    Consuming {
        /// As asked for.
        consumer: ConsumerNumber,
        /// The channel it is on.
        channel: ChannelNumber,
    },
    /// The subscription could not be opened (the queue is missing, or the channel failed).
    ConsumeFailed {
        /// As asked for.
        consumer: ConsumerNumber,
    },
    /// A delivery.
    Delivered {
        /// Where it came from.
        place: Place,
        /// Whether the broker may have delivered it before.
        redelivered: bool,
        /// The message, or why it cannot be read.
        content: Result<Arc<TaskMessage>, String>,
        /// A fresh id, used if the delivery is accepted.
        attempt: AttemptId,
    },
    /// The subscription is cancelled as asked; what it still had buffered has been delivered before this.
    Cancelled {
        /// Which one.
        consumer: ConsumerNumber,
    },
    /// The broker ended the subscription; its channel is still open.
    ConsumerEnded {
        /// Which one.
        consumer: ConsumerNumber,
    },
    /// A channel for deliveries is closed; the connection is still there.
    ChannelClosed {
        /// Which one.
        channel: ChannelNumber,
    },
    /// What became of a published state event.
    Confirmed {
        /// Which one.
        publication: PublicationNumber,
        /// True when the broker has it; otherwise it is refused or nobody knows.
        stored: bool,
    },
    /// The leader says something.
    Control(ControlMessage),
    /// The process of an attempt has ended, or could not be started.
    ProcessEnded {
        /// Which attempt.
        attempt: AttemptId,
        /// How.
        end: AttemptEnd,
    },
    /// The kept output of an ended attempt is all with the broker.
    OutputSent {
        /// Which attempt.
        attempt: AttemptId,
    },
    /// Take no new work, give back what has not started, end when the rest has ended and all is confirmed.
    Drain,
    /// End the running tasks, report them, and end.
    Stop,
    /// The restart that was asked for cannot be done: the agent goes on.
    RestartFailed,
    /// A deadline has passed.
    Tick,
}

/// What is to be executed, after its start is confirmed.
#[derive(Clone, Debug)]
pub struct Execution {
    /// All that is known of the attempt.
    pub report: AttemptReport,
    /// The dispatch with the definition.
    pub message: Arc<TaskMessage>,
    /// How many tasks of weight 1 the worker runs side by side: what CPU is computed from.
    pub concurrency: u16,
}

/// Where to begin sending the output of an ended attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputToSend {
    /// The attempt.
    pub attempt: AttemptId,
    /// Its task.
    pub task: TaskId,
    /// Where standard output ended, and from which byte on it is to be sent again; `None` leaves off where the sender is.
    pub stdout: (StreamEnd, Option<u64>),
    /// The same for standard error.
    pub stderr: (StreamEnd, Option<u64>),
}

/// What is to be done. Effects are performed in their order.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Publish a state event.
    Publish {
        /// Names it in [`Input::Confirmed`].
        publication: PublicationNumber,
        /// The channel it must go by; any of the same connection when there is none.
        on: Option<ChannelNumber>,
        /// The event.
        message: Box<WorkerMessage>,
    },
    /// Publish a heartbeat if that can be done now.
    Beat(Box<Heartbeat>),
    /// Acknowledge a delivery.
    Ack(Place),
    /// Dead-letter a delivery that cannot be read.
    Reject(Place),
    /// Subscribe to a batch's queue, on the open channel for deliveries or on a new one.
    Consume {
        /// Names the subscription.
        consumer: ConsumerNumber,
        /// The batch.
        batch: BatchName,
        /// How many deliveries may be unacknowledged.
        qos: NonZeroU16,
    },
    /// End a subscription.
    CancelConsumer {
        /// Which one.
        consumer: ConsumerNumber,
    },
    /// Close a channel for deliveries: everything unstarted on it is void.
    CloseChannel {
        /// Which one.
        channel: ChannelNumber,
    },
    /// Drop the connection and make a new one.
    Reconnect {
        /// Why, for the log.
        reason: String,
    },
    /// Execute a task.
    Execute(Box<Execution>),
    /// See an attempt that was found running through to its end; it is told as [`Input::ProcessEnded`].
    Adopt {
        /// Which attempt.
        attempt: AttemptId,
    },
    /// Ask a running task to end; its end carries this outcome.
    Terminate {
        /// Which attempt.
        attempt: AttemptId,
        /// What it comes to.
        outcome: Outcome,
    },
    /// Kill a running task; its end carries this outcome.
    Kill {
        /// Which attempt.
        attempt: AttemptId,
        /// What it comes to.
        outcome: Outcome,
    },
    /// Send the output of an ended attempt.
    SendOutput(OutputToSend),
    /// Remove what is kept of an attempt: the server has all of it.
    Discard {
        /// Which attempt.
        attempt: AttemptId,
    },
    /// Remember the desired state over restarts.
    Persist(DesiredState),
    /// Forget the desired state that is remembered, before anything that comes after this is done.
    Forget,
    /// Start the agent anew, on the program that stands in its file now. What runs goes on. Answered by
    /// [`Input::RestartFailed`] if that cannot be done, else by a new agent.
    Restart,
    /// Nothing is left to do here: end. What still runs goes on, and the next agent finds it.
    End,
}
