//! Work directories: made for each attempt, and used again when a task left its own as it was given.
//!
//! Making and removing five directories costs a file system like ext4 several times what executing a short command
//! costs. A directory that its task did not touch (the four inner ones empty, nothing beside them, modes and owners
//! unchanged) is therefore kept as a spare and renamed for the next attempt.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use scitq_shared::ids::{AttemptId, IncarnationId};

/// The directories inside each work directory.
pub(crate) const INNER: [&str; 4] = ["input", "output", "resource", "temp"];

const MOST_SPARES: usize = 64;
const MODE: u32 = 0o755;

/// Makes and keeps work directories.
#[derive(Debug)]
pub(crate) struct WorkDirectories {
    root: PathBuf,
    spare_prefix: String,
    owner: (u32, u32),
    spares: Mutex<Spares>,
}

#[derive(Debug, Default)]
struct Spares {
    ready: Vec<PathBuf>,
    made: u64,
}

impl WorkDirectories {
    /// Makes `root`, and removes the spares that a killed agent of this incarnation left there.
    pub(crate) fn open(root: &Path, incarnation: IncarnationId) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let spare_prefix = format!(".spare-{incarnation}-");
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            if entry
                .file_name()
                .to_string_lossy()
                .starts_with(&spare_prefix)
            {
                fs::remove_dir_all(entry.path())?;
            }
        }
        let owner = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        Ok(Self {
            root: fs::canonicalize(root)?,
            spare_prefix,
            owner,
            spares: Mutex::default(),
        })
    }

    /// The path of an attempt's work directory.
    pub(crate) fn path(&self, attempt: AttemptId) -> PathBuf {
        self.root.join(attempt.to_string())
    }

    /// Makes an attempt's work directory.
    pub(crate) fn take(&self, attempt: AttemptId) -> io::Result<PathBuf> {
        let path = self.path(attempt);
        let spare = self.lock().ready.pop();
        if let Some(spare) = spare
            && fs::rename(&spare, &path).is_ok()
        {
            return Ok(path);
        }
        make(&path)?;
        for inner in INNER {
            make(&path.join(inner))?;
        }
        Ok(path)
    }

    /// Keeps a work directory as a spare if it is as it was given; removes it with all its content otherwise.
    pub(crate) fn give_back(&self, path: &Path) {
        if let Some(spare) = self.spare_name()
            && self.is_pristine(path).unwrap_or(false)
            && fs::rename(path, &spare).is_ok()
        {
            self.lock().ready.push(spare);
        } else {
            Self::remove(path);
        }
    }

    /// Removes a work directory with all its content, if it is there.
    pub(crate) fn remove(path: &Path) {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                // A task may leave directories that it made unwritable.
                make_writable(path);
                if let Err(error) = fs::remove_dir_all(path) {
                    tracing::warn!(path = %path.display(), %error, "a work directory could not be removed");
                }
            }
            _ => {}
        }
    }

    /// Removes the spares; for a worker that ends.
    pub(crate) fn remove_spares(&self) {
        let spares = std::mem::take(&mut self.lock().ready);
        for spare in spares {
            Self::remove(&spare);
        }
    }

    fn spare_name(&self) -> Option<PathBuf> {
        let mut spares = self.lock();
        if spares.ready.len() >= MOST_SPARES {
            return None;
        }
        spares.made += 1;
        Some(
            self.root
                .join(format!("{}{}", self.spare_prefix, spares.made)),
        )
    }

    fn is_pristine(&self, path: &Path) -> io::Result<bool> {
        if !self.is_as_made(path)? {
            return Ok(false);
        }
        let mut inner = 0;
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if !INNER.iter().any(|name| entry.file_name() == *name) {
                return Ok(false);
            }
            let directory = entry.path();
            if !self.is_as_made(&directory)? || fs::read_dir(&directory)?.next().is_some() {
                return Ok(false);
            }
            inner += 1;
        }
        Ok(inner == INNER.len())
    }

    fn is_as_made(&self, directory: &Path) -> io::Result<bool> {
        let metadata = fs::symlink_metadata(directory)?;
        let mode = metadata.mode() & 0o7777;
        Ok(metadata.is_dir() && (metadata.uid(), metadata.gid()) == self.owner && mode == MODE)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Spares> {
        // A list of paths is never left half changed.
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().mode(MODE).create(path)
}

/// Gives the owner all rights on every directory below.
fn make_writable(directory: &Path) {
    let Ok(metadata) = fs::symlink_metadata(directory) else {
        return;
    };
    if !metadata.is_dir() {
        return;
    }
    // What still fails is reported by the removal that follows.
    let _ = fs::set_permissions(directory, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        make_writable(&entry.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_untouched_directories_are_used_again() {
        let root = tempfile::tempdir().unwrap();
        let work = WorkDirectories::open(root.path(), IncarnationId::generate()).unwrap();
        let entries = || fs::read_dir(root.path()).unwrap().count();
        let spares = || work.lock().ready.len();

        let path = work.take(AttemptId::generate()).unwrap();
        work.give_back(&path);
        assert_eq!((entries(), spares()), (1, 1));
        let path = work.take(AttemptId::generate()).unwrap();
        assert_eq!((entries(), spares()), (1, 0));
        assert!(INNER.iter().all(|inner| path.join(inner).is_dir()));

        let touches: [&dyn Fn(&Path); 5] = [
            &|path| fs::write(path.join("file"), "").unwrap(),
            &|path| fs::write(path.join("output/file"), "").unwrap(),
            &|path| fs::remove_dir(path.join("temp")).unwrap(),
            &|path| {
                fs::set_permissions(path.join("input"), fs::Permissions::from_mode(0o777)).unwrap();
            },
            &|path| {
                fs::remove_dir(path.join("temp")).unwrap();
                std::os::unix::fs::symlink("/", path.join("temp")).unwrap();
            },
        ];
        work.give_back(&path);
        for touch in touches {
            let path = work.take(AttemptId::generate()).unwrap();
            touch(&path);
            work.give_back(&path);
            assert_eq!((entries(), spares()), (0, 0));
        }
        let path = work.take(AttemptId::generate()).unwrap();
        work.give_back(&path);
        work.remove_spares();
        assert_eq!(entries(), 0);
    }

    #[test]
    fn spares_of_a_killed_agent_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let incarnation = IncarnationId::generate();
        let work = WorkDirectories::open(root.path(), incarnation).unwrap();
        work.give_back(&work.take(AttemptId::generate()).unwrap());
        fs::create_dir(root.path().join("of-someone-else")).unwrap();
        WorkDirectories::open(root.path(), incarnation).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
