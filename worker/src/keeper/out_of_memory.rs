//! Whether the kernel killed a task because memory ran out: said only on the kernel's own word, never from the signal.
//!
//! Two witnesses: the count of such kills in the memory cgroup that the task is in (`oom_kill` in `memory.events` of
//! cgroup v2 or in `memory.oom_control` of v1), when it rose while the task ran; and the kernel's log, which names the
//! process. The log is the better one, but often may not be read, and of what a shell ran nobody knows the process. The count
//! costs one read at each start, the rest is looked at only after a SIGKILL.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use scitq_shared::execution::Exit;

/// Inode of the first process namespace, in which the kernel's log names processes.
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;
/// The file with the count in cgroup version 2.
const COUNT_FILE: &str = "memory.events";
/// Longest line of the kernel's log.
const LOG_LINE_BYTES: usize = 8192;

/// Counts of the memory cgroup that this process and, unless they were moved, its children are in.
#[derive(Debug)]
pub(super) struct Witness {
    count: Option<(PathBuf, File)>,
    /// The count without those kills that no end has been explained by yet.
    explained: AtomicU64,
}

/// What is remembered of the start of a task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    kills: Option<u64>,
    /// Microseconds since boot.
    at: u64,
}

impl Witness {
    /// Finds the counts; without any there is still the kernel's log.
    pub(super) fn find() -> Self {
        let count = count_file("self").and_then(|path| {
            let file = File::open(&path).ok()?;
            kills(&file)?;
            Some((path, file))
        });
        Self {
            count,
            explained: AtomicU64::new(0),
        }
    }

    /// To be remembered at a start.
    pub(super) fn before(&self) -> Before {
        Before {
            kills: self.count.as_ref().and_then(|(_, file)| kills(file)),
            at: since_boot_micros(),
        }
    }

    /// The evidence that memory killed this child, which has ended and was not waited for.
    pub(super) fn evidence(&self, pid: i32, exit: Exit, before: Before) -> Option<String> {
        match exit {
            // The log names the very process; where it may not be read, there is the count.
            Exit::Signal(libc::SIGKILL) => match logged(pid, before.at) {
                Logged::Killed => {
                    // That kill explains no other end.
                    let _ = self.counted(pid, before);
                    Some(format!(
                        "the kernel's log says that it killed process {pid}"
                    ))
                }
                Logged::No => None,
                Logged::Unreadable => self.counted(pid, before),
            },
            // How a shell tells that what it ran was ended by SIGKILL: a process that the log names and nobody knows.
            Exit::Code(137) => self.counted(pid, before),
            _ => None,
        }
    }

    fn counted(&self, pid: i32, before: Before) -> Option<String> {
        let (path, file) = self.count.as_ref()?;
        let (before, after) = (before.kills?, kills(file)?);
        // One that was moved to another cgroup is none of this one's. Version 1 shows all that have ended in the root.
        let tells = path.ends_with(COUNT_FILE);
        let moved = tells && count_file(&pid.to_string()).as_ref() != Some(path);
        // Each kill is the end of one task at most. Of tasks that were killed by others meanwhile, one may be taken for it.
        let before = before.max(self.explained.load(Ordering::Relaxed));
        (!moved && after > before).then(|| {
            self.explained.store(before + 1, Ordering::Relaxed);
            let cgroup = path.parent().unwrap_or(path).display();
            format!(
                "memory cgroup {cgroup} counts {} such kills more than when the task started",
                after - before
            )
        })
    }
}

fn kills(file: &File) -> Option<u64> {
    let mut buffer = [0; 512];
    let length = file.read_at(&mut buffer, 0).ok()?;
    kills_in(std::str::from_utf8(&buffer[..length]).ok()?)
}

fn kills_in(text: &str) -> Option<u64> {
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count?.trim().parse().ok()
}

/// The file that counts the kills in the memory cgroup of a process.
fn count_file(process: &str) -> Option<PathBuf> {
    let cgroups = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    find_count_file(&cgroups, &mounts)
}

/// The same from the texts of /proc/PID/cgroup and /proc/self/mountinfo.
fn find_count_file(cgroups: &str, mounts: &str) -> Option<PathBuf> {
    let mut unified = None;
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        if controllers.split(',').any(|name| name == "memory") {
            let directory = below_mount(mounts, "cgroup", Some("memory"), path)?;
            return Some(directory.join("memory.oom_control"));
        }
        if controllers.is_empty() {
            unified = Some(path);
        }
    }
    Some(below_mount(mounts, "cgroup2", None, unified?)?.join(COUNT_FILE))
}

/// Where a path of a cgroup hierarchy is in this mount namespace.
fn below_mount(mounts: &str, kind: &str, option: Option<&str>, path: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let (found, options) = (after.next()?, after.nth(1)?);
        if found != kind || option.is_some_and(|name| !options.split(',').any(|it| it == name)) {
            return None;
        }
        let mut before = before.split(' ').skip(3);
        let (root, point) = (unescape(before.next()?), unescape(before.next()?));
        let below = Path::new(path).strip_prefix(root).ok()?;
        Some(Path::new(&point).join(below))
    })
}

/// Spaces and the like are written as a backslash and three octal digits there.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (code, meaning)| {
            text.replace(code, meaning)
        })
}

/// What the kernel's log says about a process.
enum Logged {
    /// That it was killed because memory ran out.
    Killed,
    /// Nothing of that kind.
    No,
    /// Unknown: it may not be read here, or is not complete any more.
    Unreadable,
}

/// Looks for the process in the kernel's log, where that may be read.
fn logged(pid: i32, since: u64) -> Logged {
    let first = fs::metadata("/proc/self/ns/pid").is_ok_and(|it| it.ino() == FIRST_PID_NAMESPACE);
    if !first {
        return Logged::Unreadable;
    }
    let log = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg");
    let Ok(mut log) = log else {
        return Logged::Unreadable;
    };
    let mut line = vec![0; LOG_LINE_BYTES];
    let mut complete = true;
    loop {
        match log.read(&mut line) {
            // Each read is one record.
            Ok(length) => {
                if names(&String::from_utf8_lossy(&line[..length]), pid, since) {
                    return Logged::Killed;
                }
            }
            // Overwritten before it was read: the next one is there.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => complete = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && complete => return Logged::No,
            Err(_) => return Logged::Unreadable,
        }
    }
}

/// True when a record of the kernel's log (`priority,sequence,microseconds,flags;text`) says that the process was killed.
fn names(record: &str, pid: i32, since: u64) -> bool {
    let Some((head, text)) = record.split_once(';') else {
        return false;
    };
    let at = head.split(',').nth(2).and_then(|at| at.parse::<u64>().ok());
    let killed = format!("Killed process {pid} (");
    at.is_some_and(|at| at >= since)
        && text.to_lowercase().contains("out of memory")
        && text.contains(&killed)
}

fn since_boot_micros() -> u64 {
    // The clock of the kernel's log.
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (seconds, nanoseconds) = (now.tv_sec, now.tv_nsec);
    u64::try_from(seconds).unwrap_or(0) * 1_000_000 + u64::try_from(nanoseconds).unwrap_or(0) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
24 30 0:22 / /proc rw - proc proc rw
31 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
32 31 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
33 31 0:28 /inner /sys/fs/cgroup/mem\\040ory rw shared:9 - cgroup cgroup rw,memory
34 31 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn the_count_is_found_in_either_version() {
        let table = [
            (
                "9:name=systemd:/\n4:memory:/inner/a b\n1:cpu:/\n0::/x\n",
                Some("/sys/fs/cgroup/mem ory/a b/memory.oom_control"),
            ),
            (
                "1:cpu:/\n0::/system.slice/w.service\n",
                Some("/sys/fs/cgroup/unified/system.slice/w.service/memory.events"),
            ),
            ("4:memory:/elsewhere\n", None),
            ("1:cpu:/\n", None),
            ("", None),
            ("nonsense", None),
        ];
        for (cgroups, expected) in table {
            assert_eq!(
                find_count_file(cgroups, MOUNTS),
                expected.map(PathBuf::from),
                "{cgroups}"
            );
        }
    }

    #[test]
    fn counts_are_read() {
        let v2 = "low 0\nhigh 0\nmax 31\noom 4\noom_kill 3\noom_group_kill 0\n";
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n";
        assert_eq!((kills_in(v2), kills_in(v1)), (Some(3), Some(2)));
        assert_eq!(kills_in("oom_kill_disable 0\nunder_oom 0\n"), None);
    }

    #[test]
    fn the_log_must_name_the_very_process_in_time() {
        let record = "3,1024,5000,-;Memory cgroup out of memory: Killed process 123 (stress) total-vm:9kB, UID:0\n KEY=x\n";
        assert!(names(record, 123, 5000));
        assert!(names(&record.replace("Memory cgroup out", "Out"), 123, 0));
        assert!(!names(record, 12, 0));
        assert!(!names(record, 123, 5001), "before it started");
        assert!(!names(
            "3,1024,5000,-;Killed process 123 (x) by hand",
            123,
            0
        ));
        assert!(!names("nonsense", 123, 0));
    }

    #[test]
    fn each_counted_kill_explains_one_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("memory.oom_control");
        let count = |kills: u32| fs::write(&path, format!("oom_kill {kills}\n")).unwrap();
        count(4);
        let witness = Witness {
            count: Some((path.clone(), File::open(&path).unwrap())),
            explained: AtomicU64::new(0),
        };
        let before = witness.before();
        let evidence = || witness.evidence(1, Exit::Code(137), before);
        assert_eq!(evidence(), None);
        count(6);
        let (first, second, third) = (evidence(), evidence(), evidence());
        assert!(first.is_some() && second.is_some(), "{first:?} {second:?}");
        assert_eq!(
            third, None,
            "a process that exits with 137 for its own reasons"
        );
        count(7);
        assert!(evidence().is_some());
    }

    #[test]
    fn another_end_needs_no_witness() {
        let witness = Witness {
            count: None,
            explained: AtomicU64::new(0),
        };
        let before = Before {
            kills: Some(0),
            at: 0,
        };
        for exit in [Exit::Code(0), Exit::Code(1), Exit::Signal(15)] {
            assert_eq!(witness.evidence(1, exit, before), None);
        }
    }
}
