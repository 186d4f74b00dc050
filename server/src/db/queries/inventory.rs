use std::collections::BTreeMap;

use diesel::sql_types::{BigInt, Bool, Nullable, Text};
use scitq_shared::ids::{AttemptId, IncarnationId, TaskId};
use scitq_shared::names::WorkerName;
use scitq_shared::output::{Stream, StreamEnd};

use super::executions::stored_streams;
use super::statement::{Statement, read_for};
use super::{Conn, Pool};
use crate::db::execution_row::end;
use crate::db::lacking::{Span, first_lacking};
use crate::db::rows::WordRow;
use crate::db::task_state::attempt_state;
use crate::db::value::{parse, unsigned};
use crate::db::{DbError, HeldAttempts, ListedAttempt, LiveAttempt};

/// The condition of the index on executions that are not over.
pub(super) const LIVE: &str = "state IN ('accepted', 'running', 'uploading')";

#[derive(diesel::QueryableByName)]
pub(super) struct LiveRow {
    #[diesel(sql_type = Text)]
    attempt_id: String,
    #[diesel(sql_type = BigInt)]
    task_id: i64,
    #[diesel(sql_type = Text)]
    dispatch_id: String,
    #[diesel(sql_type = Text)]
    state: String,
    #[diesel(sql_type = BigInt)]
    announced_sequence: i64,
}

impl LiveRow {
    pub(super) fn attempt(self) -> Result<LiveAttempt, DbError> {
        Ok(LiveAttempt {
            attempt: parse("execution.attempt_id", &self.attempt_id)?,
            task: TaskId(self.task_id),
            dispatch: parse("execution.dispatch_id", &self.dispatch_id)?,
            state: attempt_state(&self.state)?,
            announced_sequence: unsigned(self.announced_sequence),
        })
    }
}

#[derive(diesel::QueryableByName)]
struct ListedRow {
    #[diesel(sql_type = Text)]
    attempt_id: String,
    #[diesel(sql_type = BigInt)]
    task_id: i64,
    #[diesel(sql_type = Text)]
    state: String,
    #[diesel(sql_type = Bool)]
    complete: bool,
    #[diesel(sql_type = Nullable<BigInt>)]
    stdout_length: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    stdout_cut_from: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    stdout_cut_to: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    stderr_length: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    stderr_cut_from: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    stderr_cut_to: Option<i64>,
}

impl ListedRow {
    fn end(&self, stream: Stream) -> Option<StreamEnd> {
        match stream {
            Stream::Stdout => end(self.stdout_length, self.stdout_cut_from, self.stdout_cut_to),
            Stream::Stderr => end(self.stderr_length, self.stderr_cut_from, self.stderr_cut_to),
        }
    }
}

pub(in crate::db) async fn held_attempts(
    pool: &Pool,
    worker: &WorkerName,
    incarnation: IncarnationId,
    attempts: &[AttemptId],
) -> Result<HeldAttempts, DbError> {
    let mut conn = pool.reader().await?;
    Ok(HeldAttempts {
        live: live(&mut conn, worker, incarnation).await?,
        listed: listed(&mut conn, attempts).await?,
    })
}

async fn live(
    conn: &mut Conn,
    worker: &WorkerName,
    incarnation: IncarnationId,
) -> Result<Vec<LiveAttempt>, DbError> {
    let statement =
        Statement::new("SELECT attempt_id, task_id, dispatch_id, state, announced_sequence FROM execution WHERE worker = ")
            .text(worker.as_str())
            .sql(" AND incarnation = ")
            .text(&incarnation.to_string())
            .sql(format!(" AND {LIVE} ORDER BY id"));
    let rows: Vec<LiveRow> = statement.read(conn).await?;
    rows.into_iter().map(LiveRow::attempt).collect()
}

async fn listed(conn: &mut Conn, attempts: &[AttemptId]) -> Result<Vec<ListedAttempt>, DbError> {
    let mut attempts = attempts.to_vec();
    attempts.sort_unstable();
    attempts.dedup();
    let asked: Vec<WordRow> = attempts
        .iter()
        .map(|attempt| WordRow {
            word: attempt.to_string(),
        })
        .collect();
    let rows: Vec<ListedRow> = read_for(conn, &asked, |array| {
        Statement::new(
            "SELECT e.attempt_id, e.task_id, e.state, e.complete, e.stdout_length, e.stdout_cut_from, e.stdout_cut_to, \
             e.stderr_length, e.stderr_cut_from, e.stderr_cut_to FROM ",
        )
        .rows::<WordRow>(array)
        .sql(" JOIN execution AS e ON e.attempt_id = r.word ORDER BY e.attempt_id")
    })
    .await?;
    // Only of those that are not complete it is worth knowing what is lacking.
    let open: Vec<&str> = rows
        .iter()
        .filter(|row| !row.complete)
        .map(|row| row.attempt_id.as_str())
        .collect();
    let stored = stored_streams(conn, &open).await?;
    let gaps = gaps(conn, &open).await?;
    let attempt = |row: &ListedRow| {
        let lacking = |stream: Stream| {
            let (stdout, stderr) = stored.get(&row.attempt_id).copied().unwrap_or_default();
            let stored = if stream == Stream::Stdout {
                stdout
            } else {
                stderr
            };
            let key = (row.attempt_id.clone(), stream.as_str().to_owned());
            let gaps = gaps.get(&key).map_or(&[][..], Vec::as_slice);
            let end = row.end(stream).filter(|_| !row.complete)?;
            first_lacking(end, gaps, stored.stored_end)
        };
        Ok(ListedAttempt {
            attempt: parse("execution.attempt_id", &row.attempt_id)?,
            task: TaskId(row.task_id),
            state: attempt_state(&row.state)?,
            complete: row.complete,
            stdout_from: lacking(Stream::Stdout),
            stderr_from: lacking(Stream::Stderr),
        })
    };
    rows.iter().map(attempt).collect()
}

#[derive(diesel::QueryableByName)]
struct GapRow {
    #[diesel(sql_type = Text)]
    attempt_id: String,
    #[diesel(sql_type = Text)]
    stream: String,
    #[diesel(sql_type = BigInt)]
    low: i64,
    #[diesel(sql_type = BigInt)]
    high: i64,
}

/// The parts of these attempts' streams that are not stored although something behind them is.
async fn gaps(
    conn: &mut Conn,
    attempts: &[&str],
) -> Result<BTreeMap<(String, String), Vec<Span>>, DbError> {
    let rows: Vec<WordRow> = attempts
        .iter()
        .map(|attempt| WordRow {
            word: (*attempt).to_owned(),
        })
        .collect();
    let rows: Vec<GapRow> = read_for(conn, &rows, |array| {
        Statement::new(
            "SELECT attempt_id, stream, low, high FROM (\
               SELECT c.attempt_id, c.stream, c.start_offset AS high, \
               lag(c.start_offset + c.length, 1, CAST(0 AS bigint)) OVER \
                 (PARTITION BY c.attempt_id, c.stream ORDER BY c.start_offset) AS low \
               FROM ",
        )
        .rows::<WordRow>(array)
        .sql(" JOIN output_chunk AS c ON c.attempt_id = r.word) AS pieces WHERE high > low ORDER BY attempt_id, stream, low")
    })
    .await?;
    let mut gaps: BTreeMap<(String, String), Vec<Span>> = BTreeMap::new();
    for row in rows {
        let span = Span {
            low: unsigned(row.low),
            high: unsigned(row.high),
        };
        gaps.entry((row.attempt_id, row.stream))
            .or_default()
            .push(span);
    }
    Ok(gaps)
}
