use std::collections::BTreeSet;
use std::time::Duration;

use diesel::sql_types::{BigInt, Text};
use scitq_shared::ids::{DispatchId, TaskId};
use scitq_shared::names::BatchName;

use super::statement::Statement;
use super::{Pool, dialect};
use crate::db::value::parse;
use crate::db::{DbError, Surplus, Unaccepted};

#[derive(diesel::QueryableByName)]
struct DispatchIdRow {
    #[diesel(sql_type = Text)]
    dispatch_id: String,
}

#[derive(diesel::QueryableByName)]
struct CountRow {
    #[diesel(sql_type = BigInt)]
    tasks: i64,
}

/// The oldest of the dispatches, as many as there are more than messages in the queue.
pub(in crate::db) async fn dispatches_beyond(
    pool: &Pool,
    batch: &BatchName,
    age: Duration,
    depth: u64,
) -> Result<Surplus, DbError> {
    let mut conn = pool.reader().await?;
    let statement =
        Statement::new("SELECT tasks FROM batch_counter WHERE status = 'assigned' AND batch = ")
            .text(batch.as_str());
    let counted: Vec<CountRow> = statement.read(&mut conn).await?;
    let assigned = counted.first().map_or(0, |row| row.tasks);
    let (before, behind) = dialect::MILLISECONDS_AGO;
    let number = |number: u128| i64::try_from(number).unwrap_or(i64::MAX);
    let statement = Statement::new("SELECT dispatch_id FROM task WHERE batch = ")
        .text(batch.as_str())
        .sql(" AND status = 'assigned' AND dispatched_at < ")
        .sql(before)
        .number(number(age.as_millis()))
        .sql(behind)
        .sql(" ORDER BY dispatched_at DESC, id DESC LIMIT ")
        .number(i64::MAX)
        .sql(" OFFSET ")
        .number(number(u128::from(depth)));
    let rows: Vec<DispatchIdRow> = statement.read(&mut conn).await?;
    let surplus = rows
        .iter()
        .map(|row| parse("task.dispatch_id", &row.dispatch_id));
    Ok(Surplus {
        surplus: surplus.collect::<Result<_, _>>()?,
        assigned: usize::try_from(assigned).unwrap_or(0),
    })
}

#[derive(diesel::QueryableByName)]
struct UnacceptedRow {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Text)]
    dispatch_id: String,
}

#[derive(diesel::QueryableByName)]
struct NameRow {
    #[diesel(sql_type = Text)]
    name: String,
}

/// The dispatches of a batch that are not accepted, or those of some, and the workers that may have got them: all, for a
/// worker may have had the batch before.
pub(in crate::db) async fn unaccepted(
    pool: &Pool,
    batch: &BatchName,
    among: Option<&[DispatchId]>,
) -> Result<Unaccepted, DbError> {
    let mut conn = pool.reader().await?;
    let rows: Vec<UnacceptedRow> =
        Statement::new("SELECT id, dispatch_id FROM task WHERE batch = ")
            .text(batch.as_str())
            .sql(" AND status = 'assigned' ORDER BY id")
            .read(&mut conn)
            .await?;
    let among: Option<BTreeSet<DispatchId>> = among.map(|some| some.iter().copied().collect());
    let mut dispatches = Vec::with_capacity(rows.len());
    for row in rows {
        let dispatch = parse("task.dispatch_id", &row.dispatch_id)?;
        if among.as_ref().is_none_or(|some| some.contains(&dispatch)) {
            dispatches.push((TaskId(row.id), dispatch));
        }
    }
    // After the tasks: a worker that came between the two cannot have got what is not in the queue.
    let names: Vec<NameRow> = Statement::new(
        "SELECT name FROM worker WHERE NOT departed AND lost_at IS NULL AND status NOT IN ('failed', 'evicted') ORDER BY name",
    )
    .read(&mut conn)
    .await?;
    let workers = names.iter().map(|row| parse("worker.name", &row.name));
    Ok(Unaccepted {
        dispatches,
        workers: workers.collect::<Result<_, _>>()?,
    })
}
