//! A real worker, a real (in-process) broker, real processes; the test plays the server.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod adoption;
mod connections;
mod control;
mod delivery;
mod output;
mod processes;
mod program;
mod rabbitmq;
mod restarts;
mod scarcity;
mod server;
mod site;
