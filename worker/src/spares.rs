//! Directories kept for the next attempt instead of being removed.
//!
//! Making a directory and removing it costs several times what executing a short command does, and on some file systems
//! (ext4 without a journal, measured: 3 ms) the removal holds up everything else in the directory above it. Renaming costs 20 µs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// As many as may wait together for the server to apply them, roughly: what is beyond is made and removed.
const MOST: usize = 1024;

/// Empty directories in one directory, to be renamed to what is needed.
#[derive(Debug)]
pub(crate) struct Spares {
    root: PathBuf,
    prefix: String,
    shelf: Mutex<Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    ready: Vec<PathBuf>,
    made: u64,
}

impl Spares {
    /// Spares inside `root`, with names of this owner. Those that a killed agent left there are removed.
    pub(crate) fn open(root: &Path, owner: &str) -> io::Result<Self> {
        let prefix = format!(".spare-{owner}-");
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(Self {
            root: root.to_owned(),
            prefix,
            shelf: Mutex::default(),
        })
    }

    /// Renames a spare to this; false when there is none.
    pub(crate) fn take(&self, path: &Path) -> bool {
        let spare = self.lock().ready.pop();
        spare.is_some_and(|spare| fs::rename(&spare, path).is_ok())
    }

    /// Keeps a directory, which must be as it is to be found; false when there are enough.
    pub(crate) fn keep(&self, path: &Path) -> bool {
        self.keep_after(path, |_| Ok(()))
    }

    /// The same with something to be done to it first, when it has its new name already.
    pub(crate) fn keep_after(
        &self,
        path: &Path,
        finish: impl FnOnce(&Path) -> io::Result<()>,
    ) -> bool {
        let Some(spare) = self.next_name() else {
            return false;
        };
        if fs::rename(path, &spare).is_err() {
            return false;
        }
        if finish(&spare).is_err() {
            // The next start tries again.
            let _ = fs::remove_dir_all(&spare);
            return false;
        }
        self.lock().ready.push(spare);
        true
    }

    /// Gives up all spares; the caller removes them.
    pub(crate) fn give_up(&self) -> Vec<PathBuf> {
        std::mem::take(&mut self.lock().ready)
    }

    fn next_name(&self) -> Option<PathBuf> {
        let mut state = self.lock();
        if state.ready.len() >= MOST {
            return None;
        }
        state.made += 1;
        Some(self.root.join(format!("{}{}", self.prefix, state.made)))
    }

    fn lock(&self) -> MutexGuard<'_, Shelf> {
        // A list of paths is never left half changed.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes everything in a directory but these names.
pub(crate) fn clear(directory: &Path, but: &[&str]) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if but.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
