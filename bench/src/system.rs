//! scitq running on one pair of broker and database, made for the measurement and removed afterwards.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use scitq_shared::worker::WorkerStatus;
use scitq_testkit::{Postgres, RabbitMq, free_port};
use serde::Serialize;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::api::Api;
use crate::configuration::{Configuration, Services, WORKER};
use crate::options::Options;
use crate::pair::Pair;
use crate::processes::{self, Memory, Snapshot};
use crate::program::Program;
use crate::programs::Programs;
use crate::say;
use crate::scratch::scratch;

/// How long everything may take to be ready.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// How often it is asked whether it is.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// What a process of scitq is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// `scitq-server`.
    Server,
    /// `scitq-worker`.
    Worker,
    /// `scitq-ctl up`, which is both.
    Both,
}

impl Role {
    /// Its name for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Worker => "worker",
            Self::Both => "server and worker",
        }
    }
}

/// Memory of one process of scitq.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RoleMemory {
    /// The process.
    pub role: Role,
    /// Its memory.
    #[serde(flatten)]
    pub memory: Memory,
}

/// A running system. Dropped at any time, it is gone; [`stop`](Self::stop) ends it in an orderly way.
#[derive(Debug)]
pub struct System {
    /// What it runs on.
    pub pair: Pair,
    /// A client of its server.
    pub api: Api,
    // Dropped from top to bottom: first those that use, then those that are used.
    programs: Vec<(Role, Program)>,
    services: Vec<(&'static str, u32)>,
    _broker: Option<RabbitMq>,
    _database: Option<Postgres>,
    _scratch: TempDir,
}

impl System {
    /// Starts everything and waits until the worker is at work.
    pub async fn start(pair: Pair, options: &Options, programs: &Programs) -> anyhow::Result<Self> {
        let mut system = match pair {
            Pair::Embedded => Self::embedded(options, programs)?,
            Pair::Rabbitmq => Self::separate(options, programs).await?,
        };
        system.wait_ready().await?;
        Ok(system)
    }

    fn embedded(options: &Options, programs: &Programs) -> anyhow::Result<Self> {
        let scratch = scratch()?;
        let port = free_port();
        let file = write_configuration(&scratch, options, None)?;
        let arguments = [
            "up".to_owned(),
            format!("--listen=127.0.0.1:{port}"),
            format!("--data-dir={}", scratch.path().join("data").display()),
            format!("--config={file}"),
        ];
        let program = Program::start(
            "scitq-ctl up",
            &programs.path("scitq-ctl"),
            &arguments,
            scratch.path().join("up.log"),
        )?;
        Ok(Self {
            pair: Pair::Embedded,
            api: Api::new(port)?,
            programs: vec![(Role::Both, program)],
            services: Vec::new(),
            _broker: None,
            _database: None,
            _scratch: scratch,
        })
    }

    async fn separate(options: &Options, programs: &Programs) -> anyhow::Result<Self> {
        say("starting RabbitMQ and PostgreSQL");
        let broker = fixture("RabbitMQ", RabbitMq::start()).await?;
        let database = fixture("PostgreSQL", async {
            let server = Postgres::durable().await;
            let url = server.database().await;
            (server, url)
        });
        let (database, database_url) = database.await?;
        // Both become the service themselves, no script stays between.
        let services =
            [("RabbitMQ", "beam.smp"), ("PostgreSQL", "postgres")].map(|(name, file)| {
                let pid = processes::children_named(file).first().copied();
                pid.map(|pid| (name, pid))
                    .with_context(|| format!("{name} was started but no process {file} is found"))
            });
        let services = services.into_iter().collect::<anyhow::Result<_>>()?;
        let scratch = scratch()?;
        let port = free_port();
        let worker_directory = scratch.path().join("worker");
        let broker_url = broker.url();
        let urls = Services {
            broker_url: &broker_url,
            queue_type: options.queue_type,
            database_url: &database_url,
            worker_directory: &worker_directory,
        };
        let file = write_configuration(&scratch, options, Some(urls))?;
        let server = Program::start(
            "scitq-server",
            &programs.path("scitq-server"),
            &[
                format!("--config={file}"),
                format!("--listen=127.0.0.1:{port}"),
            ],
            scratch.path().join("server.log"),
        )?;
        let worker = Program::start(
            "scitq-worker",
            &programs.path("scitq-worker"),
            &[format!("--config={file}")],
            scratch.path().join("worker.log"),
        )?;
        Ok(Self {
            pair: Pair::Rabbitmq,
            api: Api::new(port)?,
            // The worker ends first: it still has something to tell the server.
            programs: vec![(Role::Worker, worker), (Role::Server, server)],
            services,
            _broker: Some(broker),
            _database: Some(database),
            _scratch: scratch,
        })
    }

    async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        while !(self.api.is_ready().await && self.has_worker().await) {
            for (_, program) in &mut self.programs {
                program.check_alive()?;
            }
            ensure!(
                Instant::now() < deadline,
                "no worker came to work within {} s:\n{}",
                READY_WITHIN.as_secs(),
                self.last_words()
            );
            tokio::time::sleep(ASK_EVERY).await;
        }
        Ok(())
    }

    async fn has_worker(&self) -> bool {
        let running = WorkerStatus::Running.as_str();
        self.api.workers().await.is_ok_and(|workers| {
            workers
                .iter()
                .any(|worker| worker.name == WORKER && worker.status == running)
        })
    }

    /// Memory of each of its processes.
    pub fn memory(&self) -> anyhow::Result<Vec<RoleMemory>> {
        let each = self.programs.iter().map(|(role, program)| {
            Ok(RoleMemory {
                role: *role,
                memory: processes::memory(program.id())?,
            })
        });
        each.collect()
    }

    /// Begins the peaks of memory anew.
    pub fn forget_peaks(&self) -> anyhow::Result<()> {
        self.programs
            .iter()
            .try_for_each(|(_, program)| processes::forget_peak(program.id()))
    }

    /// Processor time of its processes, of broker and database, and of this program.
    pub fn usage(&self) -> anyhow::Result<Snapshot> {
        let own = self
            .programs
            .iter()
            .map(|(role, program)| (role.text().to_owned(), program.id()));
        let services = self
            .services
            .iter()
            .map(|(name, pid)| ((*name).to_owned(), *pid));
        let all: Vec<(String, u32)> = own.chain(services).collect();
        Snapshot::take(&all)
    }

    /// The last lines of every log.
    pub fn last_words(&self) -> String {
        let each = self
            .programs
            .iter()
            .map(|(role, program)| format!("{}:\n{}", role.text(), program.last_lines()));
        each.collect()
    }

    /// Ends it in an orderly way.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        for (_, program) in self.programs.drain(..) {
            program.stop().await?;
        }
        Ok(())
    }
}

fn write_configuration(
    scratch: &TempDir,
    options: &Options,
    services: Option<Services<'_>>,
) -> anyhow::Result<String> {
    let configuration = Configuration {
        concurrency: options.concurrency,
        prefetch: options.prefetch,
        services,
    };
    let file = scratch.path().join("bench.toml");
    std::fs::write(&file, configuration.to_toml())
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file.display().to_string())
}

/// The test kit panics where a test has nothing else to do; here that is an error like any other.
async fn fixture<T: Send + 'static>(
    name: &str,
    starting: impl Future<Output = T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::spawn(starting)
        .await
        .map_err(|_| anyhow!("{name} could not be started, see above"))
}
