use diesel_async::pooled_connection::deadpool::{Object, Pool as Deadpool};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod,
};
use diesel_async::{AsyncConnection, SimpleAsyncConnection};
use futures::FutureExt;

use super::{Conn, migrate};
use crate::db::DbError;
use crate::db::connections::{CONNECT_LIMIT, check_out};

/// Connections to a PostgreSQL server.
#[derive(Clone)]
pub(in crate::db) struct Pool {
    connections: Deadpool<Conn>,
    address: String,
}

impl Pool {
    /// Connects once, brings the schema up to date, and keeps at most `size` connections from then on.
    pub(in crate::db) async fn connect(
        url: &str,
        address: String,
        size: usize,
    ) -> Result<Self, DbError> {
        let unreachable = |reason: String| DbError::Unreachable {
            address: address.clone(),
            reason,
        };
        let first = match tokio::time::timeout(CONNECT_LIMIT, establish(url)).await {
            Ok(Ok(conn)) => conn,
            Ok(Err(error)) => return Err(unreachable(error.to_string())),
            Err(_) => return Err(unreachable(format!("no answer within {CONNECT_LIMIT:?}"))),
        };
        let text = address.clone();
        match tokio::task::spawn_blocking(move || migrate::migrate(first, &text)).await {
            Ok(outcome) => outcome?,
            Err(error) => {
                return Err(DbError::Migration {
                    address,
                    reason: error.to_string(),
                });
            }
        }
        let mut config = ManagerConfig::default();
        // A closed connection and an open transaction are noticed without asking the server.
        config.recycling_method = RecyclingMethod::Fast;
        config.custom_setup = Box::new(|url| {
            let url = url.to_owned();
            async move { establish(&url).await }.boxed()
        });
        let manager = AsyncDieselConnectionManager::<Conn>::new_with_config(url, config);
        let connections = Deadpool::builder(manager)
            .max_size(size.max(1))
            .build()
            .map_err(|error| DbError::Invalid {
                address: address.clone(),
                reason: error.to_string(),
            })?;
        Ok(Self {
            connections,
            address,
        })
    }

    /// Where the server is, password masked.
    pub(in crate::db) fn address(&self) -> &str {
        &self.address
    }

    /// A connection for a transaction.
    pub(in crate::db) async fn writer(&self) -> Result<Object<Conn>, DbError> {
        check_out(self.connections.get(), &self.address).await
    }

    /// A connection for reading.
    pub(in crate::db) async fn reader(&self) -> Result<Object<Conn>, DbError> {
        check_out(self.connections.get(), &self.address).await
    }
}

/// Every connection. The statements are small and find rows by index: no compilation pays, and a plan made while a
/// table is nearly empty must not read it from end to end for as long as it is kept. Plain index scans mark the entries
/// that they find dead, so that the next one does not meet them again; bitmap scans do not, and in the indexes of pending
/// tasks and live executions most entries soon are dead.
///
/// A server that is stopped or cut off in the middle of a transaction holds its locks, the one on the leadership among
/// them: the database ends such a transaction, so that another server can lead. Ours never wait between two statements.
const SETTINGS: &str = "SET jit = off; SET enable_seqscan = off; SET enable_bitmapscan = off; \
     SET idle_in_transaction_session_timeout = '10s'";

/// Opens a connection. Messages are asked for in English, because the kind of some failures can only be told from their
/// text; a role that may not ask keeps the server's language.
async fn establish(url: &str) -> diesel::ConnectionResult<Conn> {
    let mut conn = Conn::establish(url).await?;
    let set = |error| diesel::ConnectionError::CouldntSetupConfiguration(error);
    conn.batch_execute(SETTINGS).await.map_err(set)?;
    match conn.batch_execute("SET lc_messages = 'C'").await {
        Ok(())
        | Err(diesel::result::Error::DatabaseError(
            diesel::result::DatabaseErrorKind::Unknown,
            _,
        )) => Ok(conn),
        Err(error) => Err(set(error)),
    }
}
