//! What a worker is started with.

use std::path::PathBuf;
use std::time::Duration;

use scitq_broker::Broker;
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::output::DEFAULT_STREAM_CAP_BYTES;
use scitq_shared::settings::WorkerSettings;
use scitq_shared::worker::{DesiredState, WorkerStatus};

/// Everything that a worker needs to know to start. [`WorkerOptions::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// The broker that brings work and takes reports.
    pub broker: Broker,
    /// The name that the server knows the worker by.
    pub name: WorkerName,
    /// What to be while the server does not know the worker yet (version 0); afterwards the server's word counts.
    pub initial: DesiredState,
    /// Where attempts are kept until the server has all of them. One directory per worker.
    pub state_directory: PathBuf,
    /// Where tasks run: one directory per attempt in it. Workers may share it.
    pub work_directory: PathBuf,
    /// How much of each output stream is kept, in bytes: the first and the last half of it.
    pub stream_cap_bytes: u64,
    /// How often a sign of life is given.
    pub heartbeat_every: Duration,
    /// A delivery held for longer is acknowledged before its end; under half of the broker's consumer timeout.
    pub ack_after: Duration,
    /// How long a taken name is tried again before it is called a double: a half-open connection holds it for a while.
    pub double_after: Duration,
    /// How long an ending worker waits for confirmations that do not come; nothing is lost by not waiting.
    pub farewell: Duration,
}

impl WorkerOptions {
    /// What the settings say.
    pub fn from_settings(settings: WorkerSettings, broker: Broker) -> Self {
        let mut options = Self::new(
            broker,
            settings.name,
            settings.state_directory,
            settings.work_directory,
        );
        options.initial = DesiredState {
            version: 0,
            batch: settings.batch,
            concurrency: settings.concurrency,
            prefetch: settings.prefetch,
            paused: settings.status == WorkerStatus::Paused,
        };
        options.stream_cap_bytes = settings.stream_cap_bytes;
        options.heartbeat_every = Duration::from_secs(settings.heartbeat_seconds);
        options.ack_after = Duration::from_secs(settings.ack_after_seconds);
        options.double_after = Duration::from_secs(settings.double_after_seconds);
        options
    }

    /// The defaults, for a worker that runs as many tasks as the machine has cores.
    pub fn new(
        broker: Broker,
        name: WorkerName,
        state_directory: impl Into<PathBuf>,
        work_directory: impl Into<PathBuf>,
    ) -> Self {
        let concurrency = u16::try_from(crate::machine::cores()).unwrap_or(u16::MAX);
        Self {
            broker,
            name,
            initial: DesiredState {
                version: 0,
                batch: BatchName::default(),
                concurrency,
                prefetch: 0,
                paused: false,
            },
            state_directory: state_directory.into(),
            work_directory: work_directory.into(),
            stream_cap_bytes: DEFAULT_STREAM_CAP_BYTES,
            heartbeat_every: Duration::from_secs(5),
            ack_after: Duration::from_secs(20),
            double_after: Duration::from_secs(30),
            farewell: Duration::from_secs(8),
        }
    }
}
