use actix_web::HttpResponse;
use actix_web::web::{Data, Json};
use scitq_shared::api::Problem;
use scitq_shared::protocol::PROTOCOL_VERSION;
use serde::Serialize;
use utoipa::ToSchema;

use super::{ApiError, Context};
use crate::readiness::Part;

/// The server's program.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Version {
    /// Version of the program.
    version: &'static str,
    /// Version of the messages between server and workers.
    protocol: u16,
}

/// Says that the process lives. Restart it when this does not answer.
#[utoipa::path(
    get, path = "/health/live", tag = "health",
    responses((status = 200, description = "It lives", body = String, content_type = "text/plain"))
)]
pub(super) async fn live() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/plain; charset=utf-8")
        .body("live\n")
}

/// Says whether database and broker can be reached.
#[utoipa::path(
    get, path = "/health/ready", tag = "health",
    responses(
        (status = 200, description = "Ready", body = String, content_type = "text/plain"),
        (status = 503, description = "What is missing, and where it was looked for", body = Problem),
    )
)]
pub(super) async fn ready(context: Data<Context>) -> Result<HttpResponse, ApiError> {
    if let Ok(database) = context.database() {
        match database.ping().await {
            Ok(()) => context.readiness.reached(Part::Database),
            Err(error) => context.readiness.lost(Part::Database, error.to_string()),
        }
    }
    let missing = context.readiness.missing();
    if missing.is_empty() {
        Ok(HttpResponse::Ok()
            .content_type("text/plain; charset=utf-8")
            .body("ready\n"))
    } else {
        Err(ApiError::Unavailable(missing.join("; ")))
    }
}

/// Says which program this is.
#[utoipa::path(
    get, path = "/api/v1/version", tag = "health",
    responses((status = 200, description = "Versions", body = Version))
)]
pub(super) async fn version() -> Json<Version> {
    Json(Version {
        version: env!("CARGO_PKG_VERSION"),
        protocol: PROTOCOL_VERSION,
    })
}
