//! `batch`: series of tasks that are steered as one.

mod list;
mod pause;
pub mod show;

use std::process::ExitCode;

use clap::Subcommand;

use crate::client::Client;
use crate::failure::Failure;
use crate::screen::Screen;

/// What to say when a batch does not exist.
const WHERE_TO_LOOK: &str = "`scitq-ctl batch list` shows the batches";

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
    /// Start nothing of a batch any more
    ///
    /// What runs goes on. What waits in the batch's queue, or with workers, is taken back; this command does not wait for
    /// that, and what a worker starts in the same moment starts.
    Pause {
        /// Name of the batch
        name: String,
    },
    /// Dispatch tasks of a paused batch again
    ///
    /// Failures of its workers are counted anew from then on.
    Resume {
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
            Self::Pause { name } => pause::run(&name, true, client, screen).await?,
            Self::Resume { name } => pause::run(&name, false, client, screen).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
