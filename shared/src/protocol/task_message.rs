use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::PROTOCOL_VERSION;
use crate::Timestamp;
use crate::definition::TaskDefinition;
use crate::ids::{DispatchId, Epoch, TaskId};
use crate::names::BatchName;

/// A dispatch: one publication of a task to its batch's queue, in exchange `scitq.tasks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TaskMessage {
    /// Version of this message.
    pub version: u16,
    /// Epoch of the leader that published it.
    pub epoch: Epoch,
    /// The dispatch; published once and never again.
    pub dispatch: DispatchId,
    /// The task.
    pub task: TaskId,
    /// Its batch at that time.
    pub batch: BatchName,
    /// When it was dispatched.
    pub queued_at: Timestamp,
    /// What is to be run.
    pub definition: TaskDefinition,
}

impl TaskMessage {
    /// A message of the present version.
    pub fn new(
        epoch: Epoch,
        dispatch: DispatchId,
        task: TaskId,
        batch: BatchName,
        queued_at: Timestamp,
        definition: TaskDefinition,
    ) -> Self {
        Self {
            version: PROTOCOL_VERSION,
            epoch,
            dispatch,
            task,
            batch,
            queued_at,
            definition,
        }
    }
}
