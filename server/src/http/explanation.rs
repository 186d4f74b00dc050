use actix_web::web::{Data, Json, Path};
use scitq_shared::api::{Problem, TaskExplanation, TaskView};
use scitq_shared::ids::{ExecutionId, TaskId};
use scitq_shared::task::TaskStatus;

use super::params::id;
use super::tasks::no_such_task;
use super::{ApiError, Context};
use crate::db::{Database, DbError, PageRequest, TaskFilter};
use crate::explain::{Facts, MOST_AHEAD, MOST_REQUIREMENTS, explain};

/// Explains why a task is not running, or what became of it.
#[utoipa::path(
    get, path = "/api/v1/tasks/{id}/explanation", tag = "tasks",
    params(("id" = i64, Path, description = "Task")),
    responses(
        (status = 200, description = "The reasons, in words", body = TaskExplanation),
        (status = 404, description = "No such task", body = Problem),
        (status = 422, description = "The id is no number", body = Problem),
        (status = 503, description = "The database is away", body = Problem),
    )
)]
pub(super) async fn show(
    context: Data<Context>,
    path: Path<String>,
) -> Result<Json<TaskExplanation>, ApiError> {
    let id = TaskId(id("id", &path)?);
    let database = context.database()?;
    let task = database.task(id).await?.ok_or_else(|| no_such_task(id))?;
    let mut facts = facts(database, task).await?;
    facts.not_ready = context.readiness.missing();
    Ok(Json(explain(&facts)))
}

/// Looks up what the status of a task depends on. Not in one transaction: what changes meanwhile would be other in the
/// next moment anyway.
async fn facts(database: &Database, task: TaskView) -> Result<Facts, DbError> {
    let status: Option<TaskStatus> = task.status.parse().ok();
    let waits = status == Some(TaskStatus::Waiting);
    let requirements = if waits && !task.required_task_ids.is_empty() {
        unmet(database, &task).await?
    } else {
        Vec::new()
    };
    let newest = match task.execution_id {
        Some(execution) => database.execution(ExecutionId(execution)).await?,
        None => None,
    };
    let ahead = if status == Some(TaskStatus::Pending) {
        database
            .tasks_ahead(
                &task.batch,
                task.priority,
                TaskId(task.task_id),
                MOST_AHEAD + 1,
            )
            .await?
    } else {
        0
    };
    Ok(Facts {
        batch: database.batch(&task.batch).await?,
        workers: database.workers().await?,
        requirements,
        newest,
        ahead,
        not_ready: Vec::new(),
        task,
    })
}

/// Some of the tasks that have to succeed first and have not.
async fn unmet(database: &Database, task: &TaskView) -> Result<Vec<(i64, String)>, DbError> {
    let unmet = TaskStatus::ALL.iter().copied();
    let filter = TaskFilter {
        ids: task.required_task_ids.clone(),
        statuses: unmet.filter(|it| *it != TaskStatus::Succeeded).collect(),
        ..TaskFilter::default()
    };
    let page = PageRequest {
        limit: MOST_REQUIREMENTS,
        after: None,
        descending: false,
    };
    let tasks = database.tasks(&filter, &page).await?;
    Ok(tasks
        .into_iter()
        .map(|it| (it.task_id, it.status))
        .collect())
}
