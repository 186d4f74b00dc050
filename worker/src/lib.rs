//! The scitq worker: receives tasks from the broker, runs them and reports what happened.
//!
//! [`Worker::start`] is the way in. Inside, [`agent::core`] decides everything in one synchronous state machine; around
//! it a shell talks to the broker ([`scitq_broker`]), executes tasks and sends their output. Every attempt has its own
//! directory until the server has all of it, so an agent may be killed at any time.

pub mod agent;
mod attempt;
mod error;
mod machine;
mod options;
mod output;
pub mod runner;
mod spares;
mod state_directory;
mod worker;

pub use error::WorkerError;
pub use options::WorkerOptions;
pub use worker::{Worker, WorkerHandle};
