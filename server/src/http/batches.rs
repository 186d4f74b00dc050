use actix_web::HttpRequest;
use actix_web::web::{Data, Json, Path, Payload};
use scitq_shared::api::{BatchView, Page, Problem};
use scitq_shared::names::BatchName;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{ApiError, Context, body};
use crate::nudge::Nudge;

/// What can be changed of a batch.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeBatch {
    /// True: none of its tasks starts any more. What is dispatched comes back; what runs goes on.
    paused: bool,
}

/// Lists all batches, with the number of their tasks by status.
#[utoipa::path(
    get, path = "/api/v1/batches", tag = "batches",
    responses(
        (status = 200, description = "All batches", body = Page<BatchView>),
        (status = 503, description = "The database is away", body = Problem),
    )
)]
pub(super) async fn list(context: Data<Context>) -> Result<Json<Page<BatchView>>, ApiError> {
    let items = context.database()?.batches().await?;
    Ok(Json(Page { items, next: None }))
}

/// Shows a batch.
#[utoipa::path(
    get, path = "/api/v1/batches/{name}", tag = "batches",
    params(("name" = String, Path, description = "Batch")),
    responses(
        (status = 200, description = "The batch", body = BatchView),
        (status = 404, description = "No such batch", body = Problem),
        (status = 503, description = "The database is away", body = Problem),
    )
)]
pub(super) async fn show(
    context: Data<Context>,
    name: Path<String>,
) -> Result<Json<BatchView>, ApiError> {
    let found = context.database()?.batch(&name).await?;
    found.map(Json).ok_or_else(|| no_such_batch(&name))
}

/// Pauses or resumes a batch: nothing of a paused one is dispatched any more, and what is dispatched and has not started is
/// taken back. What runs goes on.
///
/// The answer does not wait for that: what a worker starts in the same moment starts. After a resume the failures of its
/// workers are counted anew.
#[utoipa::path(
    patch, path = "/api/v1/batches/{name}", tag = "batches",
    params(("name" = String, Path, description = "Batch")),
    request_body = ChangeBatch,
    responses(
        (status = 200, description = "The batch", body = BatchView),
        (status = 400, description = "The body cannot be read", body = Problem),
        (status = 404, description = "No such batch", body = Problem),
        (status = 422, description = "A field breaks a rule", body = Problem),
        (status = 503, description = "The database is away", body = Problem),
    )
)]
pub(super) async fn change(
    context: Data<Context>,
    request: HttpRequest,
    payload: Payload,
    name: Path<String>,
) -> Result<Json<BatchView>, ApiError> {
    let body = body::read(&request, payload, context.max_body_bytes).await?;
    let change: ChangeBatch = body::json(&body)?;
    let batch = BatchName::new(name.as_str()).map_err(|_| no_such_batch(&name))?;
    let database = context.database()?;
    if !database.pause_batch(&batch, change.paused).await? {
        return Err(no_such_batch(&name));
    }
    let nudge = if change.paused {
        Nudge::Paused { batch }
    } else {
        let batches = [batch].into();
        Nudge::Pending { batches }
    };
    context.nudger.nudge(nudge).await;
    show(context, name).await
}

pub(super) fn no_such_batch(name: &str) -> ApiError {
    ApiError::NotFound(format!("there is no batch {name:?}"))
}
