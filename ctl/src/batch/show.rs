//! `batch show`.

use scitq_shared::api::BatchView;

use super::WHERE_TO_LOOK;
use crate::client::Client;
use crate::failure::Failure;
use crate::screen::Screen;
use crate::table::Table;
use crate::text::{by_status, time};

/// Shows one batch.
pub async fn run(name: &str, client: &Client, screen: &Screen) -> Result<(), Failure> {
    let batch: BatchView = client
        .get(&["batches", name], &[])
        .await
        .map_err(|failure| failure.remedy_when_missing(WHERE_TO_LOOK))?;
    print(&batch, screen)
}

/// Shows a batch that has been read.
pub(super) fn print(batch: &BatchView, screen: &Screen) -> Result<(), Failure> {
    if screen.json() {
        return screen.value(batch);
    }
    screen.table(&Table::properties(vec![
        ("batch", batch.batch.clone()),
        ("created", time(batch.created_at)),
        ("tasks", batch.total.to_string()),
        ("by status", by_status(&batch.tasks)),
        ("workers", batch.workers.to_string()),
        ("state", state(batch)),
    ]))
}

/// How a paused batch goes on.
pub fn remedy(batch: &BatchView) -> String {
    format!("`scitq-ctl batch resume {}` goes on", batch.batch)
}

/// Whether its tasks are dispatched, and if not, why.
pub fn state(batch: &BatchView) -> String {
    match (&batch.pause_reason, batch.paused) {
        (Some(reason), true) => format!("paused: {reason}; {}", remedy(batch)),
        (None, true) => format!("paused; {}", remedy(batch)),
        (_, false) => "open".to_owned(),
    }
}
