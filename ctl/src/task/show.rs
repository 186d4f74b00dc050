//! `task show`.

use scitq_shared::api::{ExecutionView, TaskView};

use super::{get, status};
use crate::client::Client;
use crate::execution;
use crate::failure::Failure;
use crate::paging::{self, ListArguments, Order};
use crate::screen::Screen;
use crate::table::Table;
use crate::text::{self, NONE, list_or_none, or_none, time};

/// How many of its executions are shown with a task.
const EXECUTIONS: u64 = 10;

/// Shows a task; as a table, its newest executions too.
pub async fn run(id: i64, client: &Client, screen: &Screen) -> Result<(), Failure> {
    let task = get(client, id).await?;
    if screen.json() {
        return screen.value(&task);
    }
    screen.table(&properties(&task))?;
    let filter = [("task", id.to_string())];
    let newest = ListArguments::first(EXECUTIONS, Order::Desc);
    let mut executions: Vec<ExecutionView> = Vec::new();
    let more = paging::fetch(client, &["executions"], &filter, &newest, |execution| {
        executions.push(execution);
        Ok(())
    })
    .await?;
    let Some(last) = executions.first() else {
        return Ok(());
    };
    if last.failure_detail.is_some() || last.failure_reason.is_some() {
        screen.line(&format!(
            "\n{}",
            text::one_line(&execution::show::failure(last))
        ))?;
    }
    let mut table = Table::new(execution::COLUMNS);
    for execution in &executions {
        table.row(execution::cells(execution));
    }
    screen.line("")?;
    screen.table(&table)?;
    if more.is_some() {
        screen.note(&format!(
            "older executions: scitq-ctl execution list --task {id}"
        ));
    }
    Ok(())
}

fn properties(task: &TaskView) -> Table {
    let seconds =
        |value: Option<i64>| value.map_or_else(|| NONE.to_owned(), |value| format!("{value} s"));
    let number =
        |value: Option<i64>| value.map_or_else(|| NONE.to_owned(), |value| value.to_string());
    let labels: Vec<String> = task
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let requirements: Vec<String> = task.required_task_ids.iter().map(i64::to_string).collect();
    let requirements = match task.missing_requirements {
        0 => list_or_none(&requirements),
        missing => format!("{} ({missing} not succeeded yet)", requirements.join(" ")),
    };
    Table::properties(vec![
        ("task", task.task_id.to_string()),
        ("status", status(task)),
        ("batch", task.batch.clone()),
        ("name", or_none(task.name.as_deref())),
        ("command", task.command.clone()),
        ("shell", or_none(task.shell.as_deref())),
        ("container", or_none(task.container.as_deref())),
        (
            "container options",
            or_none(task.container_options.as_deref()),
        ),
        ("input", list_or_none(&task.input)),
        ("output", or_none(task.output.as_deref())),
        ("resource", list_or_none(&task.resource)),
        ("requires", requirements),
        (
            "retry",
            format!("{} ({} left)", task.retry, task.retries_left),
        ),
        ("download timeout", seconds(task.download_timeout)),
        ("run timeout", seconds(task.run_timeout)),
        (
            "use cache",
            if task.use_cache { "yes" } else { "no" }.to_owned(),
        ),
        ("priority", task.priority.to_string()),
        ("weight", task.weight.to_string()),
        ("labels", list_or_none(&labels)),
        ("user id", number(task.uid)),
        ("group id", number(task.gid)),
        ("idempotency key", or_none(task.idempotency_key.as_deref())),
        ("revision", task.revision.to_string()),
        ("newest execution", number(task.execution_id)),
        ("created", time(task.created_at)),
        ("modified", time(task.modified_at)),
    ])
}
