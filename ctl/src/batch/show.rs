//! `batch show`.

use scitq_shared::api::BatchView;

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
        .map_err(|failure| {
            failure.remedy_when_missing("`scitq-ctl batch list` shows the batches")
        })?;
    if screen.json() {
        return screen.value(&batch);
    }
    screen.table(&Table::properties(vec![
        ("batch", batch.batch.clone()),
        ("created", time(batch.created_at)),
        ("tasks", batch.total.to_string()),
        ("by status", by_status(&batch.tasks)),
        ("workers", batch.workers.to_string()),
    ]))
}
