//! The separate pair: a server and workers as processes of their own, on RabbitMQ and PostgreSQL.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::Path;
use std::process::Command;

use scitq_testkit::{Postgres, RabbitMq};

use crate::WORKER;
use crate::program::Program;
use crate::rest::Rest;
use crate::setup::Setup;
use crate::site::Site;

/// `scitq-server` and workers on a virtual host and a database of their own.
#[derive(Debug)]
pub struct Separate {
    server: Option<Program>,
    workers: BTreeMap<String, Program>,
    broker_url: String,
    database_url: String,
    setup: Setup,
    site: Site,
}

impl Deref for Separate {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

impl Separate {
    /// Starts a server and a worker and waits until both run.
    pub async fn start(setup: Setup) -> Self {
        let broker_url = RabbitMq::shared().await.vhost().await;
        let database_url = Postgres::shared().await.database().await;
        let mut separate = Self::at(broker_url, database_url, setup);
        separate.start_server();
        separate.ready().await;
        let setup = separate.setup.clone();
        separate.start_worker(WORKER, &setup);
        separate.worker(WORKER, "running").await;
        separate
    }

    /// A system at these addresses, of which nothing runs yet.
    pub fn at(broker_url: String, database_url: String, setup: Setup) -> Self {
        Self {
            server: None,
            workers: BTreeMap::new(),
            broker_url,
            database_url,
            setup,
            site: Site::new(),
        }
    }

    /// Where the broker is.
    pub fn broker_url(&self) -> &str {
        &self.broker_url
    }

    /// Where the database is.
    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    /// Starts the server, and does not wait for anything.
    ///
    /// # Panics
    /// If it runs.
    pub fn start_server(&mut self) {
        assert!(self.server.is_none(), "the server runs already");
        self.server = Some(self.server_program("scitq-server", &self.site.listen()));
    }

    /// Starts the server for the first time after its database was restored from a backup.
    ///
    /// # Panics
    /// If it runs.
    pub fn start_restored_server(&mut self) {
        assert!(self.server.is_none(), "the server runs already");
        let mut command = self.server_command(&self.site.listen());
        command.arg("--restored");
        self.server = Some(Program::start("scitq-server --restored", command));
    }

    /// The same with another database, in the place of the one before.
    #[must_use]
    pub fn with_database(self, database_url: String) -> Self {
        Self {
            database_url,
            ..self
        }
    }

    /// Starts another server beside the first, and does not wait for anything. Answers its process and its interface.
    pub fn another_server(&self) -> (Program, Rest) {
        let port = scitq_testkit::free_port();
        let program = self.server_program("another scitq-server", &format!("127.0.0.1:{port}"));
        (program, Rest::new(port))
    }

    fn server_program(&self, name: &str, listen: &str) -> Program {
        Program::start(name, self.server_command(listen))
    }

    fn server_command(&self, listen: &str) -> Command {
        let mut command = self.site.command("scitq-server", &self.setup);
        command
            .args(["--listen", listen])
            .arg("--config")
            .arg(self.site.settings_file())
            .env("SCITQ_BROKER_URL", &self.broker_url)
            .env("SCITQ_DATABASE_URL", &self.database_url);
        command
    }

    /// The server's process.
    ///
    /// # Panics
    /// If it does not run.
    pub fn server(&self) -> &Program {
        self.server.as_ref().expect("the server runs")
    }

    /// Stops the server in an orderly way.
    ///
    /// # Panics
    /// If it does not run, or not end with success.
    pub async fn stop_server(&mut self) {
        self.server.take().expect("the server runs").stop().await;
    }

    /// Kills the server, as a crash would.
    ///
    /// # Panics
    /// If it does not run.
    pub async fn kill_server(&mut self) {
        self.server.take().expect("the server runs").kill().await;
    }

    /// Starts a worker of this name, and does not wait for anything. It keeps its directories when it is stopped and
    /// started again.
    pub fn start_worker(&mut self, name: &str, setup: &Setup) {
        let program = self.worker_program(name, name, setup);
        self.workers.insert(name.to_owned(), program);
    }

    /// The same with this file as its program.
    pub fn start_worker_from(&mut self, file: &Path, name: &str, setup: &Setup) {
        let command = self.site.command_of(file, setup);
        let program = self.worker_of(command, name, name, setup);
        self.workers.insert(name.to_owned(), program);
    }

    /// Starts a worker that is not kept: with directories of another name than its own.
    pub fn worker_program(&self, name: &str, directories: &str, setup: &Setup) -> Program {
        let command = self.site.command("scitq-worker", setup);
        self.worker_of(command, name, directories, setup)
    }

    fn worker_of(
        &self,
        mut command: Command,
        name: &str,
        directories: &str,
        setup: &Setup,
    ) -> Program {
        let directory = |kind: &str| self.site.directory().join(format!("{directories}-{kind}"));
        command
            .arg("--config")
            .arg(self.site.settings_file())
            .env("SCITQ_BROKER_URL", &self.broker_url)
            .env("SCITQ_WORKER_NAME", name)
            .env("SCITQ_WORKER_STATE_DIRECTORY", directory("state"))
            .env("SCITQ_WORKER_WORK_DIRECTORY", directory("work"))
            // Last, so that a setup can lead the worker to the broker by another way.
            .envs(setup.settings.iter().map(|(name, value)| (*name, value)));
        Program::start(&format!("scitq-worker {name}"), command)
    }

    /// A worker's process.
    ///
    /// # Panics
    /// If there is none of this name.
    pub fn worker_process(&self, name: &str) -> &Program {
        self.workers.get(name).expect("the worker runs")
    }

    /// Stops a worker in an orderly way.
    ///
    /// # Panics
    /// If it does not run, or not end with success.
    pub async fn stop_worker(&mut self, name: &str) {
        let worker = self.workers.remove(name).expect("the worker runs");
        worker.stop().await;
    }

    /// Waits until a worker that was told to end has ended.
    ///
    /// # Panics
    /// If it does not run, or not end with success.
    pub async fn worker_ended(&mut self, name: &str) {
        let mut worker = self.workers.remove(name).expect("the worker runs");
        let status = worker.ended().await;
        assert!(status.success(), "worker {name} ends with {status}");
    }

    /// Kills a worker, as a crash would.
    ///
    /// # Panics
    /// If it does not run.
    pub async fn kill_worker(&mut self, name: &str) {
        let worker = self.workers.remove(name).expect("the worker runs");
        worker.kill().await;
    }
}
