use std::collections::{BTreeMap, BTreeSet};

use diesel::sql_types::{BigInt, Text};
use scitq_shared::ids::AttemptId;
use scitq_shared::output::{MAX_CHUNK_BYTES, Stream};

use super::Conn;
use super::statement::{Statement, read_for, run_for};
use crate::db::chunk_plan::{Piece, StreamKey, extents, plan};
use crate::db::lacking::Span;
use crate::db::rows::{ChunkRow, SpanRow, StreamRow, batches};
use crate::db::value::{number, parse, unsigned};
use crate::db::{DbError, NewChunk};

/// Most packed bytes in one statement, but for a single chunk that is longer.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// How much of a stream is stored.
#[derive(Clone, Copy, Debug, Default)]
struct Stored {
    bytes: u64,
    end: u64,
}

/// Stores the bytes of these chunks that are not stored yet. The rows of their tasks are locked, so nobody else stores
/// pieces of the same streams meanwhile. Answers the attempts whose output grew.
pub(super) async fn store_chunks(
    conn: &mut Conn,
    chunks: &[NewChunk],
) -> Result<BTreeSet<AttemptId>, DbError> {
    if chunks.is_empty() {
        return Ok(BTreeSet::new());
    }
    let extents = extents(chunks);
    let mut streams = stored_streams(conn, &extents).await?;
    let stored = stored_spans(conn, &extents, &streams).await?;
    let pieces = plan(chunks, &stored)?;
    insert(conn, &pieces).await?;
    let mut grown: BTreeMap<StreamKey, Stored> = BTreeMap::new();
    for piece in &pieces {
        let stream = streams.entry(piece.key).or_default();
        stream.bytes += u64::from(piece.chunk.length);
        stream.end = stream.end.max(piece.offset + u64::from(piece.chunk.length));
        grown.insert(piece.key, *stream);
    }
    write_streams(conn, &grown).await?;
    Ok(grown.keys().map(|(attempt, _)| *attempt).collect())
}

#[derive(diesel::QueryableByName)]
struct StoredRow {
    #[diesel(sql_type = Text)]
    attempt_id: String,
    #[diesel(sql_type = Text)]
    stream: String,
    #[diesel(sql_type = BigInt)]
    stored_bytes: i64,
    #[diesel(sql_type = BigInt)]
    end_offset: i64,
}

fn key(attempt: &str, stream: &str) -> Result<StreamKey, DbError> {
    Ok((
        parse("attempt_id", attempt)?,
        parse::<Stream>("stream", stream)?,
    ))
}

fn span_row(key: &StreamKey, span: Span) -> SpanRow {
    SpanRow {
        attempt_id: key.0.to_string(),
        stream: key.1,
        low: number(span.low),
        high: number(span.high),
    }
}

async fn stored_streams(
    conn: &mut Conn,
    extents: &BTreeMap<StreamKey, Span>,
) -> Result<BTreeMap<StreamKey, Stored>, DbError> {
    let asked: Vec<SpanRow> = extents
        .iter()
        .map(|(key, span)| span_row(key, *span))
        .collect();
    let rows: Vec<StoredRow> = read_for(conn, &asked, |array| {
        Statement::new("SELECT s.attempt_id, s.stream, s.stored_bytes, s.end_offset FROM ")
            .rows::<SpanRow>(array)
            .sql(" JOIN output_stream AS s ON s.attempt_id = r.attempt_id AND s.stream = r.stream")
    })
    .await?;
    let pair = |row: StoredRow| {
        let stored = Stored {
            bytes: unsigned(row.stored_bytes),
            end: unsigned(row.end_offset),
        };
        Ok((key(&row.attempt_id, &row.stream)?, stored))
    };
    rows.into_iter().map(pair).collect()
}

#[derive(diesel::QueryableByName)]
struct SpanFound {
    #[diesel(sql_type = Text)]
    attempt_id: String,
    #[diesel(sql_type = Text)]
    stream: String,
    #[diesel(sql_type = BigInt)]
    low: i64,
    #[diesel(sql_type = BigInt)]
    high: i64,
}

/// The stored parts that the chunks may overlap: one read for all streams, and none for those that only grow.
async fn stored_spans(
    conn: &mut Conn,
    extents: &BTreeMap<StreamKey, Span>,
    streams: &BTreeMap<StreamKey, Stored>,
) -> Result<BTreeMap<StreamKey, Vec<Span>>, DbError> {
    let reaches_back = |(key, span): &(&StreamKey, &Span)| {
        streams.get(key).is_some_and(|stored| span.low < stored.end)
    };
    let asked: Vec<SpanRow> = extents
        .iter()
        .filter(reaches_back)
        .map(|(key, span)| span_row(key, *span))
        .collect();
    let longest = number(MAX_CHUNK_BYTES as u64);
    let rows: Vec<SpanFound> = read_for(conn, &asked, |array| {
        Statement::new(
            "SELECT c.attempt_id, c.stream, c.start_offset AS low, c.start_offset + c.length AS high FROM ",
        )
        .rows::<SpanRow>(array)
        .sql(
            " JOIN output_chunk AS c ON c.attempt_id = r.attempt_id AND c.stream = r.stream \
             AND c.start_offset < r.high AND c.start_offset > r.low - ",
        )
        .number(longest)
        .sql(" AND c.start_offset + c.length > r.low")
    })
    .await?;
    let mut spans: BTreeMap<StreamKey, Vec<Span>> = BTreeMap::new();
    for row in rows {
        let span = Span {
            low: unsigned(row.low),
            high: unsigned(row.high),
        };
        spans
            .entry(key(&row.attempt_id, &row.stream)?)
            .or_default()
            .push(span);
    }
    Ok(spans)
}

/// Inserts pieces: their bytes are one parameter, out of which each row takes its part.
async fn insert(conn: &mut Conn, pieces: &[Piece<'_>]) -> Result<(), DbError> {
    let mut rows = Vec::new();
    let mut bytes = Vec::new();
    for piece in pieces {
        if bytes.len() + piece.chunk.data.len() > MAX_BYTES && !rows.is_empty() {
            insert_rows(conn, &rows, &bytes).await?;
            rows.clear();
            bytes.clear();
        }
        let small = |value: usize| i32::try_from(value).unwrap_or(i32::MAX);
        rows.push(ChunkRow {
            attempt_id: piece.key.0.to_string(),
            stream: piece.key.1,
            start_offset: number(piece.offset),
            length: i32::try_from(piece.chunk.length).unwrap_or(i32::MAX),
            encoding: piece.chunk.encoding.as_str(),
            place: small(bytes.len() + 1),
            size: small(piece.chunk.data.len()),
        });
        bytes.extend_from_slice(&piece.chunk.data);
    }
    insert_rows(conn, &rows, &bytes).await
}

async fn insert_rows(conn: &mut Conn, rows: &[ChunkRow], bytes: &[u8]) -> Result<(), DbError> {
    for array in batches(rows) {
        let statement = Statement::new(
            "INSERT INTO output_chunk (attempt_id, stream, start_offset, length, encoding, data) \
             SELECT r.attempt_id, r.stream, r.start_offset, r.length, r.encoding, substr(",
        )
        .bytes(bytes.to_vec())
        .sql(", r.place, r.size) FROM ")
        .rows::<ChunkRow>(array);
        statement.run(conn).await?;
    }
    Ok(())
}

async fn write_streams(
    conn: &mut Conn,
    grown: &BTreeMap<StreamKey, Stored>,
) -> Result<(), DbError> {
    let rows: Vec<StreamRow> = grown
        .iter()
        .map(|(key, stored)| StreamRow {
            attempt_id: key.0.to_string(),
            stream: key.1,
            stored_bytes: number(stored.bytes),
            end_offset: number(stored.end),
        })
        .collect();
    run_for(conn, &rows, |array| {
        Statement::new(
            "INSERT INTO output_stream (attempt_id, stream, stored_bytes, end_offset) \
             SELECT r.attempt_id, r.stream, r.stored_bytes, r.end_offset FROM ",
        )
        .rows::<StreamRow>(array)
        .sql(
            " WHERE true ORDER BY r.attempt_id, r.stream ON CONFLICT (attempt_id, stream) \
             DO UPDATE SET stored_bytes = excluded.stored_bytes, end_offset = excluded.end_offset",
        )
    })
    .await?;
    Ok(())
}
