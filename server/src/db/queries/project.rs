use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use diesel::sql_types::{BigInt, Bool, Nullable, Text};
use scitq_shared::ids::{AttemptId, Epoch, ExecutionId, TaskId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::transition::TaskState;

use super::changes::{LockedTask, NewState, lock_tasks, write_tasks};
use super::chunks::store_chunks;
use super::counters::count;
use super::leadership::fence;
use super::requirements::meet;
use super::statement::{Statement, read_for, run_for};
use super::transaction::transaction;
use super::upsert::write_attempts;
use super::{Conn, Pool};
use crate::db::chunk_plan::verify;
use crate::db::decider::Decider;
use crate::db::execution_row::end;
use crate::db::lacking::kept_bytes;
use crate::db::rows::{AttemptRow, WordRow};
use crate::db::tally::Tally;
use crate::db::task_state::attempt_state;
use crate::db::value::{parse, unsigned};
use crate::db::{
    DbError, Loaded, LoadedAttempt, Needs, NewChunk, Projected, TaskChange, projection_plan,
};

pub(in crate::db) async fn project(
    pool: &Pool,
    epoch: Epoch,
    needs: &Needs,
    chunks: &[NewChunk],
    decider: &Decider,
) -> Result<Projected, DbError> {
    verify(chunks)?;
    transaction!(pool, |conn| project_once(
        conn, epoch, needs, chunks, decider
    ))
}

async fn project_once(
    conn: &mut Conn,
    epoch: Epoch,
    needs: &Needs,
    chunks: &[NewChunk],
    decider: &Decider,
) -> Result<Projected, DbError> {
    fence(conn, epoch).await?;
    // Everything about a task waits for the lock on its row: its state, its attempts, and their output. So an end and
    // the last of its output see each other, whichever comes first.
    let ids: BTreeSet<TaskId> = needs
        .tasks
        .iter()
        .copied()
        .chain(chunks.iter().map(|new| new.task))
        .collect();
    let mut locked: BTreeMap<TaskId, LockedTask> = lock_tasks(conn, ids.into_iter())
        .await?
        .into_iter()
        .map(|locked| (locked.task.id, locked))
        .collect();
    // What belongs to no task can never be shown: it is not stored.
    let storable: Cow<'_, [NewChunk]> = if chunks.iter().all(|new| locked.contains_key(&new.task)) {
        Cow::Borrowed(chunks)
    } else {
        chunks
            .iter()
            .filter(|new| locked.contains_key(&new.task))
            .cloned()
            .collect()
    };
    let loaded = Loaded {
        tasks: needs
            .tasks
            .iter()
            .filter_map(|id| Some((*id, locked.get(id)?.task.clone())))
            .collect(),
        attempts: load_attempts(conn, &needs.attempts).await?,
    };
    let (projection, loaded) = decider.decide(loaded).await?;
    if let Some(change) = projection
        .attempts
        .iter()
        .find(|change| !needs.attempts.contains(&change.attempt))
    {
        return Err(DbError::Refused {
            reason: format!("attempt {} was not asked for", change.attempt),
        });
    }
    let attempts = projection_plan::attempts(&loaded, &projection.attempts)?;
    let tasks = projection_plan::tasks(&loaded, projection.tasks)?;
    let ids = write_attempts(conn, &loaded, &attempts).await?;

    let mut projected = Projected::default();
    let mut tally = Tally::default();
    let states = new_states(
        &mut locked,
        &tasks,
        &attempts,
        &ids,
        &mut projected.newly_pending,
    );
    write_tasks(conn, states, &mut tally).await?;
    let succeeded: Vec<TaskId> = tasks
        .values()
        .filter(|change| change.meet_requirements)
        .map(|change| change.task)
        .collect();
    for (batch, tasks) in meet(conn, &succeeded, &mut tally).await? {
        *projected.newly_pending.entry(batch).or_default() += tasks;
    }

    let grown = store_chunks(conn, &storable).await?;
    projected.complete = complete(conn, &attempts, &grown, &ids, &mut projected.executions).await?;
    count(conn, &tally).await?;
    Ok(projected)
}

#[derive(diesel::QueryableByName)]
struct AttemptFound {
    #[diesel(sql_type = Text)]
    attempt_id: String,
    #[diesel(sql_type = BigInt)]
    task_id: i64,
    #[diesel(sql_type = Text)]
    state: String,
    #[diesel(sql_type = Text)]
    worker: String,
    #[diesel(sql_type = Text)]
    incarnation: String,
}

fn words<'a>(attempts: impl Iterator<Item = &'a AttemptId>) -> Vec<WordRow> {
    attempts
        .map(|attempt| WordRow {
            word: attempt.to_string(),
        })
        .collect()
}

async fn load_attempts(
    conn: &mut Conn,
    attempts: &BTreeSet<AttemptId>,
) -> Result<BTreeMap<AttemptId, LoadedAttempt>, DbError> {
    let rows: Vec<AttemptFound> = read_for(conn, &words(attempts.iter()), |array| {
        Statement::new("SELECT e.attempt_id, e.task_id, e.state, e.worker, e.incarnation FROM ")
            .rows::<WordRow>(array)
            .sql(" JOIN execution AS e ON e.attempt_id = r.word")
    })
    .await?;
    let pair = |row: AttemptFound| {
        let attempt = parse("execution.attempt_id", &row.attempt_id)?;
        let loaded = LoadedAttempt {
            attempt,
            task: TaskId(row.task_id),
            state: attempt_state(&row.state)?,
            worker: parse("execution.worker", &row.worker)?,
            incarnation: parse("execution.incarnation", &row.incarnation)?,
        };
        Ok((attempt, loaded))
    };
    rows.into_iter().map(pair).collect()
}

/// The new states of the tasks that change, and how many of each batch become pending.
fn new_states(
    locked: &mut BTreeMap<TaskId, LockedTask>,
    tasks: &BTreeMap<TaskId, TaskChange>,
    attempts: &BTreeMap<AttemptId, AttemptRow>,
    ids: &BTreeMap<AttemptId, ExecutionId>,
    pending: &mut BTreeMap<BatchName, u64>,
) -> Vec<NewState> {
    let mut states = Vec::with_capacity(tasks.len());
    for change in tasks.values() {
        let Some(task) = locked.remove(&change.task) else {
            continue;
        };
        if change.to == TaskState::Pending && change.from != TaskState::Pending {
            *pending.entry(task.task.batch.clone()).or_default() += 1;
        }
        let execution = projection_plan::execution_of(change, attempts, ids);
        states.push(task.becomes(change.to).with(change.retries_left, execution));
    }
    states
}

#[derive(diesel::QueryableByName)]
struct TouchedRow {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Text)]
    attempt_id: String,
    #[diesel(sql_type = Text)]
    worker: String,
    #[diesel(sql_type = Text)]
    state: String,
    #[diesel(sql_type = Bool)]
    complete: bool,
    #[diesel(sql_type = Nullable<BigInt>)]
    stdout_length: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    stdout_cut_from: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    stdout_cut_to: Option<i64>,
    #[diesel(sql_type = BigInt)]
    stdout_stored: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    stderr_length: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    stderr_cut_from: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    stderr_cut_to: Option<i64>,
    #[diesel(sql_type = BigInt)]
    stderr_stored: i64,
}

impl TouchedRow {
    /// True when the attempt is over and everything kept of its output is stored, and this was not so before.
    fn becomes_complete(&self) -> Result<bool, DbError> {
        let stdout = end(self.stdout_length, self.stdout_cut_from, self.stdout_cut_to);
        let stderr = end(self.stderr_length, self.stderr_cut_from, self.stderr_cut_to);
        let stored = |end, stored| kept_bytes(end) <= unsigned(stored);
        let all = stdout.zip(stderr).is_some_and(|(stdout, stderr)| {
            stored(stdout, self.stdout_stored) && stored(stderr, self.stderr_stored)
        });
        Ok(!self.complete && all && attempt_state(&self.state)?.is_over())
    }
}

/// Marks the attempts that became complete, and answers them. Adds the executions that were written or grew to
/// `executions`.
async fn complete(
    conn: &mut Conn,
    attempts: &BTreeMap<AttemptId, AttemptRow>,
    grown: &BTreeSet<AttemptId>,
    ids: &BTreeMap<AttemptId, ExecutionId>,
    executions: &mut Vec<(AttemptId, ExecutionId)>,
) -> Result<Vec<(WorkerName, AttemptId)>, DbError> {
    let mut ids = ids.clone();
    // Those that are written and not over cannot be complete, and their executions are known.
    let is_over = |row: &AttemptRow| {
        attempt_state(row.state).is_ok_and(scitq_shared::transition::AttemptState::is_over)
    };
    let over = attempts
        .iter()
        .filter(|(_, row)| is_over(row))
        .map(|(attempt, _)| attempt);
    let touched: BTreeSet<&AttemptId> = over.chain(grown).collect();
    let rows: Vec<TouchedRow> = read_for(conn, &words(touched.into_iter()), |array| {
        Statement::new(
            "SELECT e.id, e.attempt_id, e.worker, e.state, e.complete, e.stdout_length, e.stdout_cut_from, \
             e.stdout_cut_to, COALESCE(o.stored_bytes, 0) AS stdout_stored, e.stderr_length, e.stderr_cut_from, \
             e.stderr_cut_to, COALESCE(p.stored_bytes, 0) AS stderr_stored FROM ",
        )
        .rows::<WordRow>(array)
        .sql(
            " JOIN execution AS e ON e.attempt_id = r.word \
             LEFT JOIN output_stream AS o ON o.attempt_id = r.word AND o.stream = 'stdout' \
             LEFT JOIN output_stream AS p ON p.attempt_id = r.word AND p.stream = 'stderr'",
        )
    })
    .await?;
    let mut complete = Vec::new();
    for row in rows {
        let attempt: AttemptId = parse("execution.attempt_id", &row.attempt_id)?;
        ids.insert(attempt, ExecutionId(row.id));
        if row.becomes_complete()? {
            complete.push((
                parse::<WorkerName>("execution.worker", &row.worker)?,
                attempt,
            ));
        }
    }
    complete.sort_unstable();
    let rows = words(complete.iter().map(|(_, attempt)| attempt));
    run_for(conn, &rows, |array| {
        Statement::new("UPDATE execution SET complete = true FROM ")
            .rows::<WordRow>(array)
            .sql(" WHERE execution.attempt_id = r.word")
    })
    .await?;
    executions.extend(ids);
    Ok(complete)
}
