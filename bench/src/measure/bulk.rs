//! Submitting very many tasks to a batch that no worker works for.

use std::time::Instant;

use anyhow::ensure;
use serde::Serialize;

use super::task;
use crate::api;
use crate::figure::{Figure, Unit};
use crate::floors;
use crate::options::Options;
use crate::processes::UsageBetween;
use crate::say;
use crate::statistics::per_second;
use crate::system::System;

const BATCH: &str = "bulk";

/// A bulk submission.
#[derive(Clone, Debug, Serialize)]
pub struct Bulk {
    /// How many tasks.
    pub tasks: u32,
    /// How many in one request; the requests follow each other.
    pub tasks_per_request: u32,
    /// Seconds of each request until its answer was read.
    pub request_seconds: Vec<f64>,
    /// Tasks a second over all requests.
    pub tasks_per_second: f64,
    /// Who used the processors meanwhile.
    pub cpu: UsageBetween,
}

/// Measures it.
pub async fn measure(system: &System, options: &Options) -> anyhow::Result<Bulk> {
    let usage = system.usage()?;
    let mut request_seconds = Vec::new();
    let mut submitted = 0;
    while submitted < options.bulk_tasks {
        let number = options.request_tasks.min(options.bulk_tasks - submitted);
        let body = api::body(&tasks(submitted, number))?;
        let begin = Instant::now();
        let created = system.api.submit(body).await?;
        request_seconds.push(begin.elapsed().as_secs_f64());
        ensure!(
            created.len() == number as usize,
            "{number} tasks were submitted, {} created",
            created.len()
        );
        submitted += number;
    }
    let cpu = usage.until(&system.usage()?);
    let progress = system.api.progress(BATCH).await?;
    ensure!(
        progress.total == i64::from(options.bulk_tasks),
        "{submitted} tasks were submitted, batch {BATCH} has {}",
        progress.total
    );
    let mut bulk = Bulk {
        tasks: options.bulk_tasks,
        tasks_per_request: options.request_tasks,
        request_seconds,
        tasks_per_second: 0.0,
        cpu,
    };
    bulk.tasks_per_second = per_second(bulk.tasks, bulk.seconds());
    say(format!(
        "{}, bulk submission: {:.0} tasks/s",
        system.pair, bulk.tasks_per_second
    ));
    Ok(bulk)
}

impl Bulk {
    /// Seconds of all requests together.
    pub fn seconds(&self) -> f64 {
        self.request_seconds.iter().sum()
    }
}

/// Tasks as a user has them: each with a name and a command of its own.
fn tasks(first: u32, number: u32) -> Vec<scitq_shared::submit::SubmitTask> {
    let each = (first..first + number).map(|number| {
        let sample = format!("sample-{number:07}");
        let command = format!("gzip --keep --best /data/{sample}.fastq");
        let mut task = task(BATCH, &command);
        task.name = Some(sample);
        task
    });
    each.collect()
}

/// Its figures in the summary.
pub fn figures(bulk: &Bulk) -> Vec<Figure> {
    let name = format!("bulk submission, {} tasks", bulk.tasks);
    vec![Figure::new(name, bulk.tasks_per_second, Unit::PerSecond).asked(floors::BULK)]
}
