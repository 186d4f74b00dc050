//! What an error of diesel means for the caller: try later, give up, or look at the data.

use diesel::result::{DatabaseErrorKind, Error};

use super::DbError;

/// Whose fault a failed statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Other writers were in the way.
    Busy,
    /// The connection, the server or its disk.
    Connection,
    /// The data.
    Data,
    /// What is stored.
    Corrupt,
}

/// Texts of failures that have no kind of their own in diesel, which does not pass SQLSTATE on. PostgreSQL is asked for
/// English messages at connect.
const BUSY: &[&str] = &[
    "deadlock detected",
    "could not serialize access",
    "database is locked",
    "database table is locked",
    "lock timeout",
];
const CONNECTION: &[&str] = &[
    "the database system is",
    "terminating connection",
    "too many clients",
    "too many connections",
    "remaining connection slots",
    "canceling statement due to",
    "no space left on device",
    "could not extend",
    "could not write",
    "could not read",
    "could not open",
    "could not access",
    "could not fsync",
    "could not resize shared memory",
    "out of memory",
    "out of shared memory",
    "disk full",
    "database or disk is full",
    "disk i/o error",
    "unable to open database",
    "readonly database",
    "read-only transaction",
    "interrupted",
];
const CORRUPT: &[&str] = &[
    "disk image is malformed",
    "file is not a database",
    "invalid page in block",
];

fn fault_of_text(message: &str) -> Fault {
    let message = message.to_lowercase();
    let holds = |texts: &[&str]| texts.iter().any(|text| message.contains(text));
    match () {
        () if holds(BUSY) => Fault::Busy,
        () if holds(CONNECTION) => Fault::Connection,
        () if holds(CORRUPT) => Fault::Corrupt,
        () => Fault::Data,
    }
}

fn fault_of_kind(kind: DatabaseErrorKind, message: &str) -> Fault {
    match kind {
        DatabaseErrorKind::UnableToSendCommand
        | DatabaseErrorKind::ClosedConnection
        | DatabaseErrorKind::ReadOnlyTransaction => Fault::Connection,
        // Two writers inserted the same key at once (a batch, a worker, an idempotency key): the second attempt sees it.
        DatabaseErrorKind::SerializationFailure | DatabaseErrorKind::UniqueViolation => Fault::Busy,
        DatabaseErrorKind::ForeignKeyViolation
        | DatabaseErrorKind::NotNullViolation
        | DatabaseErrorKind::CheckViolation => Fault::Data,
        _ => fault_of_text(message),
    }
}

impl From<Error> for DbError {
    fn from(error: Error) -> Self {
        let reason = error.to_string();
        match error {
            Error::DatabaseError(kind, _) => match fault_of_kind(kind, &reason) {
                Fault::Busy => Self::Busy { reason },
                Fault::Connection => Self::Connection { reason },
                Fault::Data => Self::Refused { reason },
                Fault::Corrupt => Self::Corrupt { reason },
            },
            Error::DeserializationError(_) => Self::Corrupt { reason },
            Error::RollbackErrorOnCommit { commit_error, .. } => Self::from(*commit_error),
            Error::BrokenTransactionManager
            | Error::AlreadyInTransaction
            | Error::NotInTransaction => Self::Connection { reason },
            _ => Self::Refused { reason },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_not_the_datas_fault() {
        let table = [
            ("deadlock detected", Fault::Busy),
            ("database is locked", Fault::Busy),
            (
                "could not extend file \"base/5/1\": No space left on device",
                Fault::Connection,
            ),
            ("database or disk is full", Fault::Connection),
            (
                "terminating connection due to administrator command",
                Fault::Connection,
            ),
            (
                "invalid byte sequence for encoding \"UTF8\": 0x00",
                Fault::Data,
            ),
            ("value out of range for type integer", Fault::Data),
            ("database disk image is malformed", Fault::Corrupt),
        ];
        for (message, fault) in table {
            assert_eq!(
                fault_of_kind(DatabaseErrorKind::Unknown, message),
                fault,
                "{message}"
            );
        }
    }
}
