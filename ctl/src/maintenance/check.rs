//! `maintenance check`.

use std::process::ExitCode;

use scitq_shared::api::CounterMismatch;

use super::table;
use crate::client::Client;
use crate::failure::{EXIT_FAILED, Failure};
use crate::screen::Screen;

/// Shows the counters that do not agree with the tasks.
pub async fn run(client: &Client, screen: &Screen) -> Result<ExitCode, Failure> {
    let mismatches: Vec<CounterMismatch> = client.get(&["maintenance", "counters"], &[]).await?;
    if screen.json() {
        screen.value(&mismatches)?;
    } else if mismatches.is_empty() {
        screen.line("all counters agree with the tasks")?;
    } else {
        screen.table(&table(&mismatches))?;
        screen.note("`scitq-ctl maintenance repair` corrects them");
    }
    Ok(if mismatches.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_FAILED)
    })
}
