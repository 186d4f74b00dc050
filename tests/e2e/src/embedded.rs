//! The embedded pair: server, worker, broker and database in one process.

use std::ops::Deref;

use rustix::process::Signal;

use crate::WORKER;
use crate::program::Program;
use crate::setup::Setup;
use crate::site::Site;

/// `scitq-ctl up` in a temporary directory. Stopping and starting keeps what it has stored.
#[derive(Debug)]
pub struct Embedded {
    up: Option<Program>,
    setup: Setup,
    site: Site,
}

impl Deref for Embedded {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

impl Embedded {
    /// Starts it and waits until it is ready and its worker runs.
    pub async fn start(setup: Setup) -> Self {
        let mut embedded = Self {
            up: None,
            setup,
            site: Site::new(),
        };
        embedded.start_again().await;
        embedded.worker(WORKER, "running").await;
        embedded
    }

    /// Starts it with what it stored before, and waits until it is ready.
    ///
    /// # Panics
    /// If it runs.
    pub async fn start_again(&mut self) {
        self.start_again_with(&[]).await;
    }

    /// The same, with further words behind `up`.
    ///
    /// # Panics
    /// If it runs.
    pub async fn start_again_with(&mut self, words: &[&str]) {
        assert!(self.up.is_none(), "it runs already");
        let mut command = self.site.command("scitq-ctl", &self.setup);
        command
            .arg("up")
            .args(words)
            .args(["--listen", &self.site.listen()])
            .arg("--data-dir")
            .arg(self.site.directory().join("data"))
            .arg("--config")
            .arg(self.site.settings_file())
            .env("SCITQ_WORKER_NAME", WORKER);
        self.up = Some(Program::start("scitq-ctl up", command));
        self.site.ready().await;
    }

    /// The process.
    ///
    /// # Panics
    /// If it does not run.
    pub fn program(&self) -> &Program {
        self.up.as_ref().expect("it runs")
    }

    /// Presses Ctrl-C.
    pub fn interrupt(&self) {
        self.program().signal(Signal::INT);
    }

    /// Waits until it has ended; returns the exit code.
    ///
    /// # Panics
    /// If it does not run, or not end.
    pub async fn ended(&mut self) -> Option<i32> {
        let mut up = self.up.take().expect("it runs");
        up.ended().await.code()
    }

    /// Kills it, as a crash would.
    ///
    /// # Panics
    /// If it does not run.
    pub async fn kill(&mut self) {
        self.up.take().expect("it runs").kill().await;
    }
}
