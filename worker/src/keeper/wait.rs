//! The ends of processes.

use std::io;
use std::mem::MaybeUninit;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use scitq_shared::execution::{Exit, MemorySource, Usage};

/// A child that has ended and has not been waited for yet: its id cannot belong to anyone else.
#[derive(Clone, Copy, Debug)]
pub(super) struct EndedChild {
    pub(super) pid: i32,
    pub(super) exit: Exit,
    pub(super) usage: Usage,
}

/// A child that has ended, if there is one. It stays as it is until [`reap`].
pub(super) fn ended_child() -> io::Result<Option<EndedChild>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    #[expect(
        unsafe_code,
        reason = "only the system call itself reports the usage without ending the wait"
    )]
    // SAFETY: both pointers are valid for writing; both are plain data for which zeroes are valid, and without a child
    // they stay as they are.
    let (answer, info, usage) = unsafe {
        let answer = libc::syscall(
            libc::SYS_waitid,
            libc::P_ALL,
            0,
            info.as_mut_ptr(),
            options,
            usage.as_mut_ptr(),
        );
        (answer, info.assume_init(), usage.assume_init())
    };
    if answer == -1 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ECHILD | libc::EINTR) => Ok(None),
            _ => Err(error),
        };
    }
    #[expect(unsafe_code, reason = "the fields are in a union")]
    // SAFETY: waitid fills in the fields of a child's end; zeroes mean that there is none.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let exit = if info.si_code == libc::CLD_EXITED {
        Exit::Code(status)
    } else {
        Exit::Signal(status)
    };
    let kibibytes = u64::try_from(usage.ru_maxrss).unwrap_or(0);
    let usage = Usage {
        user_cpu_ms: milliseconds(usage.ru_utime),
        system_cpu_ms: milliseconds(usage.ru_stime),
        // The kernel counts the memory of the keeper at the moment of the start in: smaller tasks show as that.
        peak_memory_bytes: kibibytes.saturating_mul(1024),
        memory_source: MemorySource::LargestProcess,
    };
    Ok(Some(EndedChild { pid, exit, usage }))
}

/// Waits for a child that has ended; from then on its id may be another's.
pub(super) fn reap(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It has ended: this neither waits nor fails.
        let _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
    }
}

/// Sends a signal to the process group of a child that has not been waited for.
pub(super) fn signal_group(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may have no members left.
        let _ = rustix::process::kill_process_group(pid, signal);
    }
}

fn milliseconds(time: libc::timeval) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    seconds.saturating_mul(1000).saturating_add(micros / 1000)
}

#[cfg(test)]
mod tests {
    // What ends here would be any child of the test program: the keeper's own tests are those of the whole worker.
    use super::*;

    #[test]
    fn cpu_times_are_told_in_milliseconds() {
        let time = libc::timeval {
            tv_sec: 2,
            tv_usec: 345_678,
        };
        assert_eq!(milliseconds(time), 2345);
    }
}
