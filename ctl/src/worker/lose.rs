//! `worker lost`.

use std::io::{BufRead as _, IsTerminal as _};

use clap::Args;
use reqwest::Method;
use scitq_shared::api::{LossView, WorkerView};

use super::WHERE_TO_LOOK;
use crate::client::{Call, Client};
use crate::failure::Failure;
use crate::screen::Screen;
use crate::text::{count, time};

/// The long text of `worker lost --help`.
pub const HELP: &str = "\
Declare a worker lost: what it runs is dispatched anew

For a worker that is gone for good, so that nobody waits for its lease (server.lost_after_seconds, or `worker update \
--lost-after`) to end. No retry is used up. Should it live after all, what has not been started anew by then is taken back, \
and the rest of what it runs is told to stop: it may have run twice. Asks first; --yes does not. Of a \
worker that is not offline nobody knows that it is gone, so that takes --force.";

/// Arguments of `worker lost`.
#[derive(Clone, Debug, Args)]
pub struct LostArguments {
    /// Name of the worker
    name: String,
    /// Also while the worker is heard of
    #[arg(long)]
    force: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

/// Declares a worker lost, and tells what is lost with it.
pub async fn run(
    arguments: &LostArguments,
    client: &Client,
    screen: &Screen,
) -> Result<(), Failure> {
    let name = arguments.name.as_str();
    let missing = |failure: Failure| failure.remedy_when_missing(WHERE_TO_LOOK);
    if arguments.force || !arguments.yes {
        let worker: WorkerView = client.get(&["workers", name], &[]).await.map_err(missing)?;
        if let Some(warning) = may_run_twice(&worker) {
            screen.note(&warning);
        }
        if !arguments.yes {
            confirm(&worker, screen)?;
        }
    }
    let parts = ["workers", name, "lost"];
    let body = serde_json::json!({ "force": arguments.force });
    let call = Call::json(Method::POST, &parts, &body)?;
    let loss: LossView = client.call(&call).await.map_err(|failure| {
        if failure.status() == Some(409) {
            failure.remedy("--force declares it lost all the same")
        } else {
            missing(failure)
        }
    })?;
    if screen.json() {
        return screen.value(&loss);
    }
    let executions = count(
        usize::try_from(loss.executions).unwrap_or(usize::MAX),
        "execution",
    );
    let ids: Vec<String> = loss.task_ids.iter().map(i64::to_string).collect();
    screen.line(&if ids.is_empty() {
        format!("{name} is lost, and {executions} with it; no task is dispatched anew")
    } else {
        format!(
            "{name} is lost, and {executions} with it; dispatched anew: {}",
            ids.join(" ")
        )
    })
}

/// What is to be known about a worker that is not known to be gone.
fn may_run_twice(worker: &WorkerView) -> Option<String> {
    (worker.status != "offline").then(|| {
        format!(
            "{} is {} and may be at work: what it runs goes on until it is told to stop, and may run twice",
            worker.name, worker.status
        )
    })
}

/// Asks, where somebody can answer.
fn confirm(worker: &WorkerView, screen: &Screen) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() || !screen.stderr_is_terminal {
        return Err(Failure::usage(
            "nobody can be asked whether the worker shall be declared lost",
        )
        .remedy("--yes does it without asking"));
    }
    let held = worker.running + worker.accepted;
    screen.note(&format!(
        "{} is {}, last heard of at {}, and holds {}. Declare it lost? [y/N]",
        worker.name,
        worker.status,
        time(worker.last_contact_at),
        count(usize::try_from(held).unwrap_or(0), "execution"),
    ));
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Failure::local(format!("cannot read the answer: {error}")))?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Failure::usage("not confirmed; nothing was done"))
    }
}
