use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::web::{Data, Json, Payload};
use scitq_shared::api::{Problem, Progress};
use serde::Deserialize;
use utoipa::ToSchema;

use super::batches::no_such_batch;
use super::params::Params;
use super::{ApiError, Context, body};

/// Longest wait of one request, in seconds.
const MAX_WAIT_SECONDS: i64 = 60;
/// Shortest time between two looks at the database of one waiting request: a busy series commits hundreds of times a
/// second, and nobody reads that fast.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// Tasks to report on.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProgressOf {
    /// Their ids.
    task_ids: Vec<i64>,
}

enum Subject {
    Batch(String),
    Tasks(Vec<i64>),
}

/// Tells how far a batch, or some tasks, are; with `wait`, as soon as more are over than `seen_over`.
#[utoipa::path(
    get, path = "/api/v1/progress", tag = "progress",
    params(
        ("batch" = Option<String>, Query, description = "This batch"),
        ("id" = Option<String>, Query, description = "Or these tasks, separated by commas"),
        ("wait" = Option<i64>, Query, description = "Seconds to wait for a change, up to 60"),
        ("seen_over" = Option<i64>, Query, description = "How many tasks the caller knows to be over"),
    ),
    responses(
        (status = 200, description = "The progress", body = Progress),
        (status = 404, description = "No such batch", body = Problem),
        (status = 422, description = "A parameter breaks a rule", body = Problem),
        (status = 503, description = "The database is away", body = Problem),
    )
)]
pub(super) async fn by_query(
    context: Data<Context>,
    request: HttpRequest,
) -> Result<Json<Progress>, ApiError> {
    let params = Params::parse(
        request.query_string(),
        &["batch", "id", "wait", "seen_over"],
    )?;
    let ids: Vec<i64> = params.list("id")?;
    let subject = match (params.text("batch"), ids.is_empty()) {
        (Some(batch), true) => Subject::Batch(batch),
        (None, false) => Subject::Tasks(ids),
        _ => {
            return Err(ApiError::field(
                "batch",
                "or id must be given, and not both",
            ));
        }
    };
    waited(&context, &subject, &params).await
}

/// Tells how far many tasks are: as GET, with the ids in the body.
#[utoipa::path(
    post, path = "/api/v1/progress", tag = "progress",
    params(
        ("wait" = Option<i64>, Query, description = "Seconds to wait for a change, up to 60"),
        ("seen_over" = Option<i64>, Query, description = "How many tasks the caller knows to be over"),
    ),
    request_body = ProgressOf,
    responses(
        (status = 200, description = "The progress", body = Progress),
        (status = 400, description = "The body cannot be read", body = Problem),
        (status = 422, description = "A field or parameter breaks a rule", body = Problem),
        (status = 503, description = "The database is away", body = Problem),
    )
)]
pub(super) async fn by_body(
    context: Data<Context>,
    request: HttpRequest,
    payload: Payload,
) -> Result<Json<Progress>, ApiError> {
    let params = Params::parse(request.query_string(), &["wait", "seen_over"])?;
    let body = body::read(&request, payload, context.max_body_bytes).await?;
    let of: ProgressOf = body::json(&body)?;
    waited(&context, &Subject::Tasks(of.task_ids), &params).await
}

async fn waited(
    context: &Context,
    subject: &Subject,
    params: &Params,
) -> Result<Json<Progress>, ApiError> {
    let wait = params.integer("wait", 0..=MAX_WAIT_SECONDS)?.unwrap_or(0);
    let seen_over = params.integer("seen_over", 0..=i64::MAX)?.unwrap_or(-1);
    let until = tokio::time::Instant::now() + Duration::from_secs(wait.unsigned_abs());
    // Listening begins before the look, so that nothing falls between the two.
    let mut listener = context.notices.listen();
    loop {
        let progress = look(context, subject).await?;
        if wait == 0 || progress.over > seen_over || progress.over >= progress.total {
            return Ok(Json(progress));
        }
        let changed = async {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            listener.tasks().await;
        };
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep_until(until) => return Ok(Json(progress)),
            () = context.stop.cancelled() => return Ok(Json(progress)),
        }
    }
}

async fn look(context: &Context, subject: &Subject) -> Result<Progress, ApiError> {
    match subject {
        Subject::Batch(name) => {
            let batch = context
                .database()?
                .batch(name)
                .await?
                .ok_or_else(|| no_such_batch(name))?;
            Ok(Progress::of(batch.tasks))
        }
        Subject::Tasks(ids) => Ok(context.database()?.progress_of_tasks(ids).await?),
    }
}
