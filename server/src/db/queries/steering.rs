//! What people want of batches and agents, beside the desired state of workers.

use super::statement::Statement;
use super::transaction::transaction;
use super::{Conn, Pool};
use crate::db::DbError;

pub(in crate::db) async fn pause_batch(
    pool: &Pool,
    batch: &str,
    paused: bool,
) -> Result<bool, DbError> {
    transaction!(pool, |conn| pause_once(conn, batch, paused))
}

async fn pause_once(conn: &mut Conn, batch: &str, paused: bool) -> Result<bool, DbError> {
    let statement = Statement::new(if paused {
        "UPDATE batch SET paused = true, pause_reason = NULL WHERE name = "
    } else {
        "UPDATE batch SET paused = false, pause_reason = NULL WHERE name = "
    });
    Ok(statement.text(batch).run(conn).await? > 0)
}

#[derive(diesel::QueryableByName)]
struct BootsRow {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    boots: i64,
}

pub(in crate::db) async fn request_restart(
    pool: &Pool,
    worker: &str,
) -> Result<Option<u32>, DbError> {
    transaction!(pool, |conn| request_once(conn, worker))
}

async fn request_once(conn: &mut Conn, worker: &str) -> Result<Option<u32>, DbError> {
    let statement =
        Statement::new("UPDATE worker SET restart_requested_boots = boots WHERE name = ")
            .text(worker)
            .sql(" RETURNING boots");
    let rows: Vec<BootsRow> = statement.read(conn).await?;
    Ok(rows
        .first()
        .map(|row| u32::try_from(row.boots).unwrap_or(0)))
}
