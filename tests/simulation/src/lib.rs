//! Seeded schedules of faults against the pure cores of scitq.
//!
//! The worker's core, the dispatcher's core, the projection and the comparison of inventories are the real ones; broker,
//! database, processes, network and clock are simulated in one thread, so that a seed says everything. A schedule is a
//! minute and a half of trouble (submissions, changes and faults at random moments) and then peace, in which everything
//! must come to rest:
//!
//! - every task ends, and none is lost;
//! - two processes of a task never live at once, unless the first was declared lost;
//! - a task is started once, and once more for each failure and each loss;
//! - nothing starts with an older revision than was answered;
//! - the history says what happened, and has the output;
//! - no attempt directory, no message and no slot is left over.
//!
//! [`Mutant`]s break one rule each at the edge of the cores: the tests see to it that each is noticed.
//!
//! `cargo run -p scitq-simulation -- --seed 7 --trace` shows one schedule, event by event.

mod broker;
mod database;
mod faults;
mod ledger;
mod mutant;
mod server;
mod steering;
mod worker;
mod world;

pub use faults::Fault;
pub use mutant::Mutant;
pub use world::Outcome;

/// Runs the schedule of a seed; `trace` prints its events.
pub fn run(seed: u64, mutant: Option<Mutant>, trace: bool) -> Outcome {
    world::World::new(seed, mutant, trace).run()
}
