//! `maintenance repair`.

use std::process::ExitCode;

use reqwest::Method;
use scitq_shared::api::CounterMismatch;

use super::table;
use crate::client::{Call, Client};
use crate::failure::Failure;
use crate::screen::Screen;

/// Corrects the counters, and shows those that were wrong.
pub async fn run(client: &Client, screen: &Screen) -> Result<ExitCode, Failure> {
    let parts = ["maintenance", "counters", "repair"];
    let call = Call {
        method: Method::POST,
        ..Call::get(&parts, &[])
    };
    let repaired: Vec<CounterMismatch> = client.call(&call).await?;
    if screen.json() {
        screen.value(&repaired)?;
    } else if repaired.is_empty() {
        screen.line("all counters agreed with the tasks, nothing was changed")?;
    } else {
        screen.table(&table(&repaired))?;
        screen.note("these counters were wrong and are corrected");
    }
    Ok(ExitCode::SUCCESS)
}
