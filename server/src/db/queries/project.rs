use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use diesel::sql_types::{BigInt, Bool, Text};
use scitq_shared::execution::FailureReason;
use scitq_shared::ids::{AttemptId, Epoch, ExecutionId, Revision, TaskId};
use scitq_shared::names::BatchName;
use scitq_shared::transition::TaskState;

use super::changes::{LockedTask, NewState, lock_tasks, write_tasks};
use super::chunks::store_chunks;
use super::completion::{complete_late, mark_complete, words};
use super::counters::count;
use super::leadership::fence;
use super::requirements::meet;
use super::statement::{Statement, read_for};
use super::transaction::transaction;
use super::upsert::write_attempts;
use super::{Conn, Pool};
use crate::db::chunk_plan::verify;
use crate::db::decider::Decider;
use crate::db::rows::{AttemptRow, IdRow, WordRow};
use crate::db::tally::Tally;
use crate::db::task_state::attempt_state;
use crate::db::value::parse;
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
    let FoundAttempts { known, complete } = load_attempts(conn, &needs.attempts).await?;
    let loaded = Loaded {
        tasks: needs
            .tasks
            .iter()
            .filter_map(|id| Some((*id, locked.get(id)?.task.clone())))
            .collect(),
        attempts: known,
        hindrances: hindrances(conn, &needs.hindered).await?,
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
    let mut attempts = projection_plan::attempts(&loaded, &projection.attempts)?;
    let tasks = projection_plan::tasks(&loaded, projection.tasks)?;
    let grown = store_chunks(conn, &storable).await?;
    let mut projected = Projected {
        complete: mark_complete(conn, &mut attempts, &complete).await?,
        ..Projected::default()
    };
    let mut ids = write_attempts(conn, &loaded, &attempts).await?;
    let late = complete_late(conn, &attempts, &grown, &mut ids).await?;
    projected.complete.extend(late);
    projected.complete.sort_unstable();

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

    projected.executions.extend(ids);
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
    dispatch_id: String,
    #[diesel(sql_type = BigInt)]
    revision: i64,
    #[diesel(sql_type = Text)]
    state: String,
    #[diesel(sql_type = Text)]
    worker: String,
    #[diesel(sql_type = Text)]
    incarnation: String,
    #[diesel(sql_type = Bool)]
    complete: bool,
    #[diesel(sql_type = Bool)]
    ended: bool,
}

/// The attempts that are known.
#[derive(Default)]
struct FoundAttempts {
    known: BTreeMap<AttemptId, LoadedAttempt>,
    /// Those of them whose end and output are stored.
    complete: BTreeSet<AttemptId>,
}

async fn load_attempts(
    conn: &mut Conn,
    attempts: &BTreeSet<AttemptId>,
) -> Result<FoundAttempts, DbError> {
    let rows: Vec<AttemptFound> = read_for(conn, &words(attempts.iter()), |array| {
        Statement::new(
            "SELECT e.attempt_id, e.task_id, e.dispatch_id, e.revision, e.state, e.worker, e.incarnation, e.complete, \
             e.ended_at IS NOT NULL AS ended FROM ",
        )
        .rows::<WordRow>(array)
        .sql(" JOIN execution AS e ON e.attempt_id = r.word")
    })
    .await?;
    let mut found = FoundAttempts::default();
    for row in rows {
        let attempt = parse("execution.attempt_id", &row.attempt_id)?;
        if row.complete {
            found.complete.insert(attempt);
        }
        let loaded = LoadedAttempt {
            attempt,
            task: TaskId(row.task_id),
            dispatch: parse("execution.dispatch_id", &row.dispatch_id)?,
            revision: Revision(row.revision),
            state: attempt_state(&row.state)?,
            worker: parse("execution.worker", &row.worker)?,
            incarnation: parse("execution.incarnation", &row.incarnation)?,
            ended: row.ended,
        };
        found.known.insert(attempt, loaded);
    }
    Ok(found)
}

#[derive(diesel::QueryableByName)]
struct HindrancesRow {
    #[diesel(sql_type = BigInt)]
    task_id: i64,
    #[diesel(sql_type = BigInt)]
    times: i64,
}

/// How many attempts of these tasks failed by what spares them.
async fn hindrances(
    conn: &mut Conn,
    tasks: &BTreeSet<TaskId>,
) -> Result<BTreeMap<TaskId, u32>, DbError> {
    let tasks: Vec<IdRow> = tasks.iter().map(|task| IdRow { id: task.0 }).collect();
    let sparing: Vec<String> = FailureReason::ALL
        .iter()
        .filter(|reason| reason.spares_task())
        .map(|reason| format!("'{reason}'"))
        .collect();
    let sparing = sparing.join(", ");
    let rows: Vec<HindrancesRow> = read_for(conn, &tasks, |array| {
        Statement::new("SELECT e.task_id, count(*) AS times FROM ")
            .rows::<IdRow>(array)
            .sql(format!(
                " JOIN execution AS e ON e.task_id = r.id WHERE e.state = 'failed' AND e.failure_reason IN ({sparing}) \
                 GROUP BY e.task_id"
            ))
    })
    .await?;
    let row = |row: HindrancesRow| {
        let times = u32::try_from(row.times).unwrap_or(u32::MAX);
        (TaskId(row.task_id), times)
    };
    Ok(rows.into_iter().map(row).collect())
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
