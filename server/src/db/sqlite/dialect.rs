//! What SQLite says in its own way.

use diesel::QueryResult;

use super::Conn;
use crate::db::rows::{BulkRow, Kind};

/// Nothing to lock: a transaction that writes is alone.
pub(in crate::db) const FOR_UPDATE: &str = "";
/// Nothing to lock.
pub(in crate::db) const FOR_SHARE: &str = "";
/// The database's time, in UTC, in the form that diesel stores.
pub(in crate::db) const NOW: &str = "strftime('%Y-%m-%d %H:%M:%f', 'now')";
/// Nothing to lock.
pub(in crate::db) const LOCK_REPAIR: Option<&str> = None;

/// The FROM item named `r` that unfolds a parameter of JSON text: what stands before and behind the parameter. With
/// `json_each` each column would be read from the row's text anew, which takes four times as long.
pub(in crate::db) fn unfold<R: BulkRow>() -> (String, &'static str) {
    let columns: Vec<String> = R::COLUMNS
        .iter()
        .map(|(name, kind)| match kind {
            Kind::BigInt | Kind::Integer | Kind::Text | Kind::Bool | Kind::Time => {
                format!("value ->> '$.{name}' AS {name}")
            }
        })
        .collect();
    (
        format!("(SELECT {} FROM jsonb_each(", columns.join(", ")),
        ")) AS r",
    )
}

/// The database's time less a number of milliseconds, which is the parameter between the two parts.
pub(in crate::db) const MILLISECONDS_AGO: (&str, &str) = (
    "strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || (",
    " / 1000.0) || ' seconds')",
);

/// The SELECT of the last id that a table has given, as `id`.
pub(in crate::db) fn last_id(table: &str) -> String {
    format!(
        "SELECT max((SELECT COALESCE(max(id), 0) FROM {table}), \
         COALESCE((SELECT seq FROM sqlite_sequence WHERE name = '{table}'), 0)) AS id"
    )
}

/// The statements after which a table's next id is the one behind `id`.
pub(in crate::db) fn set_last_id(table: &str, id: i64) -> Vec<String> {
    vec![
        format!("DELETE FROM sqlite_sequence WHERE name = '{table}'"),
        format!("INSERT INTO sqlite_sequence (name, seq) VALUES ('{table}', {id})"),
    ]
}

/// Begins a transaction that writes. Immediate: one that began by reading could not go on after another had written.
pub(in crate::db) async fn begin(conn: &mut Conn) -> QueryResult<()> {
    use diesel::connection::AnsiTransactionManager;
    conn.spawn_blocking(|conn| {
        AnsiTransactionManager::begin_transaction_sql(conn, "BEGIN IMMEDIATE")
    })
    .await
}
