//! A database that was restored from a backup (D12): what it leaves free, and what it takes in.

use std::collections::BTreeSet;

use diesel::sql_types::{BigInt, Bool, Text};
use scitq_shared::ids::{Epoch, ExecutionId, TaskId};
use scitq_shared::protocol::TaskMessage;
use scitq_shared::task::TaskStatus;

use super::counters::count;
use super::leadership::fence;
use super::roll::holders;
use super::statement::{Statement, read_for, run_for};
use super::submit::create_batches;
use super::transaction::transaction;
use super::{Conn, Pool, dialect};
use crate::db::rows::{ImportedRow, LabelRow};
use crate::db::tally::Tally;
use crate::db::value::{parse, text, time_text, to_json};
use crate::db::{DbError, LEAP, Restoration, Restorations, Whereabouts};

#[derive(diesel::QueryableByName)]
struct LastRow {
    #[diesel(sql_type = BigInt)]
    id: i64,
}

pub(in crate::db) async fn restore(pool: &Pool) -> Result<Restoration, DbError> {
    transaction!(pool, |conn| restore_once(conn))
}

async fn restore_once(conn: &mut Conn) -> Result<Restoration, DbError> {
    // First of all: who still leads this database is overtaken by it.
    let epoch = leap_epoch(conn).await?;
    let last_task = leap(conn, "task").await?;
    let last_execution = leap(conn, "execution").await?;
    leap(conn, "worker").await?;
    // A worker follows no version older than the one it was told last.
    Statement::new("UPDATE worker SET desired_version = desired_version + ")
        .number(LEAP)
        .run(conn)
        .await?;
    Statement::new(
        "INSERT INTO restoration (restored_at, epoch, last_task, last_free_task, last_execution) VALUES (",
    )
    .sql(dialect::NOW)
    .sql(", ")
    .number(epoch.0)
    .sql(", ")
    .number(last_task)
    .sql(", ")
    .number(last_task + LEAP)
    .sql(", ")
    .number(last_execution)
    .sql(")")
    .run(conn)
    .await?;
    Ok(Restoration {
        epoch,
        last_task: TaskId(last_task),
        last_free_task: TaskId(last_task + LEAP),
        last_execution: ExecutionId(last_execution),
        heard: false,
    })
}

/// Nobody leads from now on, until somebody takes a later epoch.
async fn leap_epoch(conn: &mut Conn) -> Result<Epoch, DbError> {
    let rows: Vec<LastRow> =
        Statement::new("UPDATE leadership SET leader = NULL, epoch = epoch + ")
            .number(LEAP)
            .sql(" WHERE id = 1 RETURNING epoch AS id")
            .read(conn)
            .await?;
    match rows.first() {
        Some(row) => Ok(Epoch(row.id)),
        None => Err(DbError::Corrupt {
            reason: "the table leadership is empty".to_owned(),
        }),
    }
}

/// Leaves ids of a table free. Answers the last one before them.
async fn leap(conn: &mut Conn, table: &str) -> Result<i64, DbError> {
    let rows: Vec<LastRow> = Statement::new(dialect::last_id(table)).read(conn).await?;
    let last = rows.first().map_or(0, |row| row.id);
    for statement in dialect::set_last_id(table, last + LEAP) {
        Statement::new(statement).run(conn).await?;
    }
    Ok(last)
}

#[derive(diesel::QueryableByName)]
struct RestorationRow {
    #[diesel(sql_type = BigInt)]
    epoch: i64,
    #[diesel(sql_type = BigInt)]
    last_task: i64,
    #[diesel(sql_type = BigInt)]
    last_free_task: i64,
    #[diesel(sql_type = BigInt)]
    last_execution: i64,
    #[diesel(sql_type = Bool)]
    heard: bool,
}

pub(in crate::db) async fn restorations(pool: &Pool) -> Result<Restorations, DbError> {
    let mut conn = pool.reader().await?;
    let statement = Statement::new(
        "SELECT epoch, last_task, last_free_task, last_execution, heard_at IS NOT NULL AS heard FROM restoration ORDER BY id",
    );
    let rows: Vec<RestorationRow> = statement.read(&mut conn).await?;
    let restoration = |row: RestorationRow| Restoration {
        epoch: Epoch(row.epoch),
        last_task: TaskId(row.last_task),
        last_free_task: TaskId(row.last_free_task),
        last_execution: ExecutionId(row.last_execution),
        heard: row.heard,
    };
    Ok(Restorations(rows.into_iter().map(restoration).collect()))
}

pub(in crate::db) async fn restoration_heard(pool: &Pool, epoch: Epoch) -> Result<(), DbError> {
    transaction!(pool, |conn| heard_once(conn, epoch))
}

async fn heard_once(conn: &mut Conn, epoch: Epoch) -> Result<(), DbError> {
    fence(conn, epoch).await?;
    Statement::new("UPDATE restoration SET heard_at = ")
        .sql(dialect::NOW)
        .sql(" WHERE heard_at IS NULL")
        .run(conn)
        .await?;
    Ok(())
}

/// What others have heard of is later than the backup and all that was left free: it was unknown, too.
pub(super) async fn was_overtaken(conn: &mut Conn, epoch: Epoch) -> Result<(), DbError> {
    Statement::new("UPDATE restoration SET epoch = ")
        .number(epoch.0)
        .sql(" WHERE heard_at IS NULL AND epoch < ")
        .number(epoch.0)
        .run(conn)
        .await?;
    Ok(())
}

#[derive(diesel::QueryableByName)]
struct NameRow {
    #[diesel(sql_type = Text)]
    name: String,
}

pub(in crate::db) async fn whereabouts(pool: &Pool) -> Result<Whereabouts, DbError> {
    let mut conn = pool.reader().await?;
    let batches = Statement::new("SELECT name FROM batch ORDER BY name");
    let batches: Vec<NameRow> = batches.read(&mut conn).await?;
    let batches = batches.iter().map(|row| parse("batch.name", &row.name));
    Ok(Whereabouts {
        batches: batches.collect::<Result<_, _>>()?,
        workers: holders(&mut conn).await?,
    })
}

pub(in crate::db) async fn import(
    pool: &Pool,
    epoch: Epoch,
    messages: &[TaskMessage],
) -> Result<Vec<TaskId>, DbError> {
    if messages.is_empty() {
        return Ok(Vec::new());
    }
    transaction!(pool, |conn| import_once(conn, epoch, messages))
}

fn row(message: &TaskMessage) -> ImportedRow {
    let (definition, particulars) = (&message.definition, &message.particulars);
    let optional = |value: &Option<String>| value.as_deref().map(text);
    ImportedRow {
        id: message.task.0,
        batch: message.batch.as_str().to_owned(),
        dispatch_id: message.dispatch.to_string(),
        dispatch_epoch: message.epoch.0,
        dispatched_at: time_text(message.queued_at),
        name: optional(&definition.name),
        command: text(&definition.command),
        shell: optional(&definition.shell),
        container: optional(&definition.container),
        container_options: optional(&definition.container_options),
        input: text(&to_json(&definition.input)),
        output: optional(&definition.output),
        resource: text(&to_json(&definition.resource)),
        retries_left: i32::from(particulars.retries_left),
        download_timeout: definition.download_timeout_seconds.map(i64::from),
        run_timeout: definition.run_timeout_seconds.map(i64::from),
        use_cache: definition.use_cache,
        priority: particulars.priority,
        weight: i32::from(definition.weight),
        idempotency_key: optional(&particulars.idempotency_key),
        labels: text(&to_json(&particulars.labels)),
        uid: definition.uid.map(i64::from),
        gid: definition.gid.map(i64::from),
        revision: definition.revision.0,
    }
}

#[derive(diesel::QueryableByName)]
struct ImportedTaskRow {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Text)]
    batch: String,
}

/// The ids were left free by the sequence, so nobody else gives them. Of two dispatches of one task the first is taken: what
/// the other has come to follows from what is said about it.
async fn import_once(
    conn: &mut Conn,
    epoch: Epoch,
    messages: &[TaskMessage],
) -> Result<Vec<TaskId>, DbError> {
    fence(conn, epoch).await?;
    create_batches(conn, messages.iter().map(|message| &message.batch)).await?;
    let mut seen = BTreeSet::new();
    let first: Vec<&TaskMessage> = messages
        .iter()
        .filter(|message| seen.insert(message.task))
        .collect();
    let rows: Vec<ImportedRow> = first.iter().map(|message| row(message)).collect();
    let imported: Vec<ImportedTaskRow> = read_for(conn, &rows, insert).await?;
    let mut tally = Tally::default();
    for task in &imported {
        tally.add(&task.batch, TaskStatus::Assigned, 1);
    }
    let imported: BTreeSet<TaskId> = imported.iter().map(|row| TaskId(row.id)).collect();
    let new = first
        .iter()
        .filter(|message| imported.contains(&message.task));
    let labels: Vec<LabelRow> = new
        .flat_map(|message| {
            let labels = message.particulars.labels.iter();
            labels.map(|(key, value)| LabelRow {
                key: text(key),
                value: text(value),
                task_id: message.task.0,
            })
        })
        .collect();
    run_for(conn, &labels, |array| {
        Statement::new(
            "INSERT INTO task_label (key, value, task_id) SELECT r.key, r.value, r.task_id FROM ",
        )
        .rows::<LabelRow>(array)
    })
    .await?;
    count(conn, &tally).await?;
    Ok(imported.into_iter().collect())
}

/// A key that has been used again since belongs to the task that has it.
fn insert(array: String) -> Statement {
    Statement::new(
        "INSERT INTO task (id, batch, name, status, dispatch_id, dispatch_epoch, dispatched_at, command, shell, container, \
         container_options, input, output, resource, retry, retries_left, download_timeout, run_timeout, use_cache, priority, \
         weight, idempotency_key, labels, uid, gid, revision, created_at, modified_at) \
         SELECT r.id, r.batch, r.name, 'assigned', r.dispatch_id, r.dispatch_epoch, r.dispatched_at, r.command, r.shell, \
         r.container, r.container_options, r.input, r.output, r.resource, r.retries_left, r.retries_left, \
         r.download_timeout, r.run_timeout, r.use_cache, r.priority, r.weight, \
         CASE WHEN EXISTS (SELECT 1 FROM task AS k WHERE k.idempotency_key = r.idempotency_key) THEN NULL \
           ELSE r.idempotency_key END, \
         r.labels, r.uid, r.gid, r.revision, r.dispatched_at, ",
    )
    .sql(dialect::NOW)
    .sql(" FROM ")
    .rows::<ImportedRow>(array)
    .sql(" WHERE true ORDER BY r.id ON CONFLICT (id) DO NOTHING RETURNING id, batch")
}
