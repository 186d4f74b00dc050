//! `batch pause` and `batch resume`.

use reqwest::Method;
use scitq_shared::api::BatchView;

use super::WHERE_TO_LOOK;
use crate::batch::show;
use crate::client::{Call, Client};
use crate::failure::Failure;
use crate::screen::Screen;

/// Pauses or resumes a batch, and shows it as it is then.
pub async fn run(
    name: &str,
    paused: bool,
    client: &Client,
    screen: &Screen,
) -> Result<(), Failure> {
    let parts = ["batches", name];
    let call = Call::json(
        Method::PATCH,
        &parts,
        &serde_json::json!({ "paused": paused }),
    )?;
    let batch: BatchView = client
        .call(&call)
        .await
        .map_err(|failure| failure.remedy_when_missing(WHERE_TO_LOOK))?;
    show::print(&batch, screen)
}
