use actix_web::HttpRequest;
use actix_web::web::{Data, Json, Path};
use scitq_shared::api::{ExecutionView, Page, Problem};
use scitq_shared::ids::{ExecutionId, TaskId};

use super::params::{Params, id, page_of};
use super::{ApiError, Context};
use crate::db::ExecutionFilter;

/// Lists executions, a page at a time.
#[utoipa::path(
    get, path = "/api/v1/executions", tag = "executions",
    params(
        ("task" = Option<i64>, Query, description = "Only those of this task"),
        ("batch" = Option<String>, Query, description = "Only those of this batch"),
        ("status" = Option<String>, Query, description = "Only these statuses, separated by commas"),
        ("worker" = Option<String>, Query, description = "Only those of this worker"),
        ("latest" = Option<bool>, Query, description = "true: only the newest of each task"),
        ("after" = Option<i64>, Query, description = "Begin behind this id"),
        ("limit" = Option<i64>, Query, description = "Rows of the page, 1 to 1000, 100 by default"),
        ("order" = Option<String>, Query, description = "asc (default) or desc, by id"),
    ),
    responses(
        (status = 200, description = "A page", body = Page<ExecutionView>),
        (status = 422, description = "A parameter breaks a rule", body = Problem),
        (status = 503, description = "The database is away", body = Problem),
    )
)]
pub(super) async fn list(
    context: Data<Context>,
    request: HttpRequest,
) -> Result<Json<Page<ExecutionView>>, ApiError> {
    let known = [
        "task", "batch", "status", "worker", "latest", "after", "limit", "order",
    ];
    let params = Params::parse(request.query_string(), &known)?;
    let filter = ExecutionFilter {
        task: params.integer("task", 1..=i64::MAX)?.map(TaskId),
        batch: params.text("batch"),
        statuses: params.list("status")?,
        worker: params.text("worker"),
        latest: params.flag("latest")?,
    };
    let mut page = params.page()?;
    let limit = page.limit;
    page.limit += 1;
    let executions = context.database()?.executions(&filter, &page).await?;
    Ok(Json(page_of(executions, limit, |execution| {
        execution.execution_id
    })))
}

/// Shows an execution.
#[utoipa::path(
    get, path = "/api/v1/executions/{id}", tag = "executions",
    params(("id" = i64, Path, description = "Execution")),
    responses(
        (status = 200, description = "The execution", body = ExecutionView),
        (status = 404, description = "No such execution", body = Problem),
        (status = 422, description = "The id is no number", body = Problem),
        (status = 503, description = "The database is away", body = Problem),
    )
)]
pub(super) async fn show(
    context: Data<Context>,
    path: Path<String>,
) -> Result<Json<ExecutionView>, ApiError> {
    let execution = ExecutionId(id("id", &path)?);
    let found = context.database()?.execution(execution).await?;
    found.map(Json).ok_or_else(|| no_such_execution(execution))
}

pub(super) fn no_such_execution(execution: ExecutionId) -> ApiError {
    ApiError::NotFound(format!("there is no execution {execution}"))
}
