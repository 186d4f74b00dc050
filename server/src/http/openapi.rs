use actix_web::HttpResponse;
use utoipa::OpenApi;

use super::{
    batches, executions, explanation, health, maintenance, output, progress, tasks, workers,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "scitq",
        description = "Distributes shell commands over workers, keeps the history of every execution, and lets a person steer the running series."
    ),
    paths(
        tasks::submit,
        tasks::list,
        tasks::show,
        explanation::show,
        executions::list,
        executions::show,
        output::of_task,
        output::of_execution,
        batches::list,
        batches::show,
        batches::change,
        workers::list,
        workers::show,
        workers::change,
        workers::lost,
        workers::restart,
        workers::cancel_restart,
        progress::by_query,
        progress::by_body,
        maintenance::check,
        maintenance::repair,
        health::live,
        health::ready,
        health::version,
    )
)]
struct Document;

/// The description of the whole interface, OpenAPI 3.1.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// Answers the description.
pub(super) async fn openapi() -> HttpResponse {
    HttpResponse::Ok().json(document())
}
