//! Many short tasks end to end: from the submission to all succeeded in the database.

use std::time::Instant;

use anyhow::ensure;
use serde::Serialize;

use super::{PATIENCE, WORKED, task};
use crate::api;
use crate::figure::{Figure, Unit};
use crate::floors;
use crate::options::Options;
use crate::pair::Pair;
use crate::processes::UsageBetween;
use crate::say;
use crate::statistics::{median, per_second};
use crate::system::System;

/// `true` tasks end to end.
#[derive(Clone, Debug, Serialize)]
pub struct Throughput {
    /// How many a run submits, in one request.
    pub tasks: u32,
    /// Each run.
    pub runs: Vec<Run>,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// From before the submission until all had succeeded in the database.
    pub seconds: f64,
    /// Of these, until the submission was answered.
    pub submission_seconds: f64,
    /// Tasks a second.
    pub tasks_per_second: f64,
    /// Who used the processors meanwhile.
    pub cpu: UsageBetween,
}

/// Measures it.
pub async fn measure(system: &System, options: &Options) -> anyhow::Result<Throughput> {
    let tasks = vec![task(WORKED, "true"); options.tasks as usize];
    let body = api::body(&tasks)?;
    let expected = i64::from(options.tasks);
    let mut runs = Vec::new();
    for number in 1..=options.repeat {
        let before = system.api.progress(WORKED).await?;
        let usage = system.usage()?;
        let begin = Instant::now();
        let created = system.api.submit(body.clone()).await?;
        let submission_seconds = begin.elapsed().as_secs_f64();
        ensure!(
            created.len() == tasks.len(),
            "{expected} tasks were submitted, {} created",
            created.len()
        );
        let over = before.over + expected;
        let after = system.api.wait_over(WORKED, over, PATIENCE).await?;
        let seconds = begin.elapsed().as_secs_f64();
        let cpu = usage.until(&system.usage()?);
        ensure!(
            after.succeeded == before.succeeded + expected,
            "of {expected} tasks {} succeeded; by status: {:?}",
            after.succeeded - before.succeeded,
            after.tasks
        );
        let tasks_per_second = per_second(options.tasks, seconds);
        say(format!(
            "{}, throughput, run {number}: {tasks_per_second:.0} tasks/s",
            system.pair
        ));
        runs.push(Run {
            seconds,
            submission_seconds,
            tasks_per_second,
            cpu,
        });
    }
    Ok(Throughput {
        tasks: options.tasks,
        runs,
    })
}

impl Throughput {
    /// The run in the middle, whose details are shown.
    pub fn middle_run(&self) -> Option<&Run> {
        let mut runs: Vec<&Run> = self.runs.iter().collect();
        runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        runs.get(runs.len() / 2).copied()
    }
}

/// Its figures in the summary.
pub fn figures(throughput: &Throughput, pair: Pair) -> Vec<Figure> {
    let rates: Vec<f64> = throughput
        .runs
        .iter()
        .map(|run| run.tasks_per_second)
        .collect();
    let name = format!("true, {} tasks end to end", throughput.tasks);
    median(&rates)
        .map(|rate| Figure::new(name, rate, Unit::PerSecond).asked(floors::throughput(pair)))
        .into_iter()
        .collect()
}
