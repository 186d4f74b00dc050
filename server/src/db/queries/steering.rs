//! What people want of batches and agents, beside the desired state of workers.

use scitq_shared::ids::DispatchId;
use scitq_shared::names::{BatchName, WorkerName};

use super::statement::Statement;
use super::transaction::transaction;
use super::{Conn, Pool, dialect};
use crate::db::value::parse;
use crate::db::{DbError, Restart};

pub(in crate::db) async fn pause_batch(
    pool: &Pool,
    batch: &str,
    paused: bool,
) -> Result<bool, DbError> {
    transaction!(pool, |conn| pause_once(conn, batch, paused))
}

async fn pause_once(conn: &mut Conn, batch: &str, paused: bool) -> Result<bool, DbError> {
    if !paused {
        count_faults_anew(conn, batch).await?;
    }
    let statement = Statement::new(if paused {
        "UPDATE batch SET paused = true, pause_reason = NULL WHERE name = "
    } else {
        "UPDATE batch SET paused = false, pause_reason = NULL WHERE name = "
    });
    Ok(statement.text(batch).run(conn).await? > 0)
}

/// Whoever resumes a batch takes what was wrong with it for mended: what failed before says nothing any more, or the next
/// failure alone would pause it again (D13).
async fn count_faults_anew(conn: &mut Conn, batch: &str) -> Result<(), DbError> {
    let statement = Statement::new(
        "UPDATE worker SET faults_counted_after = COALESCE((SELECT max(e.id) FROM execution AS e \
         WHERE e.worker = worker.name), 0), fault_reason = CASE WHEN fault_batch = ",
    )
    .text(batch)
    .sql(" THEN NULL ELSE fault_reason END, fault_detail = CASE WHEN fault_batch = ")
    .text(batch)
    .sql(" THEN NULL ELSE fault_detail END, fault_at = CASE WHEN fault_batch = ")
    .text(batch)
    .sql(" THEN NULL ELSE fault_at END, fault_batch = CASE WHEN fault_batch = ")
    .text(batch)
    .sql(" THEN NULL ELSE fault_batch END WHERE (batch = ")
    .text(batch)
    .sql(" OR fault_batch = ")
    .text(batch)
    .sql(") AND EXISTS (SELECT 1 FROM batch AS b WHERE b.paused AND b.name = ")
    .text(batch)
    .sql(")");
    statement.run(conn).await?;
    Ok(())
}

#[derive(diesel::QueryableByName)]
struct NameRow {
    #[diesel(sql_type = diesel::sql_types::Text)]
    name: String,
}

pub(in crate::db) async fn paused_with_dispatches(pool: &Pool) -> Result<Vec<BatchName>, DbError> {
    let mut conn = pool.reader().await?;
    let statement = Statement::new(
        "SELECT name FROM batch WHERE paused AND EXISTS (SELECT 1 FROM batch_counter AS c WHERE c.batch = batch.name \
         AND c.status IN ('assigned', 'accepted') AND c.tasks > 0) ORDER BY name",
    );
    let rows: Vec<NameRow> = statement.read(&mut conn).await?;
    rows.iter()
        .map(|row| parse("batch.name", &row.name))
        .collect()
}

#[derive(diesel::QueryableByName)]
struct HolderRow {
    #[diesel(sql_type = diesel::sql_types::Text)]
    worker: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    dispatch_id: String,
}

pub(in crate::db) async fn held_of_paused(
    pool: &Pool,
    batch: &BatchName,
) -> Result<Vec<(WorkerName, DispatchId)>, DbError> {
    let mut conn = pool.reader().await?;
    let statement = Statement::new(
        "SELECT e.worker, e.dispatch_id FROM task AS t JOIN execution AS e ON e.attempt_id = t.attempt_id \
         WHERE t.status = 'accepted' AND t.batch = ",
    )
    .text(batch.as_str())
    .sql(" AND EXISTS (SELECT 1 FROM batch AS b WHERE b.paused AND b.name = ")
    .text(batch.as_str())
    .sql(") ORDER BY e.worker, t.id");
    let rows: Vec<HolderRow> = statement.read(&mut conn).await?;
    let holder = |row: &HolderRow| {
        Ok((
            parse("execution.worker", &row.worker)?,
            parse("execution.dispatch_id", &row.dispatch_id)?,
        ))
    };
    rows.iter().map(holder).collect()
}

#[derive(diesel::QueryableByName)]
struct BootsRow {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    boots: i64,
    #[diesel(sql_type = diesel::sql_types::Bool)]
    can_restart: bool,
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
    let select = Statement::new("SELECT boots, can_restart FROM worker WHERE name = ")
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
    if !row.can_restart {
        return Ok(Some(Restart::Impossible));
    }
    if boots == 0 {
        return Ok(Some(Restart::Unheard));
    }
    Statement::new("UPDATE worker SET restart_requested_boots = boots WHERE name = ")
        .text(worker)
        .run(conn)
        .await?;
    Ok(Some(Restart::Requested(boots)))
}

pub(in crate::db) async fn cancel_restart(pool: &Pool, worker: &str) -> Result<bool, DbError> {
    transaction!(pool, |conn| cancel_once(conn, worker))
}

async fn cancel_once(conn: &mut Conn, worker: &str) -> Result<bool, DbError> {
    let statement =
        Statement::new("UPDATE worker SET restart_requested_boots = NULL WHERE name = ");
    Ok(statement.text(worker).run(conn).await? > 0)
}
