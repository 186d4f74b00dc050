//! What people want of batches and agents, beside the desired state of workers.

use super::statement::Statement;
use super::transaction::transaction;
use super::{Conn, Pool, dialect};
use crate::db::{DbError, Restart};

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
    of: Option<u32>,
) -> Result<Option<Restart>, DbError> {
    transaction!(pool, |conn| request_once(conn, worker, of))
}

async fn request_once(
    conn: &mut Conn,
    worker: &str,
    of: Option<u32>,
) -> Result<Option<Restart>, DbError> {
    let select = Statement::new("SELECT boots FROM worker WHERE name = ")
        .text(worker)
        .sql(dialect::FOR_UPDATE);
    let rows: Vec<BootsRow> = select.read(conn).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let boots = u32::try_from(row.boots).unwrap_or(0);
    if of.is_some_and(|of| of < boots) {
        return Ok(Some(Restart::Done));
    }
    Statement::new("UPDATE worker SET restart_requested_boots = boots WHERE name = ")
        .text(worker)
        .run(conn)
        .await?;
    Ok(Some(Restart::Requested(boots)))
}
