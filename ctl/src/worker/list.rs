//! `worker list`.

use scitq_shared::api::WorkerView;

use super::show::why_paused;
use crate::client::Client;
use crate::failure::Failure;
use crate::paging::{self, ListArguments};
use crate::screen::Screen;
use crate::table::Column;
use crate::text::{or_none, time};

const COLUMNS: [Column; 10] = [
    Column::words("NAME"),
    Column::words("STATUS"),
    Column::words("BATCH"),
    Column::number("CONCURRENCY"),
    Column::number("PREFETCH"),
    Column::number("RUNNING"),
    Column::number("ACCEPTED"),
    Column::words("LAST CONTACT"),
    Column::long("HOST"),
    Column::long("WHY"),
];

/// Shows all workers.
pub async fn run(client: &Client, screen: &Screen) -> Result<(), Failure> {
    let all = ListArguments::all();
    paging::show(
        client,
        screen,
        &["workers"],
        &[],
        &all,
        &COLUMNS,
        |worker: &WorkerView| {
            vec![
                worker.name.clone(),
                status(worker),
                worker.batch.clone(),
                worker.concurrency.to_string(),
                worker.prefetch.to_string(),
                worker.running.to_string(),
                worker.accepted.to_string(),
                time(worker.last_contact_at),
                worker.hostname.clone(),
                or_none(why_paused(worker).as_deref()),
            ]
        },
    )
    .await
}

/// The status as a list shows it.
fn status(worker: &WorkerView) -> String {
    if worker.lost_at.is_some() {
        format!("{} (lost)", worker.status)
    } else {
        worker.status.clone()
    }
}
