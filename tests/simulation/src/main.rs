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
    /// Break a rule, named as in `mutant.rs`
    #[arg(long)]
    mutant: Option<String>,
    /// Print every event
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let Arguments {
        seed,
        schedules,
        mutant,
        trace,
    } = Arguments::parse();
    let broken = mutant.as_ref().map(|name| {
        let mut all = scitq_simulation::Mutant::ALL.into_iter();
        all.find(|mutant| format!("{mutant:?}").eq_ignore_ascii_case(name))
    });
    let Some(mutant) = broken.map_or(Some(None), |found| found.map(Some)) else {
        let all = scitq_simulation::Mutant::ALL;
        eprintln!("there is no such mutant; there are {all:?}");
        return ExitCode::FAILURE;
    };
    let mut failed = false;
    for seed in seed..seed.saturating_add(schedules) {
        let outcome = scitq_simulation::run(seed, mutant, trace);
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
