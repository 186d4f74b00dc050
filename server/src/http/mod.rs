//! The REST interface under `/api/v1`, and `/health`.
//!
//! One file a resource. Handlers read the request, ask the database, and answer; decisions live elsewhere. Every error
//! is an RFC 9457 problem.

mod batches;
mod body;
mod context;
mod error;
mod executions;
mod explanation;
mod health;
mod maintenance;
mod openapi;
mod output;
mod params;
mod progress;
mod tasks;
mod workers;

pub use context::Context;
pub use error::ApiError;
pub use openapi::document;

use actix_web::web;

/// Adds every route.
pub fn configure(config: &mut web::ServiceConfig) {
    let refused = || web::to(error::method_not_allowed);
    let resource = |path: &str| web::resource(path).default_service(refused());
    config
        .service(resource("/health/live").route(web::get().to(health::live)))
        .service(resource("/health/ready").route(web::get().to(health::ready)))
        .service(
            web::scope("/api/v1")
                .service(resource("/version").route(web::get().to(health::version)))
                .service(resource("/openapi.json").route(web::get().to(openapi::openapi)))
                .service(
                    resource("/tasks")
                        .route(web::get().to(tasks::list))
                        .route(web::post().to(tasks::submit)),
                )
                .service(resource("/tasks/{id}").route(web::get().to(tasks::show)))
                .service(
                    resource("/tasks/{id}/explanation").route(web::get().to(explanation::show)),
                )
                .service(
                    resource("/tasks/{id}/output/{stream}").route(web::get().to(output::of_task)),
                )
                .service(resource("/executions").route(web::get().to(executions::list)))
                .service(resource("/executions/{id}").route(web::get().to(executions::show)))
                .service(
                    resource("/executions/{id}/output/{stream}")
                        .route(web::get().to(output::of_execution)),
                )
                .service(resource("/batches").route(web::get().to(batches::list)))
                .service(
                    resource("/batches/{name}")
                        .route(web::get().to(batches::show))
                        .route(web::patch().to(batches::change)),
                )
                .service(resource("/workers").route(web::get().to(workers::list)))
                .service(
                    resource("/workers/{name}")
                        .route(web::get().to(workers::show))
                        .route(web::patch().to(workers::change)),
                )
                .service(resource("/workers/{name}/lost").route(web::post().to(workers::lost)))
                .service(
                    resource("/workers/{name}/restart")
                        .route(web::post().to(workers::restart))
                        .route(web::delete().to(workers::cancel_restart)),
                )
                .service(
                    resource("/progress")
                        .route(web::get().to(progress::by_query))
                        .route(web::post().to(progress::by_body)),
                )
                .service(resource("/maintenance/counters").route(web::get().to(maintenance::check)))
                .service(
                    resource("/maintenance/counters/repair")
                        .route(web::post().to(maintenance::repair)),
                ),
        )
        .default_service(web::to(error::no_such_route));
}
