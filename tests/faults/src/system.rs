//! The system under test: servers and workers as processes of their own, on RabbitMQ and PostgreSQL.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::Signal;
use scitq_testkit::{LocalTcpProxy, Postgres, RabbitMq, RabbitOptions, free_port};
use tokio::time::{Instant, sleep};

use crate::api::Api;
use crate::broker;
use crate::journal::Journal;
use crate::place::Place;
use crate::processes;
use crate::program::{self, Program};

/// Heartbeats of AMQP, so that a silent peer is given up within seconds.
const HEARTBEAT_SECONDS: u32 = 2;
/// What a leader says when it begins.
const LEADS: &str = "this server leads";
/// How long a change may take that everything else waits for.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often a server is stopped to find it in the middle of a transaction, and how long it works in between.
const STOPS_TRIED: usize = 60;
const BETWEEN_STOPS: Duration = Duration::from_millis(7);

/// The two services that scitq stands on; used by one run after the other.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) broker: RabbitMq,
    pub(crate) database: Postgres,
}

impl Services {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with further lines in rabbitmq.conf.
    pub(crate) async fn start_with(configuration: &[&str]) -> Self {
        let mut lines = vec![format!("heartbeat = {HEARTBEAT_SECONDS}")];
        lines.extend(configuration.iter().map(|line| (*line).to_owned()));
        let options = RabbitOptions {
            configuration: lines,
        };
        let (broker, database) = tokio::join!(RabbitMq::start_with(options), Postgres::start());
        Self { broker, database }
    }
}

/// What a run wants to be different.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) servers: usize,
    pub(crate) workers: usize,
    pub(crate) concurrency: u16,
    pub(crate) prefetch: u16,
    /// Size of the file system of the first worker's state directory, when it is to have one of its own.
    pub(crate) small_disk_mebibytes: Option<u32>,
    /// Further settings of all programs.
    pub(crate) settings: Vec<(&'static str, String)>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            servers: 1,
            workers: 2,
            concurrency: 4,
            prefetch: 4,
            small_disk_mebibytes: None,
            // Deliveries are acknowledged early, so that faults find both kinds: acknowledged and not.
            settings: vec![("SCITQ_WORKER_ACK_AFTER_SECONDS", "1".to_owned())],
        }
    }
}

/// A server, running or not.
#[derive(Debug)]
struct Server {
    name: String,
    port: u16,
    journal: Journal,
    program: Option<Program>,
}

/// A worker, running or not, with its line to the broker.
#[derive(Debug)]
struct Worker {
    journal: Journal,
    program: Option<Program>,
    line: LocalTcpProxy,
}

/// Everything of a run. Dropping it ends all its processes.
#[derive(Debug)]
pub(crate) struct System<'a> {
    servers: Vec<Server>,
    workers: BTreeMap<String, Worker>,
    /// For names: how many workers there ever were.
    workers_made: usize,
    setup: Setup,
    database_url: String,
    pub(crate) services: &'a Services,
    pub(crate) api: Api,
    // Last, so that what lives in it has ended.
    pub(crate) place: &'a Place,
}

impl<'a> System<'a> {
    /// Starts all servers and workers, and waits until they work.
    pub(crate) async fn start(
        services: &'a Services,
        place: &'a Place,
        setup: Setup,
    ) -> anyhow::Result<Self> {
        let database_url = services.database.database().await;
        let ports: Vec<u16> = (0..setup.servers).map(|_| free_port()).collect();
        let mut system = Self {
            servers: Vec::new(),
            workers: BTreeMap::new(),
            workers_made: 0,
            database_url,
            services,
            api: Api::new(&ports)?,
            place,
            setup,
        };
        for (number, port) in ports.into_iter().enumerate() {
            let name = format!("server{}", number + 1);
            system.servers.push(Server {
                journal: Journal::new(&place.log(&name))?,
                name,
                port,
                program: None,
            });
            system.start_server(number)?;
            // One after the other: both would make the tables of the empty database.
            system.api.ready(number).await?;
        }
        for _ in 0..system.setup.workers {
            system.add_worker().await?;
        }
        system.workers_run().await?;
        Ok(system)
    }

    /// A program with a clean environment and our settings.
    fn command(&self, program: &str) -> anyhow::Result<Command> {
        let mut command = Command::new(program::path(program)?);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.place.root())
            .env("NO_COLOR", "1")
            .env("RUST_BACKTRACE", "1")
            .env("SCITQ_CONFIG", self.place.path("scitq.toml"))
            .env("SCITQ_SERVER", self.api.url())
            .current_dir(self.place.root());
        Ok(command)
    }

    /// The same for a server or a worker.
    fn daemon(&self, program: &str, broker_url: &str) -> anyhow::Result<Command> {
        let mut command = self.command(program)?;
        command
            .arg("--config")
            .arg(self.place.path("scitq.toml"))
            .env(
                "SCITQ_BROKER_URL",
                format!("{broker_url}?heartbeat={HEARTBEAT_SECONDS}"),
            )
            .env(
                "SCITQ_WORKER_CONCURRENCY",
                self.setup.concurrency.to_string(),
            )
            .env("SCITQ_WORKER_PREFETCH", self.setup.prefetch.to_string())
            .env("SCITQ_WORKER_HEARTBEAT_SECONDS", "1")
            .envs(
                self.setup
                    .settings
                    .iter()
                    .map(|(name, value)| (*name, value)),
            );
        Ok(command)
    }

    /// Runs a statement in the database, behind scitq's back; returns its rows.
    pub(crate) async fn sql(&self, statement: &str) -> String {
        let database = &self.services.database;
        database.execute(&self.database_url, statement).await
    }

    /// Runs `scitq-ctl` to its end; returns what it wrote. An error when it fails.
    pub(crate) async fn ctl(&self, words: &[&str]) -> anyhow::Result<String> {
        let mut command = tokio::process::Command::from(self.command("scitq-ctl")?);
        let output = command.args(words).kill_on_drop(true).output().await?;
        if !output.status.success() {
            bail!(
                "scitq-ctl {}: {}: {}",
                words.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim_end()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub(crate) fn start_server(&mut self, number: usize) -> anyhow::Result<()> {
        let mut command = self.daemon("scitq-server", &self.services.broker.url())?;
        let database_url = self.database_url.clone();
        let server = self.server_mut(number)?;
        command
            .args(["--listen", &format!("127.0.0.1:{}", server.port)])
            .env("SCITQ_DATABASE_URL", database_url);
        server.program = Some(Program::start(&server.name, command, &server.journal)?);
        Ok(())
    }

    fn server_mut(&mut self, number: usize) -> anyhow::Result<&mut Server> {
        self.servers.get_mut(number).context("no such server")
    }

    /// The number of the server that leads, or led last.
    pub(crate) fn leader(&self) -> anyhow::Result<usize> {
        let epoch = |server: &Server| server.journal.newest_number(&format!("{LEADS} epoch="));
        let leaders = self.servers.iter().enumerate();
        let newest = leaders
            .filter_map(|(number, server)| Some((epoch(server)?, number)))
            .max();
        newest
            .map(|(_, number)| number)
            .context("no server has led yet")
    }

    /// How many servers there are.
    pub(crate) fn servers(&self) -> usize {
        self.servers.len()
    }

    pub(crate) fn server_name(&self, number: usize) -> String {
        self.servers
            .get(number)
            .map_or_else(String::new, |server| server.name.clone())
    }

    /// What a server has said.
    pub(crate) fn server_journal(&self, number: usize) -> anyhow::Result<&Journal> {
        Ok(&self.servers.get(number).context("no such server")?.journal)
    }

    pub(crate) fn kill_server(&mut self, number: usize) -> anyhow::Result<()> {
        let server = self.server_mut(number)?;
        server.program.take().context("the server runs")?.kill()
    }

    /// Stops a server in an orderly way.
    pub(crate) async fn stop_server(&mut self, number: usize) -> anyhow::Result<()> {
        let server = self.server_mut(number)?;
        server
            .program
            .take()
            .context("the server runs")?
            .stop()
            .await
    }

    pub(crate) fn signal_server(&self, number: usize, signal: Signal) -> anyhow::Result<()> {
        let server = self.servers.get(number).context("no such server")?;
        server
            .program
            .as_ref()
            .context("the server runs")?
            .signal(signal);
        Ok(())
    }

    /// Stops a server's process, in the middle of a transaction if that can be had; tells whether it could.
    pub(crate) async fn stop_in_transaction(&self, number: usize) -> anyhow::Result<bool> {
        for _ in 0..STOPS_TRIED {
            self.signal_server(number, Signal::STOP)?;
            // Only one server works on the database, and it is stopped: nothing changes any more.
            let open = self
                .sql(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                     AND state = 'idle in transaction'",
                )
                .await;
            if open != "0" {
                return Ok(true);
            }
            self.signal_server(number, Signal::CONT)?;
            sleep(BETWEEN_STOPS).await;
        }
        self.signal_server(number, Signal::STOP)?;
        Ok(false)
    }

    /// Waits until another server than this one leads.
    pub(crate) async fn another_leads(&self, than: usize) -> anyhow::Result<()> {
        self.until("another server leads", || async {
            Ok(self.leader()? != than)
        })
        .await
    }

    /// Adds a worker and starts it; returns its name.
    pub(crate) async fn add_worker(&mut self) -> anyhow::Result<String> {
        self.workers_made += 1;
        let name = format!("w{}", self.workers_made);
        let worker = Worker {
            journal: Journal::new(&self.place.log(&name))?,
            program: None,
            line: LocalTcpProxy::start(self.services.broker.address()).await,
        };
        self.workers.insert(name.clone(), worker);
        let state = self.state_directory(&name);
        std::fs::create_dir_all(&state)?;
        if let Some(size) = self
            .setup
            .small_disk_mebibytes
            .filter(|_| self.workers_made == 1)
        {
            crate::place::mount(&state, size)?;
        }
        self.start_worker(&name)?;
        Ok(name)
    }

    pub(crate) fn start_worker(&mut self, name: &str) -> anyhow::Result<()> {
        let directory = self.worker_directory(name);
        let url = self.worker(name)?.line.url(&self.services.broker.url());
        let mut command = self.daemon("scitq-worker", &url)?;
        command
            .env("SCITQ_WORKER_NAME", name)
            .env("SCITQ_WORKER_STATE_DIRECTORY", directory.join("state"))
            .env("SCITQ_WORKER_WORK_DIRECTORY", directory.join("work"));
        let worker = self.worker_mut(name)?;
        worker.program = Some(Program::start(name, command, &worker.journal)?);
        Ok(())
    }

    fn worker(&self, name: &str) -> anyhow::Result<&Worker> {
        self.workers
            .get(name)
            .with_context(|| format!("there is no worker {name}"))
    }

    fn worker_mut(&mut self, name: &str) -> anyhow::Result<&mut Worker> {
        self.workers
            .get_mut(name)
            .with_context(|| format!("there is no worker {name}"))
    }

    /// Names of all workers.
    pub(crate) fn worker_names(&self) -> Vec<String> {
        self.workers.keys().cloned().collect()
    }

    /// One of the workers, chosen by a number.
    pub(crate) fn some_worker(&self, number: u64) -> anyhow::Result<String> {
        let count = self.workers.len().max(1) as u64;
        let place = usize::try_from(number % count)?;
        self.workers
            .keys()
            .nth(place)
            .cloned()
            .context("there are workers")
    }

    pub(crate) fn worker_directory(&self, name: &str) -> PathBuf {
        self.place.path("workers").join(name)
    }

    pub(crate) fn state_directory(&self, name: &str) -> PathBuf {
        self.worker_directory(name).join("state")
    }

    /// What a worker has said.
    pub(crate) fn worker_journal(&self, name: &str) -> anyhow::Result<&Journal> {
        Ok(&self.worker(name)?.journal)
    }

    /// The network between a worker and the broker.
    pub(crate) fn line(&self, name: &str) -> anyhow::Result<&LocalTcpProxy> {
        Ok(&self.worker(name)?.line)
    }

    pub(crate) fn kill_worker(&mut self, name: &str) -> anyhow::Result<()> {
        let worker = self.worker_mut(name)?;
        worker.program.take().context("the worker runs")?.kill()
    }

    pub(crate) fn signal_worker(&self, name: &str, signal: Signal) -> anyhow::Result<()> {
        let worker = self.worker(name)?;
        worker
            .program
            .as_ref()
            .context("the worker runs")?
            .signal(signal);
        Ok(())
    }

    /// Kills everything of a worker and deletes its directories, as a machine would that burns down.
    pub(crate) async fn destroy_worker(&mut self, name: &str) -> anyhow::Result<()> {
        self.kill_worker(name)?;
        let worker = self
            .workers
            .remove(name)
            .context("there is such a worker")?;
        worker.line.cut().await;
        let directory = self.worker_directory(name);
        if !processes::kill(&directory) {
            bail!("the processes of {name} cannot be killed");
        }
        std::fs::remove_dir_all(&directory)
            .with_context(|| format!("{} cannot be removed", directory.display()))
    }

    /// Waits until the server shows all workers running.
    pub(crate) async fn workers_run(&self) -> anyhow::Result<()> {
        self.until("all workers are running", || async {
            let shown = self.api.workers().await?;
            let running = |name: &String| shown.get(name).is_some_and(|status| status == "running");
            Ok(self.workers.keys().all(running))
        })
        .await
    }

    /// Stops all workers in an orderly way.
    pub(crate) async fn stop_workers(&mut self) -> anyhow::Result<()> {
        for (name, worker) in &mut self.workers {
            let program = worker.program.take().context("the worker runs")?;
            program
                .stop()
                .await
                .with_context(|| format!("worker {name}"))?;
        }
        Ok(())
    }

    /// Stops all servers in an orderly way.
    pub(crate) async fn stop_servers(&mut self) -> anyhow::Result<()> {
        for number in 0..self.servers.len() {
            self.stop_server(number).await?;
        }
        Ok(())
    }

    /// Waits until the broker has connections of this name: giving up what was not there would be no fault.
    pub(crate) async fn connected(&self, connection: &str) -> anyhow::Result<()> {
        self.until(&format!("the broker knows {connection:?}"), || async {
            Ok(broker::knows_connection(&self.services.broker, connection).await)
        })
        .await
    }

    /// Waits until the broker has given up the connections of this name.
    pub(crate) async fn given_up(&self, connection: &str) -> anyhow::Result<()> {
        self.until(
            &format!("the broker has given up {connection:?}"),
            || async { Ok(!broker::knows_connection(&self.services.broker, connection).await) },
        )
        .await
    }

    /// Looks again and again until something is so.
    pub(crate) async fn until<F>(&self, what: &str, is_so: impl Fn() -> F) -> anyhow::Result<()>
    where
        F: Future<Output = anyhow::Result<bool>>,
    {
        let until = Instant::now() + PATIENCE;
        while !is_so().await? {
            if Instant::now() > until {
                bail!("not within {} s: {what}", PATIENCE.as_secs());
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

/// Names in a directory, none when it is not there.
pub(crate) fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
