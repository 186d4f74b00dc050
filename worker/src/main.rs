//! `scitq-worker`: a worker as a process of its own. It needs the broker only.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use scitq_broker::Broker;
use scitq_shared::logging;
use scitq_shared::settings::Loader;
use scitq_worker::{OwnProgram, Worker, WorkerHandle, WorkerOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The scitq worker: takes tasks from the broker, runs them on this machine and reports everything about them.
#[derive(Debug, Parser)]
#[command(
    name = "scitq-worker",
    version,
    after_help = "Ctrl-C or SIGTERM gives back what has not started and lets running tasks end (for how long, and what becomes \
                  of them then: settings worker.drain_timeout and worker.on_drain_timeout); a second one ends them. \
                  Tasks of a worker that is killed go on, and its next start adopts them.\n\nSettings: built-in defaults < /etc/scitq/*.toml or \
                  --config < SCITQ_<SECTION>_<KEY> < flags. `scitq-ctl config show` lists them all. Batch, concurrency, \
                  prefetch and status count at the first start under a name; afterwards the server keeps them: change them with \
                  `scitq-ctl worker update`."
)]
struct Arguments {
    /// Settings file to read instead of /etc/scitq/*.toml
    #[arg(long, value_name = "FILE", env = "SCITQ_CONFIG")]
    config: Option<PathBuf>,
    /// Name that the server knows this worker by [default: the host's name]
    #[arg(short, long, value_name = "NAME")]
    name: Option<String>,
    /// Batch to work for [default: Default]
    #[arg(short, long, value_name = "BATCH")]
    batch: Option<String>,
    /// How many tasks run at once [default: the number of cores]
    #[arg(short, long, value_name = "SLOTS")]
    concurrency: Option<u16>,
    /// How many tasks are kept ready beyond those running [default: 0]
    #[arg(short, long, value_name = "TASKS")]
    prefetch: Option<u16>,
    /// running or paused [default: running]
    #[arg(short, long, value_name = "STATUS")]
    status: Option<String>,
    /// Broker, amqp://user:password@host:port/vhost; better given in a file or in the environment, where no process list shows it
    #[arg(long, value_name = "URL")]
    broker_url: Option<String>,
    /// Where the worker keeps what it must not forget [default: /var/lib/scitq/worker]
    #[arg(long, value_name = "DIRECTORY")]
    state_directory: Option<String>,
    /// Where tasks work [default: /var/lib/scitq/work]
    #[arg(long, value_name = "DIRECTORY")]
    work_directory: Option<String>,
    /// What is logged: error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

fn main() -> ExitCode {
    if let Some(code) = scitq_worker::keeper::run_if_asked() {
        return code;
    }
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let outcome = runtime.context("cannot start").and_then(|runtime| {
        let outcome = runtime.block_on(run(arguments));
        // A directory that takes long to remove does not hold the end.
        runtime.shutdown_timeout(Duration::from_secs(2));
        outcome
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("scitq-worker: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let own_program = OwnProgram::of_this_process().context("cannot find the own program")?;
    let loaded = Loader::new()
        .config(arguments.config)
        .flag("worker.name", "--name", arguments.name)
        .flag("worker.batch", "--batch", arguments.batch)
        .flag("worker.concurrency", "--concurrency", arguments.concurrency)
        .flag("worker.prefetch", "--prefetch", arguments.prefetch)
        .flag("worker.status", "--status", arguments.status)
        .flag(
            "worker.state_directory",
            "--state-directory",
            arguments.state_directory,
        )
        .flag(
            "worker.work_directory",
            "--work-directory",
            arguments.work_directory,
        )
        .flag("broker.url", "--broker-url", arguments.broker_url)
        .flag("log.level", "--log-level", arguments.log_level)
        .load()?;
    let settings = loaded.settings;
    logging::start(&settings.log)?;
    let broker = Broker::amqp(settings.broker.url.expose())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tracing::info!(
        name = %settings.worker.name,
        broker = broker.address(),
        state_directory = %settings.worker.state_directory.display(),
        "starts"
    );
    let mut options = WorkerOptions::from_settings(settings.worker, broker);
    options.restart = Some(own_program);
    let worker = Worker::start(options).await?;
    see_to_the_end(worker, &mut terminate, &mut interrupt).await
}

/// Passes signals on: the first drains, the second stops, a third ends the process.
async fn see_to_the_end(
    mut worker: WorkerHandle,
    terminate: &mut Signal,
    interrupt: &mut Signal,
) -> anyhow::Result<ExitCode> {
    let mut asked = 0;
    loop {
        tokio::select! {
            finished = worker.finished() => {
                finished?;
                tracing::info!("ended");
                return Ok(ExitCode::SUCCESS);
            }
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        asked += 1;
        match asked {
            1 => {
                tracing::info!(
                    "takes no new task and ends when the running ones have ended or worker.drain_timeout is over; stop again to end them now"
                );
                worker.drain();
            }
            2 => {
                tracing::warn!("ends the running tasks");
                worker.stop_now();
            }
            _ => return Ok(ExitCode::from(130)),
        }
    }
}
