use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDateTime;
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, Text, Timestamp};
use scitq_shared::definition::TaskDefinition;
use scitq_shared::ids::{DispatchId, Epoch, Revision, TaskId};
use scitq_shared::names::BatchName;
use scitq_shared::protocol::{TaskMessage, TaskParticulars};
use scitq_shared::task::TaskStatus;
use scitq_shared::transition::{AttemptState, Decision, Event, TaskState, transition};

use super::changes::{LockedTask, lock_tasks, write_tasks};
use super::counters::count;
use super::leadership::fence;
use super::statement::{Statement, read_for};
use super::transaction::transaction;
use super::{Conn, Pool, dialect};
use crate::db::rows::DispatchRow;
use crate::db::tally::Tally;
use crate::db::value::{json, parse};
use crate::db::{Claim, DbError};

/// How often candidates are looked for again when others took some of them meanwhile.
const ROUNDS: usize = 5;

pub(in crate::db) async fn claim(
    pool: &Pool,
    epoch: Epoch,
    batch: &BatchName,
    window: usize,
) -> Result<Claim, DbError> {
    transaction!(pool, |conn| claim_once(conn, epoch, batch, window))
}

async fn claim_once(
    conn: &mut Conn,
    epoch: Epoch,
    batch: &BatchName,
    window: usize,
) -> Result<Claim, DbError> {
    fence(conn, epoch).await?;
    let paused = is_paused(conn, batch).await?;
    let counters = counters(conn, batch).await?;
    let counted = |status: TaskStatus| {
        usize::try_from(counters.get(status.as_str()).copied().unwrap_or(0)).unwrap_or(0)
    };
    let assigned = counted(TaskStatus::Assigned);
    // What waits in a paused batch is nothing to the dispatcher: it is told when the batch goes on.
    let pending = if paused {
        0
    } else {
        counted(TaskStatus::Pending)
    };
    let room = window.saturating_sub(assigned);
    let candidates = if room == 0 || pending == 0 {
        Vec::new()
    } else {
        take(conn, batch, room).await?
    };
    let mut rows = Vec::with_capacity(candidates.len());
    for candidate in &candidates {
        let event = Event::Dispatched {
            dispatch: DispatchId::generate(),
        };
        let task = &candidate.task;
        match transition(task.state, task.retries_left, AttemptState::Unknown, event) {
            Decision::Changed {
                task: TaskState::Assigned { dispatch },
                ..
            } => rows.push(DispatchRow {
                id: task.id.0,
                row_version: candidate.row_version,
                dispatch_id: dispatch.to_string(),
            }),
            other => {
                return Err(DbError::Refused {
                    reason: format!("a pending task cannot be dispatched: {other}"),
                });
            }
        }
    }
    let mut dispatched: Vec<DispatchedRow> =
        read_for(conn, &rows, |array| dispatch(epoch, array)).await?;
    if dispatched.len() != rows.len() {
        return Err(DbError::Busy {
            reason: "tasks changed while they were dispatched".to_owned(),
        });
    }
    dispatched.sort_by_key(|row| (-i64::from(row.priority), row.id));
    let mut tally = Tally::default();
    let taken = i64::try_from(dispatched.len()).unwrap_or(i64::MAX);
    tally.add(batch.as_str(), TaskStatus::Pending, -taken);
    tally.add(batch.as_str(), TaskStatus::Assigned, taken);
    count(conn, &tally).await?;
    let assigned = assigned + dispatched.len();
    let pending_left = pending > dispatched.len();
    let tasks = dispatched
        .into_iter()
        .map(|row| row.message(epoch, batch))
        .collect::<Result<_, _>>()?;
    Ok(Claim {
        tasks,
        assigned,
        pending_left,
    })
}

#[derive(diesel::QueryableByName)]
struct PausedRow {
    #[diesel(sql_type = Bool)]
    paused: bool,
}

async fn is_paused(conn: &mut Conn, batch: &BatchName) -> Result<bool, DbError> {
    let statement = Statement::new("SELECT paused FROM batch WHERE name = ").text(batch.as_str());
    let rows: Vec<PausedRow> = statement.read(conn).await?;
    Ok(rows.first().is_some_and(|row| row.paused))
}

#[derive(diesel::QueryableByName)]
struct CountRow {
    #[diesel(sql_type = Text)]
    status: String,
    #[diesel(sql_type = BigInt)]
    tasks: i64,
}

async fn counters(conn: &mut Conn, batch: &BatchName) -> Result<BTreeMap<String, i64>, DbError> {
    let statement = Statement::new("SELECT status, tasks FROM batch_counter WHERE batch = ")
        .text(batch.as_str());
    let rows: Vec<CountRow> = statement.read(conn).await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.status, row.tasks))
        .collect())
}

/// Locks the first `room` pending tasks of a batch. They are locked in the order of ids like everywhere else, and waited
/// for: skipping those that a submission holds as requirements would leave them behind with nobody to come back for them.
/// While waiting, another claim may have taken some: then more are looked for.
async fn take(conn: &mut Conn, batch: &BatchName, room: usize) -> Result<Vec<LockedTask>, DbError> {
    let mut taken = Vec::new();
    for _ in 0..ROUNDS {
        // Those locked in an earlier round are still pending, so they are found again.
        let candidates = Statement::new("SELECT id FROM task WHERE batch = ")
            .text(batch.as_str())
            .sql(" AND status = 'pending' ORDER BY priority DESC, id LIMIT ")
            .number(i64::try_from(room).unwrap_or(i64::MAX));
        let candidates: Vec<TaskIdRow> = candidates.read(conn).await?;
        let ids: BTreeSet<TaskId> = candidates.into_iter().map(|row| TaskId(row.id)).collect();
        let wanted = ids.len();
        taken = lock_tasks(conn, ids.into_iter()).await?;
        taken.retain(|locked| locked.task.state == TaskState::Pending);
        if taken.len() == wanted {
            break;
        }
    }
    Ok(taken)
}

/// Writes the dispatches, and reads what is to be published.
fn dispatch(epoch: Epoch, array: String) -> Statement {
    Statement::new("UPDATE task SET status = 'assigned', dispatch_id = r.dispatch_id, dispatch_epoch = ")
        .number(epoch.0)
        .sql(", dispatched_at = ")
        .sql(dialect::NOW)
        .sql(", modified_at = ")
        .sql(dialect::NOW)
        .sql(", row_version = task.row_version + 1 FROM ")
        .rows::<DispatchRow>(array)
        .sql(
            " WHERE task.id = r.id AND task.row_version = r.row_version \
             RETURNING task.id, task.priority, task.dispatch_id, task.dispatched_at, task.name, task.command, task.shell, \
             task.container, task.container_options, task.input, task.output, task.resource, task.download_timeout, \
             task.run_timeout, task.use_cache, task.weight, task.uid, task.gid, task.revision, task.retries_left, \
             task.idempotency_key, task.labels",
        )
}

#[derive(diesel::QueryableByName)]
struct DispatchedRow {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Integer)]
    priority: i32,
    #[diesel(sql_type = Text)]
    dispatch_id: String,
    #[diesel(sql_type = Timestamp)]
    dispatched_at: NaiveDateTime,
    #[diesel(sql_type = Nullable<Text>)]
    name: Option<String>,
    #[diesel(sql_type = Text)]
    command: String,
    #[diesel(sql_type = Nullable<Text>)]
    shell: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    container: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    container_options: Option<String>,
    #[diesel(sql_type = Text)]
    input: String,
    #[diesel(sql_type = Nullable<Text>)]
    output: Option<String>,
    #[diesel(sql_type = Text)]
    resource: String,
    #[diesel(sql_type = Nullable<BigInt>)]
    download_timeout: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    run_timeout: Option<i64>,
    #[diesel(sql_type = Bool)]
    use_cache: bool,
    #[diesel(sql_type = Integer)]
    weight: i32,
    #[diesel(sql_type = Nullable<BigInt>)]
    uid: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    gid: Option<i64>,
    #[diesel(sql_type = BigInt)]
    revision: i64,
    #[diesel(sql_type = Integer)]
    retries_left: i32,
    #[diesel(sql_type = Nullable<Text>)]
    idempotency_key: Option<String>,
    #[diesel(sql_type = Text)]
    labels: String,
}

impl DispatchedRow {
    fn message(self, epoch: Epoch, batch: &BatchName) -> Result<TaskMessage, DbError> {
        fn narrow<T: TryFrom<i64>>(column: &str, value: i64) -> Result<T, DbError> {
            T::try_from(value).map_err(|_| DbError::Corrupt {
                reason: format!("task.{column} is {value}"),
            })
        }
        let optional =
            |column: &str, value: Option<i64>| value.map(|value| narrow(column, value)).transpose();
        let definition = TaskDefinition {
            revision: Revision(self.revision),
            name: self.name,
            command: self.command,
            shell: self.shell,
            container: self.container,
            container_options: self.container_options,
            input: json("task.input", &self.input)?,
            output: self.output,
            resource: json("task.resource", &self.resource)?,
            download_timeout_seconds: optional("download_timeout", self.download_timeout)?,
            run_timeout_seconds: optional("run_timeout", self.run_timeout)?,
            use_cache: self.use_cache,
            weight: narrow("weight", i64::from(self.weight))?,
            uid: optional("uid", self.uid)?,
            gid: optional("gid", self.gid)?,
        };
        let dispatch = parse("task.dispatch_id", &self.dispatch_id)?;
        let queued_at = self.dispatched_at.and_utc();
        let particulars = TaskParticulars {
            retries_left: narrow("retries_left", i64::from(self.retries_left))?,
            priority: self.priority,
            idempotency_key: self.idempotency_key,
            labels: json("task.labels", &self.labels)?,
        };
        let (task, batch) = (TaskId(self.id), batch.clone());
        Ok(TaskMessage {
            particulars,
            ..TaskMessage::new(epoch, dispatch, task, batch, queued_at, definition)
        })
    }
}

#[derive(diesel::QueryableByName)]
struct OvertakenRow {
    #[diesel(sql_type = Bool)]
    overtaken: bool,
}

pub(in crate::db) async fn is_overtaken(pool: &Pool, batch: &BatchName) -> Result<bool, DbError> {
    let mut conn = pool.reader().await?;
    let statement = Statement::new("SELECT EXISTS (SELECT 1 FROM task WHERE batch = ")
        .text(batch.as_str())
        .sql(" AND status = 'assigned' AND priority < (SELECT p.priority FROM task AS p WHERE p.batch = ")
        .text(batch.as_str())
        .sql(" AND p.status = 'pending' ORDER BY p.priority DESC LIMIT 1)) AND NOT EXISTS (SELECT 1 FROM batch WHERE name = ")
        .text(batch.as_str())
        .sql(" AND paused) AS overtaken");
    let rows: Vec<OvertakenRow> = statement.read(&mut conn).await?;
    Ok(rows.first().is_some_and(|row| row.overtaken))
}

pub(in crate::db) async fn return_all_dispatches(
    pool: &Pool,
    epoch: Epoch,
) -> Result<u64, DbError> {
    transaction!(pool, |conn| return_once(conn, epoch))
}

#[derive(diesel::QueryableByName)]
struct TaskIdRow {
    #[diesel(sql_type = BigInt)]
    id: i64,
}

async fn return_once(conn: &mut Conn, epoch: Epoch) -> Result<u64, DbError> {
    fence(conn, epoch).await?;
    let assigned = Statement::new("SELECT id FROM task WHERE status = 'assigned' ORDER BY id");
    let assigned: Vec<TaskIdRow> = assigned.read(conn).await?;
    let locked = lock_tasks(conn, assigned.iter().map(|row| TaskId(row.id))).await?;
    let mut changed: Vec<(LockedTask, TaskState)> = Vec::new();
    for task in locked {
        let Some(dispatch) = task.task.state.dispatch() else {
            continue;
        };
        let event = Event::DispatchReturned { dispatch };
        if !matches!(task.task.state, TaskState::Assigned { .. }) {
            continue;
        }
        if let Decision::Changed { task: to, .. } = transition(
            task.task.state,
            task.task.retries_left,
            AttemptState::Unknown,
            event,
        ) {
            changed.push((task, to));
        }
    }
    let mut tally = Tally::default();
    let returned = changed.len() as u64;
    write_tasks(
        conn,
        changed
            .into_iter()
            .map(|(task, to)| task.becomes(to))
            .collect(),
        &mut tally,
    )
    .await?;
    count(conn, &tally).await?;
    Ok(returned)
}
