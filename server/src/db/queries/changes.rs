use diesel::sql_types::{BigInt, Bool, Integer, Nullable, Text};
use scitq_shared::ids::{ExecutionId, Revision, TaskId};
use scitq_shared::transition::TaskState;

use super::statement::{Statement, read_for, run_for};
use super::{Conn, dialect};
use crate::db::rows::{IdRow, TaskStateRow};
use crate::db::tally::Tally;
use crate::db::task_state::{is_uploading, missing, read};
use crate::db::value::parse;
use crate::db::{DbError, LoadedTask};

/// A task whose row is locked, with the version that its row has.
#[derive(Clone, Debug)]
pub(super) struct LockedTask {
    /// The task.
    pub(super) task: LoadedTask,
    /// Compared when the row is written.
    pub(super) row_version: i64,
}

/// A locked task's new state.
#[derive(Clone, Debug)]
pub(super) struct NewState {
    locked: LockedTask,
    to: TaskState,
    retries_left: u16,
    execution: Option<ExecutionId>,
}

impl LockedTask {
    /// The task goes to another state.
    pub(super) fn becomes(self, to: TaskState) -> NewState {
        let retries_left = self.task.retries_left;
        NewState {
            locked: self,
            to,
            retries_left,
            execution: None,
        }
    }
}

impl NewState {
    /// With so many repetitions left, and this newest execution (or the one it had).
    pub(super) fn with(self, retries_left: u16, execution: Option<ExecutionId>) -> Self {
        Self {
            retries_left,
            execution,
            ..self
        }
    }
}

#[derive(diesel::QueryableByName)]
struct LockedRow {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Text)]
    batch: String,
    #[diesel(sql_type = Text)]
    status: String,
    #[diesel(sql_type = Bool)]
    uploading: bool,
    #[diesel(sql_type = Integer)]
    missing: i32,
    #[diesel(sql_type = Nullable<Text>)]
    dispatch_id: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    attempt_id: Option<String>,
    #[diesel(sql_type = Integer)]
    retries_left: i32,
    #[diesel(sql_type = BigInt)]
    revision: i64,
    #[diesel(sql_type = BigInt)]
    row_version: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    execution_id: Option<i64>,
}

impl LockedRow {
    fn task(self) -> Result<LockedTask, DbError> {
        let state = read(
            &self.status,
            self.uploading,
            self.missing,
            self.dispatch_id.as_deref(),
            self.attempt_id.as_deref(),
        )?;
        let retries_left = u16::try_from(self.retries_left).map_err(|_| DbError::Corrupt {
            reason: format!("task.retries_left is {}", self.retries_left),
        })?;
        let task = LoadedTask {
            id: TaskId(self.id),
            batch: parse("task.batch", &self.batch)?,
            state,
            retries_left,
            revision: Revision(self.revision),
            execution: self.execution_id.map(ExecutionId),
        };
        Ok(LockedTask {
            task,
            row_version: self.row_version,
        })
    }
}

/// Locks tasks in the order of their ids, which must ascend. Those that do not exist are left out.
pub(super) async fn lock_tasks(
    conn: &mut Conn,
    ids: impl Iterator<Item = TaskId>,
) -> Result<Vec<LockedTask>, DbError> {
    let ids: Vec<IdRow> = ids.map(|id| IdRow { id: id.0 }).collect();
    let rows: Vec<LockedRow> = read_for(conn, &ids, |array| {
        Statement::new(
            "SELECT id, batch, status, uploading, missing, dispatch_id, attempt_id, retries_left, revision, row_version, execution_id \
             FROM task WHERE id IN (SELECT r.id FROM ",
        )
        .rows::<IdRow>(array)
        .sql(") ORDER BY id")
        .sql(dialect::FOR_UPDATE)
    })
    .await?;
    rows.into_iter().map(LockedRow::task).collect()
}

/// Writes new states of locked tasks, comparing the row versions, and notes what it does to the counters.
pub(super) async fn write_tasks(
    conn: &mut Conn,
    changes: Vec<NewState>,
    tally: &mut Tally,
) -> Result<(), DbError> {
    let mut rows = Vec::with_capacity(changes.len());
    for NewState {
        locked,
        to,
        retries_left,
        execution,
    } in changes
    {
        let task = &locked.task;
        tally.moved(task.batch.as_str(), task.state.status(), to.status());
        rows.push(TaskStateRow {
            id: task.id.0,
            row_version: locked.row_version,
            status: to.status().as_str(),
            uploading: is_uploading(to),
            missing: missing(to),
            dispatch_id: to.dispatch().map(|id| id.to_string()),
            attempt_id: to.attempt().map(|id| id.to_string()),
            execution_id: execution.map(|id| id.0),
            retries_left: i32::from(retries_left),
        });
    }
    let written = run_for(conn, &rows, |array| {
        Statement::new(
            "UPDATE task SET status = r.status, uploading = r.uploading, missing = r.missing, \
             dispatch_id = r.dispatch_id, attempt_id = r.attempt_id, \
             dispatched_at = CASE WHEN r.dispatch_id IS NULL THEN NULL ELSE task.dispatched_at END, \
             execution_id = COALESCE(r.execution_id, task.execution_id), retries_left = r.retries_left, \
             row_version = task.row_version + 1, modified_at = ",
        )
        .sql(dialect::NOW)
        .sql(" FROM ")
        .rows::<TaskStateRow>(array)
        .sql(" WHERE task.id = r.id AND task.row_version = r.row_version")
    })
    .await?;
    if written == rows.len() {
        Ok(())
    } else {
        Err(DbError::Busy {
            reason: "tasks changed although their rows were locked".to_owned(),
        })
    }
}
