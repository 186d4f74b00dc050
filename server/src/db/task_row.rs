use std::collections::BTreeMap;

use chrono::NaiveDateTime;
use scitq_shared::api::TaskView;

use super::DbError;
use super::schema::task;
use super::value::json;

/// A task's row, as lists read it.
#[derive(diesel::Queryable, diesel::Selectable)]
#[diesel(table_name = task)]
pub(super) struct TaskRow {
    pub(super) id: i64,
    batch: String,
    name: Option<String>,
    status: String,
    uploading: bool,
    missing: i32,
    execution_id: Option<i64>,
    command: String,
    shell: Option<String>,
    container: Option<String>,
    container_options: Option<String>,
    input: String,
    output: Option<String>,
    resource: String,
    retry: i32,
    retries_left: i32,
    download_timeout: Option<i64>,
    run_timeout: Option<i64>,
    use_cache: bool,
    priority: i32,
    weight: i32,
    idempotency_key: Option<String>,
    labels: String,
    uid: Option<i64>,
    gid: Option<i64>,
    revision: i64,
    created_at: NaiveDateTime,
    modified_at: NaiveDateTime,
}

impl TaskRow {
    /// The task as people see it, with the tasks that it requires.
    pub(super) fn view(self, required_task_ids: Vec<i64>) -> Result<TaskView, DbError> {
        let labels: BTreeMap<String, String> = json("task.labels", &self.labels)?;
        Ok(TaskView {
            task_id: self.id,
            name: self.name,
            batch: self.batch,
            status: self.status,
            uploading: self.uploading,
            command: self.command,
            shell: self.shell,
            container: self.container,
            container_options: self.container_options,
            input: json("task.input", &self.input)?,
            output: self.output,
            resource: json("task.resource", &self.resource)?,
            required_task_ids,
            missing_requirements: i64::from(self.missing),
            retry: self.retry,
            retries_left: self.retries_left,
            download_timeout: self.download_timeout,
            run_timeout: self.run_timeout,
            use_cache: self.use_cache,
            priority: self.priority,
            weight: self.weight,
            idempotency_key: self.idempotency_key,
            labels,
            uid: self.uid,
            gid: self.gid,
            revision: self.revision,
            execution_id: self.execution_id,
            created_at: self.created_at.and_utc(),
            modified_at: self.modified_at.and_utc(),
        })
    }
}
