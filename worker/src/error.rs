//! What can keep a worker from working.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use scitq_broker::BrokerError;
use scitq_shared::names::WorkerName;

/// Why a worker does not start, or has ended other than asked. Texts name the thing and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Another agent works on the same state directory.
    #[error(
        "the state directory {} is in use by another scitq-worker; stop that one, or give this one a directory of its own",
        directory.display()
    )]
    StateDirectoryInUse {
        /// The directory.
        directory: PathBuf,
    },
    /// The state directory was used under another name.
    #[error(
        "the state directory {} belongs to worker {owner}; start this worker as {owner}, or give {name} a directory of its own",
        directory.display()
    )]
    StateDirectoryOfAnother {
        /// The directory.
        directory: PathBuf,
        /// Whose it is.
        owner: WorkerName,
        /// Who wants it.
        name: WorkerName,
    },
    /// A file of the state directory cannot be understood.
    #[error("{} is damaged ({reason}); move the directory away to start with an empty one", file.display())]
    StateDamaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file or directory cannot be used.
    #[error("cannot {what} {}: {source}", path.display())]
    Files {
        /// What was to be done.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The process that is to be the parent of the tasks cannot be started or reached.
    #[error("cannot start the keeper of tasks by running {}: {source}", program.display())]
    Keeper {
        /// The program that is run for it.
        program: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another live worker has this name.
    #[error(
        "another live worker is connected to {address} under the name {name} (tried for {tried_for:?}); stop that one, or \
         start this one under another name"
    )]
    NameInUse {
        /// The name.
        name: WorkerName,
        /// The broker.
        address: String,
        /// How long it was tried.
        tried_for: Duration,
    },
    /// What the worker needs does not exist on the broker as it must be.
    #[error(
        "the broker at {address} has queues or exchanges that do not fit this program: {source}"
    )]
    Topology {
        /// The broker.
        address: String,
        /// What differs.
        source: BrokerError,
    },
    /// The agent's own task failed: a defect.
    #[error("the worker failed by a defect: {0}")]
    Defect(String),
}

impl WorkerError {
    /// For `map_err` on file operations.
    pub(crate) fn files(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Files { what, path, source }
    }
}
