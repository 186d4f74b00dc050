//! Runs schedules by hand, or shows one.

use std::process::ExitCode;

use clap::Parser;

/// Seeded schedules of faults against the pure cores of scitq
#[derive(Debug, Parser)]
#[command(name = "scitq-simulation")]
struct Arguments {
    /// First seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many schedules
    #[arg(long, default_value_t = 1)]
    schedules: u64,
    /// Print every event
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let Arguments {
        seed,
        schedules,
        trace,
    } = Arguments::parse();
    let mut failed = false;
    for seed in seed..seed.saturating_add(schedules) {
        let outcome = scitq_simulation::run(seed, None, trace);
        if schedules == 1 {
            println!("{outcome:#?}");
        }
        if let Some(violation) = outcome.violation {
            println!("seed {seed}: {violation}");
            failed = true;
        }
    }
    ExitCode::from(u8::from(failed))
}
