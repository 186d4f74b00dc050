//! SQLite: connections, and the queries compiled for it.
#![expect(
    clippy::duplicate_mod,
    reason = "the queries are written once and compiled for each backend"
)]

mod blocking;
pub(super) mod dialect;
mod migrate;
mod pool;
#[path = "queries/mod.rs"]
pub(super) mod queries;

pub(super) use blocking::Threads;
pub(super) use pool::{MAX_READERS, Pool};

/// A connection; its statements block, on threads of their own.
pub(super) type Conn = diesel_async::sync_connection_wrapper::SyncConnectionWrapper<
    diesel::SqliteConnection,
    blocking::Inline,
>;
/// Diesel's backend.
pub(super) type Backend = diesel::sqlite::Sqlite;
