//! `task`: what users want done.

mod explain;
mod list;
pub(crate) mod output;
mod show;
pub(crate) mod wait;

use std::process::ExitCode;

use clap::Subcommand;
use scitq_shared::api::TaskView;

use crate::client::Client;
use crate::failure::Failure;
use crate::screen::Screen;

/// What to do with tasks.
#[derive(Clone, Debug, Subcommand)]
pub enum TaskCommand {
    /// List tasks, the newest first
    List(list::ListTasks),
    /// Show one task and its executions
    Show {
        /// Id of the task
        #[arg(value_parser = clap::value_parser!(i64).range(1..))]
        id: i64,
    },
    /// Say why a task is not running
    #[command(long_about = explain::HELP)]
    Explain {
        /// Id of the task
        #[arg(value_parser = clap::value_parser!(i64).range(1..))]
        id: i64,
    },
    /// Print what a task wrote
    #[command(long_about = output::HELP)]
    Output(output::OutputArguments),
    /// Wait until tasks are over
    #[command(long_about = wait::HELP)]
    Wait(wait::WaitArguments),
}

impl TaskCommand {
    /// Does it.
    pub async fn run(self, client: &Client, screen: &Screen) -> Result<ExitCode, Failure> {
        match self {
            Self::List(arguments) => list::run(&arguments, client, screen).await?,
            Self::Show { id } => show::run(id, client, screen).await?,
            Self::Explain { id } => explain::run(id, client, screen).await?,
            Self::Output(arguments) => return output::run(&arguments, client, screen).await,
            Self::Wait(arguments) => return wait::run(arguments, client, screen).await,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Gets a task.
pub(crate) async fn get(client: &Client, id: i64) -> Result<TaskView, Failure> {
    client
        .get(&["tasks", &id.to_string()], &[])
        .await
        .map_err(|failure| failure.remedy_when_missing("`scitq-ctl task list` shows the tasks"))
}

/// The status, and the sub-state of a running one.
fn status(task: &TaskView) -> String {
    if task.uploading {
        "running (uploading)".to_owned()
    } else {
        task.status.clone()
    }
}

/// True when nothing more happens to a task by itself.
fn is_over(status: &str) -> bool {
    status
        .parse()
        .is_ok_and(scitq_shared::task::TaskStatus::is_final)
}
