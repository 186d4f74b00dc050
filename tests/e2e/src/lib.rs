//! What the end-to-end tests are written with: the real programs as child processes, a REST client, and the command
//! line, on both pairs of broker and database. The tests are in `tests/e2e`.
//!
//! A test gets a [`System`] of its own in a temporary directory, so that tests disturb each other only by their load.
//! Nothing outlives the test process: the programs get a death signal, tasks are found by their environment. Failures
//! panic, because there is nothing else a test could do; the logs of the programs are shown then.
#![expect(
    clippy::panic,
    clippy::expect_used,
    reason = "a test that cannot do what it means to has failed"
)]

mod ctl;
mod embedded;
mod eventually;
mod gate;
mod leftovers;
mod program;
mod rest;
mod separate;
mod setup;
mod site;
mod system;

pub use ctl::{Ctl, Ended, Following};
pub use embedded::Embedded;
pub use eventually::eventually;
pub use gate::Gate;
pub use program::{Program, binary, programs};
pub use rest::{Answer, Rest};
pub use separate::Separate;
pub use setup::Setup;
pub use site::Site;
pub use system::{Pair, System};

use std::time::Duration;

/// How long anything may take; generous, because machines that run tests are loaded.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// The name of the worker that every system starts with.
pub const WORKER: &str = "w1";
