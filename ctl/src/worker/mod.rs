//! `worker`: who runs the tasks.

mod list;
mod show;
mod update;

use std::process::ExitCode;

use clap::Subcommand;

use crate::client::Client;
use crate::failure::Failure;
use crate::screen::Screen;

/// What to say when a worker does not exist.
const WHERE_TO_LOOK: &str = "`scitq-ctl worker list` shows the workers";

/// What to do with workers.
#[derive(Clone, Debug, Subcommand)]
pub enum WorkerCommand {
    /// List all workers
    List,
    /// Show one worker
    Show {
        /// Name of the worker
        name: String,
    },
    /// Change a worker while it works; running tasks go on
    Update(update::UpdateArguments),
}

impl WorkerCommand {
    /// Does it.
    pub async fn run(self, client: &Client, screen: &Screen) -> Result<ExitCode, Failure> {
        match self {
            Self::List => list::run(client, screen).await?,
            Self::Show { name } => show::run(&name, client, screen).await?,
            Self::Update(arguments) => update::run(&arguments, client, screen).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
