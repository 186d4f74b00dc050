//! `worker restart`.

use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgGroup, Args};
use reqwest::Method;
use scitq_shared::api::{Page, WorkerView};
use tokio::time::Instant;

use super::WHERE_TO_LOOK;
use crate::client::{Call, Client};
use crate::failure::{EXIT_INTERRUPTED, EXIT_TIMED_OUT, Failure};
use crate::screen::Screen;
use crate::text::time;

/// How often it is looked whether an agent has started anew: the server has no answer that waits for it.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The long text of `worker restart --help`.
pub const HELP: &str = "\
Start agents anew, on the program that stands in their file now

What runs goes on running and is adopted by the new agent. A request stands until an agent that was started later says \
hello, also over an outage; --cancel takes it back. On a terminal, or with --wait, the command waits for that: exit code 0 when all have started \
anew, 4 when one has not within the time given with --for.";

/// Arguments of `worker restart`.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("which").required(true))]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub struct RestartArguments {
    /// Names of the workers
    #[arg(value_name = "NAME", group = "which")]
    names: Vec<String>,
    /// All workers that are heard of
    #[arg(long, group = "which")]
    all: bool,
    /// Wait until they have started anew; the default on a terminal
    #[arg(long, conflicts_with = "no_wait")]
    wait: bool,
    /// Do not wait
    #[arg(long)]
    no_wait: bool,
    /// Take requests back that have not been met
    #[arg(long, conflicts_with_all = ["wait", "no_wait", "limit"])]
    cancel: bool,
    /// Wait no longer than this
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 60)]
    limit: u64,
}

/// Asks for restarts, and waits for them.
pub async fn run(
    arguments: &RestartArguments,
    client: &Client,
    screen: &Screen,
) -> Result<ExitCode, Failure> {
    let workers = which(arguments, client).await?;
    if arguments.cancel {
        return cancel(&workers, client, screen).await;
    }
    let mut asked = Vec::new();
    let mut refused = false;
    for worker in workers {
        let parts = ["workers", worker.name.as_str(), "restart"];
        // The start that is meant: a request that is repeated by the way does not ask for another one.
        let body = serde_json::json!({ "boots": worker.boots });
        let call = Call::json(Method::POST, &parts, &body)?;
        match client.call::<WorkerView>(&call).await {
            Ok(worker) => asked.push(worker),
            // One that cannot start itself anew is no reason to ask none of the others.
            Err(failure) if arguments.all && failure.status() == Some(409) => {
                refused = true;
                screen.note(&failure.to_string());
            }
            Err(failure) => return Err(failure),
        }
    }
    if refused && asked.is_empty() {
        return Err(Failure::usage("no agent can be asked to start anew"));
    }
    if screen.json() {
        screen.value(&asked)?;
    }
    let wait = !arguments.no_wait && (arguments.wait || screen.stderr_is_terminal);
    if !wait {
        if !screen.json() {
            for worker in &asked {
                screen.line(&format!("{} is asked to start anew", worker.name))?;
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let limit = Duration::from_secs(arguments.limit);
    tokio::select! {
        code = until_started(&asked, limit, client, screen) => code,
        _ = tokio::signal::ctrl_c() => {
            screen.note("interrupted; the requests stand");
            Ok(ExitCode::from(EXIT_INTERRUPTED))
        }
    }
}

/// Takes requests back.
async fn cancel(
    workers: &[WorkerView],
    client: &Client,
    screen: &Screen,
) -> Result<ExitCode, Failure> {
    let mut now = Vec::new();
    for worker in workers {
        let parts = ["workers", worker.name.as_str(), "restart"];
        now.push(client.call::<WorkerView>(&Call::delete(&parts)).await?);
    }
    if screen.json() {
        screen.value(&now)?;
        return Ok(ExitCode::SUCCESS);
    }
    for (before, worker) in workers.iter().zip(&now) {
        screen.line(&if before.restart_requested {
            format!("{} is not asked to start anew any more", worker.name)
        } else {
            format!(
                "{} was not asked to start anew, or has done it",
                worker.name
            )
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn which(arguments: &RestartArguments, client: &Client) -> Result<Vec<WorkerView>, Failure> {
    if arguments.all {
        let page: Page<WorkerView> = client.get(&["workers"], &[]).await?;
        let mut heard = page.items;
        heard.retain(|worker| !matches!(worker.status.as_str(), "offline" | "failed" | "evicted"));
        if heard.is_empty() {
            return Err(Failure::usage("no worker is heard of").remedy(WHERE_TO_LOOK));
        }
        return Ok(heard);
    }
    let mut workers = Vec::new();
    for name in &arguments.names {
        let worker = client.get(&["workers", name], &[]).await;
        workers.push(worker.map_err(|failure| failure.remedy_when_missing(WHERE_TO_LOOK))?);
    }
    Ok(workers)
}

async fn until_started(
    asked: &[WorkerView],
    limit: Duration,
    client: &Client,
    screen: &Screen,
) -> Result<ExitCode, Failure> {
    let until = Instant::now() + limit;
    let mut all = true;
    for worker in asked {
        let name = worker.name.as_str();
        let mut now: WorkerView = client.get(&["workers", name], &[]).await?;
        while now.restart_requested && Instant::now() < until {
            tokio::time::sleep(LOOK_EVERY).await;
            now = client.get(&["workers", name], &[]).await?;
        }
        if now.restart_requested {
            all = false;
            screen.note(&format!(
                "{name} has not started anew within {} s: it is {}, and was last heard of at {}. The request stands until it does",
                limit.as_secs(),
                now.status,
                time(now.last_contact_at)
            ));
        } else if !screen.json() {
            screen.line(&format!(
                "{name} has started anew with version {}",
                now.program_version
            ))?;
        }
    }
    Ok(if all {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_TIMED_OUT)
    })
}
