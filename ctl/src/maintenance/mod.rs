//! `maintenance`: checks of the database.

mod check;
mod repair;

use std::process::ExitCode;

use clap::Subcommand;
use scitq_shared::api::CounterMismatch;

use crate::client::Client;
use crate::failure::Failure;
use crate::screen::Screen;
use crate::table::{Column, Table};

/// What to look after.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum MaintenanceCommand {
    /// Compare each batch's counters with its tasks; exit code 1 when they differ
    Check,
    /// Count again and correct the counters that differ
    Repair,
}

impl MaintenanceCommand {
    /// Does it.
    pub async fn run(self, client: &Client, screen: &Screen) -> Result<ExitCode, Failure> {
        match self {
            Self::Check => check::run(client, screen).await,
            Self::Repair => repair::run(client, screen).await,
        }
    }
}

fn table(mismatches: &[CounterMismatch]) -> Table {
    let mut table = Table::new([
        Column::words("BATCH"),
        Column::words("STATUS"),
        Column::number("COUNTER"),
        Column::number("TASKS"),
    ]);
    for mismatch in mismatches {
        let CounterMismatch {
            batch,
            status,
            counter,
            tasks,
        } = mismatch.clone();
        table.row([batch, status, counter.to_string(), tasks.to_string()]);
    }
    table
}
