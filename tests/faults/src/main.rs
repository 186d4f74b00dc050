//! `scitq-faults`: series of tasks on the real programs while parts of the system are killed, stopped, cut off or wiped.
//! docs/RELIABILITY.md says what is promised, and which case tests it.

mod acceptance;
mod api;
mod broker;
mod case;
mod dice;
mod journal;
mod judge;
mod ledger;
mod options;
mod outcome;
mod place;
mod processes;
mod program;
mod report;
mod run;
mod scenario;
mod schedule;
mod series;
mod strike;
mod striking;
mod system;
mod task;

use std::fmt::Display;

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

use case::CASES;
use options::{Form, Options};

/// Exit code of a program that was interrupted, as shells give it.
const INTERRUPTED: i32 = 130;

// One thread: the processes that are started ask to be killed when the thread that started them ends.
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let options = Options::parse();
    let code = if options.list {
        list()
    } else {
        run_all(&options).await
    };
    // Not by returning: that would wait for services that are just being started, and this ends them.
    std::process::exit(code);
}

async fn run_all(options: &Options) -> i32 {
    let seed = options.seed.unwrap_or_else(|| rand_seed() % 1_000_000);
    say("all", format!("seed {seed}; repeat with --seed {seed}"));
    let report = tokio::select! {
        report = run::run(options, seed) => report,
        // What was started has been ended by then: the future that owned it is gone.
        outcome = interrupted() => {
            match outcome {
                Ok(()) => say("all", "interrupted"),
                Err(error) => say("all", format!("signals cannot be heard: {error}")),
            }
            return INTERRUPTED;
        }
    };
    match options.output {
        Form::Table => println!("{}", report.text()),
        Form::Json => match serde_json::to_string_pretty(&report) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                eprintln!("scitq-faults: error: the results cannot be written: {error}");
                return 1;
            }
        },
    }
    i32::from(report.failed() > 0)
}

fn list() -> i32 {
    for description in CASES {
        println!("{:18} {}", description.name, description.what);
    }
    0
}

/// A number that nobody has chosen.
fn rand_seed() -> u64 {
    let now = chrono::Utc::now().timestamp_micros().unsigned_abs();
    dice::Dice::new(now ^ u64::from(std::process::id())).next()
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

/// Tells the user what is being done. Standard output is for the results.
fn say(who: &str, text: impl Display) {
    eprintln!("faults: {who}: {text}");
}
