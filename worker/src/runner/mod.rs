//! Runners: what executes a task on this machine. There is one for bare tasks; containers come to stand beside it.

mod clearing;
mod command;
pub(crate) mod environment;
pub(crate) mod execute;
pub(crate) mod launch;
pub(crate) mod leftovers;
mod lookup;
mod site;
pub(crate) mod users;
pub(crate) mod work_directory;

use scitq_shared::definition::TaskDefinition;
use scitq_shared::execution::{FailureReason, Outcome};

pub(crate) use clearing::Clearing;
pub(crate) use site::Site;

/// Why an attempt could not be started: a word for rules and words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StartFailure {
    pub(crate) reason: FailureReason,
    pub(crate) detail: String,
}

impl StartFailure {
    fn new(reason: FailureReason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

impl From<StartFailure> for Outcome {
    fn from(StartFailure { reason, detail }: StartFailure) -> Self {
        Self::Failed { reason, detail }
    }
}

/// What the attempt comes to when the task asks for something that this worker does not offer. Such a task is failed
/// with clear words rather than run without what it needs.
pub fn unsupported(definition: &TaskDefinition) -> Option<Outcome> {
    let lacking = if definition.container.is_some() {
        "this worker does not run containers; submit the task without a container"
    } else if !definition.input.is_empty() {
        "this worker does not fetch input yet; submit the task without input URIs"
    } else if !definition.resource.is_empty() {
        "this worker does not fetch resources yet; submit the task without resource URIs"
    } else if definition.output.is_some() {
        "this worker does not store output directories yet; submit the task without an output URI"
    } else {
        return None;
    };
    Some(Outcome::Failed {
        reason: FailureReason::Unsupported,
        detail: lacking.to_owned(),
    })
}
