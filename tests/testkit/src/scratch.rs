//! Temporary directories that do not pile up.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Once;

use rustix::process::{Pid, test_kill_process};

use crate::cleanup;

const PREFIX: &str = "scitq-test-";

/// A temporary directory, readable by all (services run as other users), removed when dropped or at exit.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(what: &str) -> Self {
        sweep();
        let prefix = format!("{PREFIX}{}-{what}-", std::process::id());
        let directory = tempfile::Builder::new()
            .prefix(&prefix)
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap_or_else(|error| panic!("no temporary directory: {error}"));
        let path = directory.keep();
        cleanup::remember_directory(path.clone());
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Something may still write there; the next run removes the rest.
        let _ = fs::remove_dir_all(&self.0);
        cleanup::forget_directory(&self.0);
    }
}

/// Removes what killed test processes left behind.
fn sweep() {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(|| {
        let Ok(entries) = fs::read_dir(std::env::temp_dir()) else {
            return;
        };
        for entry in entries.flatten() {
            if owner(&entry.file_name().to_string_lossy())
                .is_some_and(|pid| test_kill_process(pid).is_err())
            {
                // It may belong to another user.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    });
}

/// The test process that made a directory of that name.
fn owner(name: &str) -> Option<Pid> {
    let pid = name.strip_prefix(PREFIX)?.split('-').next()?;
    Pid::from_raw(pid.parse().ok()?)
}
