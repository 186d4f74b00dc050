//! What both backends' connection pools have in common.

use std::time::Duration;

use diesel_async::pooled_connection::deadpool::PoolError;

use super::DbError;

/// How long one attempt to connect may take.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a call waits for a free connection before it says that the database is too busy.
const WAIT_LIMIT: Duration = Duration::from_secs(30);

/// Waits for a connection out of a pool; a lost one was replaced by a new one.
pub(super) async fn check_out<C>(
    taken: impl Future<Output = Result<C, PoolError>>,
    address: &str,
) -> Result<C, DbError> {
    match tokio::time::timeout(WAIT_LIMIT, taken).await {
        Ok(Ok(conn)) => Ok(conn),
        Ok(Err(error)) => Err(DbError::Unreachable {
            address: address.to_owned(),
            reason: error.to_string(),
        }),
        Err(_) => Err(DbError::Busy {
            reason: format!("no connection to {address} was free within {WAIT_LIMIT:?}"),
        }),
    }
}
