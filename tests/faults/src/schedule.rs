//! What happens when in a series: decided before it begins, by the seed alone.

use std::time::Duration;

use serde::Serialize;

use crate::case::{Case, Fault};
use crate::dice::Dice;

/// Tasks and faults of a series. The tasks come in portions; in each portion but the last one a fault strikes, and the
/// next portion is submitted while it does, so that no fault comes when all is over and dispatching goes on meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    /// How long each task takes beside what its output takes.
    pub(crate) portions: Vec<Vec<Duration>>,
    /// One fewer than portions.
    pub(crate) strikes: Vec<Strike>,
}

/// One fault at its moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Strike {
    pub(crate) fault: Fault,
    /// It comes when so many tasks of the portion have started, …
    pub(crate) after_started: usize,
    /// … this much later.
    pub(crate) after: Duration,
    /// How long it lasts, beyond what it takes to be noticed.
    pub(crate) hold: Duration,
    /// When the next portion is submitted, counted from the fault's begin.
    pub(crate) submit_after: Duration,
    /// Chooses among those it may hit.
    pub(crate) victim: u64,
}

impl Schedule {
    /// The schedule of a case.
    pub(crate) fn new(case: Case, seed: u64, tasks: usize, times: usize) -> Self {
        let mut dice = Dice::of(seed, case.name());
        let faults = faults(case, times, &mut dice);
        let portions = faults.len() + 1;
        let sizes: Vec<usize> = (0..portions)
            .map(|number| tasks * (number + 1) / portions - tasks * number / portions)
            .collect();
        let strikes = faults
            .into_iter()
            .zip(&sizes)
            .map(|(fault, size)| Strike {
                fault,
                after_started: 1 + dice.below_half(*size),
                after: milliseconds(&mut dice, 0, 300),
                hold: milliseconds(&mut dice, 0, 2000),
                submit_after: milliseconds(&mut dice, 0, 1500),
                victim: dice.next(),
            })
            .collect();
        let portions = sizes
            .into_iter()
            .map(|size| durations(size, &mut dice))
            .collect();
        Self { portions, strikes }
    }

    /// Number of all tasks.
    pub(crate) fn tasks(&self) -> usize {
        self.portions.iter().map(Vec::len).sum()
    }
}

fn faults(case: Case, times: usize, dice: &mut Dice) -> Vec<Fault> {
    if let Case::Series(fault) = case {
        return vec![fault; times];
    }
    let mut faults = Vec::new();
    while faults.len() < times.max(Fault::TOGETHER.len()) {
        let mut round = Fault::TOGETHER.to_vec();
        dice.shuffle(&mut round);
        faults.extend(round);
    }
    faults
}

/// Instant ones, short ones, and some that take seconds; of those at least one, so that a fault finds something running.
pub(crate) fn durations(tasks: usize, dice: &mut Dice) -> Vec<Duration> {
    let mut durations: Vec<Duration> = (0..tasks)
        .map(|number| match number * 100 / tasks.max(1) {
            0..8 => milliseconds(dice, 2000, 3500),
            8..25 => milliseconds(dice, 400, 1500),
            25..55 => milliseconds(dice, 50, 400),
            _ => Duration::ZERO,
        })
        .collect();
    dice.shuffle(&mut durations);
    durations
}

fn milliseconds(dice: &mut Dice, low: u64, high: u64) -> Duration {
    Duration::from_millis(dice.between(low, high))
}

/// One strike as it is kept with the logs of a failed run.
#[derive(Debug, Serialize)]
pub(crate) struct StrikeNote {
    fault: &'static str,
    after_started: usize,
    after_ms: u128,
    hold_ms: u128,
    submit_after_ms: u128,
    victim: u64,
}

impl From<&Strike> for StrikeNote {
    fn from(strike: &Strike) -> Self {
        Self {
            fault: strike.fault.name(),
            after_started: strike.after_started,
            after_ms: strike.after.as_millis(),
            hold_ms: strike.hold.as_millis(),
            submit_after_ms: strike.submit_after.as_millis(),
            victim: strike.victim,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_schedule_and_another_one_another() {
        let schedule = |seed| Schedule::new(Case::Series(Fault::BrokerKill), seed, 300, 4);
        assert_eq!(schedule(7), schedule(7));
        assert_ne!(schedule(7), schedule(8));
    }

    #[test]
    fn faults_strike_where_tasks_are() {
        for (tasks, times) in [(300, 4), (16, 1), (7, 3), (2, 1)] {
            for seed in 0..50 {
                let schedule = Schedule::new(Case::Series(Fault::WorkerKill), seed, tasks, times);
                assert_eq!(schedule.tasks(), tasks);
                assert_eq!(schedule.strikes.len(), times);
                assert_eq!(schedule.portions.len(), times + 1);
                for (portion, strike) in schedule.portions.iter().zip(&schedule.strikes) {
                    assert!(portion.iter().any(|long| *long >= Duration::from_secs(2)));
                    assert!((1..=portion.len()).contains(&strike.after_started));
                }
            }
        }
    }

    #[test]
    fn in_a_mixed_series_every_fault_strikes() {
        let schedule = Schedule::new(Case::Mixed, 1, 300, 4);
        for fault in Fault::TOGETHER {
            assert!(schedule.strikes.iter().any(|strike| strike.fault == *fault));
        }
    }
}
