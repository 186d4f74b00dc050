//! `scitq-ctl` as a user runs it.

use std::ffi::OsStr;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::DEADLINE;
use crate::program::binary;

/// A command line, about to be run.
#[derive(Debug)]
pub struct Ctl {
    command: Command,
    stdin: Vec<u8>,
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Exit code; `None` after a signal.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error, as text.
    pub stderr: String,
}

/// A command that runs, whose output is read as it comes.
#[derive(Debug)]
pub struct Following {
    child: Child,
    /// What was read already and not asked for yet.
    read: Vec<u8>,
}

impl Ctl {
    /// A command line with a clean environment.
    pub fn new<W: AsRef<OsStr>>(words: impl IntoIterator<Item = W>) -> Self {
        let mut command = Command::new(binary("scitq-ctl"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .args(words)
            .kill_on_drop(true);
        Self {
            command,
            stdin: Vec::new(),
        }
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Gives it standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// If it does not end within the deadline.
    pub async fn run(mut self) -> Ended {
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.command.spawn().expect("scitq-ctl starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        let bytes = self.stdin;
        let written = tokio::spawn(async move {
            // A command that wants no input closes it.
            let _ = stdin.write_all(&bytes).await;
        });
        let output = timeout(DEADLINE * 2, child.wait_with_output()).await;
        let output = output
            .unwrap_or_else(|_| panic!("{:?} does not end", self.command))
            .expect("the output of scitq-ctl");
        written.abort();
        Ended {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts it; its standard output is read piece by piece.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn follow(mut self) -> Following {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = self.command.spawn().expect("scitq-ctl starts");
        Following {
            child,
            read: Vec::new(),
        }
    }
}

impl Ended {
    /// Makes sure that it ended with this exit code.
    ///
    /// # Panics
    /// If it did not.
    #[must_use]
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "stdout: {}\nstderr: {}",
            self.text(),
            self.stderr
        );
        self
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", self.text(), self.stderr))
    }
}

impl Following {
    /// Reads exactly these bytes.
    ///
    /// # Panics
    /// If other bytes, or none within the deadline, come.
    pub async fn expect(&mut self, bytes: &[u8]) {
        let stdout = self.child.stdout.as_mut().expect("a pipe");
        while self.read.len() < bytes.len() {
            let read = timeout(DEADLINE, stdout.read_buf(&mut self.read)).await;
            let read = read.unwrap_or_else(|_| panic!("{bytes:?} never comes: {:?}", self.read));
            let length = read.expect("a pipe that can be read");
            assert!(length > 0, "only {:?} of {bytes:?} came", self.read);
        }
        let rest = self.read.split_off(bytes.len());
        assert_eq!(
            String::from_utf8_lossy(&self.read),
            String::from_utf8_lossy(bytes)
        );
        self.read = rest;
    }

    /// Waits for its end and makes sure that nothing more was written; returns the exit code.
    ///
    /// # Panics
    /// If more was written or it does not end within the deadline.
    pub async fn end(mut self) -> Option<i32> {
        let mut stdout = self.child.stdout.take().expect("a pipe");
        let ended = timeout(DEADLINE, async {
            stdout.read_to_end(&mut self.read).await.expect("a pipe");
            self.child.wait().await.expect("a status")
        });
        let status = ended.await.expect("the end of scitq-ctl");
        assert_eq!(String::from_utf8_lossy(&self.read), "");
        status.code()
    }
}
