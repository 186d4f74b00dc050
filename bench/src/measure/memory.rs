//! Resident memory of the idle processes, after their start and after work.

use std::time::Duration;

use serde::Serialize;

use crate::figure::{Figure, Unit};
use crate::floors;
use crate::say;
use crate::system::{RoleMemory, System};

/// Left in peace for this long, a process counts as idle.
const IDLE_AFTER: Duration = Duration::from_secs(5);

/// Memory at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct MemoryAt {
    /// After what.
    pub after: &'static str,
    /// Each process.
    pub processes: Vec<RoleMemory>,
}

/// After the start.
pub const START: &str = "the start";

/// Lets the system come to rest, then measures. The peaks count from the call before.
pub async fn measure(system: &System, after: &'static str) -> anyhow::Result<MemoryAt> {
    tokio::time::sleep(IDLE_AFTER).await;
    let processes = system.memory()?;
    system.forget_peaks()?;
    let each = processes.iter().map(|process| {
        let memory = mebibytes(process.memory.resident_bytes);
        format!("{} {memory:.1} MiB", process.role.text())
    });
    let each = each.collect::<Vec<_>>().join(", ");
    say(format!("{}, idle after {after}: {each}", system.pair));
    Ok(MemoryAt { after, processes })
}

/// Bytes as MiB, for figures.
#[expect(
    clippy::cast_precision_loss,
    reason = "memory of a process is far below 2^52 bytes"
)]
pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Their figures in the summary: what is idle after the start and at the end.
pub fn figures(moments: &[MemoryAt]) -> Vec<Figure> {
    let start = moments.iter().find(|moment| moment.after == START);
    let end = moments.last().filter(|moment| moment.after != START);
    let after_start = start.into_iter().flat_map(|moment| &moment.processes);
    let at_the_end = end.into_iter().flat_map(|moment| &moment.processes);
    let figure = |when: &str, process: &RoleMemory| {
        let name = format!("{}, resident, idle {when}", process.role.text());
        let value = mebibytes(process.memory.resident_bytes);
        Figure::new(name, value, Unit::Mebibytes)
    };
    let after_start = after_start
        .map(|process| figure("after the start", process).asked(floors::idle_memory(process.role)));
    let at_the_end = at_the_end.map(|process| figure("after all runs", process));
    after_start.chain(at_the_end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::Memory;
    use crate::system::Role;

    fn moment(after: &'static str, mebibytes: u64) -> MemoryAt {
        let memory = Memory {
            resident_bytes: mebibytes << 20,
            own_bytes: 0,
            peak_bytes: 0,
        };
        let role = Role::Worker;
        MemoryAt {
            after,
            processes: vec![RoleMemory { role, memory }],
        }
    }

    #[test]
    fn start_and_end_are_shown() {
        let figures = figures(&[
            moment(START, 20),
            moment("throughput", 99),
            moment("bulk", 40),
        ]);
        let values: Vec<f64> = figures.iter().map(|figure| figure.value).collect();
        assert_eq!(values, [20.0, 40.0]);
        assert_eq!(figures[0].passed, Some(true));
        assert_eq!(figures[1].passed, None);
    }

    #[test]
    fn the_start_alone_is_not_shown_twice() {
        assert_eq!(figures(&[moment(START, 31)]).len(), 1);
        assert_eq!(figures(&[moment(START, 31)])[0].passed, Some(false));
        assert_eq!(figures(&[]), []);
    }
}
