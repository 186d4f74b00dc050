//! What the machine can do: processes started by xargs, two at a time.

use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use serde::Serialize;
use tokio::process::Command;

use crate::figure::{Figure, Unit};
use crate::options::Options;
use crate::say;
use crate::statistics::{median, per_second};

/// Processes by xargs.
#[derive(Clone, Debug, Serialize)]
pub struct Spawn {
    /// How many a run starts.
    pub processes: u32,
    /// Processes a second of each run.
    pub runs_per_second: Vec<f64>,
}

/// Measures it.
pub async fn measure(options: &Options) -> anyhow::Result<Spawn> {
    let mut runs_per_second = Vec::new();
    for run in 1..=options.repeat {
        let script = format!("seq {} | xargs -P2 -n1 true", options.tasks);
        let begin = Instant::now();
        let status = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .status()
            .await
            .context("cannot start sh")?;
        let rate = per_second(options.tasks, begin.elapsed().as_secs_f64());
        ensure!(status.success(), "`{script}` failed: {status}");
        say(format!("xargs, run {run}: {rate:.0} processes/s"));
        runs_per_second.push(rate);
    }
    Ok(Spawn {
        processes: options.tasks,
        runs_per_second,
    })
}

/// Its figures in the summary.
pub fn figures(spawn: &Spawn) -> Vec<Figure> {
    let name = format!("xargs -P2 -n1 true, {} processes", spawn.processes);
    let rate = median(&spawn.runs_per_second);
    rate.map(|rate| Figure::new(name, rate, Unit::PerSecond))
        .into_iter()
        .collect()
}
