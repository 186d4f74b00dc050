use std::time::Duration;

use diesel_async::{AsyncConnection, TransactionManager};

use super::{Conn, dialect};
use crate::db::{DbError, SubmitError};

/// How often a transaction is tried that other writers are in the way of.
pub(super) const TRIES: u32 = 10;

/// An error that may have come from other writers.
pub(super) trait Failure: From<DbError> {
    /// True when the same transaction, begun again, is likely to succeed.
    fn is_conflict(&self) -> bool;
}

impl Failure for DbError {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }
}

impl Failure for SubmitError {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Db(error) if error.is_conflict())
    }
}

/// Begins a transaction that writes.
pub(super) async fn begin(conn: &mut Conn) -> Result<(), DbError> {
    Ok(dialect::begin(conn).await?)
}

/// Ends a transaction: commits what went well, rolls back what did not.
pub(super) async fn end<T, E: Failure>(conn: &mut Conn, outcome: Result<T, E>) -> Result<T, E> {
    type Manager = <Conn as AsyncConnection>::TransactionManager;
    match outcome {
        Ok(value) => match Manager::commit_transaction(conn).await {
            Ok(()) => Ok(value),
            Err(error) => Err(DbError::from(error).into()),
        },
        Err(error) => {
            // A connection that cannot even roll back is not used again: the pool sees its open transaction.
            let _ = Manager::rollback_transaction(conn).await;
            Err(error)
        }
    }
}

/// How long to wait before the next try; longer each time, and by chance, so that two that collided do not meet again.
pub(super) async fn pause(tried: u32) {
    let most = 5_u64 << tried.min(6);
    tokio::time::sleep(Duration::from_millis(rand::random_range(1..=most))).await;
}

/// Runs the body, a future over `&mut Conn`, in a transaction that writes; begins again when other writers were in the
/// way. The body must be written so that it can be evaluated several times.
macro_rules! transaction {
    ($pool:expr, |$conn:ident| $body:expr) => {{
        let mut tried = 0;
        loop {
            let mut connection = $pool.writer().await?;
            let $conn = &mut *connection;
            let outcome = match super::transaction::begin($conn).await {
                Ok(()) => {
                    let outcome = $body.await;
                    super::transaction::end($conn, outcome).await
                }
                Err(error) => Err(error.into()),
            };
            drop(connection);
            tried += 1;
            match outcome {
                Err(error)
                    if super::transaction::Failure::is_conflict(&error)
                        && tried < super::transaction::TRIES =>
                {
                    super::transaction::pause(tried).await;
                }
                outcome => break outcome,
            }
        }
    }};
}
pub(super) use transaction;
