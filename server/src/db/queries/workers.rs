use std::time::Duration;

use diesel::sql_types::{BigInt, Bool, Integer, Nullable, Text};
use scitq_shared::ids::{Epoch, IncarnationId};
use scitq_shared::names::WorkerName;
use scitq_shared::protocol::Hello;
use scitq_shared::worker::{DesiredState, Lease};

use super::leadership::fence;
use super::statement::{Statement, read_for};
use super::submit::create_batches;
use super::transaction::transaction;
use super::{Conn, Pool, dialect};
use crate::db::rows::SignOfLifeRow;
use crate::db::value::{number, parse};
use crate::db::{DbError, Greeted, SignOfLife, Wish, WorkerChange};

/// What the server holds for a worker.
#[derive(diesel::QueryableByName)]
pub(super) struct HeldRow {
    #[diesel(sql_type = Text)]
    batch: String,
    #[diesel(sql_type = Integer)]
    concurrency: i32,
    #[diesel(sql_type = Integer)]
    prefetch: i32,
    #[diesel(sql_type = Bool)]
    paused: bool,
    #[diesel(sql_type = BigInt)]
    desired_version: i64,
    #[diesel(sql_type = Text)]
    incarnation: String,
    #[diesel(sql_type = BigInt)]
    boots: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    restart_requested_boots: Option<i64>,
}

impl HeldRow {
    fn restart(&self) -> Option<u32> {
        let boots = self.restart_requested_boots?;
        Some(u32::try_from(boots).unwrap_or(0))
    }

    fn desired(&self) -> Result<DesiredState, DbError> {
        let slots = |column: &str, value: i32| {
            u16::try_from(value).map_err(|_| DbError::Corrupt {
                reason: format!("worker.{column} is {value}"),
            })
        };
        Ok(DesiredState {
            version: self.desired_version,
            batch: parse("worker.batch", &self.batch)?,
            concurrency: slots("concurrency", self.concurrency)?,
            prefetch: slots("prefetch", self.prefetch)?,
            paused: self.paused,
        })
    }
}

const SELECT_HELD: &str = "SELECT batch, concurrency, prefetch, paused, desired_version, incarnation, boots, \
     restart_requested_boots FROM worker WHERE name = ";

/// A worker's row, locked.
pub(super) async fn held(conn: &mut Conn, name: &str) -> Result<Option<HeldRow>, DbError> {
    let statement = Statement::new(SELECT_HELD)
        .text(name)
        .sql(dialect::FOR_UPDATE);
    Ok(statement.read(conn).await?.pop())
}

pub(in crate::db) async fn wish(pool: &Pool, name: &str) -> Result<Option<Wish>, DbError> {
    let mut conn = pool.reader().await?;
    let rows: Vec<HeldRow> = Statement::new(SELECT_HELD)
        .text(name)
        .read(&mut conn)
        .await?;
    let wish = |row: &HeldRow| {
        let incarnation = parse("worker.incarnation", &row.incarnation)?;
        Ok(Wish {
            start: (incarnation, u32::try_from(row.boots).unwrap_or(0)),
            desired: row.desired()?,
            restart: row.restart(),
        })
    };
    rows.first().map(wish).transpose()
}

pub(in crate::db) async fn greet(
    pool: &Pool,
    epoch: Epoch,
    worker: &WorkerName,
    incarnation: IncarnationId,
    hello: &Hello,
) -> Result<Greeted, DbError> {
    transaction!(pool, |conn| greet_once(
        conn,
        epoch,
        worker,
        incarnation,
        hello
    ))
}

async fn greet_once(
    conn: &mut Conn,
    epoch: Epoch,
    worker: &WorkerName,
    incarnation: IncarnationId,
    hello: &Hello,
) -> Result<Greeted, DbError> {
    fence(conn, epoch).await?;
    let known = held(conn, worker.as_str()).await?;
    let desired = match &known {
        Some(row) => row.desired()?,
        None => DesiredState {
            // One that is known nowhere but has been told something before: the database was restored.
            version: hello.desired_version.max(0) + 1,
            ..hello.initial.clone()
        },
    };
    create_batches(conn, std::iter::once(&desired.batch)).await?;
    let previous_incarnation = known
        .as_ref()
        .map(|row| parse("worker.incarnation", &row.incarnation))
        .transpose()?;
    if previous_incarnation.is_some_and(|previous: IncarnationId| previous != incarnation) {
        note_former(conn, worker).await?;
    }
    // It may be one that was thought to be gone.
    let back = Statement::new("DELETE FROM former_incarnation WHERE worker = ")
        .text(worker.as_str())
        .sql(" AND incarnation = ")
        .text(&incarnation.to_string());
    back.run(conn).await?;
    // A request for an earlier start is met, and so is one to another life of the directory.
    let restart = known
        .as_ref()
        .filter(|_| previous_incarnation == Some(incarnation))
        .and_then(HeldRow::restart)
        .filter(|requested| hello.boots <= *requested);
    let cores = i64::from(i32::try_from(hello.cores).unwrap_or(i32::MAX));
    let statement = if known.is_some() {
        Statement::new("UPDATE worker SET departed = false, status = CASE WHEN paused THEN 'paused' ELSE 'running' END, hostname = ")
            .text(&hello.hostname)
            .sql(", program_version = ")
            .text(&hello.program_version)
            .sql(", incarnation = ")
            .text(&incarnation.to_string())
            .sql(", cores = CAST(")
            .number(cores)
            .sql(" AS integer), memory_bytes = ")
            .number(number(hello.memory_bytes))
            .sql(if hello.can_restart { ", can_restart = true" } else { ", can_restart = false" })
            .sql(", boots = ")
            .number(i64::from(hello.boots))
            .sql(if restart.is_some() { "" } else { ", restart_requested_boots = NULL" })
            .sql(", lost_at = NULL, last_contact_at = ")
            .sql(dialect::NOW)
            .sql(" WHERE name = ")
            .text(worker.as_str())
    } else {
        Statement::new(
            "INSERT INTO worker (name, hostname, program_version, incarnation, batch, status, concurrency, prefetch, \
             paused, desired_version, cores, memory_bytes, can_restart, boots, last_contact_at, created_at) VALUES (",
        )
        .text(worker.as_str())
        .sql(", ")
        .text(&hello.hostname)
        .sql(", ")
        .text(&hello.program_version)
        .sql(", ")
        .text(&incarnation.to_string())
        .sql(", ")
        .text(desired.batch.as_str())
        .sql(if desired.paused { ", 'paused', CAST(" } else { ", 'running', CAST(" })
        .number(i64::from(desired.concurrency))
        .sql(" AS integer), CAST(")
        .number(i64::from(desired.prefetch))
        .sql(if desired.paused { " AS integer), true, " } else { " AS integer), false, " })
        .number(desired.version)
        .sql(", CAST(")
        .number(cores)
        .sql(" AS integer), ")
        .number(number(hello.memory_bytes))
        .sql(if hello.can_restart { ", true, " } else { ", false, " })
        .number(i64::from(hello.boots))
        .sql(", ")
        .sql(dialect::NOW)
        .sql(", ")
        .sql(dialect::NOW)
        .sql(")")
    };
    statement.run(conn).await?;
    Ok(Greeted {
        desired,
        known: known.is_some(),
        previous_incarnation,
        restart,
    })
}

/// The life that has the worker's name now is to be replaced: what it ran may still run, and keeps its lease.
async fn note_former(conn: &mut Conn, worker: &WorkerName) -> Result<(), DbError> {
    let statement = Statement::new(
        "INSERT INTO former_incarnation (worker, incarnation, last_contact_at) \
         SELECT name, incarnation, last_contact_at FROM worker WHERE name = ",
    )
    .text(worker.as_str())
    .sql(" ON CONFLICT (worker, incarnation) DO NOTHING");
    statement.run(conn).await?;
    Ok(())
}

#[derive(diesel::QueryableByName)]
struct NameRow {
    #[diesel(sql_type = Text)]
    name: String,
}

pub(in crate::db) async fn heard_from(
    pool: &Pool,
    epoch: Epoch,
    signs: &[SignOfLife],
) -> Result<Vec<WorkerName>, DbError> {
    if signs.is_empty() {
        return Ok(Vec::new());
    }
    transaction!(pool, |conn| heard_once(conn, epoch, signs))
}

async fn heard_once(
    conn: &mut Conn,
    epoch: Epoch,
    signs: &[SignOfLife],
) -> Result<Vec<WorkerName>, DbError> {
    fence(conn, epoch).await?;
    let rows: Vec<SignOfLifeRow> = signs
        .iter()
        .map(|sign| SignOfLifeRow {
            name: sign.worker.as_str().to_owned(),
            incarnation: sign.incarnation.to_string(),
            boots: i64::from(sign.boots),
        })
        .collect();
    let known: Vec<NameRow> = read_for(conn, &rows, |array| {
        Statement::new(
            "UPDATE worker SET status = CASE WHEN status <> 'offline' THEN status WHEN paused THEN 'paused' \
             ELSE 'running' END, lost_at = NULL, \
             boots = CASE WHEN r.boots > worker.boots THEN r.boots ELSE worker.boots END, \
             restart_requested_boots = CASE WHEN r.boots > worker.restart_requested_boots THEN NULL \
             ELSE worker.restart_requested_boots END, last_contact_at = ",
        )
        .sql(dialect::NOW)
        .sql(" FROM ")
        .rows::<SignOfLifeRow>(array)
        .sql(" WHERE worker.name = r.name AND worker.incarnation = r.incarnation RETURNING worker.name")
    })
    .await?;
    let mut unknown: Vec<WorkerName> = signs.iter().map(|sign| sign.worker.clone()).collect();
    unknown.sort_unstable();
    unknown.dedup();
    unknown.retain(|name| !known.iter().any(|row| row.name == name.as_str()));
    Ok(unknown)
}

pub(in crate::db) async fn set_offline(
    pool: &Pool,
    epoch: Epoch,
    silent_for: Duration,
) -> Result<Vec<WorkerName>, DbError> {
    transaction!(pool, |conn| set_offline_once(conn, epoch, silent_for))
}

async fn set_offline_once(
    conn: &mut Conn,
    epoch: Epoch,
    silent_for: Duration,
) -> Result<Vec<WorkerName>, DbError> {
    fence(conn, epoch).await?;
    // Beyond a century nobody was silent for so long, and the databases' arithmetic ends.
    let century = Duration::from_hours(100 * 366 * 24);
    let milliseconds = i64::try_from(silent_for.min(century).as_millis()).unwrap_or(i64::MAX);
    let (before, behind) = dialect::MILLISECONDS_AGO;
    let statement = Statement::new(
        "UPDATE worker SET status = 'offline' WHERE status IN ('running', 'paused', 'draining') AND last_contact_at < ",
    )
    .sql(before)
    .number(milliseconds)
    .sql(behind)
    .sql(" RETURNING name");
    let rows: Vec<NameRow> = statement.read(conn).await?;
    let mut names: Vec<WorkerName> = rows
        .iter()
        .map(|row| parse("worker.name", &row.name))
        .collect::<Result<_, DbError>>()?;
    names.sort_unstable();
    Ok(names)
}

pub(in crate::db) async fn farewell(
    pool: &Pool,
    epoch: Epoch,
    worker: &WorkerName,
    incarnation: IncarnationId,
    departed: bool,
) -> Result<(), DbError> {
    transaction!(pool, |conn| farewell_once(
        conn,
        epoch,
        worker,
        incarnation,
        departed
    ))
}

async fn farewell_once(
    conn: &mut Conn,
    epoch: Epoch,
    worker: &WorkerName,
    incarnation: IncarnationId,
    departed: bool,
) -> Result<(), DbError> {
    fence(conn, epoch).await?;
    let departed = if departed { "true" } else { "false" };
    let statement = Statement::new("UPDATE worker SET status = 'offline', departed = ")
        .sql(departed)
        .sql(", last_contact_at = ")
        .sql(dialect::NOW)
        .sql(" WHERE name = ")
        .text(worker.as_str())
        .sql(" AND incarnation = ")
        .text(&incarnation.to_string());
    statement.run(conn).await?;
    Ok(())
}

pub(in crate::db) async fn change_worker(
    pool: &Pool,
    name: &str,
    change: &WorkerChange,
) -> Result<Option<DesiredState>, DbError> {
    transaction!(pool, |conn| change_once(conn, name, change))
}

async fn change_once(
    conn: &mut Conn,
    name: &str,
    change: &WorkerChange,
) -> Result<Option<DesiredState>, DbError> {
    let Some(row) = held(conn, name).await? else {
        return Ok(None);
    };
    let before = row.desired()?;
    let after = DesiredState {
        version: before.version + 1,
        batch: change.batch.clone().unwrap_or_else(|| before.batch.clone()),
        concurrency: change.concurrency.unwrap_or(before.concurrency),
        prefetch: change.prefetch.unwrap_or(before.prefetch),
        paused: change.paused.unwrap_or(before.paused),
    };
    create_batches(conn, std::iter::once(&after.batch)).await?;
    // An offline or draining worker stays what it is until it says hello.
    let status = if after.paused { "paused" } else { "running" };
    let statement = Statement::new("UPDATE worker SET batch = ")
        .text(after.batch.as_str())
        .sql(", concurrency = CAST(")
        .number(i64::from(after.concurrency))
        .sql(" AS integer), prefetch = CAST(")
        .number(i64::from(after.prefetch))
        .sql(if after.paused {
            " AS integer), paused = true"
        } else {
            " AS integer), paused = false"
        })
        .sql(", desired_version = ")
        .number(after.version)
        .sql(", status = CASE WHEN status IN ('running', 'paused') THEN ")
        .text(status)
        .sql(" ELSE status END");
    let statement = match change.lost_after {
        None => statement,
        Some(Lease::Default) => statement.sql(", lost_after_seconds = NULL"),
        Some(Lease::Seconds(seconds)) => statement.sql(", lost_after_seconds = ").number(seconds),
    };
    // Whoever pauses or resumes a worker knows why: the server's own reason goes, and its failures are counted anew.
    let statement = if change.paused.is_some() {
        statement
            .sql(", pause_reason = NULL, faults_counted_after = ")
            .sql("COALESCE((SELECT max(e.id) FROM execution AS e WHERE e.worker = worker.name), 0)")
    } else {
        statement
    };
    statement.sql(" WHERE name = ").text(name).run(conn).await?;
    Ok(Some(after))
}
