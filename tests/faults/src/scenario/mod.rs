//! Runs with an acceptance of their own.

pub(crate) mod broker_alarm;
pub(crate) mod broker_away;
pub(crate) mod consumer_timeout;
pub(crate) mod embedded_kill;
pub(crate) mod event_refused;
pub(crate) mod listener_full;
pub(crate) mod queue_changed;
pub(crate) mod queue_deleted;
pub(crate) mod server_away;

use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use chrono::{DateTime, Utc};
use scitq_shared::api::ExecutionView;
use tokio::time::{Instant, sleep};

use crate::acceptance::{accept_end, accept_tasks};
use crate::judge::Rules;
use crate::outcome::Outcome;
use crate::processes;
use crate::series::Series;
use crate::strike::Struck;
use crate::system::System;

/// The queue that all tasks of a series go through.
const BATCH_QUEUE: &str = "scitq.batch.Default";
/// How long something may take to show.
const PATIENCE: Duration = Duration::from_mins(1);

/// So many tasks that do nothing but write.
fn instant(tasks: usize) -> Vec<Duration> {
    vec![Duration::ZERO; tasks]
}

/// Accepts the tasks of a scenario and what it leaves; `further` tells of more that must be true of the executions.
async fn accept(
    system: &mut System<'_>,
    series: &Series,
    tasks: &[i64],
    strikes: Vec<Struck>,
    further: impl Fn(&[ExecutionView]) -> Vec<String>,
) -> anyhow::Result<Outcome> {
    let accepted = accept_tasks(&system.api, series, tasks, Rules::ONCE).await?;
    let mut outcome = Outcome {
        tasks: tasks.len(),
        ..Outcome::default()
    };
    outcome.struck(strikes, &accepted);
    outcome.judged(accepted.verdict);
    outcome.findings.extend(further(&accepted.executions));
    if outcome.findings.is_empty() {
        outcome.findings.extend(accept_end(system).await);
    }
    Ok(outcome)
}

/// What was done to a system, from a moment until now.
fn struck_since(fault: &'static str, target: &str, began_at: DateTime<Utc>) -> Struck {
    Struck {
        fault,
        target: target.to_owned(),
        began_at,
        ended_at: Utc::now(),
    }
}

/// Waits until no task of this place runs any more: its worker has seen the end then, or is about to.
async fn tasks_ended(place: &Path) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let running = processes::of(place);
        if !running.iter().any(|it| it.command.contains("task.sh")) {
            break;
        }
        if Instant::now() > until {
            bail!("tasks have written their last and do not end: {running:?}");
        }
        sleep(Duration::from_millis(50)).await;
    }
    // For the worker to take note; nothing else tells a stranger that it has.
    sleep(Duration::from_secs(1)).await;
    Ok(())
}

/// Executions that claim to have ended after a moment by which all had.
fn ended_late(executions: &[ExecutionView], by: DateTime<Utc>) -> Vec<String> {
    let late = executions
        .iter()
        .filter(|it| it.ended_at.is_some_and(|end| end > by));
    late.take(5)
        .map(|it| {
            format!(
                "the history tells true times: execution {} ended before {by}; it says {:?}",
                it.execution_id, it.ended_at
            )
        })
        .collect()
}
