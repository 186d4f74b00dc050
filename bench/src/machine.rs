//! What the figures were measured on, as far as it matters for comparing them.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// The machine and the build.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: u16,
    /// Model of the processor.
    pub processor: String,
    /// Main memory in bytes.
    pub memory_bytes: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// File system of the temporary directory, where everything is kept.
    pub file_system: String,
    /// Commit of the sources, where git knows it; ends in `+` when files are changed.
    pub commit: Option<String>,
    /// True if this program was built for debugging; the measured ones then probably were too.
    pub debug_build: bool,
}

impl Machine {
    /// Looks around.
    pub fn describe() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let processor = field(&text("/proc/cpuinfo"), "model name");
        let memory = field(&text("/proc/meminfo"), "MemTotal");
        let kibibytes = memory
            .as_deref()
            .and_then(|memory| memory.strip_suffix("kB")?.trim().parse::<u64>().ok());
        Self {
            cores: scitq_shared::settings::cores(),
            processor: processor.unwrap_or_else(|| "unknown".to_owned()),
            memory_bytes: kibibytes.unwrap_or(0) * 1024,
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: crate::file_system::describe(&std::env::temp_dir()),
            commit: commit(),
            debug_build: cfg!(debug_assertions),
        }
    }
}

/// The value behind a name and a colon.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then(|| value.trim().to_owned())
    })
}

fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    let mark = if changed.is_empty() { "" } else { "+" };
    Some(format!("{commit}{mark}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model\t\t: 85\nmodel name\t: Some CPU @ 2.00GHz\n";
        assert_eq!(field(text, "model name").unwrap(), "Some CPU @ 2.00GHz");
        assert_eq!(field(text, "name"), None);
    }

    #[test]
    fn this_machine_has_cores_and_memory() {
        let machine = Machine::describe();
        assert!(machine.cores > 0 && machine.memory_bytes > 1 << 20);
        assert!(!machine.kernel.is_empty());
    }
}
