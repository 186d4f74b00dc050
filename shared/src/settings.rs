//! Settings of all programs: one tree, one set of files, one set of environment variables.
//!
//! Built-in defaults < `/etc/scitq/*.toml` (in the order of their names) or the file named by `--config` <
//! `SCITQ_<SECTION>_<KEY>` environment variables < flags. A key that is not known is an error that names the key and
//! where it stands, so that a mistyped setting is never silently ignored.

mod drain;
mod error;
mod load;

pub use drain::{DrainTimeout, OnDrainTimeout};
pub use error::SettingsError;
pub use load::{Loaded, Loader};

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::names::{BatchName, WorkerName};
use crate::output::DEFAULT_STREAM_CAP_BYTES;
use crate::secret::SecretUrl;
use crate::task::text_enum;
use crate::worker::{MAX_LOST_AFTER_SECONDS, WorkerStatus};

/// Every setting. Serialised with secrets masked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The message broker; server and workers need it.
    pub broker: BrokerSettings,
    /// The database; only the server needs it.
    pub database: DatabaseSettings,
    /// The server.
    pub server: ServerSettings,
    /// The worker.
    pub worker: WorkerSettings,
    /// What is logged, and how.
    pub log: LogSettings,
}

text_enum! {
    /// Kind of the batches' queues.
    QueueType {
        /// One node holds it; the faster one on a single broker.
        Classic = "classic",
        /// Replicated over the nodes of a cluster.
        Quorum = "quorum",
    }
}

/// Section `[broker]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrokerSettings {
    /// `amqp://user:password@host:port/vhost`.
    pub url: SecretUrl,
    /// Kind of the batches' queues: classic or quorum.
    pub queue_type: QueueType,
}

impl Default for BrokerSettings {
    fn default() -> Self {
        Self {
            url: SecretUrl::new("amqp://guest:guest@127.0.0.1:5672/%2f"),
            queue_type: QueueType::Classic,
        }
    }
}

/// Section `[database]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatabaseSettings {
    /// `postgres://user:password@host/database`, or `sqlite:FILE`.
    pub url: SecretUrl,
    /// Most connections at once, 2 to 100.
    pub pool_size: u16,
}

impl Default for DatabaseSettings {
    fn default() -> Self {
        Self {
            url: SecretUrl::new("postgres://scitq@127.0.0.1/scitq"),
            pool_size: 8,
        }
    }
}

/// Section `[server]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Address and port of the REST interface.
    pub listen: SocketAddr,
    /// Threads that serve HTTP, 1 to 64.
    pub http_threads: u16,
    /// Longest request body in bytes.
    pub max_body_bytes: u64,
    /// Seconds of silence after which a worker is shown offline.
    pub offline_after_seconds: u64,
    /// Seconds of silence after which a worker's attempts are lost and its tasks dispatched anew; a worker may have its own.
    pub lost_after_seconds: u64,
    /// After how many failures of its own in a row (disk full, no process can be started) a worker is paused.
    pub pause_worker_after: u32,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 5000)),
            http_threads: 2,
            max_body_bytes: 16 * 1024 * 1024,
            offline_after_seconds: 15,
            lost_after_seconds: 3600,
            pause_worker_after: 5,
        }
    }
}

/// Section `[worker]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerSettings {
    /// Name that the server knows the worker by; the host's name by default.
    pub name: WorkerName,
    /// Batch to work for, until the server says otherwise.
    pub batch: BatchName,
    /// Slots, until the server says otherwise; the number of cores by default.
    pub concurrency: u16,
    /// Tasks kept ready beyond those running, until the server says otherwise.
    pub prefetch: u16,
    /// running or paused: the status at the very first start.
    pub status: WorkerStatus,
    /// Where the worker keeps what it must not forget. One directory belongs to one worker.
    pub state_directory: PathBuf,
    /// Where tasks work.
    pub work_directory: PathBuf,
    /// How many bytes of each of a task's two streams are kept; of longer ones these first ones, and the last eighth as many.
    pub stream_cap_bytes: u64,
    /// Seconds between signs of life.
    pub heartbeat_seconds: u64,
    /// Seconds after which a delivery that is still held is acknowledged; under half the broker's consumer timeout.
    pub ack_after_seconds: u64,
    /// Seconds that a worker tries again when another one of its name seems to be alive.
    pub double_after_seconds: u64,
    /// How long a worker that is told to end waits for its running tasks: seconds, or "none" for as long as it takes.
    pub drain_timeout: DrainTimeout,
    /// What becomes of tasks that run for longer: leave (they go on, the next start adopts them) or stop.
    pub on_drain_timeout: OnDrainTimeout,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            name: host_name(),
            batch: BatchName::default(),
            concurrency: cores(),
            prefetch: 0,
            status: WorkerStatus::Running,
            state_directory: PathBuf::from("/var/lib/scitq/worker"),
            work_directory: PathBuf::from("/var/lib/scitq/work"),
            stream_cap_bytes: DEFAULT_STREAM_CAP_BYTES,
            heartbeat_seconds: 5,
            ack_after_seconds: 20,
            double_after_seconds: 30,
            drain_timeout: DrainTimeout::default(),
            on_drain_timeout: OnDrainTimeout::Leave,
        }
    }
}

/// The host's name, or `worker` where it cannot be used as a name.
///
/// # Panics
/// Never: the fallback is a valid name.
pub fn host_name() -> WorkerName {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let fallback = || WorkerName::try_from("worker".to_owned());
    #[expect(
        clippy::expect_used,
        reason = "the fallback is a constant that keeps the rules of names"
    )]
    WorkerName::new(text.trim())
        .or_else(|_| fallback())
        .expect("a valid constant")
}

/// Cores that this process may use.
pub fn cores() -> u16 {
    std::thread::available_parallelism()
        .map_or(1, |cores| u16::try_from(cores.get()).unwrap_or(u16::MAX))
}

text_enum! {
    /// Form of the log.
    LogFormat {
        /// Lines for people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

/// Section `[log]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// error, warn, info, debug or trace, or directives such as `info,scitq_server=debug`.
    pub level: String,
    /// text or json.
    pub format: LogFormat,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Text,
        }
    }
}

impl Settings {
    /// Checks what the types cannot say.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        let range = |key, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err((
                    key,
                    format!("must be between {low} and {high}, not {value}"),
                ))
            }
        };
        range(
            "database.pool_size",
            u64::from(self.database.pool_size),
            2,
            100,
        )?;
        range(
            "server.http_threads",
            u64::from(self.server.http_threads),
            1,
            64,
        )?;
        range(
            "server.max_body_bytes",
            self.server.max_body_bytes,
            1024,
            1 << 32,
        )?;
        range(
            "server.offline_after_seconds",
            self.server.offline_after_seconds,
            2,
            86_400,
        )?;
        range(
            "server.lost_after_seconds",
            self.server.lost_after_seconds,
            self.server.offline_after_seconds,
            u64::from(MAX_LOST_AFTER_SECONDS),
        )?;
        range(
            "server.pause_worker_after",
            u64::from(self.server.pause_worker_after),
            1,
            1000,
        )?;
        range(
            "worker.concurrency",
            u64::from(self.worker.concurrency),
            0,
            10_000,
        )?;
        range(
            "worker.prefetch",
            u64::from(self.worker.prefetch),
            0,
            10_000,
        )?;
        range(
            "worker.stream_cap_bytes",
            self.worker.stream_cap_bytes,
            0,
            1 << 40,
        )?;
        range(
            "worker.heartbeat_seconds",
            self.worker.heartbeat_seconds,
            1,
            3600,
        )?;
        range(
            "worker.ack_after_seconds",
            self.worker.ack_after_seconds,
            1,
            86_400,
        )?;
        range(
            "worker.double_after_seconds",
            self.worker.double_after_seconds,
            0,
            3600,
        )?;
        range(
            "worker.drain_timeout",
            self.worker.drain_timeout.seconds().unwrap_or(0),
            0,
            30 * 86_400,
        )?;
        if !matches!(
            self.worker.status,
            WorkerStatus::Running | WorkerStatus::Paused
        ) {
            return Err((
                "worker.status",
                format!("must be running or paused, not {}", self.worker.status),
            ));
        }
        Ok(())
    }
}
