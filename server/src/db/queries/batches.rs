use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDateTime;
use diesel::dsl::count_star;
use diesel::{ExpressionMethods, QueryDsl};
use diesel_async::RunQueryDsl;
use scitq_shared::api::BatchView;
use scitq_shared::names::BatchName;
use scitq_shared::task::TaskStatus;

use super::{Backend, Pool};
use crate::db::schema::{batch as batch_table, batch_counter, worker};
use crate::db::value::{parse, text};
use crate::db::{BatchLoad, DbError};

/// Statuses of workers that do not listen to anything.
const AWAY: [&str; 3] = ["offline", "failed", "evicted"];

pub(in crate::db) async fn batches(pool: &Pool) -> Result<Vec<BatchView>, DbError> {
    load(pool, None).await
}

pub(in crate::db) async fn batch(pool: &Pool, name: &str) -> Result<Option<BatchView>, DbError> {
    Ok(load(pool, Some(text(name))).await?.pop())
}

async fn load(pool: &Pool, name: Option<String>) -> Result<Vec<BatchView>, DbError> {
    let mut conn = pool.reader().await?;
    let mut batches = batch_table::table.into_boxed::<Backend>();
    let mut counters = batch_counter::table
        .filter(batch_counter::tasks.ne(0))
        .into_boxed::<Backend>();
    let mut workers = worker::table
        .filter(worker::status.ne_all(AWAY))
        .group_by(worker::batch)
        .select((worker::batch, count_star()))
        .into_boxed::<Backend>();
    if let Some(name) = name {
        batches = batches.filter(batch_table::name.eq(name.clone()));
        counters = counters.filter(batch_counter::batch.eq(name.clone()));
        workers = workers.filter(worker::batch.eq(name));
    }
    let batches: Vec<(String, NaiveDateTime, bool, Option<String>)> =
        batches.order(batch_table::name).load(&mut conn).await?;
    let counters: Vec<(String, String, i64)> = counters.load(&mut conn).await?;
    let workers: Vec<(String, i64)> = workers.load(&mut conn).await?;
    let mut tasks: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
    for (batch, status, count) in counters {
        tasks.entry(batch).or_default().insert(status, count);
    }
    let workers: BTreeMap<String, i64> = workers.into_iter().collect();
    let view = |(batch, created_at, paused, pause_reason)| {
        let (batch, created_at): (String, NaiveDateTime) = (batch, created_at);
        let tasks = tasks.remove(&batch).unwrap_or_default();
        BatchView {
            created_at: created_at.and_utc(),
            total: tasks.values().sum(),
            workers: workers.get(&batch).copied().unwrap_or(0),
            tasks,
            batch,
            paused,
            pause_reason,
        }
    };
    Ok(batches.into_iter().map(view).collect())
}

pub(in crate::db) async fn dispatchable(
    pool: &Pool,
) -> Result<Vec<(BatchName, BatchLoad)>, DbError> {
    let mut conn = pool.reader().await?;
    let (pending, assigned) = (TaskStatus::Pending.as_str(), TaskStatus::Assigned.as_str());
    let rows: Vec<(String, String, i64)> = batch_counter::table
        .filter(batch_counter::status.eq_any([pending, assigned]))
        .filter(batch_counter::tasks.gt(0))
        .load(&mut conn)
        .await?;
    let paused: Vec<String> = batch_table::table
        .filter(batch_table::paused.eq(true))
        .select(batch_table::name)
        .load(&mut conn)
        .await?;
    let paused: BTreeSet<String> = paused.into_iter().collect();
    let mut loads: BTreeMap<String, BatchLoad> = BTreeMap::new();
    for (batch, status, tasks) in rows {
        let waits = status == pending;
        if waits && paused.contains(&batch) {
            continue;
        }
        let load = loads.entry(batch).or_default();
        if waits {
            load.pending = tasks;
        } else {
            load.assigned = tasks;
        }
    }
    loads
        .into_iter()
        .map(|(batch, load)| Ok((parse("batch_counter.batch", &batch)?, load)))
        .collect()
}
