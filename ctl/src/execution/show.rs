//! `execution show`.

use scitq_shared::api::{CutView, ExecutionView};

use super::{exit, get, ran_for, status};
use crate::client::Client;
use crate::failure::Failure;
use crate::screen::Screen;
use crate::table::Table;
use crate::text::{self, NONE, list_or_none, or_none, size, time, time_or_none};

/// Shows one execution.
pub async fn run(id: i64, client: &Client, screen: &Screen) -> Result<(), Failure> {
    let execution = get(client, id).await?;
    if screen.json() {
        return screen.value(&execution);
    }
    screen.table(&properties(&execution))
}

fn properties(execution: &ExecutionView) -> Table {
    Table::properties(vec![
        ("execution", execution.execution_id.to_string()),
        ("task", execution.task_id.to_string()),
        ("status", status(execution)),
        (
            "newest",
            if execution.latest { "yes" } else { "no" }.to_owned(),
        ),
        ("command", execution.command.clone()),
        ("shell", or_none(execution.shell.as_deref())),
        ("container", or_none(execution.container.as_deref())),
        (
            "container options",
            or_none(execution.container_options.as_deref()),
        ),
        ("input", list_or_none(&execution.input)),
        ("output", or_none(execution.output.as_deref())),
        ("resource", list_or_none(&execution.resource)),
        ("batch", execution.batch.clone()),
        ("worker", execution.worker.clone()),
        ("queued", time(execution.queued_at)),
        ("accepted", time(execution.accepted_at)),
        ("started", time_or_none(execution.started_at)),
        ("ended", time_or_none(execution.ended_at)),
        ("ran for", ran_for(execution)),
        ("exit", exit(execution)),
        ("failure", failure(execution)),
        ("CPU time", cpu_time(execution)),
        ("peak memory", peak_memory(execution)),
        (
            "stdout",
            stream(execution.stdout_bytes, execution.stdout_cut),
        ),
        (
            "stderr",
            stream(execution.stderr_bytes, execution.stderr_cut),
        ),
        ("revision", execution.revision.to_string()),
        ("attempt", execution.attempt_id.clone()),
        (
            "dispatch",
            format!("{} (epoch {})", execution.dispatch_id, execution.epoch),
        ),
        ("incarnation", execution.incarnation.clone()),
    ])
}

/// Why it failed, in words, with the word for rules behind it.
pub(crate) fn failure(execution: &ExecutionView) -> String {
    match (&execution.failure_detail, &execution.failure_reason) {
        (Some(detail), Some(reason)) => format!("{detail} ({reason})"),
        (Some(one), None) | (None, Some(one)) => one.clone(),
        (None, None) => NONE.to_owned(),
    }
}

fn cpu_time(execution: &ExecutionView) -> String {
    match (execution.user_cpu_ms, execution.system_cpu_ms) {
        (Some(user), Some(system)) => {
            format!(
                "{} user, {} system",
                text::duration(user),
                text::duration(system)
            )
        }
        _ => NONE.to_owned(),
    }
}

fn peak_memory(execution: &ExecutionView) -> String {
    let Some(bytes) = execution
        .peak_memory_bytes
        .and_then(|bytes| u64::try_from(bytes).ok())
    else {
        return NONE.to_owned();
    };
    let of = match execution.memory_source.as_deref() {
        Some("largest_process") => " (of the largest process)",
        Some("cgroup") => " (of all processes, by cgroup)",
        _ => "",
    };
    format!("{}{of}", size(bytes))
}

fn stream(bytes: i64, cut: Option<CutView>) -> String {
    let all = size(u64::try_from(bytes).unwrap_or(0));
    match cut {
        Some(CutView { from, to }) => {
            format!(
                "{all}, of which {} in the middle are not kept (bytes {from} to {to})",
                size(to.saturating_sub(from))
            )
        }
        None => all,
    }
}
