//! Processes that a keeper which was killed left behind.

use std::fs;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use scitq_shared::ids::AttemptId;

use crate::attempt::journal::ProcessIdentity;
use crate::machine::start_ticks;

/// How long killed processes are waited for: one in uninterruptible sleep ends when it can.
const PATIENCE: Duration = Duration::from_secs(5);
/// Before processes are looked through again, when they could not be.
const AGAIN: Duration = Duration::from_millis(200);

/// An attempt whose processes are to be ended.
#[derive(Clone, Debug)]
pub(crate) struct Leftover {
    pub(crate) attempt: AttemptId,
    /// Its first process, where that is known.
    pub(crate) process: Option<ProcessIdentity>,
}

/// Ends what is left of attempts. A keeper may have had a thousand of them: whoever comes while others are looked for
/// waits, and all that wait are looked for together.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    waiting: Mutex<Vec<Leftover>>,
    working: Mutex<()>,
}

impl Leftovers {
    /// Kills all that is left of an attempt, and returns when it is gone. Blocking.
    pub(crate) fn kill(&self, attempt: AttemptId, process: Option<ProcessIdentity>, boot_id: &str) {
        let waiting = || self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting().push(Leftover { attempt, process });
        let _working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        // None when somebody else took it along: that one has finished by now.
        let all = std::mem::take(&mut *waiting());
        kill(&all, boot_id);
    }
}

/// Kills the process groups of these attempts, where their processes are still the same, and every process whose
/// environment names one of them; waits until they are gone. Does not return before it could look at all processes:
/// what is reported as ended must have. Blocking.
pub(crate) fn kill(leftovers: &[Leftover], boot_id: &str) {
    if leftovers.is_empty() {
        return;
    }
    let marks: Vec<String> = leftovers
        .iter()
        .map(|it| format!("SCITQ_EXECUTION_ID={}", it.attempt))
        .collect();
    let once = || {
        for process in leftovers.iter().filter_map(|it| it.process.as_ref()) {
            kill_group(process, boot_id)?;
        }
        kill_marked(&marks)
    };
    let deadline = Instant::now() + PATIENCE;
    let mut told = false;
    loop {
        match once() {
            // On a thread that may wait; the kernel tells nobody when another's child is gone.
            Ok(true) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Ok(_) => return,
            Err(error) => {
                if !told {
                    tracing::warn!(%error, "what tasks have left cannot be looked for; tried again until it can");
                    told = true;
                }
                std::thread::sleep(AGAIN);
            }
        }
    }
}

fn kill_group(process: &ProcessIdentity, boot_id: &str) -> io::Result<()> {
    let (earliest, latest) = process.started_ticks;
    let same = process.boot_id == boot_id
        && start_ticks(process.pid)?.is_some_and(|at| (earliest..=latest).contains(&at));
    if let Some(pid) = Pid::from_raw(process.pid).filter(|_| same) {
        // It may end by itself in this moment.
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
    Ok(())
}

/// Kills what is marked; true if there was something.
fn kill_marked(marks: &[String]) -> io::Result<bool> {
    let mut found = false;
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
            .and_then(Pid::from_raw)
        else {
            continue;
        };
        let environment = match fs::read(entry.path().join("environ")) {
            Ok(environment) => environment,
            // Gone, or another user's and so not ours. A zombie has no environment any more.
            Err(error) if is_not_ours(&error) => continue,
            Err(error) => return Err(error),
        };
        let marked = |variable: &[u8]| marks.iter().any(|mark| mark.as_bytes() == variable);
        if environment.split(|byte| *byte == 0).any(marked) {
            found = true;
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
    Ok(found)
}

fn is_not_ours(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ESRCH | libc::EACCES | libc::EPERM)
    )
}
