//! Names of the files of an attempt, and their removal.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use scitq_shared::ids::AttemptId;
use scitq_shared::output::Stream;

use crate::spares::{Spares, clear};

/// The directory of an attempt in the directory of all attempts.
pub(crate) fn of(attempts: &Path, attempt: AttemptId) -> PathBuf {
    attempts.join(attempt.to_string())
}

/// The file that a stream is captured in.
pub(crate) fn stream_file(directory: &Path, stream: Stream) -> PathBuf {
    directory.join(stream.as_str())
}

/// Bytes captured of a stream; 0 when there is no such file.
pub(crate) fn stream_bytes(directory: &Path, stream: Stream) -> u64 {
    fs::metadata(stream_file(directory, stream)).map_or(0, |metadata| metadata.len())
}

/// Makes and removes the directories of attempts.
#[derive(Debug)]
pub(crate) struct AttemptDirectories {
    root: PathBuf,
    spares: Spares,
}

impl AttemptDirectories {
    /// Those in this directory, which must be there. It belongs to one worker alone.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        Ok(Self {
            root: root.to_owned(),
            spares: Spares::open(root, "")?,
        })
    }

    /// The directory of an attempt.
    pub(crate) fn of(&self, attempt: AttemptId) -> PathBuf {
        of(&self.root, attempt)
    }

    /// Makes the directory of an attempt.
    pub(crate) fn make(&self, attempt: AttemptId) -> io::Result<PathBuf> {
        let path = self.of(attempt);
        if !self.spares.take(&path) {
            fs::DirBuilder::new().mode(0o700).create(&path)?;
        }
        Ok(path)
    }

    /// Removes the directory of an attempt, if it is there.
    pub(crate) fn remove(&self, attempt: AttemptId) -> io::Result<()> {
        let path = self.of(attempt);
        match clear(&path, &[]) {
            Ok(()) if self.spares.keep(&path) => Ok(()),
            Ok(()) => fs::remove_dir(&path),
            // Attempts that never ran have none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes the spares; for a worker that ends.
    pub(crate) fn remove_spares(&self) {
        for spare in self.spares.give_up() {
            // The next start removes what is left.
            let _ = fs::remove_dir(spare);
        }
    }
}
