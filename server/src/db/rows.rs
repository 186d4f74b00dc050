//! Rows of bulk statements: one parameter of JSON text that SQL unfolds into rows.

use scitq_shared::output::Stream;
use serde::Serialize;

use super::value::to_json;

/// Most bytes of JSON in one statement, but for a single row that is longer.
const MAX_JSON_BYTES: usize = 4 * 1024 * 1024;
/// Most rows of one statement.
const MAX_ROWS: usize = 5_000;

/// Type of a column of a bulk statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// 64 bits.
    BigInt,
    /// 32 bits.
    Integer,
    /// Text.
    Text,
    /// True or false.
    Bool,
    /// A time in UTC, as text of the form `2026-01-31 23:59:59.123456`.
    Time,
}

/// A row that a bulk statement takes. The fields' names are the columns' names.
pub(super) trait BulkRow: Serialize {
    /// Its columns.
    const COLUMNS: &'static [(&'static str, Kind)];
}

impl<R: BulkRow> BulkRow for &R {
    const COLUMNS: &'static [(&'static str, Kind)] = R::COLUMNS;
}

macro_rules! bulk_row {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty => $kind:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Serialize)]
        pub(super) struct $name {
            $(pub(super) $field: $type),+
        }

        impl BulkRow for $name {
            const COLUMNS: &'static [(&'static str, Kind)] = &[$((stringify!($field), Kind::$kind)),+];
        }
    };
}

bulk_row!(
    /// An id of a task.
    IdRow { id: i64 => BigInt }
);
bulk_row!(
    /// A text: an attempt's UUID, a name, a key.
    WordRow { word: String => Text }
);
bulk_row!(
    /// A task to be inserted.
    NewTaskRow {
        place: i64 => BigInt,
        batch: String => Text,
        name: Option<String> => Text,
        status: &'static str => Text,
        missing: i32 => Integer,
        command: String => Text,
        shell: Option<String> => Text,
        container: Option<String> => Text,
        container_options: Option<String> => Text,
        input: String => Text,
        output: Option<String> => Text,
        resource: String => Text,
        retry: i32 => Integer,
        download_timeout: Option<i64> => BigInt,
        run_timeout: Option<i64> => BigInt,
        use_cache: bool => Bool,
        priority: i32 => Integer,
        weight: i32 => Integer,
        idempotency_key: Option<String> => Text,
        labels: String => Text,
        uid: Option<i64> => BigInt,
        gid: Option<i64> => BigInt,
        revision: i64 => BigInt,
    }
);
bulk_row!(
    /// A dispatched task that the database does not know.
    ImportedRow {
        id: i64 => BigInt,
        batch: String => Text,
        dispatch_id: String => Text,
        dispatch_epoch: i64 => BigInt,
        dispatched_at: String => Time,
        name: Option<String> => Text,
        command: String => Text,
        shell: Option<String> => Text,
        container: Option<String> => Text,
        container_options: Option<String> => Text,
        input: String => Text,
        output: Option<String> => Text,
        resource: String => Text,
        retries_left: i32 => Integer,
        download_timeout: Option<i64> => BigInt,
        run_timeout: Option<i64> => BigInt,
        use_cache: bool => Bool,
        priority: i32 => Integer,
        weight: i32 => Integer,
        idempotency_key: Option<String> => Text,
        labels: String => Text,
        uid: Option<i64> => BigInt,
        gid: Option<i64> => BigInt,
        revision: i64 => BigInt,
    }
);
bulk_row!(
    /// A label of a task.
    LabelRow { key: String => Text, value: String => Text, task_id: i64 => BigInt }
);
bulk_row!(
    /// An edge: a task waits for another.
    EdgeRow { task_id: i64 => BigInt, required_task_id: i64 => BigInt, met: bool => Bool }
);
bulk_row!(
    /// A change of a batch's counter.
    CounterRow { batch: String => Text, status: &'static str => Text, delta: i64 => BigInt }
);
bulk_row!(
    /// A task's new state.
    TaskStateRow {
        id: i64 => BigInt,
        row_version: i64 => BigInt,
        status: &'static str => Text,
        uploading: bool => Bool,
        missing: i32 => Integer,
        dispatch_id: Option<String> => Text,
        attempt_id: Option<String> => Text,
        execution_id: Option<i64> => BigInt,
        retries_left: i32 => Integer,
    }
);
bulk_row!(
    /// What a task is from a revision on.
    RevisionRow {
        id: i64 => BigInt,
        row_version: i64 => BigInt,
        batch: String => Text,
        priority: i32 => Integer,
        name: Option<String> => Text,
        command: String => Text,
        shell: Option<String> => Text,
        container: Option<String> => Text,
        container_options: Option<String> => Text,
        input: String => Text,
        output: Option<String> => Text,
        resource: String => Text,
        download_timeout: Option<i64> => BigInt,
        run_timeout: Option<i64> => BigInt,
        use_cache: bool => Bool,
        weight: i32 => Integer,
        uid: Option<i64> => BigInt,
        gid: Option<i64> => BigInt,
        revision: i64 => BigInt,
    }
);
bulk_row!(
    /// A dispatch of a claimed task.
    DispatchRow { id: i64 => BigInt, row_version: i64 => BigInt, dispatch_id: String => Text }
);
bulk_row!(
    /// What is known of an attempt.
    AttemptRow {
        attempt_id: String => Text,
        state: &'static str => Text,
        task_id: Option<i64> => BigInt,
        batch: Option<String> => Text,
        worker: String => Text,
        incarnation: String => Text,
        dispatch_id: Option<String> => Text,
        epoch: Option<i64> => BigInt,
        revision: Option<i64> => BigInt,
        announced_sequence: i64 => BigInt,
        queued_at: Option<String> => Time,
        accepted_at: Option<String> => Time,
        started_at: Option<String> => Time,
        ended_at: Option<String> => Time,
        exit_code: Option<i32> => Integer,
        signal: Option<i32> => Integer,
        failure_reason: Option<&'static str> => Text,
        failure_detail: Option<String> => Text,
        user_cpu_ms: Option<i64> => BigInt,
        system_cpu_ms: Option<i64> => BigInt,
        peak_memory_bytes: Option<i64> => BigInt,
        memory_source: Option<&'static str> => Text,
        stdout_length: Option<i64> => BigInt,
        stdout_cut_from: Option<i64> => BigInt,
        stdout_cut_to: Option<i64> => BigInt,
        stderr_length: Option<i64> => BigInt,
        stderr_cut_from: Option<i64> => BigInt,
        stderr_cut_to: Option<i64> => BigInt,
        complete: bool => Bool,
    }
);
bulk_row!(
    /// A stream of an attempt, and how much of it is stored or added.
    StreamRow { attempt_id: String => Text, stream: Stream => Text, stored_bytes: i64 => BigInt, end_offset: i64 => BigInt }
);
bulk_row!(
    /// A part of a stream: bytes `low` up to but not including `high`.
    SpanRow { attempt_id: String => Text, stream: Stream => Text, low: i64 => BigInt, high: i64 => BigInt }
);
bulk_row!(
    /// A chunk to be inserted; its bytes are `size` bytes at `place` (from 1) of the statement's second parameter.
    ChunkRow {
        attempt_id: String => Text,
        stream: Stream => Text,
        start_offset: i64 => BigInt,
        length: i32 => Integer,
        encoding: &'static str => Text,
        place: i32 => Integer,
        size: i32 => Integer,
    }
);
bulk_row!(
    /// A worker, the incarnation that speaks for it, and how many times its agent was started.
    SignOfLifeRow { name: String => Text, incarnation: String => Text, boots: i64 => BigInt }
);

/// Writes rows as JSON arrays, each small enough for one statement. No rows, no array.
pub(super) fn batches<R: BulkRow>(rows: &[R]) -> Vec<String> {
    let mut batches = Vec::new();
    let mut array = String::new();
    let mut count = 0;
    for row in rows {
        let row = to_json(row);
        if count == MAX_ROWS || (count > 0 && array.len() + row.len() > MAX_JSON_BYTES) {
            array.push(']');
            batches.push(std::mem::take(&mut array));
            count = 0;
        }
        array.push(if count == 0 { '[' } else { ',' });
        array.push_str(&row);
        count += 1;
    }
    if count > 0 {
        array.push(']');
        batches.push(array);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_split_and_nothing_is_lost() {
        let rows: Vec<IdRow> = (0..12_001).map(|id| IdRow { id }).collect();
        let batches = batches(&rows);
        assert_eq!(batches.len(), 3);
        let ids: Vec<i64> = batches
            .iter()
            .flat_map(|batch| serde_json::from_str::<Vec<serde_json::Value>>(batch).unwrap())
            .map(|row| row["id"].as_i64().unwrap())
            .collect();
        assert_eq!(ids, (0..12_001).collect::<Vec<_>>());
        assert!(super::batches::<IdRow>(&[]).is_empty());
        let long: Vec<WordRow> = (0..3)
            .map(|_| WordRow {
                word: "x".repeat(3 * 1024 * 1024),
            })
            .collect();
        assert_eq!(super::batches(&long).len(), 3);
    }
}
