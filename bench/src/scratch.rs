//! Temporary directories that do not pile up.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use rustix::process::{Pid, test_kill_process};
use tempfile::TempDir;

const PREFIX: &str = "scitq-bench-";

/// A new temporary directory, removed when dropped; one of a killed process by the next call in another process.
pub fn scratch() -> anyhow::Result<TempDir> {
    let parent = std::env::temp_dir();
    sweep(&parent);
    tempfile::Builder::new()
        .prefix(&format!("{PREFIX}{}-", std::process::id()))
        .tempdir_in(&parent)
        .with_context(|| {
            format!(
                "cannot create a temporary directory in {}",
                parent.display()
            )
        })
}

/// Removes what processes left that do not run any more.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(owner);
        if owner.is_some_and(|pid| test_kill_process(pid).is_err()) {
            // It may belong to another user.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The process that made a directory of this name.
fn owner(name: &str) -> Option<Pid> {
    let pid = name.strip_prefix(PREFIX)?.split('-').next()?;
    Pid::from_raw(pid.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_dead_left_is_removed() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = child.id();
        child.wait().unwrap();
        let parent = tempfile::tempdir().unwrap();
        let own = std::process::id();
        let names = [
            format!("{PREFIX}{dead}-a"),
            format!("{PREFIX}{own}-b"),
            format!("other-{dead}-c"),
        ];
        for name in &names {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        sweep(parent.path());
        let left = names.map(|name| parent.path().join(name).exists());
        assert_eq!(left, [false, true, true]);
    }
}
