use std::collections::{BTreeMap, BTreeSet};

use diesel::sql_types::{BigInt, Text};
use scitq_shared::ids::TaskId;
use scitq_shared::names::BatchName;
use scitq_shared::submit::ValidTask;
use scitq_shared::task::TaskStatus;
use scitq_shared::transition::TaskState;

use super::counters::count;
use super::statement::{Statement, read_for, run_for};
use super::transaction::transaction;
use super::{Conn, Pool, dialect};
use crate::db::rows::{EdgeRow, IdRow, LabelRow, NewTaskRow, WordRow};
use crate::db::tally::Tally;
use crate::db::value::{parse, text, to_json};
use crate::db::{Created, DbError, SubmitError};

pub(in crate::db) async fn submit(
    pool: &Pool,
    tasks: &[ValidTask],
) -> Result<Vec<Created>, SubmitError> {
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    transaction!(pool, |conn| submit_once(conn, tasks))
}

async fn submit_once(conn: &mut Conn, tasks: &[ValidTask]) -> Result<Vec<Created>, SubmitError> {
    let keyed = tasks_of_keys(conn, tasks).await?;
    // The places of the tasks that are new: of several with one key only the first.
    let mut seen = BTreeSet::new();
    let new: Vec<usize> = (0..tasks.len())
        .filter(|place| match &tasks[*place].idempotency_key {
            Some(key) => !keyed.contains_key(key) && seen.insert(key.as_str()),
            None => true,
        })
        .collect();
    create_batches(conn, new.iter().map(|place| &tasks[*place].batch)).await?;
    let required = lock_required(
        conn,
        new.iter().flat_map(|place| &tasks[*place].requirements),
    )
    .await?;
    let mut tally = Tally::default();
    let mut rows = Vec::with_capacity(new.len());
    for &place in &new {
        let task = &tasks[place];
        let state = TaskState::submitted(unmet(place, task, &required)?);
        tally.add(task.batch.as_str(), state.status(), 1);
        rows.push(row(place, task, state));
    }
    let ids = insert_tasks(conn, &rows).await?;
    insert_labels(conn, tasks, &new, &ids).await?;
    insert_edges(conn, tasks, &new, &ids, &required).await?;
    count(conn, &tally).await?;

    let mut made: BTreeMap<usize, TaskId> = BTreeMap::new();
    for (&place, &id) in new.iter().zip(&ids) {
        made.insert(place, TaskId(id));
    }
    answer(tasks, &rows, &keyed, &made)
}

/// One answer for each task, in order.
fn answer(
    tasks: &[ValidTask],
    rows: &[NewTaskRow],
    keyed: &BTreeMap<String, Created>,
    made: &BTreeMap<usize, TaskId>,
) -> Result<Vec<Created>, SubmitError> {
    let mut rows = rows.iter();
    let mut first_of_key: BTreeMap<&str, Created> = BTreeMap::new();
    let mut answers = Vec::with_capacity(tasks.len());
    for (place, task) in tasks.iter().enumerate() {
        let key = task.idempotency_key.as_deref();
        if let Some((id, row)) = made.get(&place).and_then(|id| Some((*id, rows.next()?))) {
            let status = parse("task.status", row.status)?;
            let created = Created {
                task: id,
                batch: task.batch.clone(),
                status,
                created: true,
            };
            if let Some(key) = key {
                first_of_key.insert(key, created.clone());
            }
            answers.push(created);
        } else {
            let known = key.and_then(|key| keyed.get(key).or_else(|| first_of_key.get(key)));
            let known = known.ok_or_else(|| DbError::Refused {
                reason: format!("task {place} got no id"),
            })?;
            answers.push(Created {
                created: false,
                ..known.clone()
            });
        }
    }
    Ok(answers)
}

#[derive(diesel::QueryableByName)]
struct KeyedRow {
    #[diesel(sql_type = Text)]
    idempotency_key: String,
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Text)]
    batch: String,
    #[diesel(sql_type = Text)]
    status: String,
}

/// The tasks that have one of these tasks' idempotency keys already.
async fn tasks_of_keys(
    conn: &mut Conn,
    tasks: &[ValidTask],
) -> Result<BTreeMap<String, Created>, DbError> {
    let keys: BTreeSet<&String> = tasks
        .iter()
        .filter_map(|task| task.idempotency_key.as_ref())
        .collect();
    let keys: Vec<WordRow> = keys
        .into_iter()
        .map(|key| WordRow { word: text(key) })
        .collect();
    let rows: Vec<KeyedRow> = read_for(conn, &keys, |array| {
        Statement::new("SELECT t.idempotency_key, t.id, t.batch, t.status FROM ")
            .rows::<WordRow>(array)
            .sql(" JOIN task AS t ON t.idempotency_key = r.word")
    })
    .await?;
    let mut known = BTreeMap::new();
    for row in rows {
        let created = Created {
            task: TaskId(row.id),
            batch: parse("task.batch", &row.batch)?,
            status: parse("task.status", &row.status)?,
            created: false,
        };
        known.insert(row.idempotency_key, created);
    }
    Ok(known)
}

/// Creates those batches that are not there.
pub(super) async fn create_batches(
    conn: &mut Conn,
    names: impl Iterator<Item = &BatchName>,
) -> Result<(), DbError> {
    let names: BTreeSet<&str> = names.map(BatchName::as_str).collect();
    let rows: Vec<WordRow> = names
        .into_iter()
        .map(|name| WordRow {
            word: name.to_owned(),
        })
        .collect();
    run_for(conn, &rows, |array| {
        Statement::new("INSERT INTO batch (name, created_at) SELECT r.word, ")
            .sql(dialect::NOW)
            .sql(" FROM ")
            .rows::<WordRow>(array)
            .sql(" WHERE true ORDER BY r.word ON CONFLICT (name) DO NOTHING")
    })
    .await?;
    Ok(())
}

#[derive(diesel::QueryableByName)]
struct StatusRow {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Text)]
    status: String,
}

/// The statuses of required tasks, locked: one that ends now does so after these edges are there, or has ended already
/// and is seen here (D11).
async fn lock_required(
    conn: &mut Conn,
    required: impl Iterator<Item = &TaskId>,
) -> Result<BTreeMap<TaskId, TaskStatus>, DbError> {
    let required: BTreeSet<i64> = required.map(|id| id.0).collect();
    let rows: Vec<IdRow> = required.into_iter().map(|id| IdRow { id }).collect();
    let rows: Vec<StatusRow> = read_for(conn, &rows, |array| {
        Statement::new("SELECT id, status FROM task WHERE id IN (SELECT r.id FROM ")
            .rows::<IdRow>(array)
            .sql(") ORDER BY id")
            .sql(dialect::FOR_SHARE)
    })
    .await?;
    rows.into_iter()
        .map(|row| Ok((TaskId(row.id), parse("task.status", &row.status)?)))
        .collect()
}

/// How many requirements of a task have not succeeded.
fn unmet(
    index: usize,
    task: &ValidTask,
    required: &BTreeMap<TaskId, TaskStatus>,
) -> Result<u32, SubmitError> {
    let mut missing = 0;
    for id in &task.requirements {
        match required.get(id) {
            Some(TaskStatus::Succeeded) => {}
            Some(_) => missing += 1,
            None => return Err(SubmitError::UnknownRequirement { index, task: *id }),
        }
    }
    Ok(missing)
}

fn row(place: usize, task: &ValidTask, state: TaskState) -> NewTaskRow {
    let definition = &task.definition;
    let optional = |value: &Option<String>| value.as_deref().map(text);
    NewTaskRow {
        place: i64::try_from(place).unwrap_or(i64::MAX),
        batch: task.batch.as_str().to_owned(),
        name: optional(&definition.name),
        status: state.status().as_str(),
        missing: crate::db::task_state::missing(state),
        command: text(&definition.command),
        shell: optional(&definition.shell),
        container: optional(&definition.container),
        container_options: optional(&definition.container_options),
        input: text(&to_json(&definition.input)),
        output: optional(&definition.output),
        resource: text(&to_json(&definition.resource)),
        retry: i32::from(task.retry),
        download_timeout: definition.download_timeout_seconds.map(i64::from),
        run_timeout: definition.run_timeout_seconds.map(i64::from),
        use_cache: definition.use_cache,
        priority: task.priority,
        weight: i32::from(definition.weight),
        idempotency_key: optional(&task.idempotency_key),
        labels: text(&to_json(&task.labels)),
        uid: definition.uid.map(i64::from),
        gid: definition.gid.map(i64::from),
        revision: definition.revision.0,
    }
}

#[derive(diesel::QueryableByName)]
struct NewIdRow {
    #[diesel(sql_type = BigInt)]
    id: i64,
}

/// Inserts tasks; answers their ids in the order of the rows. Ids are given in the order in which the statement's
/// SELECT is sorted, so sorted ids belong to the rows in their order, however the database orders its answer.
async fn insert_tasks(conn: &mut Conn, rows: &[NewTaskRow]) -> Result<Vec<i64>, DbError> {
    let ids: Vec<NewIdRow> = read_for(conn, rows, |array| {
        Statement::new(
            "INSERT INTO task (batch, name, status, missing, command, shell, container, container_options, input, output, \
             resource, retry, retries_left, download_timeout, run_timeout, use_cache, priority, weight, idempotency_key, \
             labels, uid, gid, revision, created_at, modified_at) \
             SELECT r.batch, r.name, r.status, r.missing, r.command, r.shell, r.container, r.container_options, r.input, \
             r.output, r.resource, r.retry, r.retry, r.download_timeout, r.run_timeout, r.use_cache, r.priority, \
             r.weight, r.idempotency_key, r.labels, r.uid, r.gid, r.revision, ",
        )
        .sql(dialect::NOW)
        .sql(", ")
        .sql(dialect::NOW)
        .sql(" FROM ")
        .rows::<NewTaskRow>(array)
        .sql(" ORDER BY r.place RETURNING id")
    })
    .await?;
    let mut ids: Vec<i64> = ids.into_iter().map(|row| row.id).collect();
    if ids.len() != rows.len() {
        return Err(DbError::Refused {
            reason: format!("{} of {} tasks were inserted", ids.len(), rows.len()),
        });
    }
    ids.sort_unstable();
    Ok(ids)
}

async fn insert_labels(
    conn: &mut Conn,
    tasks: &[ValidTask],
    new: &[usize],
    ids: &[i64],
) -> Result<(), DbError> {
    let mut rows = Vec::new();
    for (&place, &task_id) in new.iter().zip(ids) {
        for (key, value) in &tasks[place].labels {
            rows.push(LabelRow {
                key: text(key),
                value: text(value),
                task_id,
            });
        }
    }
    run_for(conn, &rows, |array| {
        Statement::new(
            "INSERT INTO task_label (key, value, task_id) SELECT r.key, r.value, r.task_id FROM ",
        )
        .rows::<LabelRow>(array)
    })
    .await?;
    Ok(())
}

async fn insert_edges(
    conn: &mut Conn,
    tasks: &[ValidTask],
    new: &[usize],
    ids: &[i64],
    required: &BTreeMap<TaskId, TaskStatus>,
) -> Result<(), DbError> {
    let mut rows = Vec::new();
    for (&place, &task_id) in new.iter().zip(ids) {
        for id in &tasks[place].requirements {
            let met = required.get(id) == Some(&TaskStatus::Succeeded);
            rows.push(EdgeRow {
                task_id,
                required_task_id: id.0,
                met,
            });
        }
    }
    run_for(conn, &rows, |array| {
        Statement::new("INSERT INTO requirement (task_id, required_task_id, met) SELECT r.task_id, r.required_task_id, r.met FROM ")
            .rows::<EdgeRow>(array)
    })
    .await?;
    Ok(())
}
