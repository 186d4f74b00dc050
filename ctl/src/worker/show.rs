//! `worker show`.

use scitq_shared::api::WorkerView;

use super::WHERE_TO_LOOK;
use crate::client::Client;
use crate::failure::Failure;
use crate::screen::Screen;
use crate::table::Table;
use crate::text::{duration, size, time};

/// Shows one worker.
pub async fn run(name: &str, client: &Client, screen: &Screen) -> Result<(), Failure> {
    let worker: WorkerView = client
        .get(&["workers", name], &[])
        .await
        .map_err(|failure| failure.remedy_when_missing(WHERE_TO_LOOK))?;
    if screen.json() {
        screen.value(&worker)
    } else {
        screen.table(&properties(&worker))
    }
}

/// A worker, a property a line.
pub(super) fn properties(worker: &WorkerView) -> Table {
    Table::properties(vec![
        ("worker", worker.name.clone()),
        ("status", status(worker)),
        ("batch", worker.batch.clone()),
        ("concurrency", worker.concurrency.to_string()),
        ("prefetch", worker.prefetch.to_string()),
        ("running", worker.running.to_string()),
        ("accepted", worker.accepted.to_string()),
        ("host", worker.hostname.clone()),
        ("cores", worker.cores.to_string()),
        (
            "memory",
            size(u64::try_from(worker.memory_bytes).unwrap_or(0)),
        ),
        ("version", worker.program_version.clone()),
        ("last contact", time(worker.last_contact_at)),
        (
            "lost after",
            worker.lost_after_seconds.map_or_else(
                || "as the server's settings say".to_owned(),
                |seconds| format!("{} of silence", duration(seconds.saturating_mul(1000))),
            ),
        ),
        (
            "agent",
            if worker.restart_requested {
                format!("start {}, asked to start anew", worker.boots)
            } else {
                format!("start {}", worker.boots)
            },
        ),
        ("created", time(worker.created_at)),
        ("id", worker.worker_id.to_string()),
    ])
}

/// Why the server has paused it, and how it goes on.
pub(super) fn why_paused(worker: &WorkerView) -> Option<String> {
    let reason = worker.pause_reason.as_ref()?;
    Some(format!(
        "{reason}; `scitq-ctl worker update {} --resume` goes on",
        worker.name
    ))
}

/// The status, and why it is paused or since when it is lost.
pub(super) fn status(worker: &WorkerView) -> String {
    match (why_paused(worker), worker.lost_at) {
        (_, Some(at)) => format!("{}, lost since {}", worker.status, time(at)),
        (Some(why), None) => format!("{}: {why}", worker.status),
        (None, None) => worker.status.clone(),
    }
}
