use actix_web::web::{Data, Json, Path};
use scitq_shared::api::{BatchView, Page, Problem};

use super::{ApiError, Context};

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

pub(super) fn no_such_batch(name: &str) -> ApiError {
    ApiError::NotFound(format!("there is no batch {name:?}"))
}
