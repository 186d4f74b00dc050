//! The state directory: who this worker is, over restarts, and what it was last told.
//!
//! ```text
//! lock             held while an agent works on the directory
//! identity.json    name, incarnation, number of starts
//! desired.json     what the server last wanted
//! attempts/<id>/   one attempt each, see crate::attempt
//! ```

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use scitq_shared::ids::IncarnationId;
use scitq_shared::names::WorkerName;
use scitq_shared::worker::DesiredState;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::WorkerError;

/// How long a held lock is tried again, and how often.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A state directory that this agent alone works on, until it is dropped.
#[derive(Debug)]
pub(crate) struct StateDirectory {
    root: PathBuf,
    pub(crate) incarnation: IncarnationId,
    pub(crate) boots: u32,
    _lock: File,
}

#[derive(Serialize, Deserialize)]
struct Identity {
    worker: WorkerName,
    incarnation: IncarnationId,
    boots: u32,
}

impl StateDirectory {
    /// Makes the directory if needed, locks it and counts this start.
    pub(crate) fn open(root: &Path, name: &WorkerName) -> Result<Self, WorkerError> {
        // Output of tasks is nobody else's business.
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        let attempts = root.join("attempts");
        builder
            .create(&attempts)
            .map_err(WorkerError::files("create the directory", &attempts))?;
        let lock = lock(root)?;

        let file = root.join("identity.json");
        let mut identity = read(&file)?.unwrap_or_else(|| Identity {
            worker: name.clone(),
            incarnation: IncarnationId::generate(),
            boots: 0,
        });
        if identity.worker != *name {
            let directory = root.to_owned();
            return Err(WorkerError::StateDirectoryOfAnother {
                directory,
                owner: identity.worker,
                name: name.clone(),
            });
        }
        identity.boots = identity.boots.saturating_add(1);
        replace(&file, &identity)?;
        Ok(Self {
            root: root.to_owned(),
            incarnation: identity.incarnation,
            boots: identity.boots,
            _lock: lock,
        })
    }

    /// What the server last wanted, if it ever said.
    pub(crate) fn desired(&self) -> Result<Option<DesiredState>, WorkerError> {
        read(&self.root.join("desired.json"))
    }

    /// Where the desired state is kept.
    pub(crate) fn desired_file(&self) -> PathBuf {
        self.root.join("desired.json")
    }

    /// Makes sure that another agent could begin here: it has to write down that it does. Blocking, for a moment.
    pub(crate) fn trial(&self) -> io::Result<()> {
        let file = self.root.join("trial.json");
        let written = replace(&file, &self.boots).map_err(io::Error::other);
        let removed = fs::remove_file(&file);
        written.and(removed)
    }

    /// Where attempts are kept.
    pub(crate) fn attempts(&self) -> PathBuf {
        self.root.join("attempts")
    }
}

/// Takes the lock, trying for a moment: an agent that is just ending, or a process that it is just starting and that
/// has not closed its files yet, may still hold it.
fn lock(root: &Path) -> Result<File, WorkerError> {
    let file = root.join("lock");
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&file);
    let lock = lock.map_err(WorkerError::files("open", &file))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(WorkerError::StateDirectoryInUse {
                    directory: root.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => {
                return Err(WorkerError::Files {
                    what: "lock",
                    path: file,
                    source,
                });
            }
        }
    }
}

fn read<T: DeserializeOwned>(file: &Path) -> Result<Option<T>, WorkerError> {
    match fs::read(file) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(WorkerError::StateDamaged {
                file: file.to_owned(),
                reason: error.to_string(),
            }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(WorkerError::Files {
            what: "read",
            path: file.to_owned(),
            source,
        }),
    }
}

/// Writes a small file so that after a crash or power cut it is either the old or the new one.
pub(crate) fn replace<T: Serialize>(file: &Path, value: &T) -> Result<(), WorkerError> {
    let write = || -> io::Result<()> {
        let fresh = file.with_extension("new");
        let mut handle = File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&fresh)?;
        handle.write_all(&serde_json::to_vec_pretty(value)?)?;
        handle.sync_all()?;
        fs::rename(&fresh, file)?;
        match file.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(WorkerError::files("write", file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> WorkerName {
        WorkerName::new(text).unwrap()
    }

    #[test]
    fn identity_survives_restarts_and_boots_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("state");
        let first = StateDirectory::open(&root, &name("w")).unwrap();
        let incarnation = first.incarnation;
        assert_eq!(first.boots, 1);
        assert!(first.desired().unwrap().is_none());
        drop(first);
        let second = StateDirectory::open(&root, &name("w")).unwrap();
        assert_eq!((second.incarnation, second.boots), (incarnation, 2));
    }

    #[test]
    fn two_agents_two_names_and_damage_are_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let first = StateDirectory::open(directory.path(), &name("w")).unwrap();
        let error = StateDirectory::open(directory.path(), &name("w")).unwrap_err();
        assert!(
            matches!(error, WorkerError::StateDirectoryInUse { .. }),
            "{error}"
        );
        drop(first);
        let error = StateDirectory::open(directory.path(), &name("v")).unwrap_err();
        assert!(error.to_string().contains("belongs to worker w"), "{error}");
        fs::write(directory.path().join("identity.json"), "{").unwrap();
        let error = StateDirectory::open(directory.path(), &name("w")).unwrap_err();
        assert!(
            error.to_string().contains("identity.json is damaged"),
            "{error}"
        );
    }
}
