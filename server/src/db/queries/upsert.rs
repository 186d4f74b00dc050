use std::collections::BTreeMap;

use diesel::sql_types::{BigInt, Text};
use scitq_shared::ids::{AttemptId, ExecutionId};

use super::statement::{Statement, read_for};
use super::{Conn, dialect};
use crate::db::rows::AttemptRow;
use crate::db::value::parse;
use crate::db::{DbError, Loaded};

#[derive(diesel::QueryableByName)]
struct WrittenRow {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Text)]
    attempt_id: String,
}

/// Writes attempts: new ones get an execution, known ones are filled. Answers their executions.
pub(super) async fn write_attempts(
    conn: &mut Conn,
    loaded: &Loaded,
    rows: &BTreeMap<AttemptId, AttemptRow>,
) -> Result<BTreeMap<AttemptId, ExecutionId>, DbError> {
    let (known, new): (Vec<_>, Vec<_>) = rows
        .iter()
        .partition(|(attempt, _)| loaded.attempts.contains_key(attempt));
    let known: Vec<&AttemptRow> = known.into_iter().map(|(_, row)| row).collect();
    let new: Vec<&AttemptRow> = new.into_iter().map(|(_, row)| row).collect();
    let mut written: Vec<WrittenRow> = read_for(conn, &new, insert).await?;
    written.extend(read_for::<_, WrittenRow>(conn, &known, update).await?);
    let pair = |row: WrittenRow| {
        Ok((
            parse("execution.attempt_id", &row.attempt_id)?,
            ExecutionId(row.id),
        ))
    };
    written.into_iter().map(pair).collect()
}

/// New executions, with the definition of their task where that has not changed since the dispatch.
fn insert(array: String) -> Statement {
    Statement::new(
        "INSERT INTO execution (attempt_id, task_id, batch, worker, incarnation, dispatch_id, epoch, revision, \
         announced_sequence, state, command, shell, container, container_options, input, output, resource, queued_at, \
         accepted_at, started_at, ended_at, exit_code, signal, failure_reason, failure_detail, user_cpu_ms, \
         system_cpu_ms, peak_memory_bytes, memory_source, stdout_length, stdout_cut_from, stdout_cut_to, stderr_length, \
         stderr_cut_from, stderr_cut_to, complete, created_at) \
         SELECT r.attempt_id, r.task_id, r.batch, r.worker, r.incarnation, r.dispatch_id, r.epoch, r.revision, \
         r.announced_sequence, r.state, CASE WHEN t.revision = r.revision THEN t.command END, \
         CASE WHEN t.revision = r.revision THEN t.shell END, CASE WHEN t.revision = r.revision THEN t.container END, \
         CASE WHEN t.revision = r.revision THEN t.container_options END, \
         CASE WHEN t.revision = r.revision THEN t.input ELSE '[]' END, \
         CASE WHEN t.revision = r.revision THEN t.output END, \
         CASE WHEN t.revision = r.revision THEN t.resource ELSE '[]' END, r.queued_at, r.accepted_at, r.started_at, \
         r.ended_at, r.exit_code, r.signal, r.failure_reason, r.failure_detail, r.user_cpu_ms, r.system_cpu_ms, \
         r.peak_memory_bytes, r.memory_source, r.stdout_length, r.stdout_cut_from, r.stdout_cut_to, r.stderr_length, \
         r.stderr_cut_from, r.stderr_cut_to, r.complete, ",
    )
    .sql(dialect::NOW)
    .sql(" FROM ")
    .rows::<AttemptRow>(array)
    .sql(" JOIN task AS t ON t.id = r.task_id ORDER BY r.attempt_id RETURNING id, attempt_id")
}

/// Known executions: the state is written, other columns are filled and never emptied, but for the reason of a failure
/// that turned out to be none, or of a loss that was taken back.
fn update(array: String) -> Statement {
    Statement::new(
        "UPDATE execution SET state = r.state, started_at = COALESCE(r.started_at, execution.started_at), \
         ended_at = COALESCE(r.ended_at, execution.ended_at), exit_code = COALESCE(r.exit_code, execution.exit_code), \
         signal = COALESCE(r.signal, execution.signal), \
         failure_reason = CASE WHEN r.state IN ('accepted', 'running', 'uploading', 'succeeded') THEN NULL \
           ELSE COALESCE(r.failure_reason, execution.failure_reason) END, \
         failure_detail = CASE WHEN r.state IN ('accepted', 'running', 'uploading', 'succeeded') THEN NULL \
           ELSE COALESCE(r.failure_detail, execution.failure_detail) END, \
         user_cpu_ms = COALESCE(r.user_cpu_ms, execution.user_cpu_ms), \
         system_cpu_ms = COALESCE(r.system_cpu_ms, execution.system_cpu_ms), \
         peak_memory_bytes = COALESCE(r.peak_memory_bytes, execution.peak_memory_bytes), \
         memory_source = COALESCE(r.memory_source, execution.memory_source), \
         stdout_length = COALESCE(r.stdout_length, execution.stdout_length), \
         stdout_cut_from = COALESCE(r.stdout_cut_from, execution.stdout_cut_from), \
         stdout_cut_to = COALESCE(r.stdout_cut_to, execution.stdout_cut_to), \
         stderr_length = COALESCE(r.stderr_length, execution.stderr_length), \
         stderr_cut_from = COALESCE(r.stderr_cut_from, execution.stderr_cut_from), \
         stderr_cut_to = COALESCE(r.stderr_cut_to, execution.stderr_cut_to), \
         complete = execution.complete OR r.complete \
         FROM ",
    )
    .rows::<AttemptRow>(array)
    .sql(" WHERE execution.attempt_id = r.attempt_id RETURNING execution.id, execution.attempt_id")
}
