//! `batch`: series of tasks that are steered as one.

mod list;
mod show;

use std::process::ExitCode;

use clap::Subcommand;

use crate::client::Client;
use crate::failure::Failure;
use crate::screen::Screen;

/// What to do with batches.
#[derive(Clone, Debug, Subcommand)]
pub enum BatchCommand {
    /// List all batches with the number of their tasks by status
    List,
    /// Show one batch
    Show {
        /// Name of the batch
        name: String,
    },
}

impl BatchCommand {
    /// Does it.
    pub async fn run(self, client: &Client, screen: &Screen) -> Result<ExitCode, Failure> {
        match self {
            Self::List => list::run(client, screen).await?,
            Self::Show { name } => show::run(&name, client, screen).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
