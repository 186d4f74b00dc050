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

pub(super) use pool::Pool;

/// A connection; its statements run on threads where they may block.
pub(super) type Conn = diesel_async::sync_connection_wrapper::SyncConnectionWrapper<
    diesel::SqliteConnection,
    blocking::Blocking,
>;
/// Diesel's backend.
pub(super) type Backend = diesel::sqlite::Sqlite;
