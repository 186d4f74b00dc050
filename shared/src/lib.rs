//! Domain types, ids, the state machine, protocol messages and settings of scitq.
//!
//! This crate has no I/O framework in it: server, worker and command line agree here on words and decisions, and
//! everything that can be decided without a network or a database is decided in pure functions of this crate.

pub mod api;
pub mod command;
pub mod definition;
pub mod execution;
pub mod fault;
pub mod ids;
pub mod logging;
pub mod names;
pub mod output;
pub mod protocol;
pub mod secret;
pub mod settings;
pub mod submit;
pub mod task;
pub mod transition;
pub mod worker;

/// Time of an event as scitq keeps it: UTC inside, ISO 8601 outside.
pub type Timestamp = chrono::DateTime<chrono::Utc>;

/// The present time, cut to microseconds: the finest step that both databases keep, so that a value read back equals
/// the value written.
pub fn now() -> Timestamp {
    use chrono::SubsecRound;
    chrono::Utc::now().trunc_subsecs(6)
}
