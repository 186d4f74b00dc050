use diesel::SqliteConnection;
use diesel::migration::{Migration, MigrationSource};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::Backend;
use crate::db::{DbError, migrate_versions};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// Brings the schema up to date. One transaction that no other program can write in: two servers that start at once
/// apply each migration once, and a failed migration leaves nothing behind.
pub(super) fn migrate(conn: &mut SqliteConnection, address: &str) -> Result<(), DbError> {
    let failed = |reason: String| DbError::Migration {
        address: address.to_owned(),
        reason,
    };
    conn.immediate_transaction(|conn| {
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
    })
}
