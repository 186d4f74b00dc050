use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{PROTOCOL_VERSION, TaskMessage};
use crate::Timestamp;
use crate::execution::{Exit, Outcome, Usage};
use crate::ids::{AttemptId, DispatchId, Epoch, IncarnationId, Revision, TaskId};
use crate::names::{BatchName, WorkerName};
use crate::output::{Encoding, Stream, StreamEnd, base64_bytes};
use crate::worker::DesiredState;

/// What a worker tells the server through the state queue (`state.<kind>` in exchange `scitq.events`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerMessage {
    /// Version of this message.
    pub version: u16,
    /// Who speaks.
    pub worker: WorkerName,
    /// Which life of its state directory.
    pub incarnation: IncarnationId,
    /// Highest epoch the worker has received.
    pub epoch: Epoch,
    /// Rises with every announcement of this incarnation, over restarts of the agent. Inventories refer to it.
    pub sequence: u64,
    /// The worker's clock; for people, never for decisions.
    pub sent_at: Timestamp,
    /// What happened.
    pub event: WorkerEvent,
}

impl WorkerMessage {
    /// A message of the present version and time.
    pub fn new(
        worker: WorkerName,
        incarnation: IncarnationId,
        epoch: Epoch,
        sequence: u64,
        event: WorkerEvent,
    ) -> Self {
        Self {
            version: PROTOCOL_VERSION,
            worker,
            incarnation,
            epoch,
            sequence,
            sent_at: crate::now(),
            event,
        }
    }
}

/// What happened at a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum WorkerEvent {
    /// The worker has come, or come back.
    Hello(Hello),
    /// The worker ends on purpose and holds nothing that runs.
    Goodbye {
        /// Why, in words.
        reason: String,
        /// Attempts that its directory still keeps for the server.
        #[serde(default)]
        kept: u32,
    },
    /// A delivery waits at the worker, staging or for a slot.
    Accepted(AttemptReport),
    /// The process is about to be executed: announced before it happens (D7).
    Started(AttemptReport),
    /// The process has ended, its slot is free, and its output is being stored.
    Exited(AttemptReport),
    /// The attempt is over.
    Ended(AttemptReport),
    /// The delivery is given back without having run.
    Released {
        /// What was given back.
        #[serde(flatten)]
        report: AttemptReport,
        /// Why.
        reason: ReleaseReason,
    },
    /// A redelivered message came: it is never run (D6).
    Returned {
        /// The dispatch that was delivered again.
        dispatch: DispatchId,
        /// Its task.
        task: TaskId,
        /// The whole message: it is acknowledged with this, and a server whose database was restored may not know its task
        /// (D12).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<Box<TaskMessage>>,
    },
    /// What a dispatch asks to be run, for a server that may not know its task because its database was restored (D12).
    /// What has become of it is said by the event that follows.
    Described {
        /// The message that brought it.
        message: Box<TaskMessage>,
    },
    /// Answer to a revoke: none of these dispatches is here, and none of them starts here any more should it still be
    /// on its way (D4).
    Absent {
        /// The dispatches.
        dispatches: Vec<DispatchId>,
    },
}

impl WorkerEvent {
    /// Word for routing keys and logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Goodbye { .. } => "goodbye",
            Self::Accepted(_) => "accepted",
            Self::Started(_) => "started",
            Self::Exited(_) => "exited",
            Self::Ended(_) => "ended",
            Self::Released { .. } => "released",
            Self::Returned { .. } => "returned",
            Self::Described { .. } => "described",
            Self::Absent { .. } => "absent",
        }
    }
}

/// Why a worker gave a delivery back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseReason {
    /// The channel or consumer that brought it is gone.
    ChannelLost,
    /// The worker drains, pauses or takes less work than before.
    LessRoom,
    /// The server asked for it.
    Revoked,
    /// The agent restarted before anything had run.
    AgentRestarted,
}

/// All that is known of an attempt so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AttemptReport {
    /// The attempt.
    pub attempt: AttemptId,
    /// The dispatch it accepted.
    pub dispatch: DispatchId,
    /// Epoch of that dispatch.
    pub dispatch_epoch: Epoch,
    /// The task.
    pub task: TaskId,
    /// Its batch at the time of the dispatch.
    pub batch: BatchName,
    /// Revision of the definition that is run.
    pub revision: Revision,
    /// When the dispatch was published.
    pub queued_at: Timestamp,
    /// When the worker took it.
    pub accepted_at: Timestamp,
    /// When the process was executed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When the process ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// How the process ended, where it ran and that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// What the attempt came to; there from `exited` on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// What it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Where its standard output ended; there from `ended` on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<StreamEnd>,
    /// Where its standard error ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<StreamEnd>,
}

/// A worker introduces itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Hello {
    /// Host name of its machine.
    pub hostname: String,
    /// Version of its program.
    pub program_version: String,
    /// Processor cores.
    pub cores: u32,
    /// Main memory in bytes.
    pub memory_bytes: u64,
    /// What its own settings ask for; used only when the server does not know the worker yet.
    pub initial: DesiredState,
    /// Version of the desired state that it follows now, 0 when it has never been told one.
    pub desired_version: i64,
    /// How many times its agent was started on this incarnation's directory, this start included.
    #[serde(default)]
    pub boots: u32,
    /// Batch that it works for now, where it has been told one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchName>,
    /// Epoch of the leader that asked for a recount, where this is the end of one: everything in the inventory has been
    /// described and told before, and nothing unstarted is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recounted: Option<Epoch>,
    /// False when it cannot start itself anew, because it is a part of another program.
    #[serde(default = "yes")]
    pub can_restart: bool,
    /// All attempts it holds.
    pub inventory: Vec<InventoryItem>,
}

/// What an agent can do that does not say otherwise.
fn yes() -> bool {
    true
}

/// A sign of life, through its own queue that keeps only the newest (`heartbeat.<worker>` in `scitq.events`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Heartbeat {
    /// Version of this message.
    pub version: u16,
    /// Who speaks.
    pub worker: WorkerName,
    /// Which life of its state directory.
    pub incarnation: IncarnationId,
    /// Highest epoch the worker has received.
    pub epoch: Epoch,
    /// The inventory holds every attempt announced with a sequence up to this one that is still kept.
    pub sequence: u64,
    /// The worker's clock.
    pub sent_at: Timestamp,
    /// Version of the desired state that it follows.
    pub desired_version: i64,
    /// All attempts it holds.
    pub inventory: Vec<InventoryItem>,
}

/// One attempt that a worker holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InventoryItem {
    /// The attempt.
    pub attempt: AttemptId,
    /// Its task.
    pub task: TaskId,
    /// How far it is.
    pub phase: AttemptPhase,
}

/// How far an attempt is at its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttemptPhase {
    /// Held, not started.
    Accepted,
    /// The process runs.
    Running,
    /// The process has ended and its output is being stored.
    Uploading,
    /// Over, kept until the server has applied its end and its output.
    Ended,
}

/// A piece of output (`output.<stream>` in `scitq.events`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OutputMessage {
    /// Version of this message.
    pub version: u16,
    /// Who speaks.
    pub worker: WorkerName,
    /// Which life of its state directory.
    pub incarnation: IncarnationId,
    /// Highest epoch the worker has received.
    pub epoch: Epoch,
    /// The attempt that wrote it.
    pub attempt: AttemptId,
    /// Its task.
    pub task: TaskId,
    /// Which stream.
    pub stream: Stream,
    /// Where in the stream it begins, in bytes.
    pub offset: u64,
    /// Length of the uncompressed bytes.
    pub length: u32,
    /// How the bytes are packed.
    pub encoding: Encoding,
    /// The packed bytes, as base64.
    #[serde(with = "base64_bytes")]
    #[schemars(with = "String")]
    pub data: Vec<u8>,
}

/// The leader's own word in the queue of state events (`state.marker` in `scitq.events`): once it has read it back, it
/// has read everything that was in the queue before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Marker {
    /// [`PROTOCOL_VERSION`] of the sender.
    pub version: u16,
    /// The epoch of the leader that published it; to any other it says nothing but what is returned.
    pub epoch: Epoch,
    /// Which one.
    pub marker: uuid::Uuid,
    /// Redelivered dispatches that the leader has taken out of a batch's queue. Whichever leader reads it takes them back,
    /// for a start of theirs would have come before (D6).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub returned: Vec<ReturnedDispatch>,
}

/// A dispatch that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReturnedDispatch {
    /// The dispatch.
    pub dispatch: DispatchId,
    /// Its task.
    pub task: TaskId,
}

impl Marker {
    /// Routing key of markers in exchange `scitq.events`.
    pub const ROUTING_KEY: &'static str = "state.marker";
}
