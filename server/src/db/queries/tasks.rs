use std::collections::BTreeMap;

use diesel::{ExpressionMethods, OptionalExtension, QueryDsl, SelectableHelper};
use diesel_async::RunQueryDsl;
use scitq_shared::api::TaskView;
use scitq_shared::ids::TaskId;

use super::condition::{Among, FirstOfEach};
use super::{Backend, Conn, Pool};
use crate::db::schema::{requirement, task as tasks_table, task_label};
use crate::db::task_row::TaskRow;
use crate::db::value::text;
use crate::db::{DbError, PageRequest, TaskFilter};

pub(in crate::db) async fn task(pool: &Pool, id: TaskId) -> Result<Option<TaskView>, DbError> {
    let mut conn = pool.reader().await?;
    let row: Option<TaskRow> = tasks_table::table
        .find(id.0)
        .select(TaskRow::as_select())
        .first(&mut conn)
        .await
        .optional()?;
    let Some(row) = row else { return Ok(None) };
    let mut views = views(&mut conn, vec![row]).await?;
    Ok(views.pop())
}

pub(in crate::db) async fn tasks(
    pool: &Pool,
    filter: &TaskFilter,
    page: &PageRequest,
) -> Result<Vec<TaskView>, DbError> {
    let mut conn = pool.reader().await?;
    let rows = rows(&mut conn, filter, page).await?;
    views(&mut conn, rows).await
}

async fn rows(
    conn: &mut Conn,
    filter: &TaskFilter,
    page: &PageRequest,
) -> Result<Vec<TaskRow>, DbError> {
    let mut query = tasks_table::table
        .select(TaskRow::as_select())
        .into_boxed::<Backend>();
    let words: Vec<&'static str> = filter
        .statuses
        .iter()
        .map(|status| status.as_str())
        .collect();
    match words.as_slice() {
        [] => {}
        [status] => query = query.filter(tasks_table::status.eq(*status)),
        // Each status by itself is in the order of an index, all together are not.
        _ if filter.ids.is_empty() && filter.name.is_none() && filter.label.is_none() => {
            query = query.filter(FirstOfEach::new(
                "task",
                "status",
                &words,
                filter.batch.as_deref(),
                page,
            ));
        }
        _ => query = query.filter(Among::words("task.status", words)),
    }
    if let Some(batch) = &filter.batch {
        query = query.filter(tasks_table::batch.eq(text(batch)));
    }
    if let Some(name) = &filter.name {
        query = query.filter(tasks_table::name.eq(text(name)));
    }
    if !filter.ids.is_empty() {
        query = query.filter(Among::ids("task.id", filter.ids.iter().copied()));
    }
    if let Some((key, value)) = &filter.label {
        let labelled = task_label::table
            .filter(task_label::key.eq(text(key)))
            .filter(task_label::value.eq(text(value)))
            .select(task_label::task_id);
        query = query.filter(tasks_table::id.eq_any(labelled));
    }
    let limit = i64::try_from(page.limit).unwrap_or(i64::MAX);
    query = match (page.descending, page.after) {
        (false, None) => query.order(tasks_table::id.asc()),
        (false, Some(after)) => query
            .filter(tasks_table::id.gt(after))
            .order(tasks_table::id.asc()),
        (true, None) => query.order(tasks_table::id.desc()),
        (true, Some(after)) => query
            .filter(tasks_table::id.lt(after))
            .order(tasks_table::id.desc()),
    };
    Ok(query.limit(limit).load(conn).await?)
}

/// Adds to each task the tasks that it requires.
async fn views(conn: &mut Conn, rows: Vec<TaskRow>) -> Result<Vec<TaskView>, DbError> {
    let mut required: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    if !rows.is_empty() {
        let edges: Vec<(i64, i64)> = requirement::table
            .filter(Among::ids(
                "requirement.task_id",
                rows.iter().map(|row| row.id),
            ))
            .order((requirement::task_id, requirement::required_task_id))
            .select((requirement::task_id, requirement::required_task_id))
            .load(conn)
            .await?;
        for (task, needs) in edges {
            required.entry(task).or_default().push(needs);
        }
    }
    rows.into_iter()
        .map(|row| {
            let required = required.remove(&row.id).unwrap_or_default();
            row.view(required)
        })
        .collect()
}
