//! Seeded schedules of faults against the pure cores of scitq.
//!
//! What decides is the real code; broker, database, processes, network and clock are simulated in one thread, so that a seed
//! says everything. A schedule is a minute and a half of trouble (submissions, changes and faults at random moments) and then
//! peace, in which everything must come to rest. `docs/RELIABILITY.md` tells what exactly is real, what is simulated, and what
//! is checked.
//!
//! [`Mutant`]s break one rule each at the edge of the cores: the tests see to it that each is noticed by the invariant that it
//! breaks.
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
