//! `execution`: the attempts to run tasks.

mod list;
pub(crate) mod output;
pub(crate) mod show;

use std::process::ExitCode;

use clap::Subcommand;
use scitq_shared::api::ExecutionView;

use crate::client::Client;
use crate::failure::Failure;
use crate::follow::OutputOptions;
use crate::screen::Screen;
use crate::table::Column;
use crate::text::{self, NONE};

/// What to do with executions.
#[derive(Clone, Debug, Subcommand)]
pub enum ExecutionCommand {
    /// List executions, the newest first
    List(list::ListExecutions),
    /// Show one execution: what really ran, when, where, what it used and why it failed
    Show {
        /// Id of the execution
        #[arg(value_parser = clap::value_parser!(i64).range(1..))]
        id: i64,
    },
    /// Print what an execution wrote
    Output {
        /// Id of the execution
        #[arg(value_parser = clap::value_parser!(i64).range(1..))]
        id: i64,
        /// What is printed, and how.
        #[command(flatten)]
        options: OutputOptions,
    },
}

impl ExecutionCommand {
    /// Does it.
    pub async fn run(self, client: &Client, screen: &Screen) -> Result<ExitCode, Failure> {
        match self {
            Self::List(arguments) => list::run(&arguments, client, screen).await?,
            Self::Show { id } => show::run(id, client, screen).await?,
            Self::Output { id, options } => output::run(id, &options, client, screen).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Gets an execution.
pub(crate) async fn get(client: &Client, id: i64) -> Result<ExecutionView, Failure> {
    client
        .get(&["executions", &id.to_string()], &[])
        .await
        .map_err(|failure| {
            failure.remedy_when_missing("`scitq-ctl execution list` shows the executions")
        })
}

/// Columns of a list of executions.
pub(crate) const COLUMNS: [Column; 9] = [
    Column::number("EXECUTION"),
    Column::number("TASK"),
    Column::words("STATUS"),
    Column::number("EXIT"),
    Column::words("BATCH"),
    Column::words("WORKER"),
    Column::words("ACCEPTED"),
    Column::number("RAN FOR"),
    Column::long("COMMAND"),
];

/// Cells of a list of executions.
pub(crate) fn cells(execution: &ExecutionView) -> Vec<String> {
    vec![
        execution.execution_id.to_string(),
        execution.task_id.to_string(),
        status(execution),
        exit(execution),
        execution.batch.clone(),
        execution.worker.clone(),
        text::time(execution.accepted_at),
        ran_for(execution),
        execution.command.clone(),
    ]
}

/// The status, and the sub-state of a running one.
fn status(execution: &ExecutionView) -> String {
    if execution.uploading {
        "running (uploading)".to_owned()
    } else {
        execution.status.clone()
    }
}

/// Exit code, or the name of the signal.
fn exit(execution: &ExecutionView) -> String {
    match (execution.exit_code, execution.signal) {
        (_, Some(signal)) => format!("SIG{}", scitq_shared::execution::signal_name(signal)),
        (Some(code), None) => code.to_string(),
        (None, None) => NONE.to_owned(),
    }
}

/// How long the process ran, or has run until now.
fn ran_for(execution: &ExecutionView) -> String {
    let end = execution
        .ended_at
        .or_else(|| (execution.status == "running").then(chrono::Utc::now));
    match (execution.started_at, end) {
        (Some(start), Some(end)) => text::duration((end - start).num_milliseconds()),
        _ => NONE.to_owned(),
    }
}
