use std::collections::BTreeMap;

use diesel::sql_types::{BigInt, Text};
use scitq_shared::api::Progress;

use super::Pool;
use super::statement::{Statement, read_for};
use crate::db::DbError;
use crate::db::rows::IdRow;

#[derive(diesel::QueryableByName)]
struct CountRow {
    #[diesel(sql_type = Text)]
    status: String,
    #[diesel(sql_type = BigInt)]
    tasks: i64,
}

pub(in crate::db) async fn progress_of_tasks(
    pool: &Pool,
    ids: &[i64],
) -> Result<Progress, DbError> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    let rows: Vec<IdRow> = ids.into_iter().map(|id| IdRow { id }).collect();
    let mut conn = pool.reader().await?;
    let counts: Vec<CountRow> = read_for(&mut conn, &rows, |array| {
        Statement::new("SELECT t.status, count(*) AS tasks FROM ")
            .rows::<IdRow>(array)
            .sql(" JOIN task AS t ON t.id = r.id GROUP BY t.status")
    })
    .await?;
    let mut tasks: BTreeMap<String, i64> = BTreeMap::new();
    for row in counts {
        *tasks.entry(row.status).or_default() += row.tasks;
    }
    Ok(Progress::of(tasks))
}
