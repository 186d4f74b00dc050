//! The dispatcher: keeps a bounded window of dispatches in each batch's queue (D3), takes them back when it must (D4),
//! and finds those that nobody has (D12).
//!
//! [`core`] decides, from what it is told; [`Dispatcher`] has the database commit dispatches and publishes them. It
//! reacts to events only; the one thing that has no event, a dispatch that vanished, is looked for now and then.

pub mod core;
mod dispatcher;
mod perform;
mod revise;
mod withdraw;

pub use dispatcher::{DispatchInput, DispatchSender, Dispatcher};
pub use revise::{Revise, RevisionAnswer, unconfirmed};
