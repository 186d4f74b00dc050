//! The simulation, at its full length, and what it must notice.

#![expect(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a test: what fails is shown, and figures are for people"
)]

use std::collections::BTreeMap;
use std::time::Instant;

use scitq_simulation::{Fault, Mutant, Outcome, run};

/// Schedules of one run.
const SCHEDULES: u64 = 10_000;
/// A mutant must be noticed within so many: a few rules matter in rare schedules only.
const NOTICED_WITHIN: u64 = 20_000;

/// Runs these seeds on all cores.
fn run_all(seeds: u64) -> Vec<(u64, Outcome)> {
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let parts: Vec<_> = (0..threads)
        .map(|part| {
            std::thread::spawn(move || {
                let mine = (part..seeds).step_by(usize::try_from(threads).unwrap());
                mine.map(|seed| (seed, run(seed, None, false)))
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    parts
        .into_iter()
        .flat_map(|part| part.join().unwrap())
        .collect()
}

#[test]
fn nothing_is_lost_whatever_happens() {
    let began = Instant::now();
    let outcomes = run_all(SCHEDULES);
    let mut struck: Vec<u32> = outcomes
        .iter()
        .map(|(_, outcome)| outcome.faults.values().sum())
        .collect();
    struck.sort_unstable();
    let mut kinds: BTreeMap<Fault, u64> = BTreeMap::new();
    for (fault, times) in outcomes.iter().flat_map(|(_, outcome)| &outcome.faults) {
        *kinds.entry(*fault).or_default() += u64::from(*times);
    }
    let all: u64 = struck.iter().map(|times| u64::from(*times)).sum();
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(|(_, it)| of(it)).sum::<u64>();
    println!(
        "{} schedules in {:.1} s: {} tasks, {} starts, {} attempts lost, {} events; {} changes of tasks, {} of them \
         unconfirmed; {} workers and {} batches paused for failures",
        outcomes.len(),
        began.elapsed().as_secs_f64(),
        sum(|it| it.tasks as u64),
        sum(|it| u64::from(it.starts)),
        sum(|it| it.lost as u64),
        sum(|it| it.events),
        sum(|it| u64::from(it.changed)),
        sum(|it| u64::from(it.unconfirmed)),
        sum(|it| u64::from(it.paused.0)),
        sum(|it| u64::from(it.paused.1)),
    );
    println!(
        "faults that struck in a schedule: mean {:.1}, median {}",
        all as f64 / outcomes.len() as f64,
        struck[struck.len() / 2]
    );
    println!(
        "{:>8} {:>6} {:>6}  by kind, with mean and median of the schedules",
        "times", "mean", "median"
    );
    for (fault, times) in kinds {
        let mut of: Vec<u32> = outcomes
            .iter()
            .map(|(_, outcome)| outcome.faults.get(&fault).copied().unwrap_or(0))
            .collect();
        of.sort_unstable();
        let mean = times as f64 / of.len() as f64;
        println!("{times:>8} {mean:>6.2} {:>6}  {fault:?}", of[of.len() / 2]);
    }
    let violations: Vec<String> = outcomes
        .iter()
        .filter_map(|(seed, outcome)| {
            let violation = outcome.violation.as_ref()?;
            Some(format!(
                "seed {seed}: {violation} (cargo run -p scitq-simulation -- --seed {seed} --trace)"
            ))
        })
        .collect();
    assert!(
        violations.is_empty(),
        "{} of {} schedules went wrong:\n{}",
        violations.len(),
        outcomes.len(),
        violations[..violations.len().min(20)].join("\n")
    );
}

#[test]
fn a_seed_says_everything() {
    for seed in 0..50 {
        let (once, again) = (run(seed, None, false), run(seed, None, false));
        assert_eq!((once.trace, once.events), (again.trace, again.events));
    }
    let mut traces: Vec<u64> = (0..50).map(|seed| run(seed, None, false).trace).collect();
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 50, "different seeds, different schedules");
}

#[test]
fn every_mutant_is_noticed() {
    let searches = Mutant::ALL.map(|mutant| {
        let search = move || {
            (0..NOTICED_WITHIN).find_map(|seed| {
                let outcome = run(seed, Some(mutant), false);
                let breaks = |violation: &String| violation.contains(mutant.breaks());
                let violation = outcome.violation.filter(breaks);
                violation.map(|violation| (seed, violation))
            })
        };
        (mutant, std::thread::spawn(search))
    });
    let mut unnoticed = Vec::new();
    for (mutant, search) in searches {
        match search.join().unwrap() {
            Some((seed, violation)) => println!("{mutant:?}: seed {seed}: {violation}"),
            None => unnoticed.push(format!("{mutant:?} ({})", mutant.breaks())),
        }
    }
    assert!(
        unnoticed.is_empty(),
        "not noticed in {NOTICED_WITHIN} schedules: {}",
        unnoticed.join(", ")
    );
}
