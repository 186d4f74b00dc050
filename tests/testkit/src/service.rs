//! A child process with its log.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::cleanup;

const KEPT_LINES: usize = 200;
/// How long a service that is dropped may take to end by its own signal.
const DROP_PATIENCE: Duration = Duration::from_secs(10);

/// A running service. Dropping it ends it by its death signal.
#[derive(Debug)]
pub(crate) struct Service {
    name: &'static str,
    child: Child,
    pid: Pid,
    death_signal: Signal,
    log: Arc<Log>,
}

/// The last lines of a service's output, and what has been seen in it.
#[derive(Debug)]
struct Log {
    ready_mark: &'static str,
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct LogState {
    tail: VecDeque<String>,
    ready: bool,
    /// The output is closed: every process of the service is gone.
    ended: bool,
}

impl Service {
    /// Starts a command whose output says `ready_mark` once it serves. It gets `death_signal` if this process dies. All
    /// that it says is added to the file `log_file` as well.
    pub(crate) fn start(
        name: &'static str,
        mut command: Command,
        ready_mark: &'static str,
        death_signal: Signal,
        log_file: &Path,
    ) -> Self {
        let fail = |error: std::io::Error| -> ! {
            panic!("{name} cannot be started: {error}; run `make setup`")
        };
        let file = File::options().create(true).append(true).open(log_file);
        let file = file.unwrap_or_else(|error| panic!("{}: {error}", log_file.display()));
        let (reader, writer) = std::io::pipe().unwrap_or_else(|error| fail(error));
        let second = writer.try_clone().unwrap_or_else(|error| fail(error));
        command.stdin(Stdio::null()).stdout(writer).stderr(second);
        #[expect(
            unsafe_code,
            reason = "only in the child itself can its death signal be set"
        )]
        // SAFETY: the closure makes one system call and allocates nothing, as is required between fork and exec.
        unsafe {
            command.pre_exec(move || Ok(set_parent_process_death_signal(Some(death_signal))?));
        }
        let child = spawn(command).unwrap_or_else(|error| fail(error));
        let pid = Pid::from_child(&child);
        cleanup::remember_process(pid, death_signal);
        let log = Arc::new(Log {
            ready_mark,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let writer_log = Arc::clone(&log);
        thread::spawn(move || writer_log.read(reader, file));
        let service = Self {
            name,
            child,
            pid,
            death_signal,
            log,
        };
        service.wait_ready();
        service
    }

    fn wait_ready(&self) {
        let state = self.log.wait_until(|state| state.ready || state.ended);
        if !state.ready {
            let what = if state.ended {
                "ended while starting"
            } else {
                "did not start in time"
            };
            panic!("{} {what}; its last words:\n{}", self.name, text(&state));
        }
    }

    /// Asks it to end and waits until all its processes have.
    pub(crate) fn stop(mut self, signal: Signal) {
        self.signal(signal);
        let state = self.log.wait_until(|state| state.ended);
        assert!(
            state.ended,
            "{} did not stop in time; its last words:\n{}",
            self.name,
            text(&state)
        );
        drop(state);
        self.reap();
    }

    /// Kills it with all its children, as a crash would, and waits until they are gone.
    pub(crate) fn kill(mut self) {
        self.kill_all();
    }

    fn kill_all(&mut self) {
        let children = children(self.pid);
        self.signal(Signal::KILL);
        for child in children {
            // Most end by themselves with their parent.
            let _ = kill_process(child, Signal::KILL);
        }
        self.reap();
        // Whatever still holds its files is waited for, within reason: dropping must not hang.
        drop(self.log.wait_until(|state| state.ended));
    }

    fn signal(&self, signal: Signal) {
        // Not reaped yet, so the number is still its own; it may have ended already.
        let _ = kill_process(self.pid, signal);
    }

    fn reap(&mut self) {
        // Waiting again for a child that has been waited for gives the same answer.
        let _ = self.child.wait();
        cleanup::forget_process(self.pid);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Only a gentler signal is worth waiting for.
            let ended = self.death_signal != Signal::KILL && {
                self.signal(self.death_signal);
                let state = self
                    .log
                    .wait_until_within(DROP_PATIENCE, |state| state.ended);
                state.ended
            };
            if ended {
                self.reap();
            } else {
                self.kill_all();
            }
        }
        cleanup::forget_process(self.pid);
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, reader: PipeReader, mut file: File) {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            // For people who look for what went wrong; a full disk must not end the service.
            let _ = writeln!(file, "{line}");
            let mut state = self.lock();
            state.ready |= line.contains(self.ready_mark);
            if state.tail.len() == KEPT_LINES {
                state.tail.pop_front();
            }
            state.tail.push_back(line);
            self.changed.notify_all();
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// Waits for a condition, or until the deadline.
    fn wait_until(&self, done: impl Fn(&LogState) -> bool) -> MutexGuard<'_, LogState> {
        self.wait_until_within(crate::DEADLINE, done)
    }

    /// Waits for a condition, at most this long.
    fn wait_until_within(
        &self,
        patience: Duration,
        done: impl Fn(&LogState) -> bool,
    ) -> MutexGuard<'_, LogState> {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        while !done(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                break;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }
}

fn text(state: &LogState) -> String {
    state
        .tail
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join("\n")
}

/// The processes that a process has started and not waited for.
fn children(pid: Pid) -> Vec<Pid> {
    let pid = pid.as_raw_nonzero();
    let list =
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace()
        .filter_map(|child| Pid::from_raw(child.parse().ok()?))
        .collect()
}

/// Starts a command from a thread that lives as long as this process: the death signal comes with the end of the
/// *thread* that started it, and a test's thread ends with the test.
fn spawn(command: Command) -> std::io::Result<Child> {
    type Order = (Command, mpsc::SyncSender<std::io::Result<Child>>);
    static ORDERS: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in receiver {
                // Who gave the order waits for the answer.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (answer, child) = mpsc::sync_channel(1);
    let gone = || std::io::Error::other("the thread that starts processes is gone");
    let sent = orders
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, answer));
    sent.map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}
