use std::collections::VecDeque;
use std::time::Duration;

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use futures::Stream as FutureStream;
use scitq_shared::api::Problem;
use scitq_shared::ids::{AttemptId, ExecutionId, TaskId};
use scitq_shared::output::{Cut, Stream};
use scitq_shared::task::TaskStatus;

use super::executions::no_such_execution;
use super::params::{Params, id};
use super::tasks::no_such_task;
use super::{ApiError, Context};
use crate::db::{OutputState, StoredChunk, StreamState};
use crate::notices::Listener;

/// Chunks read at once: bounds what one reader takes in memory to 2 MiB.
const CHUNKS_AT_ONCE: usize = 8;
/// How long a follower waits for the rest of an execution that is over before it gives up.
const PATIENCE_AFTER_END: Duration = Duration::from_mins(1);

/// Reads a stream of the task's newest execution.
#[utoipa::path(
    get, path = "/api/v1/tasks/{id}/output/{stream}", tag = "output",
    params(
        ("id" = i64, Path, description = "Task"),
        ("stream" = String, Path, description = "stdout or stderr"),
        ("offset" = Option<i64>, Query, description = "First byte wanted, counted as the task wrote them"),
        ("follow" = Option<bool>, Query, description = "true: go on until the execution is over, and wait for the first one to come"),
    ),
    responses(
        (status = 200, description = "The bytes as written; the part that was not kept is skipped, see the header Scitq-Cut", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 404, description = "No such task, or it has no execution yet", body = Problem),
        (status = 422, description = "A parameter breaks a rule", body = Problem),
        (status = 503, description = "The database is away", body = Problem),
    )
)]
pub(super) async fn of_task(
    context: Data<Context>,
    request: HttpRequest,
    path: Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let task = TaskId(id("id", &path.0)?);
    let wanted = Wanted::read(&request, &path.1)?;
    let mut listener = context.notices.listen();
    loop {
        let found = context
            .database()?
            .task(task)
            .await?
            .ok_or_else(|| no_such_task(task))?;
        if let Some(execution) = found.execution_id {
            return answer(context, ExecutionId(execution), wanted).await;
        }
        let nothing_comes = found.status.parse().is_ok_and(TaskStatus::is_final);
        if wanted.follow && context.stop.is_cancelled() {
            return Err(stopping());
        }
        if !wanted.follow || nothing_comes {
            return Err(ApiError::NotFound(format!(
                "task {task} is {} and has no execution yet",
                found.status
            )));
        }
        tokio::select! {
            () = listener.tasks() => {}
            () = context.stop.cancelled() => {}
        }
    }
}

/// Reads a stream of an execution.
#[utoipa::path(
    get, path = "/api/v1/executions/{id}/output/{stream}", tag = "output",
    params(
        ("id" = i64, Path, description = "Execution"),
        ("stream" = String, Path, description = "stdout or stderr"),
        ("offset" = Option<i64>, Query, description = "First byte wanted, counted as the task wrote them"),
        ("follow" = Option<bool>, Query, description = "true: go on until the execution is over"),
    ),
    responses(
        (status = 200, description = "The bytes as written; the part that was not kept is skipped, see the header Scitq-Cut", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 404, description = "No such execution", body = Problem),
        (status = 422, description = "A parameter breaks a rule", body = Problem),
        (status = 503, description = "The database is away", body = Problem),
    )
)]
pub(super) async fn of_execution(
    context: Data<Context>,
    request: HttpRequest,
    path: Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let execution = ExecutionId(id("id", &path.0)?);
    let wanted = Wanted::read(&request, &path.1)?;
    answer(context, execution, wanted).await
}

fn stopping() -> ApiError {
    ApiError::Unavailable("the server stops; ask again, from where the answer broke off".to_owned())
}

#[derive(Clone, Copy)]
struct Wanted {
    stream: Stream,
    offset: u64,
    follow: bool,
}

impl Wanted {
    fn read(request: &HttpRequest, stream: &str) -> Result<Self, ApiError> {
        let stream = stream
            .parse()
            .map_err(|error| ApiError::field("stream", format!("cannot be read: {error}")))?;
        let params = Params::parse(request.query_string(), &["offset", "follow"])?;
        let offset = params
            .integer("offset", 0..=i64::MAX)?
            .unwrap_or(0)
            .unsigned_abs();
        Ok(Self {
            stream,
            offset,
            follow: params.flag("follow")?,
        })
    }
}

async fn answer(
    context: Data<Context>,
    execution: ExecutionId,
    wanted: Wanted,
) -> Result<HttpResponse, ApiError> {
    let listener = context.notices.listen();
    let state = context
        .database()?
        .output_state(execution)
        .await?
        .ok_or_else(|| no_such_execution(execution))?;
    let mut response = HttpResponse::Ok();
    response.content_type("application/octet-stream");
    response.insert_header(("Scitq-Execution-Id", execution.to_string()));
    if let Some(cut) = cut_of(&state, wanted.stream) {
        response.insert_header(("Scitq-Cut", format!("{}-{}", cut.from, cut.to)));
    }
    let reader = Reader {
        attempt: state.attempt,
        execution,
        wanted,
        offset: wanted.offset,
        ready: VecDeque::new(),
        listener,
        over_since: None,
        context,
    };
    Ok(response.streaming(reader.into_stream()))
}

fn stream_of(state: &OutputState, stream: Stream) -> StreamState {
    match stream {
        Stream::Stdout => state.stdout,
        Stream::Stderr => state.stderr,
    }
}

fn cut_of(state: &OutputState, stream: Stream) -> Option<Cut> {
    stream_of(state, stream).end.and_then(|end| end.cut)
}

/// Reads a stream chunk by chunk, as fast as its reader takes it.
struct Reader {
    context: Data<Context>,
    execution: ExecutionId,
    attempt: AttemptId,
    wanted: Wanted,
    /// Next byte to be sent.
    offset: u64,
    ready: VecDeque<Bytes>,
    listener: Listener,
    over_since: Option<tokio::time::Instant>,
}

impl Reader {
    fn into_stream(self) -> impl FutureStream<Item = Result<Bytes, ApiError>> {
        futures::stream::try_unfold(self, |mut reader| async move {
            let bytes = reader.next().await?;
            Ok(bytes.map(|bytes| (bytes, reader)))
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Ok(Some(bytes));
            }
            // The state is read before the chunks: what it says is complete is then found among them.
            let database = self.context.database()?;
            let Some(state) = database.output_state(self.execution).await? else {
                return Ok(None);
            };
            let cut = cut_of(&state, self.wanted.stream);
            let chunks = database
                .output_chunks(
                    self.attempt,
                    self.wanted.stream,
                    self.offset,
                    CHUNKS_AT_ONCE,
                )
                .await?;
            for chunk in chunks {
                match self.take(&chunk, cut)? {
                    Taken::Bytes(bytes) => self.ready.push_back(bytes),
                    Taken::Nothing => {}
                    Taken::Gap => break,
                }
            }
            if !self.ready.is_empty() {
                self.over_since = None;
                continue;
            }
            if self.is_at_end(&state) {
                return Ok(None);
            }
            if self.context.stop.is_cancelled() {
                // Broken off: an orderly end would say that this was all.
                return Err(stopping());
            }
            tokio::select! {
                () = self.listener.output_of(self.attempt) => {}
                () = self.context.stop.cancelled() => {}
            }
        }
    }

    /// What a chunk adds at the present offset.
    fn take(&mut self, chunk: &StoredChunk, cut: Option<Cut>) -> Result<Taken, ApiError> {
        if let Some(cut) = cut
            && (cut.from..cut.to).contains(&self.offset)
        {
            self.offset = cut.to;
        }
        let end = chunk.offset + u64::from(chunk.chunk.length);
        if end <= self.offset {
            return Ok(Taken::Nothing);
        }
        if chunk.offset > self.offset {
            // What lies between is still on its way.
            return Ok(Taken::Gap);
        }
        let bytes = Bytes::from(
            chunk
                .chunk
                .unpack()
                .map_err(|error| ApiError::internal(&error))?,
        );
        let skip = usize::try_from(self.offset - chunk.offset)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        self.offset = end;
        Ok(Taken::Bytes(bytes.slice(skip..)))
    }

    fn is_at_end(&mut self, state: &OutputState) -> bool {
        if !self.wanted.follow || state.complete {
            return true;
        }
        if !state.over {
            return false;
        }
        // Over without an end: its worker is gone, nothing more is known to come.
        if stream_of(state, self.wanted.stream).end.is_none() {
            return true;
        }
        let since = *self
            .over_since
            .get_or_insert_with(tokio::time::Instant::now);
        since.elapsed() > PATIENCE_AFTER_END
    }
}

enum Taken {
    Bytes(Bytes),
    Nothing,
    Gap,
}
