//! An execution from its start to its end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use scitq_shared::execution::{FailureReason, Outcome};
use scitq_shared::ids::AttemptId;
use scitq_shared::output::Stream;
use tokio::sync::oneshot;

use super::launch::{Launched, launch};
use super::work_directory::WorkDirectories;
use super::{Site, StartFailure};
use crate::agent::core::{AttemptEnd, Execution};
use crate::attempt::directory;
use crate::attempt::journal::{self, Step};

/// Output of a task that runs for longer is sent while it runs; short tasks are spared the watching.
const FOLLOW_AFTER: Duration = Duration::from_millis(150);

/// Executes a task and answers how it ended, when that is in its journal. `kill` ends it early, with that outcome.
///
/// If the future is dropped the process goes on; the next agent finds it.
pub(crate) async fn execute(
    site: Arc<Site>,
    execution: Execution,
    kill: oneshot::Receiver<Outcome>,
) -> AttemptEnd {
    let attempt = execution.report.attempt;
    let task = execution.report.task;
    let launching = {
        let site = Arc::clone(&site);
        tokio::task::spawn_blocking(move || launch(&site, &execution)).await
    };
    let end = match launching {
        Ok(Ok(launched)) => return see_through(&site, attempt, task, launched, kill).await,
        Ok(Err(failure)) => never_ran(failure.into()),
        Err(error) => never_ran(defect(&error)),
    };
    record(&site.attempts.of(attempt), attempt, &end);
    end
}

async fn see_through(
    site: &Arc<Site>,
    attempt: AttemptId,
    task: scitq_shared::ids::TaskId,
    launched: Launched,
    kill: oneshot::Receiver<Outcome>,
) -> AttemptEnd {
    let Launched {
        process,
        work_directory,
        same_user,
    } = launched;
    let killed = wait_for_end(site, attempt, task, &process, kill).await;
    let ended_at = scitq_shared::now();
    let (exit, usage) = match process.reap() {
        Ok((exit, usage)) => (Some(exit), Some(usage)),
        Err(error) => {
            tracing::error!(%attempt, %error, "nobody knows how a process ended");
            (None, None)
        }
    };
    let outcome = killed.unwrap_or_else(|| match exit {
        Some(exit) => Outcome::of_exit(exit),
        None => Outcome::Failed {
            reason: FailureReason::WorkerFault,
            detail: "the process ended, but something else than the worker waited for it"
                .to_owned(),
        },
    });
    let directory = site.attempts.of(attempt);
    let written =
        [Stream::Stdout, Stream::Stderr].map(|stream| directory::stream_bytes(&directory, stream));
    let [stdout_bytes, stderr_bytes] = site.output.close(attempt, written);
    let end = AttemptEnd {
        ended_at,
        exit,
        outcome,
        usage,
        stdout_bytes,
        stderr_bytes,
    };
    record(&directory, attempt, &end);
    // What left its group and lives on may still work in the directory.
    let reusable = same_user && site.attempts.is_quiet(attempt);
    let keeper = Arc::clone(site);
    // Beside: a large tree takes long to remove, and the slot is free already.
    site.removals.spawn_blocking(move || {
        if reusable {
            keeper.work.give_back(&work_directory);
        } else {
            WorkDirectories::remove(&work_directory);
        }
    });
    end
}

/// Answers the outcome given by whoever killed it.
async fn wait_for_end(
    site: &Site,
    attempt: AttemptId,
    task: scitq_shared::ids::TaskId,
    process: &super::process::Process,
    kill: oneshot::Receiver<Outcome>,
) -> Option<Outcome> {
    let mut killed = None;
    let mut kill = Some(kill);
    let follow = tokio::time::sleep(FOLLOW_AFTER);
    tokio::pin!(follow);
    let mut followed = false;
    loop {
        tokio::select! {
            biased;
            ended = process.ended() => {
                if let Err(error) = ended {
                    tracing::error!(%attempt, %error, "cannot wait for a process, it is killed");
                    process.kill();
                }
                return killed;
            }
            outcome = async { kill.as_mut()?.await.ok() }, if kill.is_some() => {
                kill = None;
                if let Some(outcome) = outcome {
                    killed = Some(outcome);
                    process.kill();
                }
            }
            () = &mut follow, if !followed => {
                followed = true;
                site.output.follow(attempt, task);
            }
        }
    }
}

fn never_ran(outcome: Outcome) -> AttemptEnd {
    AttemptEnd {
        ended_at: scitq_shared::now(),
        exit: None,
        outcome,
        usage: None,
        stdout_bytes: 0,
        stderr_bytes: 0,
    }
}

fn defect(error: &tokio::task::JoinError) -> Outcome {
    StartFailure {
        reason: FailureReason::WorkerFault,
        detail: format!("the worker failed by a defect: {error}"),
    }
    .into()
}

fn record(directory: &Path, attempt: AttemptId, end: &AttemptEnd) {
    if let Err(error) = journal::append(directory, &Step::Ended(end.clone())) {
        // It is reported all the same; only a restart of the agent before that would report it as interrupted.
        tracing::warn!(%attempt, %error, "the end of an attempt could not be recorded");
    }
}
