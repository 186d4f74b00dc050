//! `scitq-server`: the server as a process of its own, on RabbitMQ and PostgreSQL.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use scitq_broker::Broker;
use scitq_server::{ServerOptions, start};
use scitq_shared::logging;
use scitq_shared::settings::Loader;
use tokio::signal::unix::{SignalKind, signal};

/// The scitq server: keeps tasks and their history, dispatches them, and answers the REST interface.
#[derive(Debug, Parser)]
#[command(
    name = "scitq-server",
    version,
    after_help = "Settings: built-in defaults < /etc/scitq/*.toml or --config < SCITQ_<SECTION>_<KEY> < flags. `scitq-ctl config show` lists them all."
)]
struct Arguments {
    /// Settings file to read instead of /etc/scitq/*.toml
    #[arg(long, value_name = "FILE", env = "SCITQ_CONFIG")]
    config: Option<PathBuf>,
    /// Address and port of the REST interface [default: 127.0.0.1:5000]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// Broker, `amqp://user:password@host:port/vhost`; better given in a file or by `SCITQ_BROKER_URL`, where no process list shows it
    #[arg(long, value_name = "URL")]
    broker_url: Option<String>,
    /// Database, `postgres://user:password@host/database` or `sqlite:FILE`; better given in a file or by `SCITQ_DATABASE_URL`
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// Once, at the first start after the database was restored from a backup: leave the ids free that were given after the
    /// backup, hear what the workers run before anything is dispatched, and take in tasks that the backup does not know
    #[arg(long)]
    restored: bool,
    /// What is logged: error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let outcome = runtime
        .context("cannot start")
        .and_then(|runtime| runtime.block_on(run(arguments)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scitq-server: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let loaded = Loader::new()
        .config(arguments.config)
        .flag("server.listen", "--listen", arguments.listen)
        .flag("broker.url", "--broker-url", arguments.broker_url)
        .flag("database.url", "--database-url", arguments.database_url)
        .flag("log.level", "--log-level", arguments.log_level)
        .load()?;
    logging::start(&loaded.settings.log)?;
    let broker = Broker::amqp(loaded.settings.broker.url.expose())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut server = start(ServerOptions {
        settings: loaded.settings,
        broker,
        restored: arguments.restored,
    })
    .await?;
    tokio::select! {
        finished = server.finished() => return Ok(finished?),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping: the transaction under way is finished; stop again to end at once");
    server.stop();
    tokio::select! {
        finished = server.finished() => finished?,
        _ = terminate.recv() => tracing::warn!("stopped at once"),
        _ = interrupt.recv() => tracing::warn!("stopped at once"),
    }
    Ok(())
}
