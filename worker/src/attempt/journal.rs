//! The journal of an attempt: what has happened to it, one JSON line per step.
//!
//! The name of its file is the marker by which the attempt is claimed, exactly once (D10):
//!
//! | name | meaning |
//! | --- | --- |
//! | `journal.unclaimed` | prepared; nothing of it has run |
//! | `journal.jsonl` | claimed by a keeper, the last thing before its program is executed: it counts as run |
//! | `journal.released` | taken by an agent that adopted the directory: nothing has run, and nothing will |
//!
//! Both ways out of the first name are one rename, of which the system lets one succeed. It needs no room on the disk,
//! and in a directory that is used again it costs 20 µs where a new file costs several times that.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use scitq_shared::Timestamp;
use scitq_shared::definition::TaskDefinition;
use scitq_shared::execution::{Exit, FailureReason, Outcome, Usage};
use scitq_shared::protocol::AttemptReport;
use serde::{Deserialize, Serialize};

use crate::agent::core::AttemptEnd;
use crate::runner::launch;

/// One step of an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
#[expect(
    clippy::large_enum_variant,
    reason = "never kept: written or taken apart at once"
)]
pub(crate) enum Step<'a> {
    /// It is about to be executed. Written by the agent.
    Accepted {
        /// All that was known then.
        report: Cow<'a, AttemptReport>,
        /// What is run.
        definition: Cow<'a, TaskDefinition>,
        /// The keeper that it is handed to.
        #[serde(default)]
        keeper: Cow<'a, str>,
    },
    /// It is handed to another keeper, because the one before went without having claimed it. Written by the agent.
    HandedOver {
        /// The other keeper.
        keeper: Cow<'a, str>,
    },
    /// Its process runs. Written by the keeper.
    Process(ProcessIdentity),
    /// Its program could not be executed. Written by the keeper.
    NotExecuted(NotExecuted),
    /// It is being ended on purpose. Written by the agent.
    Killing(Killing),
    /// Its process has ended. Written by the keeper.
    Exited(ProcessEnd),
    /// It is over. Written by the agent where the steps before do not say so.
    Ended(AttemptEnd),
}

/// What tells a process from any other, later ones of the same id included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessIdentity {
    /// Process id, which is also that of its group and session.
    pub(crate) pid: i32,
    /// Between which moments it started, in clock ticks since the machine booted.
    pub(crate) started_ticks: (u64, u64),
    /// Which boot of the machine.
    pub(crate) boot_id: String,
}

/// Why a program that was found could not be executed, as the keeper saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NotExecuted {
    /// The program's file.
    pub(crate) file: PathBuf,
    /// The system's number of the error.
    pub(crate) error: i32,
    /// When.
    pub(crate) at: Timestamp,
}

/// That a running task is being ended on purpose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Killing {
    /// What the attempt comes to.
    pub(crate) outcome: Outcome,
    /// True when nothing but SIGKILL was sent: a process that ended otherwise had ended by itself.
    pub(crate) forced: bool,
}

impl Killing {
    /// What is to be remembered when this comes after what was done before.
    pub(crate) fn after(self, before: Option<Self>) -> Self {
        let asked = before.is_some_and(|before| !before.forced);
        Self {
            forced: self.forced && !asked,
            ..self
        }
    }
}

/// How a process ended, as its keeper saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProcessEnd {
    /// When.
    pub(crate) ended_at: Timestamp,
    /// How.
    pub(crate) exit: Exit,
    /// What it used.
    pub(crate) usage: Usage,
    /// Bytes of standard output in its file then.
    pub(crate) stdout_bytes: u64,
    /// Bytes of standard error.
    pub(crate) stderr_bytes: u64,
    /// How it is known that memory ran out, if that is what ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) out_of_memory: Option<String>,
}

impl ProcessEnd {
    /// What the attempt comes to, unless it was ended on purpose.
    pub(crate) fn outcome(&self) -> Outcome {
        match &self.out_of_memory {
            Some(evidence) => Outcome::Failed {
                reason: FailureReason::OutOfMemory,
                detail: format!("the kernel killed the command because memory ran out: {evidence}"),
            },
            None => Outcome::of_exit(self.exit),
        }
    }

    /// The end of the attempt, if it was ended on purpose with `killed` in mind.
    pub(crate) fn attempt_end(self, killed: Option<Killing>) -> AttemptEnd {
        // 137 is how a shell tells that what it ran was ended by SIGKILL.
        let by_force = matches!(self.exit, Exit::Signal(9) | Exit::Code(137));
        let killed = killed.filter(|killed| by_force || !killed.forced);
        AttemptEnd {
            outcome: killed.map_or_else(|| self.outcome(), |killed| killed.outcome),
            ended_at: self.ended_at,
            exit: Some(self.exit),
            usage: Some(self.usage),
            stdout_bytes: self.stdout_bytes,
            stderr_bytes: self.stderr_bytes,
        }
    }
}

/// Who has an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Nobody yet.
    Open,
    /// A keeper: it counts as run.
    Keeper,
    /// An agent: it has not run and never will.
    Agent,
}

/// What a journal says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Journal {
    pub(crate) claim: Claim,
    pub(crate) report: AttemptReport,
    pub(crate) definition: TaskDefinition,
    /// Name of the keeper that it was handed to, last.
    pub(crate) keeper: String,
    pub(crate) process: Option<ProcessIdentity>,
    pub(crate) killing: Option<Killing>,
    pub(crate) not_executed: Option<NotExecuted>,
    pub(crate) exited: Option<ProcessEnd>,
    pub(crate) ended: Option<AttemptEnd>,
}

impl Journal {
    /// How it ended, if it did.
    pub(crate) fn end(&self) -> Option<AttemptEnd> {
        let exited = || {
            let exited = self.exited.clone()?;
            Some(exited.attempt_end(self.killing.clone()))
        };
        let not_executed = || self.not_executed.as_ref().map(launch::never_executed);
        self.ended.clone().or_else(exited).or_else(not_executed)
    }
}

/// Name of the journal of an attempt that nobody has claimed.
pub(super) const UNCLAIMED: &str = "journal.unclaimed";
/// The same once a keeper has.
pub(super) const CLAIMED: &str = "journal.jsonl";
const RELEASED: &str = "journal.released";
/// Its names, in the order in which it may come to them.
const NAMES: [&str; 3] = [UNCLAIMED, CLAIMED, RELEASED];

/// Opens the journal of an attempt that was just made, to write its first step.
pub(crate) fn open_new(directory: &Path) -> io::Result<File> {
    File::options().append(true).open(directory.join(UNCLAIMED))
}

/// Adds a step in one write.
pub(crate) fn write(file: &mut File, step: &Step<'_>) -> io::Result<()> {
    let mut line = serde_json::to_vec(step)?;
    line.push(b'\n');
    file.write_all(&line)
}

/// Adds a step to a journal that is closed, on a line of its own whatever was before: a full disk may have cut it.
pub(crate) fn append_apart(directory: &Path, step: &Step<'_>) -> io::Result<()> {
    find(directory)?.0.write_all(&line_apart(step)?)
}

/// The same for a keeper, which has claimed it.
pub(crate) fn append_claimed(directory: &Path, step: &Step<'_>) -> io::Result<()> {
    let mut file = File::options().append(true).open(directory.join(CLAIMED))?;
    file.write_all(&line_apart(step)?)
}

fn line_apart(step: &Step<'_>) -> io::Result<Vec<u8>> {
    let mut line = vec![b'\n'];
    serde_json::to_writer(&mut line, step)?;
    line.push(b'\n');
    Ok(line)
}

/// Takes an attempt for a keeper that executes it in the next moment. "Not found" when somebody else has it.
pub(crate) fn claim(directory: &Path) -> io::Result<()> {
    fs::rename(directory.join(UNCLAIMED), directory.join(CLAIMED))
}

/// Takes an attempt for the agent, so that nobody executes it any more. False when it is somebody's already.
pub(crate) fn release(directory: &Path) -> io::Result<bool> {
    match fs::rename(directory.join(UNCLAIMED), directory.join(RELEASED)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The file of the journal, whatever its name is now.
pub(crate) fn path(directory: &Path) -> PathBuf {
    let present = NAMES.iter().map(|name| directory.join(name));
    let mut present = present.filter(|file| file.exists());
    present.next().unwrap_or_else(|| directory.join(CLAIMED))
}

/// Opens the journal under the name that it has. Names only change forwards, so in this order it is not missed.
fn find(directory: &Path) -> io::Result<(File, Claim)> {
    let names = [
        (UNCLAIMED, Claim::Open),
        (CLAIMED, Claim::Keeper),
        (RELEASED, Claim::Agent),
    ];
    for (name, claim) in names {
        match File::options()
            .read(true)
            .append(true)
            .open(directory.join(name))
        {
            Ok(file) => return Ok((file, claim)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Reads a journal. None when its first line is torn or missing: then nothing can be said about the attempt.
pub(crate) fn read(directory: &Path) -> io::Result<Option<Journal>> {
    let (mut file, claim) = match find(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found?,
    };
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut file, &mut bytes)?;
    Ok(parse(&bytes, claim))
}

fn parse(bytes: &[u8], claim: Claim) -> Option<Journal> {
    let lines = bytes
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| line.ends_with(b"\n") && line.len() > 1);
    let mut journal: Option<Journal> = None;
    for step in lines.filter_map(|line| serde_json::from_slice::<Step<'_>>(line).ok()) {
        let Some(journal) = &mut journal else {
            let Step::Accepted {
                report,
                definition,
                keeper,
            } = step
            else {
                // A late word about the attempt that had this directory before.
                continue;
            };
            journal = Some(Journal {
                claim,
                report: report.into_owned(),
                definition: definition.into_owned(),
                keeper: keeper.into_owned(),
                process: None,
                killing: None,
                not_executed: None,
                exited: None,
                ended: None,
            });
            continue;
        };
        match step {
            Step::Accepted { .. } => {}
            Step::HandedOver { keeper } => journal.keeper = keeper.into_owned(),
            Step::Process(process) => journal.process = Some(process),
            Step::NotExecuted(why) => journal.not_executed = Some(why),
            // It had ended by itself by then.
            Step::Killing(_) if journal.exited.is_some() => {}
            Step::Killing(killing) => {
                journal.killing = Some(killing.after(journal.killing.take()));
            }
            Step::Exited(end) => journal.exited = Some(end),
            Step::Ended(end) => journal.ended = Some(end),
        }
    }
    journal
}
