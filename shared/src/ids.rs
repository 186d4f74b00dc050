//! Ids as types of their own, so that one can never be passed for another.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! integer_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $generate:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id that nobody else has.
            pub fn generate() -> Self {
                Self($generate)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

integer_id!(
    /// A task: what the user wants done. Given by the database, never used twice.
    TaskId
);
integer_id!(
    /// An execution as people see it: the number of one attempt of a task.
    ExecutionId
);
integer_id!(
    /// Revision of a task's definition: 1 at submission, raised by every change of an unstarted task (D8).
    Revision
);
integer_id!(
    /// Term of a leading server: raised each time a server takes the leadership, carried by every message (D12).
    Epoch
);
uuid_id!(
    /// One publication of a task to its batch's queue (D3). Never published twice.
    DispatchId,
    Uuid::new_v4()
);
uuid_id!(
    /// One acceptance of a task by one worker, started or not; version 7, so that ids sort by time.
    AttemptId,
    Uuid::now_v7()
);
uuid_id!(
    /// One life of a worker's state directory: the same after a restart of the agent, another after the directory is gone.
    IncarnationId,
    Uuid::new_v4()
);
