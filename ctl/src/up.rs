//! `up`: server and worker in one process, with an in-process broker and SQLite.

use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use backon::{ExponentialBuilder, Retryable as _};
use clap::Args;
use reqwest::Method;
use scitq_server::broker::{Broker, LocalBroker};
use scitq_server::{ServerHandle, ServerOptions};
use scitq_shared::api::WorkerView;
use scitq_shared::logging;
use scitq_shared::names::WorkerName;
use scitq_shared::settings::{Loader, Settings};
use scitq_worker::{Worker, WorkerOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::client::{Call, Client};
use crate::server_url::{DEFAULT_SERVER, ServerUrl};

/// How long the parts may take to end once everything that runs has ended.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Arguments of `up`.
#[derive(Clone, Debug, Args)]
pub struct UpArgs {
    /// Address and port of the REST interface [default: 127.0.0.1:5000]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Where tasks, their output and the worker's state are kept
    #[arg(long, value_name = "DIRECTORY", default_value = "data")]
    pub data_dir: PathBuf,
    /// How many tasks run at once [default: the number of cores, or what was set last]
    #[arg(long, value_name = "SLOTS")]
    pub concurrency: Option<u16>,
    /// Once, at the first start after the database in the data directory was restored from a backup: leave the ids free that
    /// were given after the backup, hear what the worker holds before anything is dispatched, and take in tasks that the
    /// backup does not know
    #[arg(long)]
    pub restored: bool,
    /// Read settings from this file instead of those in /etc/scitq
    #[arg(long, value_name = "FILE", env = "SCITQ_CONFIG")]
    pub config: Option<PathBuf>,
}

/// Runs server and worker until it is told to end: the first Ctrl-C lets running tasks end, the second ends them.
pub async fn run(arguments: UpArgs) -> anyhow::Result<ExitCode> {
    let data = DataDirectory::take(&arguments.data_dir)?;
    let settings = load(&arguments, &data.path)?;
    logging::start(&settings.log)?;
    let mut stops = Stops::listen()?;
    let broker = Broker::local(LocalBroker::default());
    let server_options = ServerOptions {
        settings: settings.clone(),
        broker: broker.clone(),
        restored: arguments.restored,
    };
    let mut server = scitq_server::start(server_options).await?;
    let readiness = server.readiness().clone();
    tokio::select! {
        () = readiness.ready() => {}
        ended = server.finished() => {
            ended?;
            bail!("the server has ended");
        }
        () = stops.next() => return end(server, ExitCode::SUCCESS).await,
    }
    let mut worker = Worker::start(WorkerOptions::from_settings(
        settings.worker.clone(),
        broker,
    ))
    .await?;
    if let Some(concurrency) = arguments.concurrency {
        set_concurrency(server.address(), &settings.worker.name, concurrency).await?;
    }
    greet(server.address(), &data.path);

    let mut stopping = 0;
    loop {
        tokio::select! {
            ended = server.finished() => {
                worker.stop_now();
                ended?;
                bail!("the server has ended");
            }
            ended = worker.finished() => {
                ended?;
                break;
            }
            () = stops.next() => {
                stopping += 1;
                match stopping {
                    1 => {
                        eprintln!("scitq: waiting for running tasks to end; Ctrl-C again ends them now");
                        worker.drain();
                    }
                    2 => {
                        eprintln!("scitq: ending running tasks");
                        worker.stop_now();
                    }
                    _ => return Ok(ExitCode::from(130)),
                }
            }
        }
    }
    let code = if stopping > 1 {
        ExitCode::from(130)
    } else {
        ExitCode::SUCCESS
    };
    end(server, code).await
}

/// Ends the server, which finishes its transaction.
async fn end(mut server: ServerHandle, code: ExitCode) -> anyhow::Result<ExitCode> {
    server.stop();
    match tokio::time::timeout(LAST_WORDS, server.finished()).await {
        Ok(ended) => ended?,
        Err(_) => eprintln!("scitq: the server takes too long to end and is left"),
    }
    eprintln!("scitq: stopped; the next `scitq-ctl up` goes on from here");
    Ok(code)
}

/// The data directory, for this process alone.
struct DataDirectory {
    path: PathBuf,
    /// Held as long as the directory is in use; the lock goes with the process.
    _lock: File,
}

impl DataDirectory {
    fn take(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        std::fs::create_dir_all(path)
            .with_context(|| format!("cannot make the data directory {shown}"))?;
        let path = path
            .canonicalize()
            .with_context(|| format!("cannot use the data directory {shown}"))?;
        let lock = File::create(path.join("lock"))
            .with_context(|| format!("cannot write into {shown}"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                bail!(
                    "another scitq uses the data directory {shown}: stop it, or choose another with --data-dir"
                )
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {shown}/lock"))
            }
        }
    }
}

/// The settings: as for separate processes, but broker, database and directories are this command's own.
fn load(arguments: &UpArgs, data: &Path) -> anyhow::Result<Settings> {
    let path = |name: &str| -> anyhow::Result<String> {
        let path = data.join(name).into_os_string().into_string();
        path.map_err(|path| {
            anyhow::anyhow!(
                "the data directory's path {} is not valid UTF-8",
                path.display()
            )
        })
    };
    let loaded = Loader::new()
        .config(arguments.config.clone())
        .default_value("log.level", "warn")
        .flag(
            "server.listen",
            "--listen",
            arguments.listen.map(|listen| listen.to_string()),
        )
        .flag("worker.concurrency", "--concurrency", arguments.concurrency)
        .flag(
            "database.url",
            "--data-dir",
            Some(format!("sqlite:{}", path("scitq.db")?)),
        )
        .flag(
            "worker.state_directory",
            "--data-dir",
            Some(path("worker")?),
        )
        .flag("worker.work_directory", "--data-dir", Some(path("work")?))
        .load()?;
    Ok(loaded.settings)
}

/// A worker that the server knows keeps what the server holds for it; a flag given now counts all the same.
async fn set_concurrency(
    address: SocketAddr,
    worker: &WorkerName,
    concurrency: u16,
) -> anyhow::Result<()> {
    let server = ServerUrl::parse(&format!("http://{}", reachable(address)))?;
    let client = Client::new(server, LAST_WORDS, Arc::new(|_| {}))?;
    let parts = ["workers", worker.as_str()];
    let change = serde_json::json!({ "concurrency": concurrency });
    let call = Call::json(Method::PATCH, &parts, &change)?;
    // The worker's hello is on its way: until it is applied the server answers that it does not know the name.
    let patience = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(20))
        .with_max_delay(Duration::from_millis(500))
        .with_max_times(40);
    let changed = (|| client.call::<WorkerView>(&call)).retry(patience).await;
    changed.with_context(|| format!("cannot set the concurrency of worker {worker}"))?;
    Ok(())
}

/// An address that a client on this machine can use.
fn reachable(address: SocketAddr) -> SocketAddr {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    address
}

/// Says where it listens and what to type next.
fn greet(address: SocketAddr, data: &Path) {
    let server = format!("http://{}", reachable(address));
    let program = std::env::args()
        .next()
        .unwrap_or_else(|| "scitq-ctl".to_owned());
    let option = if server == DEFAULT_SERVER {
        String::new()
    } else {
        format!("--server {server} ")
    };
    println!(
        "scitq is running at {server}; its data is in {}",
        data.display()
    );
    println!("Now, in another terminal:  {program} {option}launch echo 'Hello world!'");
    println!("Ctrl-C lets running tasks end and stops; a second Ctrl-C stops at once.");
}

/// Ctrl-C and SIGTERM.
struct Stops {
    interrupt: Signal,
    terminate: Signal,
}

impl Stops {
    fn listen() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
