//! Threads that start programs.
//!
//! Starting one means waiting until the child has come to execute it, and on a busy machine the child waits for a
//! processor first: 0.12 to 4 ms, measured. One after the other that would be the keeper's limit, so several wait side by
//! side. They know nothing of what runs; what became of an order goes back to the one thread that does.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::event::EventfdFlags;
use scitq_shared::ids::AttemptId;
use scitq_shared::output::Stream;

use super::message::{NotStarted, StartOrder};
use super::out_of_memory::{Before, Witness};
use super::spawn::spawn;
use crate::attempt::directory;
use crate::attempt::journal::{self, NotExecuted, ProcessIdentity, Step};
use crate::machine;

/// Most programs being started at once.
const MOST_THREADS: usize = 8;
/// Enough for what these threads do: it is memory of a process that should be small.
const STACK_BYTES: usize = 256 * 1024;
/// How much less than others the keeper is to be killed when memory runs out, where that may be said.
const PROTECTED: &str = "-900";

/// What became of an order.
#[derive(Debug)]
pub(super) struct Spawned {
    pub(super) attempt: AttemptId,
    /// What is to be remembered of the start.
    pub(super) before: Before,
    /// The process, or why there is none.
    pub(super) process: Result<i32, NotStarted>,
}

/// The threads; made when they are needed, and there until the process ends.
#[derive(Debug)]
pub(super) struct Spawners {
    shared: Arc<Shared>,
    threads: usize,
}

#[derive(Debug)]
struct Shared {
    attempts: PathBuf,
    boot_id: String,
    witness: Arc<Witness>,
    protection: Protection,
    state: Mutex<State>,
    something_to_do: Condvar,
    /// Readable when something has been done.
    done: File,
}

#[derive(Debug, Default)]
struct State {
    /// As many as the agent has slots, at most.
    orders: VecDeque<StartOrder>,
    idle: usize,
    spawned: Vec<Spawned>,
}

impl Spawners {
    /// No thread yet; attempts are in this directory.
    pub(super) fn new(attempts: PathBuf, witness: Arc<Witness>) -> io::Result<Self> {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        let shared = Shared {
            attempts,
            boot_id: machine::boot_id(),
            witness,
            protection: Protection::take(),
            state: Mutex::default(),
            something_to_do: Condvar::new(),
            done: rustix::event::eventfd(0, flags)?.into(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            threads: 0,
        })
    }

    /// Starts the program of an order, soon.
    pub(super) fn start(&mut self, order: StartOrder) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.orders.push_back(order);
        if state.idle < state.orders.len() && self.threads < MOST_THREADS {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
            match thread.spawn(move || shared.work()) {
                Ok(_) => self.threads += 1,
                // The others do it later.
                Err(_) if self.threads > 0 => {}
                Err(error) => {
                    state.orders.pop_back();
                    return Err(error);
                }
            }
        }
        drop(state);
        self.shared.something_to_do.notify_one();
        Ok(())
    }

    /// What was done since the last call.
    pub(super) fn spawned(&self) -> Vec<Spawned> {
        let mut count = [0; 8];
        // First, so that what is done from here on is told anew. It may not have been told.
        let _ = (&self.shared.done).read(&mut count);
        std::mem::take(&mut self.shared.lock().spawned)
    }
}

impl AsFd for Spawners {
    /// Readable when there is something in [`Spawners::spawned`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.done.as_fd()
    }
}

impl Shared {
    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(order) = state.orders.pop_front() {
                drop(state);
                let spawned = self.start(&order);
                state = self.lock();
                state.spawned.push(spawned);
                // A counter that is read: it does not get full.
                let _ = (&self.done).write(&1u64.to_ne_bytes());
            } else {
                state.idle += 1;
                let woken = self.something_to_do.wait(state);
                state = woken.unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }

    /// Claims an attempt and starts its program.
    fn start(&self, order: &StartOrder) -> Spawned {
        let attempt = order.attempt;
        let before = self.witness.before();
        let directory = directory::of(&self.attempts, attempt);
        let spawned = |process| Spawned {
            attempt,
            before,
            process,
        };
        let [stdout, stderr] =
            [Stream::Stdout, Stream::Stderr].map(|it| directory::stream_file(&directory, it));
        // From here on it counts as run, whatever happens: nobody else can claim it.
        if let Err(error) = journal::claim(&directory) {
            return spawned(Err(NotStarted::Claim(number(&error))));
        }
        let earliest = machine::ticks_since_boot();
        self.protection.lift();
        let started = spawn(order, &stdout, &stderr);
        self.protection.restore();
        let pid = match started {
            Ok(pid) => pid,
            Err(error) => {
                let why = NotExecuted {
                    // As text: it is shown to people.
                    file: order.file.to_string_lossy().into_owned().into(),
                    error: number(&error),
                    at: scitq_shared::now(),
                };
                // Without it the next agent takes the attempt for interrupted, should this one not be told.
                let _ = journal::append_claimed(&directory, &Step::NotExecuted(why));
                return spawned(Err(NotStarted::Execute(number(&error))));
            }
        };
        let process = ProcessIdentity {
            pid,
            started_ticks: (earliest, machine::ticks_since_boot()),
            boot_id: self.boot_id.clone(),
        };
        // Without it the process is found by its environment, should this keeper be killed.
        let _ = journal::append_claimed(&directory, &Step::Process(process));
        spawned(Ok(pid))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is guarded is never left half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn number(error: &io::Error) -> i32 {
    // Words with NUL are the one thing that does not come from the system.
    error.raw_os_error().unwrap_or(libc::EINVAL)
}

/// Protection of the keeper from the killer of processes when memory runs out; lifted while children are made, which
/// inherit it.
#[derive(Debug)]
struct Protection {
    score: Option<(File, Vec<u8>)>,
    /// How many children are being made.
    lifted: Mutex<usize>,
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
        Self {
            score: take().ok(),
            lifted: Mutex::new(0),
        }
    }

    fn lift(&self) {
        let Some((score, former)) = &self.score else {
            return;
        };
        let mut lifted = self.lifted.lock().unwrap_or_else(PoisonError::into_inner);
        *lifted += 1;
        if *lifted == 1 {
            // It was permitted before; the task would only be protected as well.
            let _ = score.write_at(former, 0);
        }
    }

    fn restore(&self) {
        let Some((score, _)) = &self.score else {
            return;
        };
        let mut lifted = self.lifted.lock().unwrap_or_else(PoisonError::into_inner);
        *lifted -= 1;
        if *lifted == 0 {
            let _ = score.write_at(PROTECTED.as_bytes(), 0);
        }
    }
}
