use diesel::connection::SimpleConnection;
use diesel::{Connection, SqliteConnection};
use diesel_async::AsyncConnection;
use diesel_async::pooled_connection::deadpool::{Object, Pool as Deadpool};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod,
};
use futures::FutureExt;

use super::{Conn, migrate};
use crate::db::DbError;
use crate::db::connections::check_out;

/// Most connections for reading. Each keeps a thread busy while it reads, and the file is on one disk.
pub(in crate::db) const MAX_READERS: usize = 3;

/// Every connection: wait for other programs' locks, and ask the disk at every commit. WAL lets readers go on while one
/// writes. 8 MiB of cache each.
const SETTINGS: &str = "PRAGMA busy_timeout = 10000; PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL; \
                        PRAGMA temp_store = MEMORY; PRAGMA cache_size = -8000;";

/// Connections to a file of SQLite: one that writes, because SQLite takes one writer at a time, and a few that read.
#[derive(Clone)]
pub(in crate::db) struct Pool {
    writer: Deadpool<Conn>,
    readers: Deadpool<Conn>,
    address: String,
}

impl Pool {
    /// Opens the file, creating it when it is not there, and brings the schema up to date. Keeps at most `size`
    /// connections for reading. Blocks: called on the [`super::Threads`] that calls run on.
    pub(in crate::db) fn connect(
        path: &str,
        address: String,
        size: usize,
    ) -> Result<Self, DbError> {
        prepare(path, &address)?;
        let writer = pool(path, &address, 1, "")?;
        let readers = pool(
            path,
            &address,
            size.clamp(1, MAX_READERS),
            "PRAGMA query_only = ON;",
        )?;
        Ok(Self {
            writer,
            readers,
            address,
        })
    }

    /// Where the file is.
    pub(in crate::db) fn address(&self) -> &str {
        &self.address
    }

    /// The connection that writes; calls get it in the order of asking.
    pub(in crate::db) async fn writer(&self) -> Result<Object<Conn>, DbError> {
        check_out(self.writer.get(), &self.address).await
    }

    /// A connection for reading; it cannot write.
    pub(in crate::db) async fn reader(&self) -> Result<Object<Conn>, DbError> {
        check_out(self.readers.get(), &self.address).await
    }
}

/// Opens the file for the first time. Blocks.
fn prepare(path: &str, address: &str) -> Result<(), DbError> {
    let unreachable = |reason: String| DbError::Unreachable {
        address: address.to_owned(),
        reason,
    };
    let mut conn =
        SqliteConnection::establish(path).map_err(|error| unreachable(error.to_string()))?;
    conn.batch_execute(SETTINGS)
        .map_err(|error| unreachable(error.to_string()))?;
    // Kept in the file, so that every later connection uses it.
    conn.batch_execute("PRAGMA journal_mode = WAL;")
        .map_err(|error| unreachable(error.to_string()))?;
    migrate::migrate(&mut conn, address)
}

fn pool(
    path: &str,
    address: &str,
    size: usize,
    settings: &'static str,
) -> Result<Deadpool<Conn>, DbError> {
    let mut config = ManagerConfig::default();
    config.recycling_method = RecyclingMethod::Fast;
    config.custom_setup = Box::new(move |path| {
        let path = path.to_owned();
        async move {
            let mut conn = Conn::establish(&path).await?;
            let set = conn.spawn_blocking(move |conn| {
                conn.batch_execute(SETTINGS)?;
                conn.batch_execute(settings)
            });
            set.await
                .map_err(diesel::ConnectionError::CouldntSetupConfiguration)?;
            Ok(conn)
        }
        .boxed()
    });
    Deadpool::builder(AsyncDieselConnectionManager::<Conn>::new_with_config(
        path, config,
    ))
    .max_size(size)
    .build()
    .map_err(|error| DbError::Invalid {
        address: address.to_owned(),
        reason: error.to_string(),
    })
}
