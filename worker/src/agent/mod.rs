//! The agent: a pure core that decides, and a shell that talks to the broker and runs processes.

pub mod core;
pub(crate) mod link;
pub(crate) mod shell;
