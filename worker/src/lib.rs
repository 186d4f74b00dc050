//! The scitq worker: receives tasks from the broker, runs them and reports what happened.
//!
//! [`Worker::start`] is the way in. Inside, [`agent::core`] decides everything in one synchronous state machine; around
//! it a shell talks to the broker ([`scitq_broker`]), has tasks executed and sends their output. Every attempt has its own
//! directory until the server has all of it, and tasks are children of a process of their own, the [`keeper`], so an
//! agent may be killed at any time. A program that starts a worker calls [`keeper::run_if_asked`] first in its `main`.

pub mod agent;
mod attempt;
mod error;
pub mod keeper;
mod machine;
mod options;
mod output;
pub mod runner;
mod spares;
mod state_directory;
mod worker;

pub use error::WorkerError;
pub use options::{OwnProgram, WorkerOptions};
pub use worker::{Worker, WorkerHandle};
