//! A running process: its end is an event, its group ends with it.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal};
use scitq_shared::execution::{Exit, MemorySource, Usage};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::attempt::journal::ProcessIdentity;

/// A child that leads its own process group and has not been waited for.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    ended: AsyncFd<OwnedFd>,
}

impl Process {
    /// Takes charge of a child that was just started. Needs the runtime's context. If that fails the child is killed.
    pub(crate) fn watch(pid: i32) -> io::Result<Self> {
        let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        let watched = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .map_err(io::Error::from)
            .and_then(|descriptor| {
                #[expect(unsafe_code, reason = "tokio asks for a promise about the descriptor")]
                // SAFETY: an OwnedFd is open, and the same one, for as long as it lives.
                let watched =
                    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
                watched.map_err(io::Error::from)
            });
        match watched {
            Ok(ended) => Ok(Self { pid, ended }),
            Err(error) => {
                kill_group(pid);
                // Waited for so that it does not stay a zombie; its end does not matter.
                let _ = wait(pid);
                Err(error)
            }
        }
    }

    /// What tells it from any other process.
    pub(crate) fn identity(&self, boot_id: &str) -> ProcessIdentity {
        let pid = self.pid.as_raw_nonzero().get();
        ProcessIdentity {
            pid,
            start_ticks: start_ticks(pid).unwrap_or(0),
            boot_id: boot_id.to_owned(),
        }
    }

    /// Completes when it has ended. It can still not be mistaken for another: it is not waited for yet. Cancel-safe.
    pub(crate) async fn ended(&self) -> io::Result<()> {
        self.ended.readable().await.map(|_| ())
    }

    /// Kills it and all of its group.
    pub(crate) fn kill(&self) {
        kill_group(self.pid);
    }

    /// Kills what it left of its group and waits for it. To be called when it has ended.
    ///
    /// The group is killed before the wait, while the id cannot belong to anyone else.
    pub(crate) fn reap(self) -> io::Result<(Exit, Usage)> {
        kill_group(self.pid);
        wait(self.pid)
    }
}

fn kill_group(pid: Pid) {
    // It may have no members left.
    let _ = rustix::process::kill_process_group(pid, Signal::KILL);
}

fn wait(pid: Pid) -> io::Result<(Exit, Usage)> {
    let mut status: libc::c_int = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    #[expect(unsafe_code, reason = "wait4 has no safe form that reports the usage")]
    // SAFETY: both pointers are valid for writing; rusage is plain data for which zeroes are valid.
    let usage = loop {
        let waited = unsafe {
            libc::wait4(
                pid.as_raw_nonzero().get(),
                &raw mut status,
                0,
                usage.as_mut_ptr(),
            )
        };
        if waited != -1 {
            break unsafe { usage.assume_init() };
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    };
    let exit = if libc::WIFSIGNALED(status) {
        Exit::Signal(libc::WTERMSIG(status))
    } else {
        Exit::Code(libc::WEXITSTATUS(status))
    };
    let kibibytes = u64::try_from(usage.ru_maxrss).unwrap_or(0);
    let usage = Usage {
        user_cpu_ms: milliseconds(usage.ru_utime),
        system_cpu_ms: milliseconds(usage.ru_stime),
        // The kernel counts the memory of the worker at the moment of the start in: smaller tasks show as that.
        peak_memory_bytes: kibibytes.saturating_mul(1024),
        memory_source: MemorySource::LargestProcess,
    };
    Ok((exit, usage))
}

fn milliseconds(time: libc::timeval) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    seconds.saturating_mul(1000).saturating_add(micros / 1000)
}

/// When a process started, in clock ticks since boot: field 22 of /proc/PID/stat.
pub(crate) fn start_ticks(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, field 2, may hold anything, parentheses and spaces included.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_times_tell_processes_apart() {
        let own = start_ticks(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own > start_ticks(1).unwrap());
        assert_eq!(start_ticks(i32::MAX), None);
    }
}
