//! `batch list`.

use scitq_shared::api::BatchView;

use super::show::state;
use crate::client::Client;
use crate::failure::Failure;
use crate::paging::{self, ListArguments};
use crate::screen::Screen;
use crate::table::Column;
use crate::text::{by_status, time};

const COLUMNS: [Column; 6] = [
    Column::words("BATCH"),
    Column::number("TASKS"),
    Column::number("WORKERS"),
    Column::words("CREATED"),
    Column::long("BY STATUS"),
    Column::long("STATE"),
];

/// Shows all batches.
pub async fn run(client: &Client, screen: &Screen) -> Result<(), Failure> {
    let all = ListArguments::all();
    paging::show(
        client,
        screen,
        &["batches"],
        &[],
        &all,
        &COLUMNS,
        |batch: &BatchView| {
            vec![
                batch.batch.clone(),
                batch.total.to_string(),
                batch.workers.to_string(),
                time(batch.created_at),
                by_status(&batch.tasks),
                state(batch),
            ]
        },
    )
    .await
}
