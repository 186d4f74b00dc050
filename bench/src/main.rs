//! `scitq-bench`: measures scitq on this machine, on both pairs of broker and database, and compares it with what is
//! asked of it. bench/README.md explains every figure.

mod api;
mod configuration;
mod figure;
mod file_system;
mod floors;
mod machine;
mod measure;
mod options;
mod pair;
mod processes;
mod program;
mod programs;
mod report;
mod run;
mod scratch;
mod show;
mod statistics;
mod system;

use std::process::ExitCode;

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

use options::Options;

/// Exit code of a program that was interrupted, as shells give it.
const INTERRUPTED: u8 = 130;

// One thread: the processes that are started ask to be killed when the thread that started them ends.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = tokio::select! {
        outcome = run::run(&options) => outcome,
        outcome = interrupted() => match outcome {
            // What was started has been ended by now: the future that owned it is gone.
            Ok(()) => {
                say("interrupted");
                return ExitCode::from(INTERRUPTED);
            }
            Err(error) => Err(error.into()),
        }
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("scitq-bench: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn interrupted() -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Tells the user what is being done. Standard output is for the figures.
fn say(text: impl AsRef<str>) {
    eprintln!("bench: {}", text.as_ref());
}
