//! What a worker is started with.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::time::Duration;

use scitq_broker::Broker;
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::output::DEFAULT_STREAM_CAP_BYTES;
use scitq_shared::settings::{OnDrainTimeout, WorkerSettings};
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
    /// How long a draining worker waits for running tasks; none for as long as it takes.
    pub drain_timeout: Option<Duration>,
    /// What becomes of tasks that run for longer.
    pub on_drain_timeout: OnDrainTimeout,
    /// How long tasks that are asked to end may take before they are killed.
    pub stop_grace: Duration,
    /// The program that is run to be the parent of the tasks; one whose `main` calls
    /// [`run_if_asked`](crate::keeper::run_if_asked). By default this process's own.
    pub keeper_program: PathBuf,
    /// How to start the agent anew in this process when the server asks for it; none where that cannot be done.
    pub restart: Option<OwnProgram>,
}

/// The program of this process, as it was started: what it is to be started anew with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnProgram {
    /// Its file, or what was put in its place since.
    pub file: PathBuf,
    /// All words that it was started with, its name included.
    pub words: Vec<OsString>,
}

impl OwnProgram {
    /// Looks at this process; best done at its start, before its file is replaced.
    pub fn of_this_process() -> std::io::Result<Self> {
        Ok(Self {
            file: without_deleted(std::env::current_exe()?),
            words: std::env::args_os().collect(),
        })
    }
}

/// The kernel marks the path of a file that was replaced since.
fn without_deleted(file: PathBuf) -> PathBuf {
    let bytes = file.as_os_str().as_bytes();
    match bytes.strip_suffix(b" (deleted)") {
        Some(path) => OsStr::from_bytes(path).into(),
        None => file,
    }
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
        options.drain_timeout = settings.drain_timeout.duration();
        options.on_drain_timeout = settings.on_drain_timeout;
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
            drain_timeout: None,
            on_drain_timeout: OnDrainTimeout::Leave,
            stop_grace: Duration::from_secs(10),
            // The link leads to the very program that runs, also after its file was replaced.
            keeper_program: PathBuf::from("/proc/self/exe"),
            restart: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_program_is_looked_for_under_its_name() {
        for (link, file) in [
            ("/usr/bin/w (deleted)", "/usr/bin/w"),
            ("/usr/bin/w", "/usr/bin/w"),
            ("/a (deleted)/w", "/a (deleted)/w"),
        ] {
            assert_eq!(without_deleted(link.into()), PathBuf::from(file));
        }
    }
}
