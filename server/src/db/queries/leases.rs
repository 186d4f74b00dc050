//! Leases: who was silent for longer than its lease, and what is lost with it (D7).

use std::time::Duration;

use chrono::NaiveDateTime;
use diesel::sql_types::{BigInt, Bool, Text, Timestamp};
use scitq_shared::ids::{Epoch, IncarnationId};
use scitq_shared::names::WorkerName;

use super::inventory::{LIVE, LiveRow};
use super::leadership::fence;
use super::statement::Statement;
use super::transaction::transaction;
use super::{Conn, Pool, dialect};
use crate::db::value::{parse, unsigned};
use crate::db::{DbError, LiveAttempt, Silent};

#[derive(diesel::QueryableByName)]
struct SilentRow {
    #[diesel(sql_type = Text)]
    worker: String,
    #[diesel(sql_type = Text)]
    incarnation: String,
    #[diesel(sql_type = BigInt)]
    lease_seconds: i64,
    #[diesel(sql_type = Timestamp)]
    since: NaiveDateTime,
    #[diesel(sql_type = Bool)]
    former: bool,
}

impl SilentRow {
    fn silent(self) -> Result<Silent, DbError> {
        Ok(Silent {
            worker: parse("worker.name", &self.worker)?,
            incarnation: parse("worker.incarnation", &self.incarnation)?,
            lease: Duration::from_secs(unsigned(self.lease_seconds)),
            since: self.since.and_utc(),
            former: self.former,
        })
    }
}

fn whole_seconds(lease: Duration) -> i64 {
    i64::try_from(lease.as_secs()).unwrap_or(i64::MAX)
}

pub(in crate::db) async fn silent_beyond_lease(
    pool: &Pool,
    lease: Duration,
) -> Result<Vec<Silent>, DbError> {
    let mut conn = pool.reader().await?;
    let (before, behind) = dialect::MILLISECONDS_AGO;
    // Who ended on purpose holds nothing, unless the database says otherwise.
    let select = |lateness: Statement| {
        lateness
            .sql(" < ")
            .sql(before)
            .sql("(COALESCE(w.lost_after_seconds, ")
            .number(whole_seconds(lease))
            .sql(") * 1000)")
            .sql(behind)
    };
    let statement = Statement::new(
        "SELECT w.name AS worker, w.incarnation AS incarnation, COALESCE(w.lost_after_seconds, ",
    )
    .number(whole_seconds(lease))
    .sql(format!(
        ") AS lease_seconds, w.last_contact_at AS since, false AS former FROM worker AS w \
         WHERE w.lost_at IS NULL AND (NOT w.departed OR EXISTS (SELECT 1 FROM execution AS e \
         WHERE e.worker = w.name AND e.incarnation = w.incarnation AND e.{LIVE})) AND w.last_contact_at"
    ));
    let statement = select(statement)
        .sql(
            " UNION ALL SELECT f.worker, f.incarnation, COALESCE(w.lost_after_seconds, ",
        )
        .number(whole_seconds(lease))
        .sql(
            "), f.last_contact_at, true FROM former_incarnation AS f JOIN worker AS w ON w.name = f.worker \
             WHERE f.last_contact_at",
        );
    // Nobody with a lease holds these: the hello of their worker was refused, say. They have one from when they were accepted.
    let statement = select(statement)
        .sql(" UNION ALL SELECT e.worker, e.incarnation, ")
        .number(whole_seconds(lease))
        .sql(format!(
            ", max(e.created_at), EXISTS (SELECT 1 FROM worker AS w WHERE w.name = e.worker) FROM execution AS e \
             WHERE e.{LIVE} AND NOT EXISTS (SELECT 1 FROM worker AS w WHERE w.name = e.worker \
             AND w.incarnation = e.incarnation) AND NOT EXISTS (SELECT 1 FROM former_incarnation AS f \
             WHERE f.worker = e.worker AND f.incarnation = e.incarnation) GROUP BY e.worker, e.incarnation \
             HAVING max(e.created_at) < "
        ))
        .sql(before)
        .number(whole_seconds(lease).saturating_mul(1000))
        .sql(behind)
        .sql(" ORDER BY worker, incarnation");
    let rows: Vec<SilentRow> = statement.read(&mut conn).await?;
    // One that cannot be read is nobody else's misfortune.
    let readable = |row: SilentRow| match row.silent() {
        Ok(silent) => Some(silent),
        Err(error) => {
            tracing::error!(%error, "a worker's lease cannot be judged");
            None
        }
    };
    Ok(rows.into_iter().filter_map(readable).collect())
}

pub(in crate::db) async fn live_attempts(
    pool: &Pool,
    worker: &WorkerName,
    incarnation: Option<IncarnationId>,
) -> Result<Vec<LiveAttempt>, DbError> {
    let mut conn = pool.reader().await?;
    let statement = Statement::new(
        "SELECT attempt_id, task_id, dispatch_id, state, announced_sequence FROM execution WHERE worker = ",
    )
    .text(worker.as_str());
    let statement = match incarnation {
        None => statement,
        Some(incarnation) => statement
            .sql(" AND incarnation = ")
            .text(&incarnation.to_string()),
    };
    let rows: Vec<LiveRow> = statement
        .sql(format!(" AND {LIVE} ORDER BY id"))
        .read(&mut conn)
        .await?;
    rows.into_iter().map(LiveRow::attempt).collect()
}

pub(in crate::db) async fn set_lost(
    pool: &Pool,
    epoch: Epoch,
    worker: &WorkerName,
    incarnation: Option<IncarnationId>,
    silent_for: Option<Duration>,
) -> Result<(), DbError> {
    transaction!(pool, |conn| set_lost_once(
        conn,
        epoch,
        worker,
        incarnation,
        silent_for
    ))
}

/// The lease of one life of the worker's directory has ended, or that of all of them.
async fn set_lost_once(
    conn: &mut Conn,
    epoch: Epoch,
    worker: &WorkerName,
    incarnation: Option<IncarnationId>,
    silent_for: Option<Duration>,
) -> Result<(), DbError> {
    fence(conn, epoch).await?;
    let (before, behind) = dialect::MILLISECONDS_AGO;
    let only = |statement: Statement| {
        let statement = match incarnation {
            None => statement,
            Some(incarnation) => statement
                .sql(" AND incarnation = ")
                .text(&incarnation.to_string()),
        };
        match silent_for {
            None => statement,
            Some(lease) => statement
                .sql(" AND last_contact_at < ")
                .sql(before)
                .number(whole_seconds(lease).saturating_mul(1000))
                .sql(behind),
        }
    };
    let former = Statement::new("DELETE FROM former_incarnation WHERE worker = ");
    only(former.text(worker.as_str())).run(conn).await?;
    let present = Statement::new("UPDATE worker SET status = CASE WHEN status IN ('running', 'paused', 'draining') THEN 'offline' ELSE status END, lost_at = ")
        .sql(dialect::NOW)
        .sql(" WHERE name = ")
        .text(worker.as_str());
    only(present).run(conn).await?;
    Ok(())
}
