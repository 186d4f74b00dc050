//! What an agent makes of the attempts that it finds when it starts.
//!
//! - over: its end is reported again, its output sent again; the server knows what it has already.
//! - not claimed: nothing ran, it is given back.
//! - claimed without an end: the processes that are left of it are killed, and it is reported as failed by the restart,
//!   with the output that it wrote. (Adopting them instead comes later.)

use std::fs;
use std::path::Path;

use scitq_shared::execution::{FailureReason, Outcome};
use scitq_shared::ids::AttemptId;
use scitq_shared::output::Stream;

use super::directory;
use super::journal::{self, Journal, Step};
use crate::agent::core::{AttemptEnd, Recovered};
use crate::error::WorkerError;
use crate::runner::leftovers;

/// Reads all attempts and leaves none of them running.
pub(crate) fn recover(attempts: &Path, boot_id: &str) -> Result<Vec<Recovered>, WorkerError> {
    let mut recovered = Vec::new();
    let mut interrupted = Vec::new();
    let entries =
        fs::read_dir(attempts).map_err(WorkerError::files("read the directory", attempts))?;
    for entry in entries {
        let path = entry
            .map_err(WorkerError::files("read the directory", attempts))?
            .path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.parse::<AttemptId>().is_err() {
            tracing::warn!(path = %path.display(), "left alone: this is not the directory of an attempt");
            continue;
        }
        match journal::read(&path).map_err(WorkerError::files("read", journal::file(&path)))? {
            None => {
                tracing::warn!(
                    attempt = name,
                    "removed an attempt without a readable journal; the server counts it as lost"
                );
                directory::remove(&path).map_err(WorkerError::files("remove", &path))?;
            }
            Some(Journal {
                report,
                end: Some(end),
                ..
            }) => recovered.push(Recovered {
                report,
                end: Some(end),
            }),
            Some(journal)
                if journal.process.is_some()
                    || directory::stream_file(&path, Stream::Stdout).exists() =>
            {
                interrupted.push((path, journal));
            }
            Some(Journal { report, .. }) => recovered.push(Recovered { report, end: None }),
        }
    }
    let ids: Vec<AttemptId> = interrupted
        .iter()
        .map(|(_, journal)| journal.report.attempt)
        .collect();
    let processes = interrupted
        .iter()
        .filter_map(|(_, journal)| journal.process.as_ref());
    leftovers::kill(processes, &ids, boot_id);
    for (path, Journal { report, .. }) in interrupted {
        let end = interrupted_end(&path);
        journal::append(&path, &Step::Ended(end.clone()))
            .map_err(WorkerError::files("write", journal::file(&path)))?;
        recovered.push(Recovered {
            report,
            end: Some(end),
        });
    }
    recovered.sort_by_key(|recovered| recovered.report.attempt);
    Ok(recovered)
}

fn interrupted_end(directory: &Path) -> AttemptEnd {
    let detail =
        "the worker restarted while the task ran; what was left of the task was killed".to_owned();
    AttemptEnd {
        ended_at: scitq_shared::now(),
        exit: None,
        outcome: Outcome::Failed {
            reason: FailureReason::AgentRestarted,
            detail,
        },
        usage: None,
        stdout_bytes: directory::stream_bytes(directory, Stream::Stdout),
        stderr_bytes: directory::stream_bytes(directory, Stream::Stderr),
    }
}
