use std::collections::BTreeMap;

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
    /// What no worker needs, but a database that was restored from a backup older than the task (D12).
    #[serde(default, skip_serializing_if = "TaskParticulars::is_plain")]
    pub particulars: TaskParticulars,
}

/// What a task is besides its definition. Not complete: which tasks wait for it is known to the database alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TaskParticulars {
    /// Repetitions left at the time of the dispatch.
    pub retries_left: u16,
    /// Urgency among the tasks of its batch.
    pub priority: i32,
    /// By which a repeated submission is recognised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Labels to find it by.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl TaskParticulars {
    /// True when there is nothing to say.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

impl TaskMessage {
    /// A message of the present version, with nothing said about its particulars.
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
            particulars: TaskParticulars::default(),
        }
    }
}
