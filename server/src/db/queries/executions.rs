use std::collections::BTreeMap;

use diesel::{
    ExpressionMethods, JoinOnDsl, NullableExpressionMethods, OptionalExtension, QueryDsl,
    SelectableHelper,
};
use diesel_async::RunQueryDsl;
use scitq_shared::api::ExecutionView;
use scitq_shared::execution::ExecutionStatus;
use scitq_shared::ids::ExecutionId;
use scitq_shared::output::Stream;
use scitq_shared::transition::AttemptState;

use super::condition::{Among, FirstOfEach};
use super::{Backend, Conn, Pool};
use crate::db::execution_row::ExecutionRow;
use crate::db::schema::{execution as executions_table, output_stream, task};
use crate::db::task_state::attempt_word;
use crate::db::value::{text, unsigned};
use crate::db::{DbError, ExecutionFilter, PageRequest, StreamState};

/// An execution, and the newest execution of its task.
type Joined = (ExecutionRow, Option<i64>);

pub(in crate::db) async fn execution(
    pool: &Pool,
    id: ExecutionId,
) -> Result<Option<ExecutionView>, DbError> {
    let mut conn = pool.reader().await?;
    let row: Option<Joined> = executions_table::table
        .left_join(task::table.on(task::id.eq(executions_table::task_id)))
        .filter(executions_table::id.eq(id.0))
        .select((ExecutionRow::as_select(), task::execution_id.nullable()))
        .first(&mut conn)
        .await
        .optional()?;
    let Some(row) = row else { return Ok(None) };
    let mut views = views(&mut conn, vec![row]).await?;
    Ok(views.pop())
}

pub(in crate::db) async fn executions(
    pool: &Pool,
    filter: &ExecutionFilter,
    page: &PageRequest,
) -> Result<Vec<ExecutionView>, DbError> {
    let mut conn = pool.reader().await?;
    let rows = rows(&mut conn, filter, page).await?;
    views(&mut conn, rows).await
}

/// The states that people see as one of these statuses.
fn words(statuses: &[ExecutionStatus]) -> Vec<&'static str> {
    let fits = |state: &AttemptState| {
        state
            .status()
            .is_some_and(|status| statuses.contains(&status))
    };
    AttemptState::ALL
        .into_iter()
        .filter(fits)
        .map(attempt_word)
        .collect()
}

async fn rows(
    conn: &mut Conn,
    filter: &ExecutionFilter,
    page: &PageRequest,
) -> Result<Vec<Joined>, DbError> {
    let mut query = executions_table::table
        .left_join(task::table.on(task::id.eq(executions_table::task_id)))
        .select((ExecutionRow::as_select(), task::execution_id.nullable()))
        .into_boxed::<Backend>();
    let words = words(&filter.statuses);
    let others =
        filter.task.is_some() || filter.batch.is_some() || filter.worker.is_some() || filter.latest;
    match words.as_slice() {
        [] => {}
        [state] => query = query.filter(executions_table::state.eq(*state)),
        _ if others => query = query.filter(Among::words("execution.state", words)),
        _ => query = query.filter(FirstOfEach::new("execution", "state", &words, None, page)),
    }
    if let Some(task) = filter.task {
        query = query.filter(executions_table::task_id.eq(task.0));
    }
    if let Some(batch) = &filter.batch {
        query = query.filter(executions_table::batch.eq(text(batch)));
    }
    if let Some(worker) = &filter.worker {
        query = query.filter(executions_table::worker.eq(text(worker)));
    }
    if filter.latest {
        query = query.filter(task::execution_id.eq(executions_table::id.nullable()));
    }
    let limit = i64::try_from(page.limit).unwrap_or(i64::MAX);
    let id = executions_table::id;
    query = match (page.descending, page.after) {
        (false, None) => query.order(id.asc()),
        (false, Some(after)) => query.filter(id.gt(after)).order(id.asc()),
        (true, None) => query.order(id.desc()),
        (true, Some(after)) => query.filter(id.lt(after)).order(id.desc()),
    };
    Ok(query.limit(limit).load(conn).await?)
}

/// Adds to executions whose streams are open how much of those is stored.
async fn views(conn: &mut Conn, rows: Vec<Joined>) -> Result<Vec<ExecutionView>, DbError> {
    let open: Vec<&str> = rows
        .iter()
        .filter(|(row, _)| row.is_open())
        .map(|(row, _)| row.attempt_id.as_str())
        .collect();
    let mut stored = stored_streams(conn, &open).await?;
    rows.into_iter()
        .map(|(row, newest)| {
            let streams = stored.remove(&row.attempt_id).unwrap_or_default();
            row.view(newest, streams)
        })
        .collect()
}

/// How much of these attempts' streams is stored, standard output first.
pub(super) async fn stored_streams(
    conn: &mut Conn,
    attempts: &[&str],
) -> Result<BTreeMap<String, (StreamState, StreamState)>, DbError> {
    let mut stored: BTreeMap<String, (StreamState, StreamState)> = BTreeMap::new();
    if attempts.is_empty() {
        return Ok(stored);
    }
    let rows: Vec<(String, String, i64)> = output_stream::table
        .filter(Among::words("output_stream.attempt_id", attempts))
        .select((
            output_stream::attempt_id,
            output_stream::stream,
            output_stream::end_offset,
        ))
        .load(conn)
        .await?;
    for (attempt, stream, end) in rows {
        let streams = stored.entry(attempt).or_default();
        let state = StreamState {
            stored_end: unsigned(end),
            end: None,
        };
        if stream == Stream::Stdout.as_str() {
            streams.0 = state;
        } else {
            streams.1 = state;
        }
    }
    Ok(stored)
}
