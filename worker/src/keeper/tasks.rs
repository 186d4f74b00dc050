//! What runs under a keeper: started, ended, each written into the attempt's journal by the keeper itself.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::Signal;
use scitq_shared::ids::AttemptId;
use scitq_shared::output::Stream;

use super::message::{NotStarted, StartOrder, Word};
use super::out_of_memory::{Before, Witness};
use super::spawners::{Spawned, Spawners};
use super::wait::{EndedChild, ended_child, reap, signal_group};
use crate::attempt::directory;
use crate::attempt::journal::{self, ProcessEnd, Step};

/// The tasks of this keeper.
#[derive(Debug)]
pub(super) struct Tasks {
    attempts: PathBuf,
    spawners: Spawners,
    /// Being started, with the signal that is to be sent when they are.
    starting: HashMap<AttemptId, Option<Signal>>,
    running: HashMap<i32, Running>,
    by_attempt: HashMap<AttemptId, i32>,
    /// Ends that could not be written into their journals (the disk is full): written later.
    unrecorded: BTreeMap<AttemptId, ProcessEnd>,
    witness: Arc<Witness>,
}

#[derive(Debug)]
struct Running {
    attempt: AttemptId,
    before: Before,
}

impl Tasks {
    /// None yet; attempts are in this directory.
    pub(super) fn new(attempts: &Path) -> io::Result<Self> {
        let witness = Arc::new(Witness::find());
        Ok(Self {
            attempts: attempts.to_owned(),
            spawners: Spawners::new(attempts.to_owned(), Arc::clone(&witness))?,
            starting: HashMap::new(),
            running: HashMap::new(),
            by_attempt: HashMap::new(),
            unrecorded: BTreeMap::new(),
            witness,
        })
    }

    /// True when nothing runs and every end is written down.
    pub(super) fn is_empty(&self) -> bool {
        self.starting.is_empty() && self.running.is_empty() && self.unrecorded.is_empty()
    }

    /// Every attempt that an agent has to expect a word about.
    pub(super) fn attempts(&self) -> Vec<AttemptId> {
        let starting = self.starting.keys();
        let all = starting.chain(self.by_attempt.keys());
        all.chain(self.unrecorded.keys()).copied().collect()
    }

    /// Claims an attempt and starts its program, soon: see [`Tasks::started`]. A word if that is not possible.
    pub(super) fn start(&mut self, order: StartOrder) -> Option<Word> {
        let attempt = order.attempt;
        self.starting.insert(attempt, None);
        match self.spawners.start(order) {
            Ok(()) => None,
            Err(error) => {
                self.starting.remove(&attempt);
                let number = error.raw_os_error().unwrap_or(libc::EAGAIN);
                let why = NotStarted::Claim(number);
                Some(Word::NotStarted { attempt, why })
            }
        }
    }

    /// Readable when there is something in [`Tasks::started`].
    pub(super) fn starts(&self) -> BorrowedFd<'_> {
        self.spawners.as_fd()
    }

    /// Takes in what was started, or could not be.
    pub(super) fn started(&mut self) -> Vec<Word> {
        let spawned = self.spawners.spawned();
        spawned.iter().map(|it| self.take_in(it)).collect()
    }

    fn take_in(&mut self, spawned: &Spawned) -> Word {
        let &Spawned {
            attempt,
            before,
            process,
        } = spawned;
        let signal = self.starting.remove(&attempt).flatten();
        let pid = match process {
            Ok(pid) => pid,
            Err(why) => return Word::NotStarted { attempt, why },
        };
        self.running.insert(pid, Running { attempt, before });
        self.by_attempt.insert(attempt, pid);
        if let Some(signal) = signal {
            signal_group(pid, signal);
        }
        let pid = u64::from(pid.unsigned_abs());
        Word::Started { attempt, pid }
    }

    /// Sends a signal to the group of an attempt that runs.
    pub(super) fn signal(&mut self, attempt: AttemptId, signal: i32) {
        let Some(signal) = Signal::from_named_raw(signal) else {
            return;
        };
        if let Some(pid) = self.by_attempt.get(&attempt) {
            // What has not been waited for keeps its id: the group is certainly the attempt's own.
            signal_group(*pid, signal);
        } else if let Some(later) = self.starting.get_mut(&attempt)
            && *later != Some(Signal::KILL)
        {
            *later = Some(signal);
        }
    }

    /// Takes in one process that has ended, if there is one: what is left of its group is killed, and its end written
    /// down before anybody is told.
    pub(super) fn next_end(&mut self) -> io::Result<Option<Word>> {
        while let Some(child) = ended_child()? {
            let Some(running) = self.running.remove(&child.pid) else {
                if !self.starting.is_empty() {
                    // It may be one of those: looked at again when all of them are known.
                    return Ok(None);
                }
                reap(child.pid);
                continue;
            };
            signal_group(child.pid, Signal::KILL);
            let word = self.end(&running, child);
            reap(child.pid);
            return Ok(Some(word));
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
    match journal::append_claimed(directory, &Step::Exited(end.clone())) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written,
    }
}
