//! From a submission to the start of its process, on an idle system.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use serde::Serialize;

use super::{WORKED, task};
use crate::api;
use crate::figure::{Figure, Unit};
use crate::floors;
use crate::options::Options;
use crate::say;
use crate::statistics::percentile;
use crate::system::System;

/// A task's process prints when it started, in nanoseconds since 1970.
const COMMAND: &str = "date +%s%N";
/// Longest time until the end of one task.
const END_WITHIN: Duration = Duration::from_mins(1);

/// Latencies of single submissions, in milliseconds, in the order of submission.
#[derive(Clone, Debug, Serialize)]
#[expect(
    clippy::struct_field_names,
    reason = "each name tells what and its unit in the results"
)]
pub struct Latency {
    /// From before the submission to the start of the process.
    pub to_start_ms: Vec<f64>,
    /// From before the submission to its answer.
    pub to_answer_ms: Vec<f64>,
    /// From before the submission until a reader that follows the task's output had all of it.
    pub to_output_ms: Vec<f64>,
}

/// Measures it.
pub async fn measure(system: &System, options: &Options) -> anyhow::Result<Latency> {
    let body = api::body(&[task(WORKED, COMMAND)])?;
    let mut latency = Latency {
        to_start_ms: Vec::new(),
        to_answer_ms: Vec::new(),
        to_output_ms: Vec::new(),
    };
    for _ in 0..options.latency_samples {
        let sample = tokio::time::timeout(END_WITHIN, sample(system, body.clone()));
        let sample = sample
            .await
            .with_context(|| format!("a task did not end within {} s", END_WITHIN.as_secs()))??;
        latency.to_start_ms.push(sample.to_start_ms);
        latency.to_answer_ms.push(sample.to_answer_ms);
        latency.to_output_ms.push(sample.to_output_ms);
    }
    let median = percentile(&latency.to_start_ms, 50).unwrap_or(f64::NAN);
    say(format!(
        "{}, submission to start: p50 {median:.1} ms",
        system.pair
    ));
    Ok(latency)
}

#[expect(clippy::struct_field_names, reason = "named as in Latency")]
struct Sample {
    to_start_ms: f64,
    to_answer_ms: f64,
    to_output_ms: f64,
}

async fn sample(system: &System, body: Bytes) -> anyhow::Result<Sample> {
    let clock = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?;
    let begin = Instant::now();
    let id = system.api.submit_one(body).await?;
    let to_answer_ms = milliseconds(begin.elapsed());
    let output = system.api.follow_stdout(id).await?;
    let to_output_ms = milliseconds(begin.elapsed());
    let started = start_of(&output)?;
    let to_start = started
        .checked_sub(clock)
        .context("the task started before its submission: was the clock set?")?;
    let to_start_ms = milliseconds(to_start);
    ensure!(
        to_start_ms <= to_output_ms,
        "the task started {to_start_ms} ms after its submission, but its output was complete after {to_output_ms} ms"
    );
    // The next one begins when this one is over, not only when its output is.
    let execution = system.api.execution(id).await?;
    ensure!(
        execution.is_some_and(|execution| execution.status == "succeeded"),
        "task {id} did not succeed"
    );
    Ok(Sample {
        to_start_ms,
        to_answer_ms,
        to_output_ms,
    })
}

/// What the process printed, as the time since 1970.
fn start_of(output: &[u8]) -> anyhow::Result<Duration> {
    let text = std::str::from_utf8(output).unwrap_or_default().trim();
    let nanoseconds = text
        .parse()
        .with_context(|| format!("`{COMMAND}` printed {text:?}, not a number"))?;
    Ok(Duration::from_nanos(nanoseconds))
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Its figures in the summary.
pub fn figures(latency: &Latency) -> Vec<Figure> {
    let percentile_of = |name: &str, values: &[f64], percent| {
        let value = percentile(values, percent)?;
        let name = format!("{name}, p{percent}");
        Some(Figure::new(name, value, Unit::Milliseconds))
    };
    let median = percentile_of("submission to start", &latency.to_start_ms, 50)
        .map(|figure| figure.asked(floors::LATENCY_MEDIAN));
    let rest = [
        percentile_of("submission to start", &latency.to_start_ms, 99),
        percentile_of("submission to its answer", &latency.to_answer_ms, 50),
        percentile_of("submission to output read", &latency.to_output_ms, 50),
    ];
    median
        .into_iter()
        .chain(rest.into_iter().flatten())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_read_from_the_output() {
        let start = start_of(b"1700000000123456789\n").unwrap();
        assert_eq!(start, Duration::new(1_700_000_000, 123_456_789));
        for wrong in [&b""[..], b"17.5\n", b"\xff", b"1700000000%N\n"] {
            assert!(start_of(wrong).is_err());
        }
    }

    #[test]
    fn only_the_median_is_judged() {
        let latency = Latency {
            to_start_ms: vec![10.0, 12.0, 200.0],
            to_answer_ms: vec![1.0; 3],
            to_output_ms: vec![14.0; 3],
        };
        let figures = figures(&latency);
        let values: Vec<f64> = figures.iter().map(|figure| figure.value).collect();
        assert_eq!(values, [12.0, 200.0, 1.0, 14.0]);
        assert_eq!(figures[0].passed, Some(true));
        assert!(figures[1..].iter().all(|figure| figure.passed.is_none()));
    }
}
