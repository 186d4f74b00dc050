//! What workers report, applied to the database in batches (D9).
//!
//! `project` decides in memory what a batch of reports changes, `inventory` what a worker's list of attempts says,
//! `consume` reads the queues, has the database store the decisions in one transaction, and acks after the commit.

mod consume;
mod faults;
mod heartbeat;
mod import;
mod inventory;
mod markers;
mod project;
mod read;

pub use consume::{Consumed, EventsConsumer};
pub use faults::{Verdict, judge};
pub use heartbeat::{HeartbeatConsumer, Present};
pub use import::import_unknown;
pub use inventory::{Answer, compare, unknown};
pub use markers::Markers;
pub use project::{Happening, SideEffects, needs, project, project_restored};
