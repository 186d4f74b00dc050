//! Tasks that end when the test says so.

use std::fs::File;
use std::path::{Path, PathBuf};

/// Holds back every task whose command begins with [`words`](Self::words), until it is opened. It is a lock on a file,
/// so it opens by itself when the test process dies.
#[derive(Debug)]
pub struct Gate {
    path: PathBuf,
    lock: File,
}

impl Gate {
    /// A closed gate, kept in this directory.
    ///
    /// # Panics
    /// If the file cannot be made or locked.
    pub fn closed(directory: &Path, name: &str) -> Self {
        let path = directory.join(format!("{name}.gate"));
        let lock = File::create_new(&path).expect("a new file");
        lock.lock().expect("a lock on a new file");
        Self { path, lock }
    }

    /// The words to put before a command, so that it begins when the gate is open.
    ///
    /// # Panics
    /// If the directory's path is no text.
    pub fn words(&self) -> [String; 3] {
        let path = self.path.to_str().expect("a path that is text").to_owned();
        ["flock".to_owned(), "--shared".to_owned(), path]
    }

    /// A command that a shell or nobody reads, held back by the gate.
    pub fn before(&self, command: &str) -> String {
        format!("{} {command}", self.words().join(" "))
    }

    /// Lets all tasks go, also those that come later.
    ///
    /// # Panics
    /// If the file cannot be unlocked.
    pub fn open(self) {
        self.lock.unlock().expect("a lock that is ours");
    }
}
