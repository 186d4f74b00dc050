//! `task output`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{get, is_over};
use crate::client::Client;
use crate::execution;
use crate::failure::Failure;
use crate::follow::{self, OutputOptions};
use crate::screen::Screen;
use crate::waiting::{Selection, progress};

/// Between two looks whether a failed task has got another execution: there is no event to wait for, and the wait at
/// the server ends at once when the task is over.
const NEXT_EXECUTION_EVERY: Duration = Duration::from_secs(1);
/// Pause when a wait for the first execution ended without one.
const FIRST_EXECUTION_AGAIN: Duration = Duration::from_millis(200);

/// The long text of `task output --help`.
pub const HELP: &str = "\
Print what a task wrote

Both streams are printed, standard output to standard output and standard error to standard error; what is piped is \
byte for byte what the task wrote. On a terminal control characters are made visible, unless --raw. Of very long \
output the beginning and the end are kept; where the middle is missing, a mark says how much: in its place on a \
terminal, else on standard error.

With --follow it waits for the task to begin, and goes on with the next execution when a failed task is tried again, \
until the task is over.";

/// Arguments of `task output`.
#[derive(Clone, Debug, Args)]
pub struct OutputArguments {
    /// Id of the task
    #[arg(value_parser = clap::value_parser!(i64).range(1..))]
    id: i64,
    /// Of this execution (its id, see `task show`) instead of the newest one
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(i64).range(1..))]
    execution: Option<i64>,
    /// What is printed, and how.
    #[command(flatten)]
    options: OutputOptions,
}

/// Prints what a task wrote.
pub async fn run(
    arguments: &OutputArguments,
    client: &Client,
    screen: &Screen,
) -> Result<ExitCode, Failure> {
    let id = arguments.id;
    let Some(execution_id) = arguments.execution else {
        print(id, &arguments.options, client, screen).await?;
        return Ok(ExitCode::SUCCESS);
    };
    let execution = execution::get(client, execution_id).await?;
    if execution.task_id != id {
        let message = format!(
            "execution {execution_id} belongs to task {}, not to task {id}",
            execution.task_id
        );
        return Err(Failure::usage(message)
            .remedy(format!("`scitq-ctl task show {id}` shows its executions")));
    }
    follow::print(client, screen, execution, &arguments.options).await?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what a task's newest execution wrote. When it is followed: waits for the first one, and goes on with the
/// next one when a failed task is tried again, until the task is over.
pub async fn print(
    id: i64,
    options: &OutputOptions,
    client: &Client,
    screen: &Screen,
) -> Result<(), Failure> {
    if !options.follow {
        let task = get(client, id).await?;
        let Some(execution_id) = task.execution_id else {
            screen.note(&format!(
                "task {id} is {}: no execution of it has written anything yet",
                task.status
            ));
            return Ok(());
        };
        let execution = execution::get(client, execution_id).await?;
        return follow::print(client, screen, execution, options).await;
    }
    let mut next = first_execution(id, client).await?;
    while let Some(execution_id) = next {
        let execution = execution::get(client, execution_id).await?;
        follow::print(client, screen, execution, options).await?;
        next = next_execution(id, execution_id, client).await?;
        if let Some(another) = next {
            screen.note(&format!(
                "execution {execution_id} is over, execution {another} of task {id} follows"
            ));
        }
    }
    Ok(())
}

/// The newest execution of a task, once there is one; none when the task is over without any.
async fn first_execution(id: i64, client: &Client) -> Result<Option<i64>, Failure> {
    let text = id.to_string();
    let parts = ["tasks", text.as_str(), "output", "stdout"];
    loop {
        let task = get(client, id).await?;
        if task.execution_id.is_some() || is_over(&task.status) {
            return Ok(task.execution_id);
        }
        // The server answers when the first execution comes; when it stops before, it refuses.
        match client.open(&parts, &[("follow", "true".to_owned())]).await {
            Ok(answer) => drop(answer),
            Err(failure) if failure.status() == Some(404) => {
                tokio::time::sleep(FIRST_EXECUTION_AGAIN).await;
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// The execution that follows one that has ended; none when the task is over.
async fn next_execution(id: i64, ended: i64, client: &Client) -> Result<Option<i64>, Failure> {
    let selection = Selection::Tasks(vec![id]);
    loop {
        let task = get(client, id).await?;
        if let Some(newest) = task.execution_id.filter(|newest| *newest != ended) {
            return Ok(Some(newest));
        }
        if is_over(&task.status) {
            return Ok(None);
        }
        progress(client, &selection, NEXT_EXECUTION_EVERY, 0).await?;
    }
}
