use actix_web::http::header::CONTENT_TYPE;
use actix_web::web::{Data, Json, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use scitq_shared::api::{CreatedTask, Page, Problem, TaskView};
use scitq_shared::ids::TaskId;
use scitq_shared::task::TaskStatus;

use super::params::{Params, id, page_of};
use super::{ApiError, Context, body};
use crate::db::TaskFilter;
use crate::notices::Notice;
use crate::nudge::Nudge;

/// Submits tasks: one JSON object, an array of them, or one object a line (`application/x-ndjson`). All or nothing.
#[utoipa::path(
    post, path = "/api/v1/tasks", tag = "tasks",
    request_body(description = "One task, an array of tasks, or one task a line. Fields: see docs.", content_type = "application/json"),
    responses(
        (status = 201, description = "Created, in the order of submission", body = Vec<CreatedTask>),
        (status = 400, description = "The body cannot be read", body = Problem),
        (status = 413, description = "The body is too long", body = Problem),
        (status = 415, description = "The body's type is not read here", body = Problem),
        (status = 422, description = "A field breaks a rule; field and index say which", body = Problem),
        (status = 503, description = "The database is away", body = Problem),
    )
)]
pub(super) async fn submit(
    context: Data<Context>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, ApiError> {
    let database = context.database()?;
    let content_type = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("application/json");
    let lines = match content_type.split(';').next().unwrap_or("").trim() {
        "application/json" | "" => false,
        "application/x-ndjson" | "application/jsonl" => true,
        other => {
            let text = format!(
                "{other:?} is not read here; send application/json or application/x-ndjson"
            );
            return Err(ApiError::MediaType(text));
        }
    };
    let body = body::read(&request, payload, context.max_body_bytes).await?;
    let tasks = body::tasks(&body, lines)?;
    drop(body);
    let created = database.submit(tasks).await?;
    let fresh = created
        .iter()
        .filter(|created| created.created && created.status == TaskStatus::Pending);
    let batches: std::collections::BTreeSet<_> =
        fresh.map(|created| created.batch.clone()).collect();
    if !batches.is_empty() {
        context.nudger.nudge(Nudge::Pending { batches }).await;
        context.notices.tell(Notice::Tasks);
    }
    let answer: Vec<CreatedTask> = created
        .into_iter()
        .map(|created| CreatedTask {
            task_id: created.task.0,
            batch: created.batch.into(),
            status: created.status.to_string(),
            created: created.created,
        })
        .collect();
    Ok(HttpResponse::Created().json(answer))
}

/// Lists tasks, a page at a time.
#[utoipa::path(
    get, path = "/api/v1/tasks", tag = "tasks",
    params(
        ("batch" = Option<String>, Query, description = "Only this batch"),
        ("status" = Option<String>, Query, description = "Only these statuses, separated by commas"),
        ("name" = Option<String>, Query, description = "Only tasks of this name"),
        ("id" = Option<String>, Query, description = "Only these ids, separated by commas"),
        ("label" = Option<String>, Query, description = "Only tasks with this label, key=value"),
        ("after" = Option<i64>, Query, description = "Begin behind this id"),
        ("limit" = Option<i64>, Query, description = "Rows of the page, 1 to 1000, 100 by default"),
        ("order" = Option<String>, Query, description = "asc (default) or desc, by id"),
    ),
    responses(
        (status = 200, description = "A page", body = Page<TaskView>),
        (status = 422, description = "A parameter breaks a rule", body = Problem),
        (status = 503, description = "The database is away", body = Problem),
    )
)]
pub(super) async fn list(
    context: Data<Context>,
    request: HttpRequest,
) -> Result<Json<Page<TaskView>>, ApiError> {
    let known = [
        "batch", "status", "name", "id", "label", "after", "limit", "order",
    ];
    let params = Params::parse(request.query_string(), &known)?;
    let label = match params.text("label") {
        None => None,
        Some(text) => match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Some((key.to_owned(), value.to_owned())),
            _ => {
                return Err(ApiError::field(
                    "label",
                    format!("must be key=value, not {text:?}"),
                ));
            }
        },
    };
    let filter = TaskFilter {
        batch: params.text("batch"),
        statuses: params.list("status")?,
        name: params.text("name"),
        ids: params.list("id")?,
        label,
    };
    let mut page = params.page()?;
    let limit = page.limit;
    page.limit += 1;
    let tasks = context.database()?.tasks(&filter, &page).await?;
    Ok(Json(page_of(tasks, limit, |task| task.task_id)))
}

/// Shows a task.
#[utoipa::path(
    get, path = "/api/v1/tasks/{id}", tag = "tasks",
    params(("id" = i64, Path, description = "Task")),
    responses(
        (status = 200, description = "The task", body = TaskView),
        (status = 404, description = "No such task", body = Problem),
        (status = 422, description = "The id is no number", body = Problem),
        (status = 503, description = "The database is away", body = Problem),
    )
)]
pub(super) async fn show(
    context: Data<Context>,
    path: Path<String>,
) -> Result<Json<TaskView>, ApiError> {
    let task = TaskId(id("id", &path)?);
    let found = context.database()?.task(task).await?;
    found.map(Json).ok_or_else(|| no_such_task(task))
}

pub(super) fn no_such_task(task: TaskId) -> ApiError {
    ApiError::NotFound(format!("there is no task {task}"))
}
