use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::PROTOCOL_VERSION;
use crate::ids::{AttemptId, DispatchId, Epoch};
use crate::names::BatchName;
use crate::worker::DesiredState;

/// What the leader tells one worker, through exchange `scitq.control`. Not persistent: the desired state lives in the
/// database and is told again at every hello (D12).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ControlMessage {
    /// Version of this message.
    pub version: u16,
    /// Epoch of the leader.
    pub epoch: Epoch,
    /// What is told.
    pub command: ControlCommand,
}

impl ControlMessage {
    /// A message of the present version.
    pub fn new(epoch: Epoch, command: ControlCommand) -> Self {
        Self {
            version: PROTOCOL_VERSION,
            epoch,
            command,
        }
    }
}

/// What the leader tells a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ControlCommand {
    /// Answer to hello: what the worker is to be.
    Welcome {
        /// What is wanted.
        desired: DesiredState,
        /// Version of the server's program.
        program_version: String,
    },
    /// What is wanted has changed.
    Desired {
        /// What is wanted now.
        desired: DesiredState,
    },
    /// The queue of the worker's batch exists: consume it.
    QueueReady {
        /// The batch.
        batch: BatchName,
    },
    /// The ends and the whole output of these attempts are in the database: their directories may go (D9).
    Applied {
        /// The attempts.
        attempts: Vec<AttemptId>,
    },
    /// The server lacks something of an ended attempt: send it again (D9).
    Resend {
        /// The attempt.
        attempt: AttemptId,
        /// True when its end is lacking.
        end: bool,
        /// First byte of standard output that is lacking, where one is.
        stdout_from: Option<u64>,
        /// First byte of standard error that is lacking.
        stderr_from: Option<u64>,
    },
    /// Give these dispatches back if they have not started; remember those not held (D4).
    Revoke {
        /// The dispatches.
        dispatches: Vec<DispatchId>,
    },
    /// These attempts do not count any more: end them if they run.
    Stop {
        /// The attempts.
        attempts: Vec<AttemptId>,
    },
    /// Start the agent anew, on the program that stands in its file now. What runs goes on running (D10). A request for
    /// an earlier start has been met.
    Restart {
        /// The start of the agent that the request is for, as its hello counts them.
        boots: u32,
    },
    /// The server's database was restored from a backup and may know nothing of what is here (D12): give back what has not
    /// started, say of everything else what it is and how far, and then hello, with the epoch of this message.
    Recount,
}
