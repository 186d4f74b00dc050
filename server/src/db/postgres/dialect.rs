//! What PostgreSQL says in its own way.

use diesel::QueryResult;
use diesel_async::{AnsiTransactionManager, TransactionManager};

use super::Conn;
use crate::db::rows::{BulkRow, Kind};

/// Locks the rows of a SELECT for writing.
pub(in crate::db) const FOR_UPDATE: &str = " FOR UPDATE";
/// Locks the rows of a SELECT against writers.
pub(in crate::db) const FOR_SHARE: &str = " FOR SHARE";
/// The database's time, in UTC; the same throughout a transaction.
pub(in crate::db) const NOW: &str = "timezone('utc', now())";
/// Waits until nobody else repairs the counters, and lets nobody else until the end of the transaction.
pub(in crate::db) const LOCK_REPAIR: Option<&str> =
    Some("LOCK TABLE batch_counter IN SHARE ROW EXCLUSIVE MODE");

/// The FROM item named `r` that unfolds a parameter of JSON text: what stands before and behind the parameter.
///
/// The condition is always true; it makes the planner count on one row instead of a hundred. Plans are kept, and one
/// made for a hundred rows while a table is small reads that table from end to end for as long as it is kept.
pub(in crate::db) fn unfold<R: BulkRow>() -> (&'static str, String) {
    let word = |kind: Kind| match kind {
        Kind::BigInt => "bigint",
        Kind::Integer => "integer",
        Kind::Text => "text",
        Kind::Bool => "boolean",
        Kind::Time => "timestamp",
    };
    let columns: Vec<String> = R::COLUMNS
        .iter()
        .map(|(name, kind)| format!("{name} {}", word(*kind)))
        .collect();
    let one_row = R::COLUMNS
        .first()
        .map(|(name, kind)| format!(" WHERE pg_typeof({name}) = '{}'::regtype", word(*kind)))
        .unwrap_or_default();
    (
        "(SELECT * FROM jsonb_to_recordset(",
        format!("::jsonb) AS x({}){one_row}) AS r", columns.join(", ")),
    )
}

/// The database's time less a number of milliseconds, which is the parameter between the two parts.
pub(in crate::db) const MILLISECONDS_AGO: (&str, &str) = (
    "timezone('utc', now()) - make_interval(secs => CAST(",
    " AS double precision) / 1000)",
);

/// The SELECT of the last id that a table has given, as `id`.
pub(in crate::db) fn last_id(table: &str) -> String {
    format!(
        "SELECT GREATEST((SELECT COALESCE(max(id), 0) FROM {table}), (SELECT last_value FROM {table}_id_seq)) AS id"
    )
}

/// The statements after which a table's next id is the one behind `id`.
pub(in crate::db) fn set_last_id(table: &str, id: i64) -> Vec<String> {
    vec![format!("SELECT setval('{table}_id_seq', {id})")]
}

/// Begins a transaction that writes: READ COMMITTED, rows are locked as they are read.
pub(in crate::db) async fn begin(conn: &mut Conn) -> QueryResult<()> {
    AnsiTransactionManager::begin_transaction(conn).await
}
