//! What an agent makes of the attempts that it finds when it starts.
//!
//! - over: its end is reported again, its output sent again; the server knows what it has already.
//! - not starting: nothing ran, it is given back.
//! - without an end otherwise: the processes that are left of it are killed, and it is reported as failed by the restart,
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
                fs::remove_dir_all(&path).map_err(WorkerError::files("remove", &path))?;
            }
            Some(Journal {
                report,
                end: Some(end),
                ..
            }) => recovered.push(Recovered {
                report,
                end: Some(end),
            }),
            Some(journal) if journal.starting => interrupted.push((path, journal)),
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

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::{Child, Command, Stdio};

    use scitq_shared::ids::{DispatchId, Epoch, Revision, TaskId};
    use scitq_shared::names::BatchName;
    use scitq_shared::protocol::AttemptReport;

    use super::super::directory::AttemptDirectories;
    use super::super::journal::ProcessIdentity;
    use super::*;
    use crate::machine::boot_id;
    use crate::runner::start_ticks;

    /// An attempt's directory with this much of a journal.
    fn make(attempts: &Path, steps: &[Step<'_>], torn: &str) -> AttemptId {
        let attempt = AttemptId::generate();
        let path = AttemptDirectories::open(attempts)
            .unwrap()
            .make(attempt)
            .unwrap();
        let report = AttemptReport {
            attempt,
            dispatch: DispatchId::generate(),
            dispatch_epoch: Epoch(1),
            task: TaskId(1),
            batch: BatchName::default(),
            revision: Revision(1),
            queued_at: scitq_shared::now(),
            accepted_at: scitq_shared::now(),
            started_at: None,
            ended_at: None,
            exit: None,
            outcome: None,
            usage: None,
            stdout: None,
            stderr: None,
        };
        let definition =
            serde_json::from_str(r#"{"revision":1,"command":"true","weight":1}"#).unwrap();
        let first = Step::Accepted {
            report: std::borrow::Cow::Owned(report),
            definition: std::borrow::Cow::Owned(definition),
        };
        let mut file = journal::open(&path).unwrap();
        for step in [&first].into_iter().chain(steps) {
            journal::write(&mut file, step).unwrap();
        }
        std::io::Write::write_all(&mut file, torn.as_bytes()).unwrap();
        fs::write(directory::stream_file(&path, Stream::Stdout), "12345").unwrap();
        attempt
    }

    fn sleep(mark: Option<AttemptId>) -> Child {
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::null()).process_group(0);
        if let Some(attempt) = mark {
            command.env("SCITQ_EXECUTION_ID", attempt.to_string());
        }
        command.spawn().unwrap()
    }

    fn identity(child: &Child) -> ProcessIdentity {
        let pid = i32::try_from(child.id()).unwrap();
        ProcessIdentity {
            pid,
            start_ticks: start_ticks(pid).unwrap(),
            boot_id: boot_id(),
        }
    }

    #[test]
    fn each_attempt_is_taken_for_what_its_journal_says() {
        let attempts = tempfile::tempdir().unwrap();
        let attempts = attempts.path();
        let end = AttemptEnd {
            outcome: Outcome::Succeeded,
            ..interrupted_end(attempts)
        };
        let over = make(attempts, &[Step::Starting, Step::Ended(end.clone())], "");
        let unstarted = make(attempts, &[], "{\"step\":\"star");
        let starting = make(attempts, &[Step::Starting], "{\"step\":\"proc");
        fs::create_dir(attempts.join(AttemptId::generate().to_string())).unwrap();
        fs::create_dir(attempts.join("of someone else")).unwrap();
        let torn = directory::of(attempts, AttemptId::generate());
        fs::create_dir(&torn).unwrap();
        fs::write(journal::file(&torn), "{\"step\":\"accepted\"").unwrap();

        for _ in 0..2 {
            let recovered = recover(attempts, &boot_id()).unwrap();
            let ends: Vec<(AttemptId, Option<AttemptEnd>)> = recovered
                .into_iter()
                .map(|found| (found.report.attempt, found.end))
                .collect();
            let [
                (first, Some(first_end)),
                (second, None),
                (third, Some(third_end)),
            ] = &ends[..]
            else {
                panic!("{ends:?}");
            };
            assert_eq!((*first, *second, *third), (over, unstarted, starting));
            assert_eq!(*first_end, end);
            assert!(matches!(
                third_end.outcome,
                Outcome::Failed {
                    reason: FailureReason::AgentRestarted,
                    ..
                }
            ));
            assert_eq!(third_end.stdout_bytes, 5);
        }
        assert_eq!(
            fs::read_dir(attempts).unwrap().count(),
            4,
            "three attempts and what is of someone else"
        );
    }

    #[test]
    fn only_the_very_same_process_is_killed() {
        let attempts = tempfile::tempdir().unwrap();
        let mut children = [sleep(None), sleep(None), sleep(None)];
        let [same, later, other_boot] = [
            identity(&children[0]),
            identity(&children[1]),
            identity(&children[2]),
        ];
        let later = ProcessIdentity {
            start_ticks: later.start_ticks + 1,
            ..later
        };
        let other_boot = ProcessIdentity {
            boot_id: "another".to_owned(),
            ..other_boot
        };
        for process in [same, later, other_boot] {
            make(
                attempts.path(),
                &[Step::Starting, Step::Process(process)],
                "",
            );
        }
        recover(attempts.path(), &boot_id()).unwrap();
        assert!(!children[0].wait().unwrap().success());
        for child in &mut children[1..] {
            assert!(child.try_wait().unwrap().is_none());
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn what_left_the_group_is_known_by_its_environment() {
        let attempts = tempfile::tempdir().unwrap();
        let attempt = make(attempts.path(), &[Step::Starting], "");
        let mut child = sleep(Some(attempt));
        recover(attempts.path(), &boot_id()).unwrap();
        assert!(!child.wait().unwrap().success());
    }
}
