use diesel::sql_types::BigInt;
use diesel::{ExpressionMethods, IntoSql, OptionalExtension, QueryDsl, SelectableHelper};
use diesel_async::RunQueryDsl;
use scitq_shared::ids::{AttemptId, ExecutionId};
use scitq_shared::output::{Chunk, MAX_CHUNK_BYTES, Stream};

use super::Pool;
use super::executions::stored_streams;
use crate::db::execution_row::Ends;
use crate::db::schema::{execution, output_chunk};
use crate::db::task_state::attempt_state;
use crate::db::value::{number, parse, unsigned};
use crate::db::{DbError, OutputState, StoredChunk, StreamState};

pub(in crate::db) async fn output_state(
    pool: &Pool,
    id: ExecutionId,
) -> Result<Option<OutputState>, DbError> {
    let mut conn = pool.reader().await?;
    let row: Option<(String, String, bool, Ends)> = execution::table
        .find(id.0)
        .select((
            execution::attempt_id,
            execution::state,
            execution::complete,
            Ends::as_select(),
        ))
        .first(&mut conn)
        .await
        .optional()?;
    let Some((attempt, state, complete, ends)) = row else {
        return Ok(None);
    };
    // Read after the execution: what is complete then has all its chunks.
    let stored = stored_streams(&mut conn, &[attempt.as_str()]).await?;
    let (stdout, stderr) = stored.get(&attempt).copied().unwrap_or_default();
    Ok(Some(OutputState {
        attempt: parse("execution.attempt_id", &attempt)?,
        over: attempt_state(&state)?.is_over(),
        complete,
        stdout: StreamState {
            end: ends.stdout(),
            ..stdout
        },
        stderr: StreamState {
            end: ends.stderr(),
            ..stderr
        },
    }))
}

pub(in crate::db) async fn output_chunks(
    pool: &Pool,
    attempt: AttemptId,
    stream: Stream,
    offset: u64,
    max_chunks: usize,
) -> Result<Vec<StoredChunk>, DbError> {
    let mut conn = pool.reader().await?;
    let offset = number(offset);
    // No chunk is longer than this, so none that begins earlier reaches the offset.
    let earliest = offset.saturating_sub(number(MAX_CHUNK_BYTES as u64));
    let rows: Vec<(i64, i32, String, Vec<u8>)> = output_chunk::table
        .filter(output_chunk::attempt_id.eq(attempt.to_string()))
        .filter(output_chunk::stream.eq(stream.as_str()))
        .filter(output_chunk::start_offset.ge(earliest))
        .filter(
            output_chunk::length
                .cast::<BigInt>()
                .gt(offset.into_sql::<BigInt>() - output_chunk::start_offset),
        )
        .order(output_chunk::start_offset)
        .limit(i64::try_from(max_chunks).unwrap_or(i64::MAX))
        .select((
            output_chunk::start_offset,
            output_chunk::length,
            output_chunk::encoding,
            output_chunk::data,
        ))
        .load(&mut conn)
        .await?;
    rows.into_iter()
        .map(|(offset, length, encoding, data)| {
            let length = u32::try_from(length).map_err(|_| DbError::Corrupt {
                reason: format!("output_chunk.length is {length}"),
            })?;
            let encoding = parse("output_chunk.encoding", &encoding)?;
            Ok(StoredChunk {
                offset: unsigned(offset),
                chunk: Chunk {
                    length,
                    encoding,
                    data,
                },
            })
        })
        .collect()
}
