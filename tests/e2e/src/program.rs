//! One of our programs as a child process, with its log.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, PipeReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::thread;

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::DEADLINE;

const KEPT_LINES: usize = 2000;
const SHOWN_LINES: usize = 120;

/// Where the programs of the workspace are: beside the test program.
///
/// # Panics
/// If the test program is nowhere.
pub fn programs() -> PathBuf {
    let own = std::env::current_exe().expect("the path of the test program");
    // target/debug/deps/e2e-0123456789abcdef
    let directory = own.ancestors().nth(2).expect("the target directory");
    directory.to_owned()
}

/// A program of the workspace.
///
/// # Panics
/// If it has not been built.
pub fn binary(name: &str) -> PathBuf {
    let path = programs().join(name);
    assert!(
        path.exists(),
        "{} is not there: run `cargo build --workspace --bins`",
        path.display()
    );
    path
}

/// A running program. Dropping it kills it, and shows its log when the test has failed.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    pid: Pid,
    death_signal: Signal,
    log: watch::Receiver<Log>,
}

#[derive(Debug, Default)]
struct Log {
    lines: VecDeque<String>,
    /// The output is closed: the process is gone.
    ended: bool,
}

impl Program {
    /// Starts a command. It is killed if this process dies.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(name: &str, command: Command) -> Self {
        Self::start_ended_by(Signal::KILL, name, command)
    }

    /// Starts a command that gets this signal when it is dropped, or if this process dies: one that has children of its
    /// own and must end them.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_ended_by(death_signal: Signal, name: &str, mut command: Command) -> Self {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let second = writer.try_clone().expect("a pipe");
        command.stdin(Stdio::null()).stdout(writer).stderr(second);
        #[expect(
            unsafe_code,
            reason = "only in the child itself can its death signal be set"
        )]
        // SAFETY: the closure makes one system call and allocates nothing, as is required between fork and exec.
        unsafe {
            command.pre_exec(move || Ok(set_parent_process_death_signal(Some(death_signal))?));
        }
        let child = spawn(command).unwrap_or_else(|error| panic!("{name}: {error}"));
        let pid = Pid::from_child(&child);
        let (sender, log) = watch::channel(Log::default());
        thread::spawn(move || read(reader, &sender));
        Self {
            name: name.to_owned(),
            child,
            pid,
            death_signal,
            log,
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        // Not waited for yet, so the number is still its own; it may have ended already.
        let _ = kill_process(self.pid, signal);
    }

    /// Waits for a line of its log that contains this text; returns the first.
    ///
    /// # Panics
    /// If none comes within the deadline, or the program ends without one.
    pub async fn line(&self, part: &str) -> String {
        let mut log = self.log.clone();
        let find = |log: &Log| log.lines.iter().find(|line| line.contains(part)).cloned();
        let seen = timeout(
            DEADLINE,
            log.wait_for(|log| log.ended || find(log).is_some()),
        )
        .await;
        let found = match seen {
            Ok(Ok(log)) => find(&log),
            _ => None,
        };
        found.unwrap_or_else(|| panic!("{} never says {part:?}", self.name))
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end within the deadline.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut log = self.log.clone();
        let ended = timeout(DEADLINE, log.wait_for(|log| log.ended)).await;
        assert!(ended.is_ok(), "{} does not end", self.name);
        self.child.wait().expect("a child's status")
    }

    /// True when it has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.log.borrow().ended
    }

    /// Asks it to end, as a service manager does, and waits for its end.
    ///
    /// # Panics
    /// If it does not end with success within the deadline.
    pub async fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.ended().await;
        assert!(
            status.success(),
            "{} ends with {status} when it is stopped",
            self.name
        );
    }

    /// Kills it, as a crash would.
    pub async fn kill(mut self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// The most memory that it has held so far, in bytes.
    ///
    /// # Panics
    /// If it does not run.
    pub fn peak_memory_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("the status of a running process");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kibibytes.expect("a number of kB") * 1024
    }

    /// What it has written, at most the last 2,000 lines.
    pub fn log(&self) -> String {
        text(&self.log.borrow(), KEPT_LINES)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(self.death_signal);
            // It was told to end: this does not take long.
            let _ = self.child.wait();
        }
        if thread::panicking() {
            let log = text(&self.log.borrow(), SHOWN_LINES);
            eprintln!("--- the log of {}:\n{log}\n---", self.name);
        }
    }
}

fn text(log: &Log, most: usize) -> String {
    let skipped = log.lines.len().saturating_sub(most);
    let lines: Vec<&str> = log.lines.iter().skip(skipped).map(String::as_str).collect();
    lines.join("\n")
}

fn read(reader: PipeReader, log: &watch::Sender<Log>) {
    for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        log.send_modify(|log| {
            if log.lines.len() == KEPT_LINES {
                log.lines.pop_front();
            }
            log.lines.push_back(line);
        });
    }
    log.send_modify(|log| log.ended = true);
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
