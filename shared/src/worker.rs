//! Workers as the server knows them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::names::BatchName;
use crate::task::text_enum;

/// Longest lease of a worker, in seconds: ten years.
pub const MAX_LOST_AFTER_SECONDS: u32 = 315_360_000;

/// How long a worker may be silent before its attempts are lost; in JSON a number of seconds, or null.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Option<i64>", into = "Option<i64>")]
pub enum Lease {
    /// As the server's settings say.
    Default,
    /// So many seconds.
    Seconds(i64),
}

impl From<Option<i64>> for Lease {
    fn from(seconds: Option<i64>) -> Self {
        seconds.map_or(Self::Default, Self::Seconds)
    }
}

impl From<Lease> for Option<i64> {
    fn from(lease: Lease) -> Self {
        match lease {
            Lease::Default => None,
            Lease::Seconds(seconds) => Some(seconds),
        }
    }
}

text_enum! {
    /// Status of a worker. One whose lease has ended is offline, and is shown as lost beside that.
    WorkerStatus {
        /// Takes and runs tasks.
        Running = "running",
        /// Takes no new task; running ones go on.
        Paused = "paused",
        /// Takes no new task and ends when its last one has ended.
        Draining = "draining",
        /// Not heard of for longer than `offline_after`, or it said goodbye.
        Offline = "offline",
        /// Its installation failed.
        Failed = "failed",
        /// Taken back by its provider.
        Evicted = "evicted",
    }
}

/// What the server wants a worker to be (D12, level-triggered): kept in the database with a version, returned at hello
/// and sent at each change. A worker follows the highest version it has seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DesiredState {
    /// Rises with every change.
    pub version: i64,
    /// The batch whose queue the worker listens to.
    pub batch: BatchName,
    /// Slots: how many tasks of weight 1 run at once. 0 takes no work.
    pub concurrency: u16,
    /// How many tasks are fetched and kept ready beyond those running.
    pub prefetch: u16,
    /// True when no new task may start.
    pub paused: bool,
}
