//! What a worker needs to know to run a task.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::Revision;

/// A task's definition at one revision: everything that decides what runs and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TaskDefinition {
    /// Which revision of the task this is.
    pub revision: Revision,
    /// Name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The command as one line of text, see [`crate::command`].
    pub command: String,
    /// The shell that reads the command, a word like `sh` or a path; without one the command is split into words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// Image to run the command in; bare without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Options of the container, as words of docker's command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_options: Option<String>,
    /// URIs fetched into the input directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub input: Vec<String>,
    /// URI where the output directory is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// URIs fetched once per worker into the resource directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resource: Vec<String>,
    /// Seconds that fetching input may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download_timeout_seconds: Option<u32>,
    /// Seconds that the process may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_timeout_seconds: Option<u32>,
    /// True when an earlier identical task's stored output may stand in.
    #[serde(default)]
    pub use_cache: bool,
    /// How many slots the task takes, at least 1 (counted as at most the worker's concurrency).
    pub weight: u16,
    /// User id that the process runs as; the worker's own without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group id that the process runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

impl TaskDefinition {
    /// The first revision of a bare command, with everything else left out.
    pub fn bare(command: impl Into<String>) -> Self {
        Self {
            revision: Revision(1),
            name: None,
            command: command.into(),
            shell: None,
            container: None,
            container_options: None,
            input: Vec::new(),
            output: None,
            resource: Vec::new(),
            download_timeout_seconds: None,
            run_timeout_seconds: None,
            use_cache: false,
            weight: 1,
            uid: None,
            gid: None,
        }
    }
}
