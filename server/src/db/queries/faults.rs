//! Workers that cannot run what they are given (D13).

use diesel::sql_types::{BigInt, Bool, Nullable, Text};
use scitq_shared::execution::FailureReason;
use scitq_shared::ids::{Epoch, TaskId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::worker::DesiredState;

use super::leadership::fence;
use super::statement::Statement;
use super::transaction::transaction;
use super::workers::{held, wish};
use super::{Conn, Pool, dialect};
use crate::db::value::parse;
use crate::db::{DbError, Fault, FaultHistory, Judged, RecentEnd};

/// How long a pause of one worker speaks about another.
const HOUR_MS: i64 = 3_600_000;
/// So many more executions than asked for are looked at, by their ids, to find those that ended last.
const LOOKED_AT: i64 = 256;

#[derive(diesel::QueryableByName)]
struct EndRow {
    #[diesel(sql_type = BigInt)]
    task_id: i64,
    #[diesel(sql_type = Text)]
    state: String,
    #[diesel(sql_type = Nullable<Text>)]
    failure_reason: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    failure_detail: Option<String>,
}

impl EndRow {
    fn end(self) -> Result<RecentEnd, DbError> {
        let reason = match (self.state.as_str(), self.failure_reason) {
            ("succeeded", _) => None,
            (_, Some(word)) => Some(parse("execution.failure_reason", &word)?),
            (_, None) => Some(FailureReason::ExitCode),
        };
        Ok(RecentEnd {
            task: TaskId(self.task_id),
            reason,
            detail: self.failure_detail.unwrap_or_default(),
        })
    }
}

#[derive(diesel::QueryableByName)]
struct OtherRow {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    fault_reason: String,
    #[diesel(sql_type = Nullable<Text>)]
    fault_detail: Option<String>,
}

#[derive(diesel::QueryableByName)]
struct FlagsRow {
    #[diesel(sql_type = Bool)]
    paused: bool,
    #[diesel(sql_type = Bool)]
    batch_paused: bool,
    #[diesel(sql_type = BigInt)]
    counted_after: i64,
}

pub(in crate::db) async fn fault_history(
    pool: &Pool,
    worker: &WorkerName,
    batch: &BatchName,
    most: u32,
) -> Result<FaultHistory, DbError> {
    let mut conn = pool.reader().await?;
    let flags = Statement::new(
        "SELECT w.paused AS paused, EXISTS (SELECT 1 FROM batch AS b WHERE b.paused AND b.name = ",
    )
    .text(batch.as_str())
    .sql(") AS batch_paused, w.faults_counted_after AS counted_after FROM worker AS w WHERE w.name = ")
    .text(worker.as_str());
    let flags: Vec<FlagsRow> = flags.read(&mut conn).await?;
    let Some(flags) = flags.into_iter().next() else {
        return Ok(FaultHistory::default());
    };
    // In a row is what ended one after the other, by the worker's clock; which attempt began first says nothing about it.
    let recent = Statement::new(
        "SELECT task_id, state, failure_reason, failure_detail FROM (SELECT id, task_id, state, failure_reason, \
         failure_detail, COALESCE(ended_at, created_at) AS over_at FROM execution WHERE worker = ",
    )
    .text(worker.as_str())
    .sql(" AND id > ")
    .number(flags.counted_after)
    .sql(" AND state IN ('succeeded', 'failed') ORDER BY id DESC LIMIT ")
    .number(i64::from(most) + LOOKED_AT)
    .sql(") AS newest ORDER BY over_at DESC, id DESC LIMIT ")
    .number(i64::from(most));
    let recent: Vec<EndRow> = recent.read(&mut conn).await?;
    let (before, behind) = dialect::MILLISECONDS_AGO;
    let others = Statement::new(
        "SELECT name, fault_reason, fault_detail FROM worker WHERE fault_reason IS NOT NULL AND fault_batch = ",
    )
    .text(batch.as_str())
    .sql(" AND name <> ")
    .text(worker.as_str())
    .sql(" AND fault_at > ")
    .sql(before)
    .number(HOUR_MS)
    .sql(behind)
    .sql(" ORDER BY name");
    let others: Vec<OtherRow> = others.read(&mut conn).await?;
    let other = |row: OtherRow| {
        let fault = Fault {
            reason: parse("worker.fault_reason", &row.fault_reason)?,
            key: row.fault_detail.unwrap_or_default(),
        };
        Ok((row.name, fault))
    };
    Ok(FaultHistory {
        paused: flags.paused,
        batch_paused: flags.batch_paused,
        counted_after: flags.counted_after,
        recent: recent
            .into_iter()
            .map(EndRow::end)
            .collect::<Result<_, DbError>>()?,
        others: others
            .into_iter()
            .map(other)
            .collect::<Result<_, DbError>>()?,
    })
}

pub(in crate::db) async fn pause_faulty_worker(
    pool: &Pool,
    epoch: Epoch,
    judged: &Judged,
) -> Result<Option<DesiredState>, DbError> {
    transaction!(pool, |conn| pause_once(conn, epoch, judged))?;
    let wish = wish(pool, judged.worker.as_str()).await?;
    Ok(wish.map(|wish| wish.desired))
}

async fn pause_once(conn: &mut Conn, epoch: Epoch, judged: &Judged) -> Result<(), DbError> {
    fence(conn, epoch).await?;
    if held(conn, judged.worker.as_str()).await?.is_none() {
        return Ok(());
    }
    let statement = Statement::new(
        "UPDATE worker SET paused = true, desired_version = desired_version + 1, \
         status = CASE WHEN status = 'running' THEN 'paused' ELSE status END, pause_reason = ",
    )
    .text(&judged.why)
    .sql(", fault_reason = ")
    .text(judged.fault.reason.as_str())
    .sql(", fault_detail = ")
    .text(&judged.fault.key)
    .sql(", fault_batch = ")
    .text(judged.batch.as_str())
    .sql(", fault_at = ")
    .sql(dialect::NOW)
    .sql(
        ", faults_counted_after = COALESCE((SELECT max(e.id) FROM execution AS e WHERE e.worker = worker.name), 0) \
         WHERE NOT paused AND name = ",
    )
    .text(judged.worker.as_str())
    .sql(" AND faults_counted_after = ")
    .number(judged.counted_after);
    statement.run(conn).await?;
    Ok(())
}

pub(in crate::db) async fn pause_faulty_batch(
    pool: &Pool,
    epoch: Epoch,
    judged: &Judged,
) -> Result<bool, DbError> {
    transaction!(pool, |conn| pause_batch_once(conn, epoch, judged))
}

async fn pause_batch_once(conn: &mut Conn, epoch: Epoch, judged: &Judged) -> Result<bool, DbError> {
    fence(conn, epoch).await?;
    let statement = Statement::new("UPDATE batch SET paused = true, pause_reason = ")
        .text(&judged.why)
        .sql(" WHERE NOT paused AND name = ")
        .text(judged.batch.as_str())
        .sql(" AND EXISTS (SELECT 1 FROM worker AS w WHERE w.name = ")
        .text(judged.worker.as_str())
        .sql(" AND w.faults_counted_after = ")
        .number(judged.counted_after)
        .sql(")");
    Ok(statement.run(conn).await? > 0)
}
