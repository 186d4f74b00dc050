use std::collections::BTreeMap;

use diesel::sql_types::{BigInt, Text};
use scitq_shared::api::CounterMismatch;
use scitq_shared::task::TaskStatus;

use super::statement::{Statement, run_for};
use super::transaction::transaction;
use super::{Conn, Pool, dialect};
use crate::db::DbError;
use crate::db::rows::CounterRow;
use crate::db::tally::Tally;

/// Adds a transaction's changes to the counters: its last write, in the order of the key, so that transactions wait for
/// each other in one direction only.
pub(super) async fn count(conn: &mut Conn, tally: &Tally) -> Result<(), DbError> {
    let rows: Vec<CounterRow> = tally
        .changes()
        .map(|(batch, status, delta)| CounterRow {
            batch: batch.to_owned(),
            status: status.as_str(),
            delta,
        })
        .collect();
    run_for(conn, &rows, |array| {
        Statement::new("INSERT INTO batch_counter (batch, status, tasks) SELECT r.batch, r.status, r.delta FROM ")
            .rows::<CounterRow>(array)
            .sql(
                " WHERE true ORDER BY r.batch, r.status \
                 ON CONFLICT (batch, status) DO UPDATE SET tasks = batch_counter.tasks + excluded.tasks",
            )
    })
    .await?;
    Ok(())
}

#[derive(diesel::QueryableByName)]
struct MismatchRow {
    #[diesel(sql_type = Text)]
    batch: String,
    #[diesel(sql_type = Text)]
    status: String,
    #[diesel(sql_type = BigInt)]
    counter: i64,
    #[diesel(sql_type = BigInt)]
    tasks: i64,
}

/// One statement, so that counters and tasks are seen at the same moment.
async fn mismatches(conn: &mut Conn) -> Result<Vec<CounterMismatch>, DbError> {
    let statement = Statement::new(
        "SELECT batch, status, counter, tasks FROM (\
           SELECT batch, status, CAST(sum(counter) AS bigint) AS counter, CAST(sum(tasks) AS bigint) AS tasks FROM (\
             SELECT batch, status, tasks AS counter, 0 AS tasks FROM batch_counter \
             UNION ALL SELECT batch, status, 0, count(*) FROM task GROUP BY batch, status\
           ) AS sides GROUP BY batch, status\
         ) AS summed WHERE counter <> tasks ORDER BY batch, status",
    );
    let rows: Vec<MismatchRow> = statement.read(conn).await?;
    let view = |row: MismatchRow| CounterMismatch {
        batch: row.batch,
        status: row.status,
        counter: row.counter,
        tasks: row.tasks,
    };
    Ok(rows.into_iter().map(view).collect())
}

pub(in crate::db) async fn check_counters(pool: &Pool) -> Result<Vec<CounterMismatch>, DbError> {
    let mut conn = pool.reader().await?;
    mismatches(&mut conn).await
}

pub(in crate::db) async fn repair_counters(pool: &Pool) -> Result<Vec<CounterMismatch>, DbError> {
    transaction!(pool, |conn| repair(conn))
}

async fn repair(conn: &mut Conn) -> Result<Vec<CounterMismatch>, DbError> {
    if let Some(lock) = dialect::LOCK_REPAIR {
        Statement::new(lock).run(conn).await?;
    }
    let found = mismatches(conn).await?;
    let mut unknown = BTreeMap::new();
    let mut tally = Tally::default();
    for mismatch in &found {
        match mismatch.status.parse::<TaskStatus>() {
            Ok(status) => tally.add(&mismatch.batch, status, mismatch.tasks - mismatch.counter),
            Err(error) => {
                unknown.insert(&mismatch.batch, error);
            }
        }
    }
    if let Some((batch, error)) = unknown.first_key_value() {
        return Err(DbError::Corrupt {
            reason: format!("a status of batch {batch:?}: {error}"),
        });
    }
    count(conn, &tally).await?;
    Ok(found)
}
