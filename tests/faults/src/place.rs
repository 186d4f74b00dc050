//! The directory of a run.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::{processes, task};

/// Names begin so; what follows is the process that made it. The testkit removes those of processes that are gone.
const PREFIX: &str = "scitq-test-";

/// A directory, and everything that lives in it. When dropped, its processes are killed and it is removed.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
}

impl Place {
    pub(crate) fn new(name: &str) -> anyhow::Result<Self> {
        let made = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-faults-{name}-", std::process::id()))
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir();
        let place = Self {
            path: made.context("no temporary directory")?.keep(),
        };
        fs::write(place.path("scitq.toml"), "")?;
        fs::write(place.path("task.sh"), task::SCRIPT)?;
        fs::create_dir(place.path("logs"))?;
        Ok(place)
    }

    /// Something in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.path
    }

    /// Where programs log.
    pub(crate) fn log(&self, program: &str) -> PathBuf {
        self.path.join("logs").join(format!("{program}.log"))
    }

    /// Copies what helps to find out why a run failed to a directory that stays.
    pub(crate) fn keep(&self, name: &str, further: &[(&str, PathBuf)]) -> anyhow::Result<PathBuf> {
        let kept = tempfile::Builder::new()
            .prefix(&format!("scitq-faults-{name}-"))
            .tempdir()
            .context("no directory for the logs")?
            .keep();
        for entry in fs::read_dir(self.path.join("logs"))? {
            let entry = entry?;
            fs::copy(entry.path(), kept.join(entry.file_name()))?;
        }
        let own = ["ledger", "ended"].map(|name| (name, self.path(name)));
        for (name, file) in own.iter().chain(further) {
            // What never came into being cannot be kept.
            let _ = fs::copy(file, kept.join(name));
        }
        Ok(kept)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !processes::kill(&self.path) {
            eprintln!(
                "faults: processes of {} cannot be killed",
                self.path.display()
            );
        }
        unmount_below(&self.path);
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("faults: {} stays behind: {error}", self.path.display());
        }
    }
}

/// Ends what runs of this program left behind when they were killed: file systems cannot be removed by anybody else.
pub(crate) fn sweep() {
    for mounted in mounts(&std::env::temp_dir()) {
        let owner = mounted
            .components()
            .find_map(|part| {
                part.as_os_str()
                    .to_str()?
                    .strip_prefix(PREFIX)?
                    .split('-')
                    .next()
            })
            .and_then(|number| number.parse::<u32>().ok());
        if owner.is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists()) {
            unmount(&mounted);
        }
    }
}

/// Puts a file system of this size into a directory. Only root may.
pub(crate) fn mount(directory: &Path, mebibytes: u32) -> anyhow::Result<()> {
    let mounted = Command::new("mount")
        .args([
            "-t",
            "tmpfs",
            "-o",
            &format!("size={mebibytes}m"),
            "scitq-faults",
        ])
        .arg(directory)
        .output()
        .context("mount cannot be started")?;
    anyhow::ensure!(
        mounted.status.success(),
        "no file system can be mounted: {}",
        String::from_utf8_lossy(&mounted.stderr).trim_end()
    );
    Ok(())
}

fn unmount_below(directory: &Path) {
    for mounted in mounts(directory) {
        unmount(&mounted);
    }
}

fn unmount(directory: &Path) {
    // Lazily: whatever still looks into it must not keep it.
    let _ = Command::new("umount").arg("-l").arg(directory).output();
}

/// Where file systems of ours are mounted below a directory.
fn mounts(below: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let ours = table
        .lines()
        .filter(|line| line.starts_with("scitq-faults "));
    let paths = ours
        .filter_map(|line| line.split(' ').nth(1))
        .map(PathBuf::from);
    paths.filter(|path| path.starts_with(below)).collect()
}
