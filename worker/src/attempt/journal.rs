//! The journal of an attempt: what has happened to it, one JSON line per step.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use scitq_shared::definition::TaskDefinition;
use scitq_shared::protocol::AttemptReport;
use serde::{Deserialize, Serialize};

use crate::agent::core::AttemptEnd;

/// One step of an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
#[expect(
    clippy::large_enum_variant,
    reason = "never kept: written or taken apart at once"
)]
pub(crate) enum Step<'a> {
    /// It is about to be executed.
    Accepted {
        /// All that was known then.
        report: std::borrow::Cow<'a, AttemptReport>,
        /// What is run.
        definition: std::borrow::Cow<'a, TaskDefinition>,
    },
    /// What it needs is there, and in the next moment it is executed: from here on it counts as run.
    Starting,
    /// Its process runs.
    Process(ProcessIdentity),
    /// It is over.
    Ended(AttemptEnd),
}

/// What tells a process from any other, later ones of the same id included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessIdentity {
    /// Process id, which is also that of its group and session.
    pub(crate) pid: i32,
    /// When it started, in clock ticks since the machine booted.
    pub(crate) start_ticks: u64,
    /// Which boot of the machine.
    pub(crate) boot_id: String,
}

/// What a journal says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Journal {
    pub(crate) report: AttemptReport,
    pub(crate) starting: bool,
    pub(crate) process: Option<ProcessIdentity>,
    pub(crate) end: Option<AttemptEnd>,
}

/// Name of the journal's file.
pub(crate) const FILE: &str = "journal.jsonl";

/// The journal's file in an attempt's directory.
pub(crate) fn file(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

/// Opens a journal to add to it. The file is there, empty, from the beginning.
pub(crate) fn open(directory: &Path) -> io::Result<File> {
    File::options().append(true).open(file(directory))
}

/// Adds a step in one write.
pub(crate) fn write(file: &mut File, step: &Step<'_>) -> io::Result<()> {
    let mut line = serde_json::to_vec(step)?;
    line.push(b'\n');
    file.write_all(&line)
}

/// Adds a step to a journal that is closed.
pub(crate) fn append(directory: &Path, step: &Step<'_>) -> io::Result<()> {
    write(&mut open(directory)?, step)
}

/// Reads a journal. None when its first line is torn or missing: then nothing can be said about the attempt.
pub(crate) fn read(directory: &Path) -> io::Result<Option<Journal>> {
    let bytes = match fs::read(file(directory)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let steps = bytes
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| line.ends_with(b"\n"));
    let mut journal: Option<Journal> = None;
    for step in steps.filter_map(|line| serde_json::from_slice::<Step<'_>>(line).ok()) {
        match (step, &mut journal) {
            (Step::Accepted { report, .. }, _) => {
                journal = Some(Journal {
                    report: report.into_owned(),
                    starting: false,
                    process: None,
                    end: None,
                });
            }
            (Step::Starting, Some(journal)) => journal.starting = true,
            (Step::Process(process), Some(journal)) => journal.process = Some(process),
            (Step::Ended(end), Some(journal)) => journal.end = Some(end),
            (_, None) => return Ok(None),
        }
    }
    Ok(journal)
}
