//! The measurements, one file for each section.

pub mod bulk;
pub mod latency;
pub mod memory;
pub mod output;
pub mod spawn;
pub mod throughput;

use std::time::Duration;

use scitq_shared::submit::SubmitTask;

/// How long a measurement waits when nothing moves.
const PATIENCE: Duration = Duration::from_mins(1);

/// A task of a batch; `Default` is the one that the worker works for.
fn task(batch: &str, command: &str) -> SubmitTask {
    SubmitTask {
        command: command.to_owned(),
        batch: Some(batch.to_owned()),
        ..SubmitTask::default()
    }
}

/// The batch that the worker works for.
const WORKED: &str = "Default";
