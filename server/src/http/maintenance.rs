use actix_web::web::{Data, Json};
use scitq_shared::api::{CounterMismatch, Problem};

use super::{ApiError, Context};

/// Checks that the batches' counters agree with their tasks; answers those that do not.
#[utoipa::path(
    get, path = "/api/v1/maintenance/counters", tag = "maintenance",
    responses(
        (status = 200, description = "The counters that do not agree; empty when all do", body = Vec<CounterMismatch>),
        (status = 503, description = "The database is away", body = Problem),
    )
)]
pub(super) async fn check(context: Data<Context>) -> Result<Json<Vec<CounterMismatch>>, ApiError> {
    Ok(Json(context.database()?.check_counters().await?))
}

/// Counts anew, and corrects the counters that do not agree; answers what was corrected.
#[utoipa::path(
    post, path = "/api/v1/maintenance/counters/repair", tag = "maintenance",
    responses(
        (status = 200, description = "What was corrected", body = Vec<CounterMismatch>),
        (status = 503, description = "The database is away", body = Problem),
    )
)]
pub(super) async fn repair(context: Data<Context>) -> Result<Json<Vec<CounterMismatch>>, ApiError> {
    Ok(Json(context.database()?.repair_counters().await?))
}
