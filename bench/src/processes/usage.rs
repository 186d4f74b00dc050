//! Processor time that programs used between two moments.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde::Serialize;

use super::stat;

/// Processor time of some programs, and of the whole machine, at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    programs: BTreeMap<String, Seconds>,
    machine: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seconds {
    user: f64,
    system: f64,
    children: f64,
}

/// Processor time that one program used.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CpuUse {
    /// The program.
    pub program: String,
    /// Seconds in user mode.
    pub user_seconds: f64,
    /// Seconds in kernel mode.
    pub system_seconds: f64,
    /// Seconds of the processes it started: the keeper and the tasks of a worker, backends of PostgreSQL.
    pub children_seconds: f64,
}

impl CpuUse {
    /// All of it.
    pub fn total(&self) -> f64 {
        self.user_seconds + self.system_seconds + self.children_seconds
    }
}

/// What happened between two snapshots.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UsageBetween {
    /// Each program.
    pub programs: Vec<CpuUse>,
    /// Seconds that went to everything else on the machine: what disturbed the measurement.
    pub elsewhere_seconds: f64,
}

impl Snapshot {
    /// Takes a snapshot of these programs, given by name and process id.
    pub fn take(programs: &[(String, u32)]) -> anyhow::Result<Self> {
        let mut all = stat::all();
        stat::give_keepers_to(programs.iter().map(|(_, pid)| *pid), &mut all);
        let text = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let machine = stat::busy_seconds(&text).context("/proc/stat cannot be understood")?;
        let mut taken = BTreeMap::new();
        for (name, pid) in programs {
            let root = all
                .get(pid)
                .with_context(|| format!("{name} (process {pid}) has ended"))?;
            let living = stat::below(*pid, &all)
                .iter()
                .filter_map(|pid| all.get(pid))
                .map(|child| child.user + child.system + child.waited_for)
                .sum::<f64>();
            let seconds = Seconds {
                user: root.user,
                system: root.system,
                children: root.waited_for + living,
            };
            taken.insert(name.clone(), seconds);
        }
        Ok(Self {
            programs: taken,
            machine,
        })
    }

    /// What was used from this snapshot to a later one.
    pub fn until(&self, later: &Self) -> UsageBetween {
        let programs: Vec<CpuUse> = later
            .programs
            .iter()
            .map(|(name, after)| {
                let before = self.programs.get(name).copied().unwrap_or_default();
                CpuUse {
                    program: name.clone(),
                    user_seconds: after.user - before.user,
                    system_seconds: after.system - before.system,
                    children_seconds: after.children - before.children,
                }
            })
            .collect();
        let known: f64 = programs.iter().map(CpuUse::total).sum();
        UsageBetween {
            programs,
            // The two are counted at slightly different moments and in different ways.
            elsewhere_seconds: (later.machine - self.machine - known).max(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_child_used_is_counted_when_it_is_gone() {
        let programs = [("test".to_owned(), std::process::id())];
        let before = Snapshot::take(&programs).unwrap();
        let script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let status = std::process::Command::new("sh")
            .args(["-c", script])
            .status();
        assert!(status.unwrap().success());
        let after = Snapshot::take(&programs).unwrap();
        let used = before.until(&after);
        assert!(used.programs[0].children_seconds > 0.0, "{used:?}");
        assert!(used.elsewhere_seconds >= 0.0);
    }

    #[test]
    fn a_program_that_is_gone_is_named() {
        let error = Snapshot::take(&[("server".to_owned(), u32::MAX)]).unwrap_err();
        assert!(error.to_string().contains("server"), "{error}");
    }
}
