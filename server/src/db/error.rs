use scitq_shared::ids::{AttemptId, TaskId};
use scitq_shared::output::Stream;

/// Why the database did not do what was asked. The text names the database and the remedy; passwords never appear.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DbError {
    /// The address cannot be used at all.
    #[error("the database address {address:?} cannot be used: {reason}")]
    Invalid {
        /// The address, password masked.
        address: String,
        /// What is wrong and what is expected.
        reason: String,
    },
    /// No connection could be made.
    #[error("the database at {address} cannot be reached: {reason}")]
    Unreachable {
        /// The address, password masked.
        address: String,
        /// What the attempt ended with.
        reason: String,
    },
    /// The database was migrated by a newer program.
    #[error(
        "the database has schema {found}, newer than {known}, the newest that this program knows: \
         start the version of scitq that wrote it, or a later one"
    )]
    NewerSchema {
        /// Newest migration that the database has.
        found: String,
        /// Newest migration that this program has.
        known: String,
    },
    /// A migration could not be applied; the database is as it was before it.
    #[error("the schema of the database at {address} could not be brought up to date: {reason}")]
    Migration {
        /// The address, password masked.
        address: String,
        /// Which migration, and what the database said.
        reason: String,
    },
    /// Another server has taken the leadership: this one's writes do not count any more (D12).
    #[error("another server leads now: this server's epoch has passed")]
    Fenced,
    /// A packed piece of output cannot be read. The others of its request are not at fault.
    #[error("the output of attempt {attempt} ({stream} from byte {offset}) is damaged: {reason}")]
    BadChunk {
        /// The attempt that wrote it.
        attempt: AttemptId,
        /// Its stream.
        stream: Stream,
        /// Where the piece begins.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The database refuses the data (not the connection): a value out of range or a broken constraint. Repeating the
    /// same request ends the same way, smaller parts of it may not.
    #[error("the database refuses the data: {reason}")]
    Refused {
        /// What the database said.
        reason: String,
    },
    /// A row holds what this program never writes.
    #[error("the database holds a value that cannot be read: {reason}")]
    Corrupt {
        /// Which table, column and value.
        reason: String,
    },
    /// Other writers were in the way, several times in a row.
    #[error("the database was too busy: {reason}")]
    Busy {
        /// What the last attempt ended with.
        reason: String,
    },
    /// The connection was lost; whether the request was done is not known.
    #[error("the connection to the database was lost: {reason}")]
    Connection {
        /// What is known about it.
        reason: String,
    },
}

impl DbError {
    /// True when the same request may succeed later: the fault lies with the connection or with other writers.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Busy { .. } | Self::Connection { .. }
        )
    }
}

/// Why tasks were not taken. Nothing of the request was stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// A task is to wait for one that does not exist.
    #[error("task {task}, which is required, does not exist")]
    UnknownRequirement {
        /// Which of the submitted tasks asks for it, counted from 0.
        index: usize,
        /// The task that does not exist.
        task: TaskId,
    },
    /// The database did not do it.
    #[error(transparent)]
    Db(#[from] DbError),
}
