//! The keeper: a small process that is the parent of all tasks, so that they outlive the agent (D10).
//!
//! ```text
//! agent ──(unix socket: start, signal)──► keeper ──► task
//!   ▲                                       │ └────► task
//!   └───────(started, ended)────────────────┤
//!                                           ▼
//!                      attempts/<id>/journal.jsonl: process, exited
//! ```
//!
//! The keeper is the same program as the agent's, started with [`ARGUMENT`] as its first word: one thread that knows what
//! runs and a few that start programs, without a runtime, settings or a connection, in a session of its own. It claims an
//! attempt, starts its program, notices its end, ends what is left of its group and writes the end into the attempt's
//! journal *before* it tells the agent. It goes on when the agent is gone; the next agent finds its socket in the state
//! directory and adopts what runs there.
//! It ends by itself when nothing runs and no agent has come for `serve::GRACE`, or at once when the agent ended on
//! purpose.
//!
//! `message` is the language between the two. `serve` is the keeper's side, with `tasks` (what runs), `spawners`
//! and `spawn` (starting a program), `wait` (its end) and `out_of_memory` (whether the kernel killed it for its memory).
//! `Keepers` is the agent's side, with `start` (making a keeper) and `connection` (speaking with one).
//!
//! Containers will be kept by their own daemon; what the agent asks of a keeper is one kind of order beside that.

mod connection;
mod frame;
mod keepers;
mod message;
mod out_of_memory;
mod serve;
mod spawn;
mod spawners;
mod start;
mod tasks;
mod wait;

use std::ffi::OsStr;
use std::process::ExitCode;

pub(crate) use self::connection::Told;
pub(crate) use self::keepers::{Keepers, Kept};
pub(crate) use self::message::{NotStarted, StartOrder, User};

/// First argument of a program that is to be a keeper. The second one is the name of its socket.
pub const ARGUMENT: &str = "--be-the-keeper-of-tasks";

/// Name of the directory of sockets in the state directory.
pub(crate) const DIRECTORY: &str = "keepers";

/// To be called first in `main` of every program that starts a [`Worker`](crate::Worker): when this process was started
/// to be a keeper, it is one until it ends, and the exit code is to be returned. Returns none at once otherwise.
pub fn run_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != OsStr::new(ARGUMENT) {
        return None;
    }
    let name = arguments.next().unwrap_or_default();
    Some(match serve::run(&name) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Goes to the keepers' log.
            eprintln!("scitq keeper {}: {error}", name.display());
            ExitCode::FAILURE
        }
    })
}
