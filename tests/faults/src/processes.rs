//! Processes that belong to a directory: tasks outlive the programs that started them, and have to be found.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, getpid, kill_process};

/// A process.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pid: Pid,
    /// Its command line.
    pub(crate) command: String,
}

/// Processes that were started with this directory, or something in it, in their environment or command line.
pub(crate) fn of(directory: &Path) -> Vec<Found> {
    let mut name = directory.as_os_str().as_encoded_bytes().to_vec();
    name.push(b'/');
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for process in processes.flatten() {
        let number = process
            .file_name()
            .to_str()
            .and_then(|text| text.parse().ok());
        let Some(pid) = number
            .and_then(Pid::from_raw)
            .filter(|pid| *pid != getpid())
        else {
            continue;
        };
        // Gone meanwhile, or another user's: not ours.
        let read = |file: &str| fs::read(process.path().join(file)).unwrap_or_default();
        let command = read("cmdline");
        if names(&command, &name) || names(&read("environ"), &name) {
            let words = command
                .split(|byte| *byte == 0)
                .map(String::from_utf8_lossy);
            let command = words.collect::<Vec<_>>().join(" ").trim_end().to_owned();
            found.push(Found { pid, command });
        }
    }
    found
}

/// Kills all processes of a directory, until there are none: one may start another while the list is read. False when
/// there are some still.
pub(crate) fn kill(directory: &Path) -> bool {
    for _ in 0..200 {
        let found = of(directory);
        if found.is_empty() {
            return true;
        }
        for process in found {
            let _ = kill_process(process.pid, Signal::KILL);
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    false
}

fn names(text: &[u8], name: &[u8]) -> bool {
    text.windows(name.len()).any(|part| part == name)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn those_of_a_directory_are_found_and_killed_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let (inner, other) = (directory.path().join("w2"), directory.path().join("w22"));
        let start = |path: &Path| {
            let mut command = Command::new("sleep");
            command.arg("1000").env("DIRECTORY", path.join("state"));
            command.spawn().unwrap()
        };
        let mut ours = start(&inner);
        let mut theirs = start(&other);
        let found = of(&inner);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].command, "sleep 1000");
        let killed = std::thread::spawn(move || ours.wait().unwrap());
        assert!(kill(&inner));
        assert!(!killed.join().unwrap().success());
        assert!(theirs.try_wait().unwrap().is_none());
        theirs.kill().unwrap();
        theirs.wait().unwrap();
    }
}
