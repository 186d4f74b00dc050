use diesel::connection::SimpleConnection;
use diesel::migration::{Migration, MigrationSource};
use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::{Backend, Conn};
use crate::db::{DbError, migrate_versions};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/postgres");

/// Brings the schema up to date, under a lock: two servers that start at once apply each migration once. Blocks.
pub(super) fn migrate(conn: Conn, address: &str) -> Result<(), DbError> {
    let failed = |reason: String| DbError::Migration {
        address: address.to_owned(),
        reason,
    };
    let mut conn: AsyncConnectionWrapper<Conn> = AsyncConnectionWrapper::from(conn);
    // The lock goes with the connection, which is dropped at the end. "scitq" in ASCII names it.
    conn.batch_execute("SELECT pg_advisory_lock(495589094513)")
        .map_err(|error| failed(error.to_string()))?;
    let source: Vec<Box<dyn Migration<Backend>>> = MIGRATIONS
        .migrations()
        .map_err(|error| failed(error.to_string()))?;
    let known: Vec<String> = source
        .iter()
        .map(|migration| migration.name().version().to_string())
        .collect();
    let applied = conn
        .applied_migrations()
        .map_err(|error| failed(error.to_string()))?;
    let applied: Vec<String> = applied.iter().map(ToString::to_string).collect();
    migrate_versions::check(&applied, &known)?;
    conn.run_pending_migrations(MIGRATIONS)
        .map_err(|error| failed(error.to_string()))?;
    Ok(())
}
