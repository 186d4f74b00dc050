//! The scitq server: database, REST interface, dispatcher and event projection.
//!
//! [`start`] brings everything up in the background and answers at once, whether or not broker and database can be
//! reached yet. REST runs on every server; the leader alone dispatches tasks and reads what workers report (D12).

pub mod control;
pub mod db;
pub mod dispatch;
pub mod events;
pub mod explain;
pub mod http;
pub mod leader;
pub mod maintenance;
pub mod notices;
pub mod nudge;
mod patience;
pub mod readiness;
mod server;

pub use scitq_broker as broker;
pub use server::{ServerError, ServerHandle, ServerOptions, start};
