//! When an attempt is complete: it is over, and everything kept of its output is stored. Each is told once.

use std::collections::{BTreeMap, BTreeSet};

use diesel::sql_types::{BigInt, Bool, Nullable, Text};
use scitq_shared::ids::{AttemptId, ExecutionId};
use scitq_shared::names::WorkerName;
use scitq_shared::output::{Stream, StreamEnd};

use super::Conn;
use super::statement::{Statement, read_for, run_for};
use crate::db::DbError;
use crate::db::execution_row::end;
use crate::db::lacking::kept_bytes;
use crate::db::rows::{AttemptRow, WordRow};
use crate::db::task_state::attempt_state;
use crate::db::value::{parse, unsigned};

/// Attempts as rows of a bulk statement.
pub(super) fn words<'a>(attempts: impl IntoIterator<Item = &'a AttemptId>) -> Vec<WordRow> {
    let word = |attempt: &AttemptId| WordRow {
        word: attempt.to_string(),
    };
    attempts.into_iter().map(word).collect()
}

#[derive(diesel::QueryableByName)]
struct StoredRow {
    #[diesel(sql_type = Text)]
    attempt_id: String,
    #[diesel(sql_type = Text)]
    stream: String,
    #[diesel(sql_type = BigInt)]
    stored_bytes: i64,
}

/// Where the two streams of a row end, once it is over and both are known.
fn ends(row: &AttemptRow) -> Result<Option<(StreamEnd, StreamEnd)>, DbError> {
    if !attempt_state(row.state)?.is_over() {
        return Ok(None);
    }
    let stdout = end(row.stdout_length, row.stdout_cut_from, row.stdout_cut_to);
    let stderr = end(row.stderr_length, row.stderr_cut_from, row.stderr_cut_to);
    Ok(stdout.zip(stderr))
}

/// Marks those rows complete, before they are written, whose output is stored already: saves writing them twice. Answers
/// those that were not complete `before`.
pub(super) async fn mark_complete(
    conn: &mut Conn,
    rows: &mut BTreeMap<AttemptId, AttemptRow>,
    before: &BTreeSet<AttemptId>,
) -> Result<Vec<(WorkerName, AttemptId)>, DbError> {
    let mut ended = BTreeMap::new();
    for (attempt, row) in rows.iter() {
        if let Some(ends) = ends(row)? {
            ended.insert(*attempt, ends);
        }
    }
    let found: Vec<StoredRow> = read_for(conn, &words(ended.keys()), |array| {
        Statement::new("SELECT s.attempt_id, s.stream, s.stored_bytes FROM ")
            .rows::<WordRow>(array)
            .sql(" JOIN output_stream AS s ON s.attempt_id = r.word")
    })
    .await?;
    let mut stored: BTreeMap<(AttemptId, Stream), u64> = BTreeMap::new();
    for row in found {
        let key = (
            parse("output_stream.attempt_id", &row.attempt_id)?,
            parse("output_stream.stream", &row.stream)?,
        );
        stored.insert(key, unsigned(row.stored_bytes));
    }
    let mut complete = Vec::new();
    for (attempt, (stdout, stderr)) in ended {
        let all =
            |stream, end| kept_bytes(end) <= stored.get(&(attempt, stream)).copied().unwrap_or(0);
        if !(all(Stream::Stdout, stdout) && all(Stream::Stderr, stderr)) {
            continue;
        }
        let Some(row) = rows.get_mut(&attempt) else {
            continue;
        };
        row.complete = true;
        if !before.contains(&attempt) {
            complete.push((parse("execution.worker", &row.worker)?, attempt));
        }
    }
    Ok(complete)
}

#[derive(diesel::QueryableByName)]
struct TouchedRow {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Text)]
    attempt_id: String,
    #[diesel(sql_type = Text)]
    worker: String,
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
    #[diesel(sql_type = BigInt)]
    stdout_stored: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    stderr_length: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    stderr_cut_from: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    stderr_cut_to: Option<i64>,
    #[diesel(sql_type = BigInt)]
    stderr_stored: i64,
}

impl TouchedRow {
    /// True when the attempt is over and everything kept of its output is stored, and this was not so before.
    fn becomes_complete(&self) -> Result<bool, DbError> {
        let stdout = end(self.stdout_length, self.stdout_cut_from, self.stdout_cut_to);
        let stderr = end(self.stderr_length, self.stderr_cut_from, self.stderr_cut_to);
        let stored = |end, stored| kept_bytes(end) <= unsigned(stored);
        let all = stdout.zip(stderr).is_some_and(|(stdout, stderr)| {
            stored(stdout, self.stdout_stored) && stored(stderr, self.stderr_stored)
        });
        Ok(!self.complete && all && attempt_state(&self.state)?.is_over())
    }
}

/// Marks the attempts complete that became so without being written: their output grew, or they are over and where their
/// streams end was known before. Answers them, and adds the executions of those whose output grew to `ids`.
pub(super) async fn complete_late(
    conn: &mut Conn,
    rows: &BTreeMap<AttemptId, AttemptRow>,
    grown: &BTreeSet<AttemptId>,
    ids: &mut BTreeMap<AttemptId, ExecutionId>,
) -> Result<Vec<(WorkerName, AttemptId)>, DbError> {
    let mut touched = grown.clone();
    for (attempt, row) in rows {
        if row.complete {
            touched.remove(attempt);
        } else if attempt_state(row.state)?.is_over() && ends(row)?.is_none() {
            touched.insert(*attempt);
        }
    }
    let found: Vec<TouchedRow> = read_for(conn, &words(&touched), |array| {
        Statement::new(
            "SELECT e.id, e.attempt_id, e.worker, e.state, e.complete, e.stdout_length, e.stdout_cut_from, \
             e.stdout_cut_to, COALESCE(o.stored_bytes, 0) AS stdout_stored, e.stderr_length, e.stderr_cut_from, \
             e.stderr_cut_to, COALESCE(p.stored_bytes, 0) AS stderr_stored FROM ",
        )
        .rows::<WordRow>(array)
        .sql(
            " JOIN execution AS e ON e.attempt_id = r.word \
             LEFT JOIN output_stream AS o ON o.attempt_id = r.word AND o.stream = 'stdout' \
             LEFT JOIN output_stream AS p ON p.attempt_id = r.word AND p.stream = 'stderr'",
        )
    })
    .await?;
    let mut complete = Vec::new();
    for row in found {
        let attempt: AttemptId = parse("execution.attempt_id", &row.attempt_id)?;
        ids.insert(attempt, ExecutionId(row.id));
        if row.becomes_complete()? {
            complete.push((
                parse::<WorkerName>("execution.worker", &row.worker)?,
                attempt,
            ));
        }
    }
    let rows = words(complete.iter().map(|(_, attempt)| attempt));
    run_for(conn, &rows, |array| {
        Statement::new("UPDATE execution SET complete = true FROM ")
            .rows::<WordRow>(array)
            .sql(" WHERE execution.attempt_id = r.word")
    })
    .await?;
    Ok(complete)
}
