//! Processes that a keeper which was killed left behind.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use scitq_shared::ids::AttemptId;

use crate::attempt::journal::ProcessIdentity;
use crate::machine::start_ticks;

/// How long killed processes are waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Kills the process groups of these processes, where they are still the same, and every process whose environment
/// names one of these attempts; waits until they are gone.
pub(crate) fn kill<'a>(
    processes: impl Iterator<Item = &'a ProcessIdentity>,
    attempts: &[AttemptId],
    boot_id: &str,
) {
    if attempts.is_empty() {
        return;
    }
    for process in processes {
        let (earliest, latest) = process.started_ticks;
        let started = || start_ticks(process.pid);
        let same = process.boot_id == boot_id
            && started().is_some_and(|at| (earliest..=latest).contains(&at));
        if let Some(pid) = Pid::from_raw(process.pid).filter(|_| same) {
            // It may end by itself in this moment.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
    let marks: Vec<String> = attempts
        .iter()
        .map(|attempt| format!("SCITQ_EXECUTION_ID={attempt}"))
        .collect();
    let deadline = Instant::now() + PATIENCE;
    while kill_marked(&marks) && Instant::now() < deadline {
        // On a thread that may wait; the kernel tells nobody when another's child is gone.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Kills what is marked; true if there was something.
fn kill_marked(marks: &[String]) -> bool {
    let mut found = false;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
            .and_then(Pid::from_raw)
        else {
            continue;
        };
        // Not readable: not ours. A zombie has no environment any more.
        let Ok(environment) = fs::read(entry.path().join("environ")) else {
            continue;
        };
        let marked = |variable: &[u8]| marks.iter().any(|mark| mark.as_bytes() == variable);
        if environment.split(|byte| *byte == 0).any(marked) {
            found = true;
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
    found
}
