//! What the kernel knows about processes: processor time, memory, family.

mod memory;
mod stat;
mod usage;

pub use memory::{Memory, forget_peak, memory};
pub use stat::children_named;
pub use usage::{Snapshot, UsageBetween};
