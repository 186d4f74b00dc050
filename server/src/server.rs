use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use actix_web::{App, HttpServer, web};
use scitq_broker::{Broker, QueueType};
use scitq_shared::settings::{self, Settings};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::db::{Database, DbError};
use crate::http::{self, Context};
use crate::leader::Leader;
use crate::notices::Notices;
use crate::nudge::Nudger;
use crate::readiness::{Part, Readiness};

/// What a server is started with.
pub struct ServerOptions {
    /// The settings in force.
    pub settings: Settings,
    /// The broker; the in-process one is shared with a worker in the same process.
    pub broker: Broker,
    /// True once, after the database was restored from a backup (D12).
    pub restored: bool,
}

/// Why a server cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be listened to.
    #[error("cannot listen on {address}: {reason} (choose another address with --listen)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        reason: std::io::Error,
    },
    /// The database cannot be used, and trying again does not help.
    #[error(transparent)]
    Database(#[from] DbError),
    /// The HTTP server failed.
    #[error("the HTTP server failed: {0}")]
    Http(std::io::Error),
    /// A part of the server ended by a fault.
    #[error("a part of the server failed: {0}")]
    Part(#[from] tokio::task::JoinError),
}

/// A running server.
pub struct ServerHandle {
    address: SocketAddr,
    stop: CancellationToken,
    readiness: Readiness,
    running: JoinHandle<Result<(), ServerError>>,
}

impl ServerHandle {
    /// Where it listens; the real port when port 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What can be reached.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Asks the server to end: it finishes the transaction that it is in.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits for the server's end, by [`ServerHandle::stop`] or by a fault.
    pub async fn finished(&mut self) -> Result<(), ServerError> {
        (&mut self.running).await?
    }
}

/// Starts a server in the background. It listens when this returns; broker and database are then looked for until they
/// are found, and `/health/ready` says what is missing.
pub async fn start(options: ServerOptions) -> Result<ServerHandle, ServerError> {
    let ServerOptions {
        settings,
        broker,
        restored,
    } = options;
    let stop = CancellationToken::new();
    let readiness = Readiness::default();
    let notices = Notices::default();
    let nudger = Nudger::new(broker.publisher("scitq-server requests"));
    let max_body_bytes = usize::try_from(settings.server.max_body_bytes).unwrap_or(usize::MAX);
    let context = Context::new(
        notices.clone(),
        nudger.clone(),
        readiness.clone(),
        max_body_bytes,
        Duration::from_secs(settings.server.offline_after_seconds),
        stop.clone(),
    );

    let wanted = settings.server.listen;
    let listening = |reason| ServerError::Listen {
        address: wanted,
        reason,
    };
    let listener = TcpListener::bind(wanted).map_err(listening)?;
    let address = listener.local_addr().map_err(listening)?;
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "this address is reachable from other machines, and the interface asks for no password yet");
    }
    let data = web::Data::new(context.clone());
    let server =
        HttpServer::new(move || App::new().app_data(data.clone()).configure(http::configure))
            .workers(usize::from(settings.server.http_threads))
            .disable_signals()
            // Streamed answers are written piece by piece: without it each waits for the client's delayed acknowledgement
            // (48 ms against 3 ms, measured on a kept connection).
            .tcp_nodelay(true)
            .shutdown_timeout(5)
            .listen(listener)
            .map_err(ServerError::Http)?
            .run();
    tracing::info!(%address, "listening");

    let running = tokio::spawn({
        let (stop, readiness) = (stop.clone(), readiness.clone());
        async move {
            let http = server.handle();
            let serving = tokio::spawn(server);
            let options = ServerOptions {
                settings,
                broker,
                restored,
            };
            let leading = lead(options, context, notices, nudger, readiness, stop.clone());
            let result = leading.await;
            stop.cancel();
            http.stop(true).await;
            serving.await?.map_err(ServerError::Http)?;
            result
        }
    });
    Ok(ServerHandle {
        address,
        stop,
        readiness,
        running,
    })
}

/// Finds the database, and leads or waits to lead until stopped.
async fn lead(
    options: ServerOptions,
    context: Context,
    notices: Notices,
    nudger: Nudger,
    readiness: Readiness,
    stop: CancellationToken,
) -> Result<(), ServerError> {
    let ServerOptions {
        settings,
        broker,
        restored,
    } = options;
    let database = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        database = find_database(&settings, restored, &readiness) => database?,
    };
    context.set_database(database.clone());
    let leader = Leader {
        broker,
        database,
        name: format!("{}:{}", settings::host_name(), std::process::id()),
        queue_type: match settings.broker.queue_type {
            settings::QueueType::Classic => QueueType::Classic,
            settings::QueueType::Quorum => QueueType::Quorum,
        },
        offline_after: Duration::from_secs(settings.server.offline_after_seconds),
        lost_after: Duration::from_secs(settings.server.lost_after_seconds),
        pause_worker_after: settings.server.pause_worker_after,
        notices,
        nudger,
        readiness,
    };
    leader.run(stop).await;
    Ok(())
}

/// Connects to the database, and makes it ready if it was restored from a backup: before anybody is given an id.
async fn open_database(settings: &Settings, restored: bool) -> Result<Database, DbError> {
    let pool_size = usize::from(settings.database.pool_size);
    let database = Database::connect(&settings.database.url, pool_size).await?;
    if restored {
        let restoration = database.restore().await?;
        tracing::warn!(
            last_task_of_backup = %restoration.last_task,
            first_new_task = restoration.last_free_task.0 + 1,
            epoch = %restoration.epoch,
            "the database counts as restored from a backup; start without --restored from now on"
        );
    }
    Ok(database)
}

/// Tries until the database is reached. An error is one that trying again does not help.
async fn find_database(
    settings: &Settings,
    restored: bool,
    readiness: &Readiness,
) -> Result<Database, DbError> {
    let mut delay = Duration::from_millis(200);
    loop {
        match open_database(settings, restored).await {
            Ok(database) => {
                tracing::info!(database = %database.address(), "the database is connected");
                readiness.reached(Part::Database);
                return Ok(database);
            }
            Err(error) if error.is_transient() => {
                tracing::warn!(retry_in = ?delay, "{error}");
                readiness.lost(Part::Database, error.to_string());
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(Duration::from_secs(5));
            }
            Err(error) => {
                readiness.lost(Part::Database, error.to_string());
                return Err(error);
            }
        }
    }
}
