use std::collections::BTreeSet;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::web::{Data, Json, Path, Payload};
use scitq_shared::api::{LossView, Page, Problem, WorkerView};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::worker::{Lease, MAX_LOST_AFTER_SECONDS, WorkerStatus};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{ApiError, Context, body};
use crate::db::{Database, DbError, Restart, WorkerChange};
use crate::maintenance::{Loser, Loss, Told, lose};
use crate::notices::Notice;
use crate::nudge::Nudge;

/// How often a loss is tried again that a change of leaders broke off.
const TRIES: u32 = 3;

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
    /// Seconds that it may be silent before its attempts are lost, at least `server.offline_after_seconds`; null: as the
    /// server's settings say.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<i64>)]
    lost_after_seconds: Option<Lease>,
}

/// A field that is there, be it null.
fn present<'de, D: serde::Deserializer<'de>>(field: D) -> Result<Option<Lease>, D::Error> {
    Lease::deserialize(field).map(Some)
}

/// How a worker is declared lost.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LoseWorker {
    /// True: even while it is heard of.
    #[serde(default)]
    force: bool,
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
        lost_after: change
            .lost_after_seconds
            .map(|lease| valid(lease, context.offline_after))
            .transpose()?,
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

/// Which restart is asked for.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RestartWorker {
    /// The start of the agent that is to be followed by another one, as the worker's `boots` showed it; absent: the present
    /// one. With it the request can be repeated: one that has been met does nothing.
    boots: Option<u32>,
}

/// Reads a body that may be left out.
async fn optional<T: Default + serde::de::DeserializeOwned>(
    context: &Context,
    request: &HttpRequest,
    payload: Payload,
) -> Result<T, ApiError> {
    let body = body::read(request, payload, context.max_body_bytes).await?;
    if body.trim_ascii().is_empty() {
        Ok(T::default())
    } else {
        body::json(&body)
    }
}

/// A worker that is not even shown offline yet has not been silent for long: a heartbeat that is late by one is no reason
/// to run its tasks twice.
fn valid(lease: Lease, offline_after: Duration) -> Result<Lease, ApiError> {
    let shortest = i64::try_from(offline_after.as_secs()).unwrap_or(i64::MAX);
    match lease {
        Lease::Seconds(seconds) if seconds < shortest => Err(ApiError::field(
            "lost_after_seconds",
            format!(
                "must be at least {shortest}, not {seconds}: by the server's setting server.offline_after_seconds a worker may \
                 be silent for so long before it is even shown offline"
            ),
        )),
        Lease::Seconds(seconds) if seconds > i64::from(MAX_LOST_AFTER_SECONDS) => {
            Err(ApiError::field(
                "lost_after_seconds",
                format!("must be at most {MAX_LOST_AFTER_SECONDS}, not {seconds}"),
            ))
        }
        valid => Ok(valid),
    }
}

/// Declares a worker lost: what it runs counts as lost, and is dispatched anew.
///
/// For a worker that is gone for good and need not be waited for. Should it live after all, what has not been started anew
/// by then is taken back, and the rest of what it runs is told to stop.
#[utoipa::path(
    post, path = "/api/v1/workers/{name}/lost", tag = "workers",
    params(("name" = String, Path, description = "Worker")),
    request_body = Option<LoseWorker>,
    responses(
        (status = 200, description = "What was lost", body = LossView),
        (status = 400, description = "The body cannot be read", body = Problem),
        (status = 404, description = "No such worker", body = Problem),
        (status = 409, description = "The worker is not offline", body = Problem),
        (status = 422, description = "A field breaks a rule", body = Problem),
        (status = 503, description = "The database is away", body = Problem),
    )
)]
pub(super) async fn lost(
    context: Data<Context>,
    request: HttpRequest,
    payload: Payload,
    name: Path<String>,
) -> Result<Json<LossView>, ApiError> {
    let how: LoseWorker = optional(&context, &request, payload).await?;
    let database = context.database()?;
    let found = database.worker(&name).await?;
    let view = found.ok_or_else(|| no_such_worker(&name))?;
    let worker = WorkerName::new(name.as_str()).map_err(|_| no_such_worker(&name))?;
    if !how.force && view.status != WorkerStatus::Offline.as_str() {
        let text = format!(
            "worker {worker} is {}; only one that is offline is declared lost without force, because what it runs may run twice",
            view.status
        );
        return Err(ApiError::Conflict(text));
    }
    let (database, context) = (database.clone(), context.as_ref().clone());
    // On its own: what was begun is finished, and told, when the one who asked does not wait for the answer.
    let losing = tokio::spawn(async move { declare_lost(&context, &database, &worker).await });
    let loss = losing.await.map_err(|error| ApiError::internal(&error))??;
    Ok(Json(LossView {
        worker: view.name,
        executions: loss.attempts as u64,
        task_ids: loss.tasks.iter().map(|task| task.0).collect(),
    }))
}

/// Gives up everything of a worker, whoever leads.
async fn declare_lost(
    context: &Context,
    database: &Database,
    worker: &WorkerName,
) -> Result<Loss, DbError> {
    let loser = Loser {
        worker: worker.clone(),
        incarnation: None,
        silent_for: None,
        detail: format!("worker {worker} was declared lost by a person"),
    };
    let told = Told::Leader(context.nudger.clone());
    let mut loss = Loss::default();
    let mut tries = TRIES;
    let outcome = loop {
        // A person's word is not bound to a leader, and a change of leaders in between is no reason to fail.
        let epoch = match database.epoch().await {
            Ok(epoch) => epoch,
            Err(error) => break Err(error),
        };
        match lose(database, epoch, &loser, &told, &mut loss).await {
            Err(DbError::Fenced) if tries > 0 => tries -= 1,
            outcome => break outcome,
        }
    };
    tracing::warn!(%worker, attempts = loss.attempts, "a worker is declared lost by a person");
    context.notices.tell(Notice::Tasks);
    let (worker, batches) = (worker.clone(), BTreeSet::new());
    context.nudger.nudge(Nudge::Lost { worker, batches }).await;
    outcome.map(|()| loss)
}

/// Asks a worker's agent to start anew, on the program that stands in its file now. What runs goes on running.
///
/// The request stands until an agent that was started later says hello; `restart_requested` shows it.
#[utoipa::path(
    post, path = "/api/v1/workers/{name}/restart", tag = "workers",
    params(("name" = String, Path, description = "Worker")),
    request_body = Option<RestartWorker>,
    responses(
        (status = 200, description = "The worker; its agent has started anew when `boots` has risen", body = WorkerView),
        (status = 400, description = "The body cannot be read", body = Problem),
        (status = 404, description = "No such worker", body = Problem),
        (status = 409, description = "Its agent cannot start itself anew, or has not been heard of", body = Problem),
        (status = 422, description = "A field breaks a rule", body = Problem),
        (status = 503, description = "The database is away", body = Problem),
    )
)]
pub(super) async fn restart(
    context: Data<Context>,
    request: HttpRequest,
    payload: Payload,
    name: Path<String>,
) -> Result<Json<WorkerView>, ApiError> {
    let which: RestartWorker = optional(&context, &request, payload).await?;
    let worker = WorkerName::new(name.as_str()).map_err(|_| no_such_worker(&name))?;
    let database = context.database()?;
    let asked = database.request_restart(&worker, which.boots).await?;
    match asked.ok_or_else(|| no_such_worker(&name))? {
        Restart::Requested(boots) => {
            context.nudger.nudge(Nudge::Restart { worker, boots }).await;
        }
        Restart::Done => {}
        Restart::Impossible => {
            return Err(ApiError::Conflict(format!(
                "worker {worker} is a part of another program and cannot start itself anew: stop and start that program, \
                 `scitq-ctl up` (kill -9 leaves its tasks running for the next one)"
            )));
        }
        Restart::Unheard => {
            return Err(ApiError::Conflict(format!(
                "worker {worker} has not been heard of since the server was upgraded, so its agent cannot be told from the \
                 next one: try again after its next heartbeat"
            )));
        }
    }
    show(context, name).await
}

/// Takes the request for a restart of a worker's agent back. An agent that has heard of it by then starts anew all the same.
#[utoipa::path(
    delete, path = "/api/v1/workers/{name}/restart", tag = "workers",
    params(("name" = String, Path, description = "Worker")),
    responses(
        (status = 200, description = "The worker", body = WorkerView),
        (status = 404, description = "No such worker", body = Problem),
        (status = 503, description = "The database is away", body = Problem),
    )
)]
pub(super) async fn cancel_restart(
    context: Data<Context>,
    name: Path<String>,
) -> Result<Json<WorkerView>, ApiError> {
    let worker = WorkerName::new(name.as_str()).map_err(|_| no_such_worker(&name))?;
    if !context.database()?.cancel_restart(&worker).await? {
        return Err(no_such_worker(&name));
    }
    show(context, name).await
}

fn no_such_worker(name: &str) -> ApiError {
    ApiError::NotFound(format!("there is no worker {name:?}"))
}
