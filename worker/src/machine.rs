//! What the worker says about its machine.

/// Processor cores that this process may use.
pub fn cores() -> u32 {
    std::thread::available_parallelism()
        .map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX))
}

/// Main memory in bytes.
pub fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}

/// Host name as the kernel has it.
pub fn hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Id of this boot of the machine: process ids and start times mean nothing beyond it.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

/// Time since the machine booted in the unit in which the kernel tells when a process started.
pub(crate) fn ticks_since_boot() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds * per_second + nanoseconds * per_second / 1_000_000_000
}

/// How long ago that was, in the same unit since the machine booted.
pub(crate) fn since_ticks(ticks: u64) -> std::time::Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let passed = ticks_since_boot().saturating_sub(ticks);
    std::time::Duration::from_millis(passed * 1000 / per_second)
}

/// When a process started, in clock ticks since boot: field 22 of /proc/PID/stat. None when there is no such process.
pub(crate) fn start_ticks(pid: i32) -> std::io::Result<Option<u64>> {
    let stat = match std::fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let stat = String::from_utf8_lossy(&stat);
    let started = || {
        // The name, field 2, may hold anything, parentheses and spaces included.
        let (_, fields) = stat.rsplit_once(')')?;
        fields.split_ascii_whitespace().nth(19)?.parse().ok()
    };
    Ok(started())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_times_tell_processes_apart() {
        let of = |pid| start_ticks(pid).unwrap();
        let own = of(i32::try_from(std::process::id()).unwrap());
        assert!(own > of(1) && of(1).is_some());
        assert_eq!(of(i32::MAX), None);
    }

    #[test]
    fn a_process_starts_between_the_ticks_before_and_after() {
        for _ in 0..20 {
            let before = ticks_since_boot();
            let mut child = std::process::Command::new("sleep")
                .arg("9")
                .spawn()
                .unwrap();
            let after = ticks_since_boot();
            let started = start_ticks(i32::try_from(child.id()).unwrap())
                .unwrap()
                .unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(
                (before..=after).contains(&started),
                "{before} {started} {after}"
            );
        }
    }
}
