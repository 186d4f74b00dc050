use chrono::NaiveDateTime;
use scitq_shared::api::{CutView, ExecutionView};
use scitq_shared::output::{Cut, StreamEnd};

use super::DbError;
use super::schema::execution;
use super::stored_output::StreamState;
use super::task_state::attempt_state;
use super::value::{json, unsigned};

/// An execution's row, as lists read it.
#[derive(diesel::Queryable, diesel::Selectable)]
#[diesel(table_name = execution)]
pub(super) struct ExecutionRow {
    id: i64,
    pub(super) attempt_id: String,
    task_id: i64,
    batch: String,
    worker: String,
    incarnation: String,
    dispatch_id: String,
    epoch: i64,
    revision: i64,
    state: String,
    command: Option<String>,
    shell: Option<String>,
    container: Option<String>,
    container_options: Option<String>,
    input: String,
    output: Option<String>,
    resource: String,
    queued_at: NaiveDateTime,
    accepted_at: NaiveDateTime,
    started_at: Option<NaiveDateTime>,
    ended_at: Option<NaiveDateTime>,
    exit_code: Option<i32>,
    signal: Option<i32>,
    failure_reason: Option<String>,
    failure_detail: Option<String>,
    user_cpu_ms: Option<i64>,
    system_cpu_ms: Option<i64>,
    peak_memory_bytes: Option<i64>,
    memory_source: Option<String>,
    #[diesel(embed)]
    ends: Ends,
    complete: bool,
}

/// Where the two streams of an execution end.
#[derive(diesel::Queryable, diesel::Selectable)]
#[diesel(table_name = execution)]
pub(super) struct Ends {
    stdout_length: Option<i64>,
    stdout_cut_from: Option<i64>,
    stdout_cut_to: Option<i64>,
    stderr_length: Option<i64>,
    stderr_cut_from: Option<i64>,
    stderr_cut_to: Option<i64>,
}

impl Ends {
    /// End of standard output, once it is known.
    pub(super) fn stdout(&self) -> Option<StreamEnd> {
        end(self.stdout_length, self.stdout_cut_from, self.stdout_cut_to)
    }

    /// End of standard error, once it is known.
    pub(super) fn stderr(&self) -> Option<StreamEnd> {
        end(self.stderr_length, self.stderr_cut_from, self.stderr_cut_to)
    }
}

/// A stream's end out of its columns.
pub(super) fn end(
    length: Option<i64>,
    cut_from: Option<i64>,
    cut_to: Option<i64>,
) -> Option<StreamEnd> {
    let cut = cut_from.zip(cut_to).map(|(from, to)| Cut {
        from: unsigned(from),
        to: unsigned(to),
    });
    length.map(|length| StreamEnd {
        length: unsigned(length),
        cut,
    })
}

impl ExecutionRow {
    /// True when a stream's length is not known yet: what is stored so far is shown in its place.
    pub(super) fn is_open(&self) -> bool {
        self.ends.stdout_length.is_none() || self.ends.stderr_length.is_none()
    }

    /// The execution as people see it. `stored` says how much of its streams is stored, for those whose end is unknown;
    /// `newest` is the newest execution of its task.
    pub(super) fn view(
        self,
        newest: Option<i64>,
        stored: (StreamState, StreamState),
    ) -> Result<ExecutionView, DbError> {
        use scitq_shared::transition::AttemptState;
        let state = attempt_state(&self.state)?;
        let status = state
            .status()
            .map_or("", scitq_shared::execution::ExecutionStatus::as_str);
        let bytes = |length: Option<i64>, stored: StreamState| {
            length.unwrap_or_else(|| i64::try_from(stored.stored_end).unwrap_or(i64::MAX))
        };
        let cut = |end: Option<StreamEnd>| end.and_then(|end| end.cut).map(CutView::from);
        Ok(ExecutionView {
            execution_id: self.id,
            attempt_id: self.attempt_id,
            task_id: self.task_id,
            batch: self.batch,
            worker: self.worker,
            incarnation: self.incarnation,
            dispatch_id: self.dispatch_id,
            epoch: self.epoch,
            revision: self.revision,
            status: status.to_owned(),
            uploading: state == AttemptState::Uploading,
            latest: newest == Some(self.id),
            command: self.command.unwrap_or_default(),
            shell: self.shell,
            container: self.container,
            container_options: self.container_options,
            input: json("execution.input", &self.input)?,
            output: self.output,
            resource: json("execution.resource", &self.resource)?,
            queued_at: self.queued_at.and_utc(),
            accepted_at: self.accepted_at.and_utc(),
            started_at: self.started_at.map(|time| time.and_utc()),
            ended_at: self.ended_at.map(|time| time.and_utc()),
            exit_code: self.exit_code,
            signal: self.signal,
            failure_reason: self.failure_reason,
            failure_detail: self.failure_detail,
            user_cpu_ms: self.user_cpu_ms,
            system_cpu_ms: self.system_cpu_ms,
            peak_memory_bytes: self.peak_memory_bytes,
            memory_source: self.memory_source,
            stdout_bytes: bytes(self.ends.stdout_length, stored.0),
            stderr_bytes: bytes(self.ends.stderr_length, stored.1),
            stdout_cut: cut(self.ends.stdout()),
            stderr_cut: cut(self.ends.stderr()),
            output_complete: self.complete,
        })
    }
}
