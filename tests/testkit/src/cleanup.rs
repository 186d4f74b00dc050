//! What must not outlive the test process: fixtures kept in statics are never dropped, so this is done at its exit.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// How long a process that is asked to end may take before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);

#[derive(Default)]
struct Left {
    processes: Vec<(Pid, Signal)>,
    directories: Vec<PathBuf>,
}

static LEFT: Mutex<Left> = Mutex::new(Left {
    processes: Vec::new(),
    directories: Vec::new(),
});

fn left() -> MutexGuard<'static, Left> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the process with this signal at exit, unless forgotten before.
pub(crate) fn remember_process(pid: Pid, signal: Signal) {
    at_exit();
    left().processes.push((pid, signal));
}

/// The process has been waited for: its number may be another's by now.
pub(crate) fn forget_process(pid: Pid) {
    left().processes.retain(|(other, _)| *other != pid);
}

/// Removes the directory at exit, unless forgotten before.
pub(crate) fn remember_directory(path: PathBuf) {
    at_exit();
    left().directories.push(path);
}

/// The directory is gone.
pub(crate) fn forget_directory(path: &std::path::Path) {
    left().directories.retain(|other| other != path);
}

fn at_exit() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        #[expect(
            unsafe_code,
            reason = "the standard library has no hook for the end of the process"
        )]
        // SAFETY: `clean_up` is a plain function that does not unwind: everything fallible in it is ignored.
        unsafe {
            libc::atexit(clean_up);
        }
    });
}

extern "C" fn clean_up() {
    // Another thread may have been stopped while it held the lock.
    let Ok(mut left) = LEFT.try_lock() else {
        return;
    };
    let processes: Vec<(Pid, Signal)> = left.processes.drain(..).collect();
    for (pid, signal) in &processes {
        // Gone already, or never ours: nothing more to do about it.
        let _ = kill_process(*pid, *signal);
    }
    let until = Instant::now() + PATIENCE;
    for (pid, _) in processes {
        // An answer, or an error, means that it is gone.
        while let Ok(None) = waitpid(Some(pid), WaitOptions::NOHANG) {
            if Instant::now() > until {
                let _ = kill_process(pid, Signal::KILL);
            }
            thread::sleep(LOOK_EVERY);
        }
    }
    for path in left.directories.drain(..) {
        let _ = std::fs::remove_dir_all(path);
    }
}
