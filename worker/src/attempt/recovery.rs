//! What an agent makes of the attempts that it finds when it starts.
//!
//! - over: its end is reported again, its output sent again; the server knows what it has already.
//! - not claimed: the agent takes it itself, so certainly nothing ran and nothing will; it is given back.
//! - claimed, without an end, and its keeper lives: adopted. It may have ended meanwhile; the keeper says.
//! - claimed, without an end, and its keeper is gone: the processes that are left of it are killed, and it is reported as
//!   ended by the restart, with the output that it wrote.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use scitq_shared::execution::{FailureReason, Outcome};
use scitq_shared::ids::AttemptId;
use scitq_shared::output::Stream;

use super::directory;
use super::journal::{self, Claim, Journal, Step};
use crate::agent::core::{AttemptEnd, Found, Recovered};
use crate::error::WorkerError;
use crate::keeper::{Keepers, Kept};
use crate::machine;
use crate::runner::execute::Adopted;
use crate::runner::leftovers::{self, Leftover};
use crate::runner::users;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Inheritance {
    /// All attempts, for the core.
    pub(crate) attempts: Vec<Recovered>,
    /// Those that run.
    pub(crate) running: Vec<Adopted>,
}

/// Reads all attempts; what runs on has a living keeper.
pub(crate) fn recover(
    attempts: &Path,
    boot_id: &str,
    keepers: Option<&Keepers>,
) -> Result<Inheritance, WorkerError> {
    let mut found = Inheritance::default();
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
        let Some(journal) =
            settle(&path).map_err(WorkerError::files("read", journal::path(&path)))?
        else {
            tracing::warn!(
                attempt = name,
                "removed an attempt without a readable journal; the server counts it as lost"
            );
            fs::remove_dir_all(&path).map_err(WorkerError::files("remove", &path))?;
            continue;
        };
        let state = if let Some(end) = journal.end() {
            Found::Ended(end)
        } else if journal.claim == Claim::Agent {
            Found::Unstarted
        } else if let Some(kept) =
            keepers.and_then(|keepers| keepers.adopt(&journal.keeper, journal.report.attempt))
        {
            found.running.push(adopted(&journal, kept));
            Found::Running {
                ran_for: ran_for(&journal, boot_id),
            }
        } else {
            interrupted.push((path, journal));
            continue;
        };
        found.attempts.push(Recovered {
            report: journal.report,
            definition: journal.definition,
            found: state,
        });
    }
    let left = interrupted.iter().map(|(_, journal)| Leftover {
        attempt: journal.report.attempt,
        process: journal.process.clone(),
    });
    leftovers::kill(&left.collect::<Vec<_>>(), boot_id);
    for (
        path,
        Journal {
            report,
            definition,
            killing,
            ..
        },
    ) in interrupted
    {
        let mut end = interrupted_end(&path);
        if let Some(killing) = killing {
            end.outcome = killing.outcome;
        }
        if let Err(error) = journal::append_apart(&path, &Step::Ended(end.clone())) {
            // Found again like this by the next agent, which comes to the same.
            tracing::warn!(attempt = %report.attempt, %error, "the end of an attempt could not be recorded");
        }
        found.attempts.push(Recovered {
            report,
            definition,
            found: Found::Ended(end),
        });
    }
    found.attempts.sort_by_key(|found| found.report.attempt);
    Ok(found)
}

/// Reads a journal, and takes the attempt if nobody has: from then on its claim is final.
fn settle(directory: &Path) -> io::Result<Option<Journal>> {
    match journal::read(directory)? {
        Some(journal) if journal.claim == Claim::Open => {
            // If a keeper was quicker it says so now.
            journal::release(directory)?;
            journal::read(directory)
        }
        other => Ok(other),
    }
}

/// For how long it has run, by a clock that never jumps.
fn ran_for(journal: &Journal, boot_id: &str) -> Duration {
    let process = journal.process.as_ref();
    let process = process.filter(|process| process.boot_id == boot_id);
    process.map_or(Duration::ZERO, |process| {
        machine::since_ticks(process.started_ticks.1)
    })
}

fn adopted(journal: &Journal, kept: Kept) -> Adopted {
    let definition = &journal.definition;
    let switch = users::switch(definition.uid, definition.gid);
    Adopted {
        attempt: journal.report.attempt,
        task: journal.report.task,
        kept,
        killing: journal.killing.clone(),
        same_user: matches!(switch, Ok(None)),
    }
}

/// The end of an attempt that nobody saw.
pub(crate) fn interrupted_end(directory: &Path) -> AttemptEnd {
    let detail =
        "the keeper of the task was gone while the task ran; what was left of the task was killed"
            .to_owned();
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

    use scitq_shared::execution::{Exit, MemorySource, Usage};
    use scitq_shared::ids::{DispatchId, Epoch, Revision, TaskId};
    use scitq_shared::names::BatchName;
    use scitq_shared::protocol::AttemptReport;

    use super::super::directory::AttemptDirectories;
    use super::super::journal::{Killing, NotExecuted, ProcessEnd, ProcessIdentity};
    use super::*;
    use crate::machine::{boot_id, start_ticks};

    /// An attempt's directory with this much of a journal.
    fn make(attempts: &Path, claim: Claim, steps: &[Step<'_>], torn: &str) -> AttemptId {
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
            keeper: "keeper-1-1".into(),
        };
        let mut file = journal::open_new(&path).unwrap();
        for step in [&first].into_iter().chain(steps) {
            journal::write(&mut file, step).unwrap();
        }
        std::io::Write::write_all(&mut file, torn.as_bytes()).unwrap();
        fs::write(directory::stream_file(&path, Stream::Stdout), "12345").unwrap();
        match claim {
            Claim::Open => {}
            Claim::Keeper => journal::claim(&path).unwrap(),
            Claim::Agent => assert!(journal::release(&path).unwrap()),
        }
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
            started_ticks: (
                start_ticks(pid).unwrap().unwrap(),
                start_ticks(pid).unwrap().unwrap(),
            ),
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
        let process_end = ProcessEnd {
            ended_at: scitq_shared::now(),
            exit: Exit::Code(3),
            usage: Usage {
                user_cpu_ms: 1,
                system_cpu_ms: 2,
                peak_memory_bytes: 3,
                memory_source: MemorySource::LargestProcess,
            },
            stdout_bytes: 5,
            stderr_bytes: 0,
            out_of_memory: None,
        };
        let stopped = Outcome::Failed {
            reason: FailureReason::Cancelled,
            detail: "by a person".to_owned(),
        };
        let exited = Step::Exited(process_end.clone());
        let ran = Claim::Keeper;
        let over = make(attempts, ran, &[Step::Ended(end.clone())], "");
        let unstarted = make(attempts, Claim::Open, &[], "{\"step\":\"proc");
        let given_back = make(attempts, Claim::Agent, &[], "");
        let claimed = make(attempts, ran, &[], "{\"step\":\"proc");
        let ended = make(attempts, ran, std::slice::from_ref(&exited), "");
        let killing = |forced| {
            let outcome = stopped.clone();
            Step::Killing(Killing { outcome, forced })
        };
        let asked = make(attempts, ran, &[killing(false), exited.clone()], "");
        let asked_first = [killing(false), killing(true), exited.clone()];
        let asked_first = make(attempts, ran, &asked_first, "");
        let too_late = make(attempts, ran, &[exited.clone(), killing(false)], "");
        // It has an exit code of its own: the signal came too late.
        let by_force_too_late = make(attempts, ran, &[killing(true), exited.clone()], "");
        let by_signal = Step::Exited(ProcessEnd {
            exit: Exit::Signal(9),
            ..process_end.clone()
        });
        let by_force = make(attempts, ran, &[killing(true), by_signal], "");
        let not_executed = Step::NotExecuted(NotExecuted {
            file: "/bin/tool".into(),
            error: libc::EACCES,
            at: scitq_shared::now(),
        });
        let not_executed = make(attempts, ran, &[not_executed], "");
        // A full disk cut a line; the keeper came to write its word later.
        let cut = make(attempts, ran, &[], "{\"step\":\"killing\",\"res");
        journal::append_apart(&directory::of(attempts, cut), &exited).unwrap();
        let refused = make(attempts, Claim::Open, &[Step::Ended(end.clone())], "");
        fs::create_dir(attempts.join(AttemptId::generate().to_string())).unwrap();
        fs::create_dir(attempts.join("of someone else")).unwrap();
        let torn = directory::of(attempts, AttemptId::generate());
        fs::create_dir(&torn).unwrap();
        fs::write(torn.join("journal.unclaimed"), "{\"step\":\"accepted\"").unwrap();

        let by_itself = process_end.clone().attempt_end(None);
        for _ in 0..2 {
            let recovered = recover(attempts, &boot_id(), None).unwrap();
            assert!(recovered.running.is_empty());
            let mut found: std::collections::BTreeMap<AttemptId, Found> = recovered
                .attempts
                .into_iter()
                .map(|found| (found.report.attempt, found.found))
                .collect();
            let mut take = |attempt| found.remove(&attempt).unwrap();
            assert_eq!(take(over), Found::Ended(end.clone()));
            assert_eq!(take(refused), Found::Ended(end.clone()));
            assert_eq!(take(unstarted), Found::Unstarted);
            assert_eq!(take(given_back), Found::Unstarted);
            assert_eq!(take(ended), Found::Ended(by_itself.clone()));
            assert_eq!(take(cut), Found::Ended(by_itself.clone()));
            let outcome = |found| match found {
                Found::Ended(end) => end.outcome,
                other => panic!("{other:?}"),
            };
            for on_purpose in [asked, asked_first, by_force] {
                assert_eq!(outcome(take(on_purpose)), stopped);
            }
            for by_chance in [too_late, by_force_too_late] {
                assert_eq!(take(by_chance), Found::Ended(by_itself.clone()));
            }
            assert!(matches!(
                outcome(take(not_executed)),
                Outcome::Failed { reason: FailureReason::NotExecutable, detail } if detail.contains("/bin/tool")
            ));
            let Found::Ended(interrupted) = take(claimed) else {
                panic!("it counts as run");
            };
            assert!(matches!(
                interrupted.outcome,
                Outcome::Failed {
                    reason: FailureReason::AgentRestarted,
                    ..
                }
            ));
            assert_eq!(interrupted.stdout_bytes, 5);
            assert!(found.is_empty(), "{found:?}");
        }
        // What the agent has taken no keeper can take any more.
        assert!(journal::claim(&directory::of(attempts, unstarted)).is_err());
        assert_eq!(
            fs::read_dir(attempts).unwrap().count(),
            14,
            "thirteen attempts and what is of someone else"
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
            started_ticks: (later.started_ticks.0 + 1, later.started_ticks.1 + 2),
            ..later
        };
        let other_boot = ProcessIdentity {
            boot_id: "another".to_owned(),
            ..other_boot
        };
        for process in [same, later, other_boot] {
            make(
                attempts.path(),
                Claim::Keeper,
                &[Step::Process(process)],
                "",
            );
        }
        recover(attempts.path(), &boot_id(), None).unwrap();
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
        let attempt = make(attempts.path(), Claim::Keeper, &[], "");
        let mut child = sleep(Some(attempt));
        recover(attempts.path(), &boot_id(), None).unwrap();
        assert!(!child.wait().unwrap().success());
    }
}
