use std::collections::BTreeMap;

use diesel::sql_types::BigInt;
use scitq_shared::ids::TaskId;
use scitq_shared::names::BatchName;
use scitq_shared::transition::{AttemptState, Decision, Event, TaskState, transition};

use super::Conn;
use super::changes::{lock_tasks, write_tasks};
use super::statement::{Statement, read_for};
use crate::db::DbError;
use crate::db::rows::IdRow;
use crate::db::tally::Tally;

#[derive(diesel::QueryableByName)]
struct DependentRow {
    #[diesel(sql_type = BigInt)]
    task_id: i64,
}

/// Tells the tasks that wait for these, which have succeeded. An edge counts once, however often its required task
/// succeeds. Answers how many tasks of each batch became pending.
pub(super) async fn meet(
    conn: &mut Conn,
    succeeded: &[TaskId],
    tally: &mut Tally,
) -> Result<BTreeMap<BatchName, u64>, DbError> {
    let rows: Vec<IdRow> = succeeded.iter().map(|id| IdRow { id: id.0 }).collect();
    let edges: Vec<DependentRow> = read_for(conn, &rows, |array| {
        Statement::new("UPDATE requirement SET met = true FROM ")
            .rows::<IdRow>(array)
            .sql(" WHERE requirement.required_task_id = r.id AND NOT requirement.met RETURNING requirement.task_id")
    })
    .await?;
    let mut met: BTreeMap<TaskId, u32> = BTreeMap::new();
    for edge in edges {
        *met.entry(TaskId(edge.task_id)).or_default() += 1;
    }
    let mut changes = Vec::new();
    let mut pending: BTreeMap<BatchName, u64> = BTreeMap::new();
    for locked in lock_tasks(conn, met.keys().copied()).await? {
        let times = met.get(&locked.task.id).copied().unwrap_or(0);
        let before = locked.task.state;
        let after = (0..times).fold(before, |state, _| {
            match transition(
                state,
                locked.task.retries_left,
                AttemptState::Unknown,
                Event::RequirementMet,
            ) {
                Decision::Changed { task, .. } => task,
                _ => state,
            }
        });
        if after != before {
            if after == TaskState::Pending {
                *pending.entry(locked.task.batch.clone()).or_default() += 1;
            }
            changes.push(locked.becomes(after));
        }
    }
    write_tasks(conn, changes, tally).await?;
    Ok(pending)
}
