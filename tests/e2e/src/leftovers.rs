//! Tasks outlive the programs that started them; after a test nothing may be left.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// Kills every process whose environment names the directory: it can only be a task of a system that lived there.
pub(crate) fn end(directory: &Path) {
    let name = directory.as_os_str().as_encoded_bytes();
    let Ok(processes) = fs::read_dir("/proc") else {
        return;
    };
    for process in processes.flatten() {
        let pid = process
            .file_name()
            .to_str()
            .and_then(|text| text.parse().ok())
            .and_then(Pid::from_raw);
        let Some(pid) = pid else { continue };
        // Gone meanwhile, or another user's: not ours.
        let environment = fs::read(process.path().join("environ")).unwrap_or_default();
        if environment.windows(name.len()).any(|part| part == name) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
