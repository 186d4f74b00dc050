//! Names of the files of an attempt, and their removal.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use scitq_shared::ids::AttemptId;
use scitq_shared::output::Stream;

use super::journal::{CLAIMED, UNCLAIMED};
use crate::spares::Spares;

const MODE: u32 = 0o600;
/// `fcntl` command of Linux that the libc crate does not name.
const F_SETSIG: libc::c_int = 10;

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

/// The files of an attempt as it is made; its journal comes to other names.
const FILES: [&str; 3] = [UNCLAIMED, "stdout", "stderr"];

/// Makes and removes the directories of attempts, with their files.
///
/// A directory that is done with is emptied and renamed for the next attempt, files included: ext4 without a journal
/// looks through all inodes freed in the last minutes for every one that it hands out, so that making and removing files
/// by the thousand costs more there than the tasks themselves (measured: half of the worker's processor time).
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

    /// Makes the directory of an attempt, with its files, all empty.
    pub(crate) fn make(&self, attempt: AttemptId) -> io::Result<PathBuf> {
        let path = self.of(attempt);
        if !self.spares.take(&path) {
            fs::DirBuilder::new().mode(0o700).create(&path)?;
            for file in FILES {
                let mut options = File::options();
                options.create_new(true).write(true).mode(MODE);
                options.open(path.join(file))?;
            }
        }
        Ok(path)
    }

    /// True when no process has the attempt's output open any more: what left its process group is gone, too.
    pub(crate) fn is_quiet(&self, attempt: AttemptId) -> bool {
        let directory = self.of(attempt);
        let quiet = |stream| open_unwritten(&stream_file(&directory, stream)).is_ok();
        quiet(Stream::Stdout) && quiet(Stream::Stderr)
    }

    /// Removes the directory of an attempt, if it is there.
    pub(crate) fn remove(&self, attempt: AttemptId) -> io::Result<()> {
        let path = self.of(attempt);
        if empty(&path).unwrap_or(false) {
            // Under its own name it can never be claimed again, whoever still has an order for it.
            let unclaim = |spare: &Path| fs::rename(spare.join(CLAIMED), spare.join(UNCLAIMED));
            if self.spares.keep_after(&path, unclaim) {
                return Ok(());
            }
        }
        match fs::remove_dir_all(&path) {
            // Attempts that never ran have none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Removes the spares; for a worker that ends.
    pub(crate) fn remove_spares(&self) {
        for spare in self.spares.give_up() {
            // The next start removes what is left.
            let _ = fs::remove_dir_all(spare);
        }
    }
}

/// Empties the files of an attempt. False when it cannot be used for another one: a process still has a file open and
/// would write into what is another task's by then, something is not as it was made, or no keeper has claimed it, so that
/// one may still have the order to do so.
fn empty(directory: &Path) -> io::Result<bool> {
    if fs::read_dir(directory)?.count() != FILES.len() {
        return Ok(false);
    }
    let journal = directory.join(CLAIMED);
    let [stdout, stderr] = [Stream::Stdout, Stream::Stderr].map(|it| stream_file(directory, it));
    for path in [&journal, &stdout, &stderr] {
        let metadata = open_unwritten(path)?.metadata()?;
        let own = metadata.uid() == rustix::process::geteuid().as_raw();
        if !metadata.is_file() || !own || metadata.nlink() != 1 || metadata.mode() & 0o7777 != MODE
        {
            return Ok(false);
        }
        if metadata.len() > 0 {
            File::options().write(true).open(path)?.set_len(0)?;
        }
    }
    Ok(true)
}

/// Opens a file that nobody has open for writing; an error if somebody has. The system answers that by granting a read
/// lease, which is given back at once.
fn open_unwritten(path: &Path) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    // Whoever opens it meanwhile makes the system signal us: by one that is ignored, instead of SIGIO, which kills.
    let steps = [
        (F_SETSIG, libc::SIGURG),
        (libc::F_SETLEASE, libc::F_RDLCK),
        (libc::F_SETLEASE, libc::F_UNLCK),
    ];
    for (command, argument) in steps {
        #[expect(unsafe_code, reason = "leases have no safe form")]
        // SAFETY: system calls on an open descriptor, with a number as argument.
        let answer = unsafe { libc::fcntl(file.as_raw_fd(), command, argument) };
        if answer == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::super::journal;
    use super::*;
    use std::io::Write as _;

    type Touch<'a> = &'a dyn Fn(&Path);

    fn entries(root: &Path) -> usize {
        fs::read_dir(root).unwrap().count()
    }

    fn lengths(path: &Path) -> Vec<u64> {
        FILES
            .iter()
            .map(|file| fs::metadata(path.join(file)).unwrap().len())
            .collect()
    }

    #[test]
    fn directories_are_used_again_with_empty_files() {
        let root = tempfile::tempdir().unwrap();
        let directories = AttemptDirectories::open(root.path()).unwrap();
        for _ in 0..3 {
            let attempt = AttemptId::generate();
            let path = directories.make(attempt).unwrap();
            assert_eq!(lengths(&path), [0, 0, 0]);
            fs::write(path.join("stdout"), "output").unwrap();
            fs::write(path.join(UNCLAIMED), "steps").unwrap();
            journal::claim(&path).unwrap();
            assert!(directories.is_quiet(attempt));
            directories.remove(attempt).unwrap();
            assert_eq!(entries(root.path()), 1);
            assert!(!path.exists());
        }
        directories.remove(AttemptId::generate()).unwrap();
        directories.remove_spares();
        assert_eq!(entries(root.path()), 0);
    }

    #[test]
    fn what_was_given_back_is_not_used_again() {
        let root = tempfile::tempdir().unwrap();
        let directories = AttemptDirectories::open(root.path()).unwrap();
        let attempt = AttemptId::generate();
        let path = directories.make(attempt).unwrap();
        assert!(journal::release(&path).unwrap());
        directories.remove(attempt).unwrap();
        assert_eq!(entries(root.path()), 0);
        assert!(journal::claim(&path).is_err());
        // Nor what nobody has claimed yet: a keeper may have the order.
        directories.make(attempt).unwrap();
        directories.remove(attempt).unwrap();
        assert_eq!(entries(root.path()), 0);
    }

    #[test]
    fn nobody_writes_into_the_output_of_another_task() {
        let root = tempfile::tempdir().unwrap();
        let directories = AttemptDirectories::open(root.path()).unwrap();
        let attempt = AttemptId::generate();
        let path = directories.make(attempt).unwrap();
        journal::claim(&path).unwrap();
        // A process that outlives its task and its group.
        let mut open = File::options()
            .append(true)
            .open(path.join("stderr"))
            .unwrap();
        assert!(!directories.is_quiet(attempt));
        directories.remove(attempt).unwrap();
        assert_eq!(entries(root.path()), 0, "not used again");
        open.write_all(b"late").unwrap();
    }

    #[test]
    fn what_is_not_as_it_was_made_is_not_used_again() {
        let root = tempfile::tempdir().unwrap();
        let directories = AttemptDirectories::open(root.path()).unwrap();
        let other = tempfile::tempdir().unwrap();
        let link = other.path().join("link");
        let touches: [Touch<'_>; 5] = [
            &|path| fs::write(path.join("more"), "").unwrap(),
            &|path| fs::remove_file(path.join("stdout")).unwrap(),
            &|path| fs::hard_link(path.join("stdout"), &link).unwrap(),
            &|path| {
                fs::remove_file(path.join("stdout")).unwrap();
                std::os::unix::fs::symlink(other.path().join("target"), path.join("stdout"))
                    .unwrap();
            },
            &|path| {
                let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
                fs::set_permissions(path.join("stderr"), open).unwrap();
            },
        ];
        for touch in touches {
            let attempt = AttemptId::generate();
            let path = directories.make(attempt).unwrap();
            journal::claim(&path).unwrap();
            touch(&path);
            directories.remove(attempt).unwrap();
            assert_eq!(entries(root.path()), 0);
        }
    }
}
