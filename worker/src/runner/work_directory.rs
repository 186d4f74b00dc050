//! Work directories: made for each attempt, and used again when a task left them as directories as they were given.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use scitq_shared::ids::{AttemptId, IncarnationId};

use crate::spares::{Spares, clear};

/// The directories inside each work directory.
pub(crate) const INNER: [&str; 4] = ["input", "output", "resource", "temp"];

const MODE: u32 = 0o755;

/// Makes and keeps work directories.
#[derive(Debug)]
pub(crate) struct WorkDirectories {
    root: PathBuf,
    owner: (u32, u32),
    spares: Spares,
}

impl WorkDirectories {
    /// Makes `root` if it is not there.
    pub(crate) fn open(root: &Path, incarnation: IncarnationId) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let root = fs::canonicalize(root)?;
        let owner = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        // Several workers may share the directory.
        let spares = Spares::open(&root, &incarnation.to_string())?;
        Ok(Self {
            root,
            owner,
            spares,
        })
    }

    /// The path of an attempt's work directory.
    pub(crate) fn path(&self, attempt: AttemptId) -> PathBuf {
        self.root.join(attempt.to_string())
    }

    /// Makes an attempt's work directory.
    pub(crate) fn take(&self, attempt: AttemptId) -> io::Result<PathBuf> {
        let path = self.path(attempt);
        if !self.spares.take(&path) {
            make(&path)?;
            INNER.iter().try_for_each(|inner| make(&path.join(inner)))?;
        }
        Ok(path)
    }

    /// Removes what a task left in its work directory, and keeps the directory for another one if that is possible.
    pub(crate) fn give_back(&self, path: &Path) {
        if !(self.empty(path).unwrap_or(false) && self.spares.keep(path)) {
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
        self.spares
            .give_up()
            .iter()
            .for_each(|spare| Self::remove(spare));
    }

    /// Removes the content. False when the directories are not what they were: replaced, or with other rights.
    fn empty(&self, path: &Path) -> io::Result<bool> {
        if !self.is_as_made(path)? {
            return Ok(false);
        }
        for inner in INNER {
            let directory = path.join(inner);
            if !self.is_as_made(&directory)? {
                return Ok(false);
            }
            clear(&directory, &[])?;
        }
        clear(path, &INNER)?;
        Ok(true)
    }

    fn is_as_made(&self, directory: &Path) -> io::Result<bool> {
        let metadata = fs::symlink_metadata(directory)?;
        let mode = metadata.mode() & 0o7777;
        Ok(metadata.is_dir() && (metadata.uid(), metadata.gid()) == self.owner && mode == MODE)
    }
}

fn make(path: &Path) -> io::Result<()> {
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

    type Touch = fn(&Path);

    #[test]
    fn directories_are_used_again_empty_unless_they_are_not_what_they_were() {
        let root = tempfile::tempdir().unwrap();
        let work = WorkDirectories::open(root.path(), IncarnationId::generate()).unwrap();
        let entries = || fs::read_dir(root.path()).unwrap().count();
        let kept: [Touch; 4] = [
            |_| {},
            |path| fs::write(path.join("file"), "").unwrap(),
            |path| fs::create_dir_all(path.join("output/a/b")).unwrap(),
            |path| std::os::unix::fs::symlink("/", path.join("temp/link")).unwrap(),
        ];
        for touch in kept {
            let path = work.take(AttemptId::generate()).unwrap();
            for inner in INNER {
                assert_eq!(fs::read_dir(path.join(inner)).unwrap().count(), 0);
            }
            assert_eq!(fs::read_dir(&path).unwrap().count(), 4);
            touch(&path);
            work.give_back(&path);
            assert_eq!(entries(), 1, "one and the same");
        }
        let removed: [Touch; 4] = [
            |path| fs::remove_dir(path.join("temp")).unwrap(),
            |path| {
                fs::set_permissions(path.join("input"), fs::Permissions::from_mode(0o777)).unwrap();
            },
            |path| fs::set_permissions(path, fs::Permissions::from_mode(0o500)).unwrap(),
            |path| {
                fs::remove_dir(path.join("temp")).unwrap();
                std::os::unix::fs::symlink("/", path.join("temp")).unwrap();
            },
        ];
        for touch in removed {
            let path = work.take(AttemptId::generate()).unwrap();
            touch(&path);
            work.give_back(&path);
            assert_eq!(entries(), 0);
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
