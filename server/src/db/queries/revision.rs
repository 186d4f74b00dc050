//! Changes of tasks that have not started (D8).

use std::collections::BTreeMap;

use diesel::sql_types::{BigInt, Nullable, Text};
use scitq_shared::ids::{Epoch, TaskId};
use scitq_shared::names::BatchName;

use super::changes::{LockedTask, lock_tasks};
use super::counters::count;
use super::leadership::fence;
use super::statement::{Statement, run_for};
use super::submit::create_batches;
use super::transaction::transaction;
use super::{Conn, Pool, dialect};
use crate::db::revision::revise as judge;
use crate::db::rows::RevisionRow;
use crate::db::tally::Tally;
use crate::db::value::{parse, text, to_json};
use crate::db::{DbError, NewRevision, Revised, Unstarted};

#[derive(diesel::QueryableByName)]
struct UnstartedRow {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Text)]
    dispatch_id: String,
    #[diesel(sql_type = Nullable<Text>)]
    holder: Option<String>,
}

pub(in crate::db) async fn unstarted(
    pool: &Pool,
    batch: &BatchName,
) -> Result<Vec<Unstarted>, DbError> {
    let mut conn = pool.reader().await?;
    let rows: Vec<UnstartedRow> = Statement::new(
        "SELECT t.id AS id, t.dispatch_id AS dispatch_id, e.worker AS holder FROM task AS t \
         LEFT JOIN execution AS e ON e.attempt_id = t.attempt_id WHERE t.batch = ",
    )
    .text(batch.as_str())
    .sql(" AND t.status IN ('assigned', 'accepted') ORDER BY t.id")
    .read(&mut conn)
    .await?;
    let unstarted = rows.into_iter().map(|row| {
        Ok(Unstarted {
            task: TaskId(row.id),
            dispatch: parse("task.dispatch_id", &row.dispatch_id)?,
            holder: row
                .holder
                .map(|holder| parse("execution.worker", &holder))
                .transpose()?,
        })
    });
    unstarted.collect()
}

pub(in crate::db) async fn revise(
    pool: &Pool,
    epoch: Epoch,
    batch: &BatchName,
    wanted: &[NewRevision],
) -> Result<Vec<(TaskId, Revised)>, DbError> {
    transaction!(pool, |conn| revise_once(conn, epoch, batch, wanted))
}

async fn revise_once(
    conn: &mut Conn,
    epoch: Epoch,
    batch: &BatchName,
    wanted: &[NewRevision],
) -> Result<Vec<(TaskId, Revised)>, DbError> {
    fence(conn, epoch).await?;
    create_batches(conn, wanted.iter().map(|wanted| &wanted.batch)).await?;
    // Of several changes of one task the last one counts.
    let wanted: BTreeMap<TaskId, &NewRevision> =
        wanted.iter().map(|wanted| (wanted.task, wanted)).collect();
    let mut locked: BTreeMap<TaskId, LockedTask> = lock_tasks(conn, wanted.keys().copied())
        .await?
        .into_iter()
        .map(|locked| (locked.task.id, locked))
        .collect();
    let (mut answers, mut rows) = (Vec::with_capacity(wanted.len()), Vec::new());
    let mut tally = Tally::default();
    for (id, wanted) in wanted {
        let locked = locked.remove(&id);
        let task = locked.as_ref().map(|locked| &locked.task);
        let revised = judge(task, batch, wanted);
        answers.push((id, revised));
        if let (Revised::Changed { revision, .. }, Some(locked)) = (revised, locked) {
            let status = locked.task.state.status();
            tally.add(batch.as_str(), status, -1);
            tally.add(wanted.batch.as_str(), status, 1);
            rows.push(row(&locked, revision.0, wanted));
        }
    }
    let written = run_for(conn, &rows, |array| {
        Statement::new(
            "UPDATE task SET batch = r.batch, priority = r.priority, name = r.name, command = r.command, shell = r.shell, \
             container = r.container, container_options = r.container_options, input = r.input, output = r.output, \
             resource = r.resource, download_timeout = r.download_timeout, run_timeout = r.run_timeout, \
             use_cache = r.use_cache, weight = r.weight, uid = r.uid, gid = r.gid, revision = r.revision, \
             row_version = task.row_version + 1, modified_at = ",
        )
        .sql(dialect::NOW)
        .sql(" FROM ")
        .rows::<RevisionRow>(array)
        .sql(" WHERE task.id = r.id AND task.row_version = r.row_version")
    })
    .await?;
    if written != rows.len() {
        return Err(DbError::Busy {
            reason: "tasks changed although their rows were locked".to_owned(),
        });
    }
    count(conn, &tally).await?;
    Ok(answers)
}

fn row(locked: &LockedTask, revision: i64, wanted: &NewRevision) -> RevisionRow {
    let definition = &wanted.definition;
    let optional = |value: &Option<String>| value.as_deref().map(text);
    RevisionRow {
        id: locked.task.id.0,
        row_version: locked.row_version,
        batch: wanted.batch.as_str().to_owned(),
        priority: wanted.priority,
        name: optional(&definition.name),
        command: text(&definition.command),
        shell: optional(&definition.shell),
        container: optional(&definition.container),
        container_options: optional(&definition.container_options),
        input: text(&to_json(&definition.input)),
        output: optional(&definition.output),
        resource: text(&to_json(&definition.resource)),
        download_timeout: definition.download_timeout_seconds.map(i64::from),
        run_timeout: definition.run_timeout_seconds.map(i64::from),
        use_cache: definition.use_cache,
        weight: i32::from(definition.weight),
        uid: definition.uid.map(i64::from),
        gid: definition.gid.map(i64::from),
        revision,
    }
}
