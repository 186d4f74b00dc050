//! `worker`: who runs the tasks.

mod lease;
mod list;
mod lose;
mod restart;
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
    #[command(visible_alias = "set")]
    Update(update::UpdateArguments),
    /// Declare a worker lost: what it runs is dispatched anew
    #[command(long_about = lose::HELP)]
    Lost(lose::LostArguments),
    /// Start agents anew, on the program that stands in their file now
    #[command(long_about = restart::HELP)]
    Restart(restart::RestartArguments),
}

impl WorkerCommand {
    /// Does it.
    pub async fn run(self, client: &Client, screen: &Screen) -> Result<ExitCode, Failure> {
        match self {
            Self::List => list::run(client, screen).await?,
            Self::Show { name } => show::run(&name, client, screen).await?,
            Self::Update(arguments) => update::run(&arguments, client, screen).await?,
            Self::Lost(arguments) => lose::run(&arguments, client, screen).await?,
            Self::Restart(arguments) => return restart::run(&arguments, client, screen).await,
        }
        Ok(ExitCode::SUCCESS)
    }
}
