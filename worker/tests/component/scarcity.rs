//! Memory and disks that run out, for real: in a memory cgroup, and on a file system that is small. Both need root.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use scitq_shared::execution::{Exit, FailureReason, Outcome};
use scitq_shared::output::Stream;
use scitq_shared::protocol::AttemptReport;

use super::program::{Program, Yard, own_program, until};
use super::server::{GATE, definition, script};

/// Enough for the worker itself, in bytes.
const MEMORY: u64 = 256 << 20;

fn failure(report: &AttemptReport) -> (FailureReason, &str) {
    match &report.outcome {
        Some(Outcome::Failed { reason, detail }) => (*reason, detail),
        other => panic!("{other:?}"),
    }
}

/// A memory cgroup below that of this process, of either version; removed when it is dropped.
struct MemoryCgroup(PathBuf);

impl MemoryCgroup {
    /// Why there is none otherwise.
    fn new() -> Result<Self, String> {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let path_of = |mark: &str| {
            let line = own.lines().find(|line| line.contains(mark))?;
            Some(line.rsplit_once(':')?.1.to_owned())
        };
        let version_1 = path_of(":memory:");
        let (root, path, limit) = if let Some(path) = version_1 {
            ("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes")
        } else {
            let path = path_of("::").ok_or("no cgroups here")?;
            ("/sys/fs/cgroup", path, "memory.max")
        };
        let parent = Path::new(root).join(path.trim_start_matches('/'));
        let group = Self(parent.join(format!("scitq-test-{}", std::process::id())));
        let made = std::fs::create_dir(&group.0);
        made.map_err(|error| format!("cannot make {}: {error}", group.0.display()))?;
        let limit = group.0.join(limit);
        let limited = std::fs::write(&limit, MEMORY.to_string());
        limited.map_err(|error| format!("cannot write {}: {error}", limit.display()))?;
        // Without swap; where there is none there is no such file.
        let _ = std::fs::write(group.0.join("memory.swap.max"), "0");
        Ok(group)
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // It is empty once the keeper has ended.
        for _ in 0..500 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

#[tokio::test]
async fn out_of_memory_is_said_on_the_kernels_word_only() {
    let group = match MemoryCgroup::new() {
        Ok(group) => group,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    let yard = Yard::new(1, 0).await;
    let worker = yard.command(own_program());
    let mut command = Command::new("sh");
    command
        .args(["-c", r#"echo $$ > "$0/cgroup.procs" && exec "$@""#])
        .arg(&group.0)
        .arg(worker.get_program())
        .args(worker.get_args());
    command.env_clear();
    for (name, value) in worker.get_envs() {
        command.env(name, value.unwrap());
    }
    let program = Program::start(command);
    let keepers = || yard.keepers();
    let table = [
        (
            "echo begun; exec tail /dev/zero",
            Exit::Signal(9),
            FailureReason::OutOfMemory,
        ),
        (
            "echo begun; tail /dev/zero; exit $?",
            Exit::Code(137),
            FailureReason::OutOfMemory,
        ),
        (
            "echo begun; kill -KILL $$",
            Exit::Signal(9),
            FailureReason::Signal,
        ),
        (
            "echo begun; exit 137",
            Exit::Code(137),
            FailureReason::ExitCode,
        ),
    ];
    for (text, exit, reason) in table {
        let task = yard.server.dispatch(script(text)).await;
        let report = yard.server.until_applied(task).await;
        let (found, detail) = failure(&report);
        assert_eq!(
            (report.exit, found),
            (Some(exit), reason),
            "{text}: {detail}"
        );
        if reason == FailureReason::OutOfMemory {
            assert!(
                detail.contains("memory ran out")
                    && (detail.contains("scitq-test-") || detail.contains("killed process")),
                "{detail}"
            );
        }
        let said = yard
            .server
            .heard
            .lock()
            .unwrap()
            .text(report.attempt, Stream::Stdout);
        assert_eq!(said, b"begun\n");
    }
    assert_eq!(keepers().len(), 1, "the killer spared the keeper");
    program.signal(Signal::TERM);
    assert!(program.ended().await.success());
    yard.until_tidy(0).await;
}

/// A file system in memory of this many KiB; unmounted when it is dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(kibibytes: u32) -> Result<Self, String> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={kibibytes}k,mode=755"),
                "none",
            ])
            .arg(directory.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Ok(Self(directory)),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Leaves no room at all.
    fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.0.path().join("filler")).unwrap();
        let error = loop {
            if let Err(error) = file.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: something of a failed test may still be there.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_loses_nothing_is_told_and_passes() {
    let disk = match SmallDisk::new(1024) {
        Ok(disk) => disk,
        Err(reason) => return eprintln!("skipped: no small file system can be mounted: {reason}"),
    };
    let yard = Yard::below(disk.0.path(), 3, 0).await;
    let program = yard.start(&[]);
    let task = yard.server.dispatch(definition("echo before")).await;
    yard.server.until_applied(task).await;
    let running = yard
        .server
        .dispatch(script(&format!("{GATE} exit 5")))
        .await;
    yard.server.until_begun(running).await;
    let ends_without_agent = yard
        .server
        .dispatch(script(
            "echo begun; while ! test -e ../later; do sleep 0.05; done; exit 6",
        ))
        .await;
    let later = yard.server.until_begun(ends_without_agent).await.attempt;

    disk.fill();
    for _ in 0..5 {
        let task = yard.server.dispatch(definition("echo must not run")).await;
        let report = yard.server.until_applied(task).await;
        let (reason, detail) = failure(&report);
        assert!(
            reason == FailureReason::DiskFull && detail.contains("make room"),
            "{reason} {detail}"
        );
        assert_eq!(report.exit, None);
    }
    // What runs already ends as it ends. (Making an empty file needs no room here.)
    yard.open_gate();
    let report = yard.server.until_applied(running).await;
    assert_eq!(report.exit, Some(Exit::Code(5)));

    // Killed, the agent cannot start again and says why; what runs goes on and ends without it.
    program.kill().await;
    let failed = yard.command(own_program()).output().unwrap();
    let told = String::from_utf8_lossy(&failed.stderr);
    assert!(
        !failed.status.success() && told.contains("identity") && told.contains("No space left"),
        "{told}"
    );
    std::fs::write(yard.path("work/later"), "").unwrap();
    until(|| super::program::processes_of(later).is_empty())
        .await
        .unwrap();

    disk.make_room();
    let program = yard.start(&[]);
    let report = yard.server.until_applied(ends_without_agent).await;
    assert_eq!((report.attempt, report.exit), (later, Some(Exit::Code(6))));
    let task = yard.server.dispatch(definition("echo after")).await;
    let report = yard.server.until_applied(task).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded));
    std::fs::remove_file(yard.path("work/later")).unwrap();
    yard.until_tidy(1).await;
    program.signal(Signal::TERM);
    assert!(program.ended().await.success());
    yard.until_tidy(0).await;
}

#[tokio::test]
async fn a_full_disk_of_work_directories_is_told_as_that() {
    let disk = match SmallDisk::new(64) {
        Ok(disk) => disk,
        Err(reason) => return eprintln!("skipped: no small file system can be mounted: {reason}"),
    };
    // Directories take no room in this file system, but there are only so many of them.
    let status = Command::new("mount")
        .args(["-o", "remount,nr_inodes=8"])
        .arg(disk.0.path())
        .status();
    assert!(status.unwrap().success());
    let yard = Yard::new(1, 0).await;
    let work = disk.0.path().join("work");
    let mut command = yard.command(own_program());
    command.arg("--work-directory").arg(&work);
    // The last one counts.
    let words: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let position = words
        .iter()
        .position(|word| word == "--work-directory")
        .unwrap();
    let mut again = Command::new(own_program());
    again.args(
        words
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != position && *at != position + 1)
            .map(|(_, word)| word),
    );
    again.env_clear();
    for (name, value) in command.get_envs() {
        again.env(name, value.unwrap());
    }
    let _program = Program::start(again);
    let task = yard.server.dispatch(definition("true")).await;
    yard.server.until_applied(task).await;
    for number in 0..8 {
        // As many as there is room for.
        let _ = std::fs::create_dir(work.join(format!("other {number}")));
    }
    let spare = std::fs::read_dir(&work)
        .unwrap()
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(".spare"));
    if let Some(spare) = spare {
        std::fs::remove_dir_all(spare.path()).unwrap();
        std::fs::create_dir(work.join("one more")).unwrap();
        std::fs::create_dir(work.join("two more")).unwrap();
    }
    let task = yard.server.dispatch(definition("true")).await;
    let report = yard.server.until_applied(task).await;
    let (reason, detail) = failure(&report);
    assert!(
        reason == FailureReason::DiskFull && detail.contains("work directory"),
        "{reason} {detail}"
    );
    let left = std::fs::read_dir(&work)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains('-'));
    assert_eq!(left.count(), 0, "what could be made of it is removed");
}
