//! `execution output`.

use super::get;
use crate::client::Client;
use crate::failure::Failure;
use crate::follow::{self, OutputOptions};
use crate::screen::Screen;

/// Prints what an execution wrote.
pub async fn run(
    id: i64,
    options: &OutputOptions,
    client: &Client,
    screen: &Screen,
) -> Result<(), Failure> {
    // first, so that an id that does not exist is told as such
    let execution = get(client, id).await?;
    follow::print(client, screen, execution, options).await
}
