//! PostgreSQL: connections, and the queries compiled for it.
#![expect(
    clippy::duplicate_mod,
    reason = "the queries are written once and compiled for each backend"
)]

pub(super) mod dialect;
mod migrate;
mod pool;
#[path = "queries/mod.rs"]
pub(super) mod queries;

pub(super) use pool::Pool;

/// A connection.
pub(super) type Conn = diesel_async::AsyncPgConnection;
/// Diesel's backend.
pub(super) type Backend = diesel::pg::Pg;
