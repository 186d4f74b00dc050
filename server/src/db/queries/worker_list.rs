use std::collections::BTreeMap;

use chrono::NaiveDateTime;
use diesel::dsl::{count_star, sum};
use diesel::sql_types::{BigInt, Text};
use diesel::{ExpressionMethods, QueryDsl, SelectableHelper};
use diesel_async::RunQueryDsl;
use scitq_shared::api::WorkerView;
use scitq_shared::names::BatchName;
use scitq_shared::worker::WorkerStatus;

use super::inventory::LIVE;
use super::statement::Statement;
use super::{Backend, Pool};
use crate::db::schema::worker as worker_table;
use crate::db::value::{parse, text};
use crate::db::{Capacity, DbError};

#[derive(diesel::Queryable, diesel::Selectable)]
#[diesel(table_name = worker_table)]
struct WorkerRow {
    id: i64,
    name: String,
    hostname: String,
    batch: String,
    status: String,
    concurrency: i32,
    prefetch: i32,
    program_version: String,
    cores: i32,
    memory_bytes: i64,
    last_contact_at: NaiveDateTime,
    created_at: NaiveDateTime,
    pause_reason: Option<String>,
    lost_after_seconds: Option<i64>,
    lost_at: Option<NaiveDateTime>,
    boots: i64,
    restart_requested_boots: Option<i64>,
}

#[derive(diesel::QueryableByName)]
struct HeldRow {
    #[diesel(sql_type = Text)]
    worker: String,
    #[diesel(sql_type = Text)]
    state: String,
    #[diesel(sql_type = BigInt)]
    attempts: i64,
}

pub(in crate::db) async fn workers(pool: &Pool) -> Result<Vec<WorkerView>, DbError> {
    load(pool, None).await
}

pub(in crate::db) async fn worker(pool: &Pool, name: &str) -> Result<Option<WorkerView>, DbError> {
    Ok(load(pool, Some(text(name))).await?.pop())
}

async fn load(pool: &Pool, name: Option<String>) -> Result<Vec<WorkerView>, DbError> {
    let mut conn = pool.reader().await?;
    let mut query = worker_table::table
        .select(WorkerRow::as_select())
        .into_boxed::<Backend>();
    let mut held = Statement::new(format!(
        "SELECT worker, state, count(*) AS attempts FROM execution WHERE {LIVE}"
    ));
    if let Some(name) = name {
        held = held.sql(" AND worker = ").text(&name);
        query = query.filter(worker_table::name.eq(name));
    }
    let rows: Vec<WorkerRow> = query.order(worker_table::id).load(&mut conn).await?;
    let held: Vec<HeldRow> = held.sql(" GROUP BY worker, state").read(&mut conn).await?;
    let mut counts: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for row in held {
        let (accepted, running) = counts.entry(row.worker).or_default();
        if row.state == "accepted" {
            *accepted += row.attempts;
        } else {
            *running += row.attempts;
        }
    }
    let view = |row: WorkerRow| {
        let (accepted, running) = counts.get(&row.name).copied().unwrap_or_default();
        WorkerView {
            worker_id: row.id,
            name: row.name,
            hostname: row.hostname,
            batch: row.batch,
            status: row.status,
            concurrency: row.concurrency,
            prefetch: row.prefetch,
            accepted,
            running,
            program_version: row.program_version,
            cores: row.cores,
            memory_bytes: row.memory_bytes,
            last_contact_at: row.last_contact_at.and_utc(),
            created_at: row.created_at.and_utc(),
            pause_reason: row.pause_reason,
            lost_after_seconds: row.lost_after_seconds,
            lost_at: row.lost_at.map(|time| time.and_utc()),
            boots: row.boots,
            restart_requested: row.restart_requested_boots.is_some(),
        }
    };
    Ok(rows.into_iter().map(view).collect())
}

pub(in crate::db) async fn batch_capacity(
    pool: &Pool,
) -> Result<Vec<(BatchName, Capacity)>, DbError> {
    let mut conn = pool.reader().await?;
    let rows: Vec<(String, i64, Option<i64>, Option<i64>)> = worker_table::table
        .filter(worker_table::status.eq(WorkerStatus::Running.as_str()))
        .group_by(worker_table::batch)
        .select((
            worker_table::batch,
            count_star(),
            sum(worker_table::concurrency),
            sum(worker_table::prefetch),
        ))
        .order(worker_table::batch)
        .load(&mut conn)
        .await?;
    rows.into_iter()
        .map(|(batch, workers, slots, prefetch)| {
            let slots_and_prefetch = slots.unwrap_or(0) + prefetch.unwrap_or(0);
            Ok((
                parse("worker.batch", &batch)?,
                Capacity {
                    workers,
                    slots_and_prefetch,
                },
            ))
        })
        .collect()
}
