//! The dispatcher: keeps a bounded window of dispatches in each batch's queue (D3).
//!
//! [`Windows`] decides, from what it is told, which batches are due; [`Dispatcher`] has the database commit dispatches
//! and publishes them. It reacts to events only: nothing here polls.

mod publish;
mod windows;
mod withdraw;

pub use publish::{DispatchInput, DispatchSender, Dispatcher};
pub use windows::{MIN_WINDOW, Windows, window_of};
