//! A task that prints as fast as it can.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use scitq_shared::api::ExecutionView;
use scitq_shared::submit::SubmitTask;
use serde::Serialize;

use super::{WORKED, memory, task};
use crate::api;
use crate::figure::{Figure, Unit};
use crate::floors;
use crate::options::Options;
use crate::say;
use crate::system::{RoleMemory, System};

/// Longest time until everything is in the database.
const APPLIED_WITHIN: Duration = Duration::from_mins(5);
/// How often it is asked whether it is.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// What a task prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// Zero bytes: the fastest source there is.
    Zeros,
    /// Lines of text, which compress well.
    Text,
    /// Random bytes, which do not compress.
    Random,
}

impl Content {
    const ALL: [Self; 3] = [Self::Zeros, Self::Text, Self::Random];

    fn text(self) -> &'static str {
        match self {
            Self::Zeros => "zeros",
            Self::Text => "text",
            Self::Random => "random bytes",
        }
    }

    fn task(self, bytes: u64) -> SubmitTask {
        match self {
            Self::Zeros => task(WORKED, &format!("head -c {bytes} /dev/zero")),
            Self::Random => task(WORKED, &format!("head -c {bytes} /dev/urandom")),
            Self::Text => {
                let line = "chr1 12345678 rs0000001 A G 99.5 PASS the quick brown fox";
                let mut task = task(WORKED, &format!("yes '{line}' | head -c {bytes}"));
                task.shell = Some("sh".to_owned());
                task
            }
        }
    }
}

/// One such task.
#[derive(Clone, Debug, Serialize)]
pub struct Output {
    /// What it printed.
    pub content: Content,
    /// How much.
    pub bytes: u64,
    /// How much of it was kept.
    pub kept_bytes: u64,
    /// How long the process ran.
    pub process_seconds: f64,
    /// From the submission until its end and all output that is kept were in the database.
    pub applied_seconds: f64,
    /// How long it took to read back what was kept.
    pub read_back_seconds: f64,
    /// Memory afterwards, with the peak meanwhile.
    pub processes: Vec<RoleMemory>,
}

/// Measures all kinds, one after the other.
pub async fn measure(system: &System, options: &Options) -> anyhow::Result<Vec<Output>> {
    let mut measured = Vec::new();
    for content in Content::ALL {
        measured.push(one(system, content, options.output_bytes).await?);
    }
    Ok(measured)
}

async fn one(system: &System, content: Content, bytes: u64) -> anyhow::Result<Output> {
    let body = api::body(&[content.task(bytes)])?;
    system.forget_peaks()?;
    let begin = Instant::now();
    let id = system.api.submit_one(body).await?;
    let execution = tokio::time::timeout(APPLIED_WITHIN, complete(system, id))
        .await
        .with_context(|| {
            let seconds = APPLIED_WITHIN.as_secs();
            format!("{bytes} bytes of output were not applied within {seconds} s")
        })??;
    let applied_seconds = begin.elapsed().as_secs_f64();
    ensure!(
        execution.status == "succeeded",
        "the task ended {}: {}",
        execution.status,
        execution
            .failure_detail
            .as_deref()
            .unwrap_or("no reason given")
    );
    ensure!(
        execution.stdout_bytes.unsigned_abs() == bytes,
        "the task printed {bytes} bytes, {} were counted",
        execution.stdout_bytes
    );
    let cut = execution.stdout_cut.map_or(0, |cut| cut.to - cut.from);
    let begin = Instant::now();
    let kept_bytes = system.api.stdout_length(id).await?;
    let read_back_seconds = begin.elapsed().as_secs_f64();
    ensure!(
        kept_bytes + cut == bytes,
        "{kept_bytes} bytes were read back and {cut} cut, of {bytes}"
    );
    say(format!(
        "{}, {bytes} bytes of {} applied after {applied_seconds:.1} s",
        system.pair,
        content.text()
    ));
    Ok(Output {
        content,
        bytes,
        kept_bytes,
        process_seconds: run_seconds(&execution).unwrap_or(f64::NAN),
        applied_seconds,
        read_back_seconds,
        processes: system.memory()?,
    })
}

/// Waits until end and output are in the database.
async fn complete(system: &System, task: i64) -> anyhow::Result<ExecutionView> {
    loop {
        if let Some(execution) = system.api.execution(task).await?
            && execution.output_complete
        {
            return Ok(execution);
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

fn run_seconds(execution: &ExecutionView) -> Option<f64> {
    let run = execution.ended_at? - execution.started_at?;
    Some(run.to_std().ok()?.as_secs_f64())
}

/// Their figures in the summary.
pub fn figures(outputs: &[Output]) -> Vec<Figure> {
    let each = outputs.iter().flat_map(|output| {
        let what = format!(
            "{} MB of {}",
            output.bytes / 1_000_000,
            output.content.text()
        );
        let peaks = output.processes.iter().map({
            let what = what.clone();
            move |process| {
                let name = format!("{what}: {}, peak resident", process.role.text());
                let peak = memory::mebibytes(process.memory.peak_bytes);
                Figure::new(name, peak, Unit::Mebibytes).asked(floors::output_memory(process.role))
            }
        });
        let name = format!("{what}: submission to all applied");
        let applied = Figure::new(name, output.applied_seconds, Unit::Seconds);
        peaks.chain([applied]).collect::<Vec<_>>()
    });
    each.collect()
}
