use actix_web::HttpRequest;
use actix_web::web::{Data, Json, Path, Payload};
use scitq_shared::api::{Page, Problem, WorkerView};
use scitq_shared::names::{BatchName, WorkerName};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{ApiError, Context, body};
use crate::db::WorkerChange;
use crate::nudge::Nudge;

/// What can be changed of a worker; what is absent stays as it is.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeWorker {
    /// The batch to work for.
    batch: Option<String>,
    /// Slots, 0 to 10,000.
    concurrency: Option<i64>,
    /// Tasks kept ready beyond those running, 0 to 10,000.
    prefetch: Option<i64>,
    /// True when no new task may start.
    paused: Option<bool>,
}

/// Lists all workers.
#[utoipa::path(
    get, path = "/api/v1/workers", tag = "workers",
    responses(
        (status = 200, description = "All workers", body = Page<WorkerView>),
        (status = 503, description = "The database is away", body = Problem),
    )
)]
pub(super) async fn list(context: Data<Context>) -> Result<Json<Page<WorkerView>>, ApiError> {
    let items = context.database()?.workers().await?;
    Ok(Json(Page { items, next: None }))
}

/// Shows a worker.
#[utoipa::path(
    get, path = "/api/v1/workers/{name}", tag = "workers",
    params(("name" = String, Path, description = "Worker")),
    responses(
        (status = 200, description = "The worker", body = WorkerView),
        (status = 404, description = "No such worker", body = Problem),
        (status = 503, description = "The database is away", body = Problem),
    )
)]
pub(super) async fn show(
    context: Data<Context>,
    name: Path<String>,
) -> Result<Json<WorkerView>, ApiError> {
    let found = context.database()?.worker(&name).await?;
    found.map(Json).ok_or_else(|| no_such_worker(&name))
}

/// Changes a worker, live: running tasks are never ended by it.
#[utoipa::path(
    patch, path = "/api/v1/workers/{name}", tag = "workers",
    params(("name" = String, Path, description = "Worker")),
    request_body = ChangeWorker,
    responses(
        (status = 200, description = "The worker as it is wanted now", body = WorkerView),
        (status = 400, description = "The body cannot be read", body = Problem),
        (status = 404, description = "No such worker", body = Problem),
        (status = 422, description = "A field breaks a rule", body = Problem),
        (status = 503, description = "The database is away", body = Problem),
    )
)]
pub(super) async fn change(
    context: Data<Context>,
    request: HttpRequest,
    payload: Payload,
    name: Path<String>,
) -> Result<Json<WorkerView>, ApiError> {
    let body = body::read(&request, payload, context.max_body_bytes).await?;
    let change: ChangeWorker = body::json(&body)?;
    let places = |field: &str, value: Option<i64>| match value {
        None => Ok(None),
        Some(value) => match u16::try_from(value) {
            Ok(value) if value <= 10_000 => Ok(Some(value)),
            _ => Err(ApiError::field(
                field,
                format!("must be between 0 and 10000, not {value}"),
            )),
        },
    };
    let batch = change.batch.map(BatchName::new).transpose();
    let change = WorkerChange {
        batch: batch.map_err(|error| ApiError::field("batch", error.to_string()))?,
        concurrency: places("concurrency", change.concurrency)?,
        prefetch: places("prefetch", change.prefetch)?,
        paused: change.paused,
    };
    let worker = WorkerName::new(name.as_str()).map_err(|_| no_such_worker(&name))?;
    let changed = context
        .database()?
        .change_worker(worker.as_str(), &change)
        .await?;
    let desired = changed.ok_or_else(|| no_such_worker(&name))?;
    context
        .nudger
        .nudge(Nudge::Worker { worker, desired })
        .await;
    show(context, name).await
}

fn no_such_worker(name: &str) -> ApiError {
    ApiError::NotFound(format!("there is no worker {name:?}"))
}
