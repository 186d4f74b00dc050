use diesel::sql_types::BigInt;
use scitq_shared::ids::TaskId;

use super::Pool;
use super::statement::Statement;
use crate::db::DbError;
use crate::db::value::{number, text, unsigned};

#[derive(diesel::QueryableByName)]
struct CountRow {
    #[diesel(sql_type = BigInt)]
    tasks: i64,
}

/// Two ranges of the index of pending tasks, each counted up to the limit: one condition for both would have to look at
/// all the rest as well.
pub(in crate::db) async fn tasks_ahead(
    pool: &Pool,
    batch: &str,
    priority: i32,
    task: TaskId,
    most: u64,
) -> Result<u64, DbError> {
    let mut conn = pool.reader().await?;
    let most_rows = number(most);
    let batch = text(batch);
    let statement =
        Statement::new("SELECT (SELECT count(*) FROM (SELECT id FROM task WHERE batch = ")
            .text(&batch)
            .sql(" AND status = 'pending' AND priority > ")
            .number(i64::from(priority))
            .sql(" LIMIT ")
            .number(most_rows)
            .sql(") AS higher) + (SELECT count(*) FROM (SELECT id FROM task WHERE batch = ")
            .text(&batch)
            .sql(" AND status = 'pending' AND priority = ")
            .number(i64::from(priority))
            .sql(" AND id < ")
            .number(task.0)
            .sql(" LIMIT ")
            .number(most_rows)
            .sql(") AS earlier) AS tasks");
    let rows: Vec<CountRow> = statement.read(&mut conn).await?;
    let tasks = rows.first().map_or(0, |row| row.tasks);
    Ok(unsigned(tasks).min(most))
}
