//! The command line of scitq.
//!
//! One file per command: it holds the command's arguments and a `run` that asks the server and shows the answer. What
//! they share is beside them: [`client`] (requests that ride out an outage), [`screen`] (tables, JSON, notes),
//! [`failure`] (errors with a remedy and an exit code), [`text`] (sizes, times, harmless text).

pub mod batch;
pub mod cli;
pub mod client;
pub mod completions;
pub mod config;
pub mod execution;
pub mod failure;
pub mod follow;
pub mod harmless;
pub mod launch;
pub mod maintenance;
pub mod paging;
pub mod position;
pub mod screen;
pub mod server_url;
pub mod stream;
pub mod table;
pub mod task;
pub mod text;
pub mod up;
pub mod waiting;
pub mod worker;

use std::process::ExitCode;

use clap::Parser as _;

use crate::failure::Failure;

/// Reads the command line, does what it says, and answers with the exit code. Never panics on a closed output.
pub fn main() -> ExitCode {
    // clap prints usage errors itself and ends with 2, or with 0 after --help and --version
    let cli = cli::Cli::parse();
    let screen = screen::Screen::new(&cli.global);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            return screen.failure(&Failure::local(format!("cannot start threads: {error}")));
        }
    };
    let code = match runtime.block_on(cli.run(&screen)) {
        Ok(code) => code,
        Err(failure) => screen.failure(&failure),
    };
    // A blocking read of standard input may still be under way: nobody waits for it.
    runtime.shutdown_background();
    code
}
