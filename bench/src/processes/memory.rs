//! `/proc/PID/status`: memory.

use std::fs;

use anyhow::Context as _;
use serde::Serialize;

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[expect(
    clippy::struct_field_names,
    reason = "each name tells its unit in the results"
)]
pub struct Memory {
    /// Resident now (`VmRSS`): its own data and the pages of its program that it has touched.
    pub resident_bytes: u64,
    /// Of these, its own data only (`RssAnon`).
    pub own_bytes: u64,
    /// The most that was resident since its start or the last [`forget_peak`] (`VmHWM`).
    pub peak_bytes: u64,
}

/// The memory of a process.
pub fn memory(pid: u32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse(&text).with_context(|| format!("{path} does not tell memory; has the process ended?"))
}

/// Begins the peak anew at what is resident now.
pub fn forget_peak(pid: u32) -> anyhow::Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").with_context(|| format!("cannot write {path}"))
}

fn parse(text: &str) -> Option<Memory> {
    let bytes = |name: &str| -> Option<u64> {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024)
    };
    Some(Memory {
        resident_bytes: bytes("VmRSS")?,
        own_bytes: bytes("RssAnon")?,
        peak_bytes: bytes("VmHWM")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_by_their_whole_name() {
        let text = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nRssAnon:\t     512 kB\n";
        let expected = Memory {
            resident_bytes: 1 << 20,
            own_bytes: 1 << 19,
            peak_bytes: 1 << 21,
        };
        assert_eq!(parse(text), Some(expected));
        assert_eq!(parse("Name:\tzombie\n"), None);
    }

    #[test]
    fn a_peak_is_seen_and_forgotten() {
        let pid = std::process::id();
        let large = 64 << 20;
        let block = vec![1_u8; large];
        assert_eq!(std::hint::black_box(&block).len(), large);
        drop(block);
        assert!(memory(pid).unwrap().peak_bytes >= large as u64);
        forget_peak(pid).unwrap();
        let after = memory(pid).unwrap();
        assert!(after.peak_bytes < after.resident_bytes + large as u64 / 2);
    }
}
