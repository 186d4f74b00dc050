//! Tasks: their statuses.

/// Declares a status-like enum with one spelling for JSON, the database and the command line.
macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
        )]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $text)] $variant),+
        }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The one spelling used in JSON, the database and the command line.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::task::UnknownWord;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err($crate::task::UnknownWord { word: text.to_owned(), known: &[$($text),+] }),
                }
            }
        }
    };
}
pub(crate) use text_enum;

/// A word that is none of the known ones; the text lists those.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is not one of {}", known.join(", "))]
pub struct UnknownWord {
    /// What was given.
    pub word: String,
    /// What could have been given.
    pub known: &'static [&'static str],
}

text_enum! {
    /// Status of a task.
    TaskStatus {
        /// Waits for other tasks to succeed.
        Waiting = "waiting",
        /// In the database, ready to be dispatched.
        Pending = "pending",
        /// Dispatched to its batch's queue.
        Assigned = "assigned",
        /// Held by a worker, not yet started.
        Accepted = "accepted",
        /// Its process runs, or its output is being stored.
        Running = "running",
        /// Done, with exit code 0.
        Succeeded = "succeeded",
        /// Done, with a failure and no retry left.
        Failed = "failed",
        /// Given up by a person.
        Cancelled = "cancelled",
        /// Held by a person.
        Paused = "paused",
        /// Held for debugging.
        Debug = "debug",
    }
}

impl TaskStatus {
    /// True when nothing more happens to the task by itself.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}
