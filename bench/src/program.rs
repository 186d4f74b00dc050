//! A program under measurement, running.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tokio::time::Instant;

/// How long a program may take to end when it is asked to.
const END_WITHIN: Duration = Duration::from_secs(30);
/// How often it is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Lines of the log that are shown when something went wrong.
const SHOWN_LINES: usize = 20;

/// A running program. Dropping it kills it; it is also killed when this process dies.
#[derive(Debug)]
pub struct Program {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts a program with the given arguments and no settings from outside. What it prints goes to `log`.
    ///
    /// Must be called on the main thread: the program is killed when the thread ends that started it.
    pub fn start(
        name: &'static str,
        path: &Path,
        arguments: &[String],
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let file =
            File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let second = file.try_clone().context("cannot share the log")?;
        let mut command = Command::new(path);
        command.args(arguments);
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("SCITQ_") {
                command.env_remove(variable);
            }
        }
        command.stdin(Stdio::null()).stdout(file).stderr(second);
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
            .with_context(|| format!("cannot start {}", path.display()))?;
        Ok(Self { name, child, log })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of its log if it has ended.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended ({status}):\n{}", self.name, self.last_lines());
        }
        Ok(())
    }

    /// The end of its log, for a person who wants to know what went wrong.
    pub fn last_lines(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        last_lines(&String::from_utf8_lossy(&text), SHOWN_LINES)
    }

    /// Asks it to end and waits until it has. An error if it did not, or said that it failed.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        // Not waited for yet, so the number is still its own.
        kill_process(Pid::from_child(&self.child), Signal::TERM)
            .with_context(|| format!("{} cannot be told to end", self.name))?;
        let deadline = Instant::now() + END_WITHIN;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!(
                    "{} ended badly ({status}):\n{}",
                    self.name,
                    self.last_lines()
                ),
                None if Instant::now() > deadline => bail!(
                    "{} did not end within {} s:\n{}",
                    self.name,
                    END_WITHIN.as_secs(),
                    self.last_lines()
                ),
                None => tokio::time::sleep(LOOK_EVERY).await,
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

fn last_lines(text: &str, number: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(number);
    let mut shown = String::new();
    for line in lines.get(from..).unwrap_or_default() {
        shown += "  | ";
        shown += line;
        shown.push('\n');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, directory: &Path) -> Program {
        let arguments = ["-c".to_owned(), script.to_owned()];
        Program::start(
            "shell",
            Path::new("/bin/sh"),
            &arguments,
            directory.join("log"),
        )
        .unwrap()
    }

    #[tokio::test]
    async fn an_early_end_shows_the_last_words() {
        let directory = tempfile::tempdir().unwrap();
        let mut program = shell("echo first; echo last words >&2; exit 3", directory.path());
        let error = loop {
            match program.check_alive() {
                Ok(()) => tokio::time::sleep(LOOK_EVERY).await,
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.contains("last words"), "{error}");
    }

    #[tokio::test]
    async fn stopping_tells_good_ends_from_bad_ones() {
        let directory = tempfile::tempdir().unwrap();
        // The trap must be set before the signal comes.
        let ready = directory.path().join("ready");
        let script = |code| {
            let ready = ready.display();
            format!("trap 'exit {code}' TERM; touch {ready}; while :; do sleep 0.01; done")
        };
        for (code, good) in [(0, true), (7, false)] {
            let program = shell(&script(code), directory.path());
            while !ready.exists() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            assert_eq!(program.stop().await.is_ok(), good);
            fs::remove_file(&ready).unwrap();
        }
    }

    #[test]
    fn only_the_end_of_a_log_is_shown() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "  | b\n  | c\n");
        assert_eq!(last_lines("a", 2), "  | a\n");
        assert_eq!(last_lines("", 2), "");
    }
}
