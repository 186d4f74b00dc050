//! What runs under a keeper: claimed, started, ended, each written into the attempt's journal by the keeper itself.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use scitq_shared::ids::AttemptId;
use scitq_shared::output::Stream;

use super::message::{NotStarted, StartOrder, Word};
use super::out_of_memory::{Before, Witness};
use super::spawn::spawn;
use super::wait::{EndedChild, ended_child, reap, signal_group};
use crate::attempt::directory;
use crate::attempt::journal::{self, ProcessEnd, ProcessIdentity, Step};
use crate::machine;

/// How much less than others the keeper is to be killed when memory runs out, where that may be said.
const PROTECTED: &str = "-900";

/// The tasks of this keeper.
#[derive(Debug)]
pub(super) struct Tasks {
    attempts: PathBuf,
    boot_id: String,
    running: HashMap<i32, Running>,
    by_attempt: HashMap<AttemptId, i32>,
    /// Ends that could not be written into their journals (the disk is full): written later.
    unrecorded: BTreeMap<AttemptId, ProcessEnd>,
    witness: Witness,
    protection: Protection,
}

#[derive(Debug)]
struct Running {
    attempt: AttemptId,
    before: Before,
}

impl Tasks {
    /// None yet; attempts are in this directory.
    pub(super) fn new(attempts: &Path) -> Self {
        Self {
            attempts: attempts.to_owned(),
            boot_id: machine::boot_id(),
            running: HashMap::new(),
            by_attempt: HashMap::new(),
            unrecorded: BTreeMap::new(),
            witness: Witness::find(),
            protection: Protection::take(),
        }
    }

    /// True when nothing runs and every end is written down.
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty() && self.unrecorded.is_empty()
    }

    /// Every attempt that an agent has to expect a word about.
    pub(super) fn attempts(&self) -> Vec<AttemptId> {
        self.by_attempt
            .keys()
            .chain(self.unrecorded.keys())
            .copied()
            .collect()
    }

    /// Claims an attempt and starts its program.
    pub(super) fn start(&mut self, order: &StartOrder) -> Word {
        let attempt = order.attempt;
        let not_started = |why| Word::NotStarted { attempt, why };
        let directory = directory::of(&self.attempts, attempt);
        let before = self.witness.before();
        let [stdout, stderr] = [Stream::Stdout, Stream::Stderr]
            .map(|stream| directory::stream_file(&directory, stream));
        // From here on it counts as run, whatever happens: nobody else can claim it.
        if let Err(error) = journal::claim(&directory) {
            return not_started(NotStarted::Claim(number(&error)));
        }
        let earliest = machine::ticks_since_boot();
        self.protection.lift();
        let spawned = spawn(order, &stdout, &stderr);
        self.protection.restore();
        let pid = match spawned {
            Ok(pid) => pid,
            Err(error) => return not_started(NotStarted::Execute(number(&error))),
        };
        let process = ProcessIdentity {
            pid,
            started_ticks: (earliest, machine::ticks_since_boot()),
            boot_id: self.boot_id.clone(),
        };
        // Without it the process is found by its environment, should this keeper be killed.
        let _ = journal::append_apart(&directory, &Step::Process(process));
        self.running.insert(pid, Running { attempt, before });
        self.by_attempt.insert(attempt, pid);
        Word::Started {
            attempt,
            pid: u64::from(pid.unsigned_abs()),
        }
    }

    /// Sends a signal to the group of an attempt that runs.
    pub(super) fn signal(&self, attempt: AttemptId, signal: i32) {
        // What has not been waited for keeps its id: the group is certainly the attempt's own.
        if let (Some(pid), Some(signal)) = (
            self.by_attempt.get(&attempt),
            Signal::from_named_raw(signal),
        ) {
            signal_group(*pid, signal);
        }
    }

    /// Takes in one process that has ended, if there is one: what is left of its group is killed, and its end written
    /// down before anybody is told.
    pub(super) fn next_end(&mut self) -> io::Result<Option<Word>> {
        while let Some(child) = ended_child()? {
            let known = self.running.remove(&child.pid);
            let word = known.map(|running| {
                signal_group(child.pid, Signal::KILL);
                self.end(&running, child)
            });
            reap(child.pid);
            if word.is_some() {
                return Ok(word);
            }
        }
        Ok(None)
    }

    fn end(&mut self, running: &Running, child: EndedChild) -> Word {
        let attempt = running.attempt;
        self.by_attempt.remove(&attempt);
        let directory = directory::of(&self.attempts, attempt);
        let end = ProcessEnd {
            ended_at: scitq_shared::now(),
            exit: child.exit,
            usage: child.usage,
            stdout_bytes: directory::stream_bytes(&directory, Stream::Stdout),
            stderr_bytes: directory::stream_bytes(&directory, Stream::Stderr),
            out_of_memory: self.witness.evidence(child.pid, child.exit, running.before),
        };
        if record(&directory, &end).is_err() {
            self.unrecorded.insert(attempt, end.clone());
        }
        Word::Ended { attempt, end }
    }

    /// Ends that no journal has: an agent that comes has to be told.
    pub(super) fn unrecorded(&self) -> impl Iterator<Item = Word> {
        self.unrecorded.iter().map(|(attempt, end)| Word::Ended {
            attempt: *attempt,
            end: end.clone(),
        })
    }

    /// Tries again to write down what could not be; true when something is still left.
    pub(super) fn record_again(&mut self) -> bool {
        let attempts = self.attempts.clone();
        self.unrecorded
            .retain(|attempt, end| record(&directory::of(&attempts, *attempt), end).is_err());
        !self.unrecorded.is_empty()
    }
}

/// Writes an end into the journal; an attempt that is not kept any more needs none.
fn record(directory: &Path, end: &ProcessEnd) -> io::Result<()> {
    match journal::append_apart(directory, &Step::Exited(end.clone())) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written,
    }
}

fn number(error: &io::Error) -> i32 {
    // Words with NUL are the one thing that does not come from the system.
    error.raw_os_error().unwrap_or(libc::EINVAL)
}

/// Protection of the keeper from the killer of processes when memory runs out; lifted while a child is made, which
/// inherits it.
#[derive(Debug)]
struct Protection {
    score: Option<(File, Vec<u8>)>,
}

impl Protection {
    fn take() -> Self {
        let file = "/proc/self/oom_score_adj";
        let take = || -> io::Result<(File, Vec<u8>)> {
            let former = std::fs::read(file)?;
            let score = File::options().write(true).open(file)?;
            // Only a privileged process may go below where it was.
            score.write_at(PROTECTED.as_bytes(), 0)?;
            Ok((score, former))
        };
        Self { score: take().ok() }
    }

    fn lift(&self) {
        if let Some((score, former)) = &self.score {
            // It was permitted before; the task would only be protected as well.
            let _ = score.write_at(former, 0);
        }
    }

    fn restore(&self) {
        if let Some((score, _)) = &self.score {
            let _ = score.write_at(PROTECTED.as_bytes(), 0);
        }
    }
}
