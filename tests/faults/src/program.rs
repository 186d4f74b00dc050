//! One of our programs as a child process.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tokio::time::{Instant, sleep};

use crate::journal::Journal;

/// How long a program may take to end when it is asked to.
const END_WITHIN: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A running program. Dropping it kills it; it is also killed when this process dies.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    child: Child,
}

/// The path of a program of the workspace, which is beside this one.
pub(crate) fn path(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("this program does not know where it is")?;
    let path = own.with_file_name(name);
    if !path.exists() {
        bail!(
            "{} is not there: run `cargo build --workspace --bins`",
            path.display()
        );
    }
    Ok(path)
}

impl Program {
    /// Starts a command; what it says goes to the journal.
    ///
    /// Must be called on the main thread: the program is killed when the thread ends that started it.
    pub(crate) fn start(
        name: &str,
        mut command: Command,
        journal: &Journal,
    ) -> anyhow::Result<Self> {
        let (reader, writer) = std::io::pipe()?;
        let second = writer.try_clone()?;
        command.stdin(Stdio::null()).stdout(writer).stderr(second);
        #[expect(
            unsafe_code,
            reason = "only in the child itself can its death signal be set"
        )]
        // SAFETY: the closure makes one system call and allocates nothing, as is required between fork and exec.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let child = command
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        // The command holds the writing ends.
        drop(command);
        let journal = journal.clone();
        thread::spawn(move || journal.read(reader));
        Ok(Self {
            name: name.to_owned(),
            child,
        })
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        // Not waited for yet, so the number is still its own; it may have ended already.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Kills it, as a crash would. What it has started lives on.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} has ended by itself: {status}", self.name);
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end, and waits until it has. An error if it does not, or not with success.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} has ended by itself: {status}", self.name);
        }
        self.signal(Signal::TERM);
        let until = Instant::now() + END_WITHIN;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("{} ends with {status} when it is stopped", self.name),
                None if Instant::now() > until => {
                    bail!(
                        "{} does not end within {} s",
                        self.name,
                        END_WITHIN.as_secs()
                    )
                }
                None => sleep(LOOK_EVERY).await,
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill, and waiting gives the answer again.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
