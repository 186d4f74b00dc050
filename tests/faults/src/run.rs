//! Running cases, one after the other or several at the same time.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;

use futures::FutureExt as _;
use tokio::time::Instant;

use crate::case::Case;
use crate::options::Options;
use crate::outcome::{Ended, Outcome};
use crate::place::{self, Place};
use crate::report::Report;
use crate::scenario;
use crate::schedule::{Schedule, StrikeNote};
use crate::system::Services;
use crate::{say, striking};

/// Runs everything that was asked for.
pub(crate) async fn run(options: &Options, seed: u64) -> Report {
    place::sweep();
    let cases = options.cases();
    let waiting: Mutex<VecDeque<(usize, Case)>> =
        Mutex::new(cases.into_iter().enumerate().collect());
    let done: Mutex<Vec<(usize, Outcome)>> = Mutex::default();
    let lanes = (0..options.lanes).map(|_| async {
        let mut services = None;
        // Taken out in a function of its own: in the loop's head the lock would be held while the case runs.
        while let Some((number, case)) = next(&waiting) {
            let outcome = one(case, options, seed, &mut services).await;
            locked(&done).push((number, outcome));
        }
        end(services).await;
    });
    futures::future::join_all(lanes).await;
    let mut done = std::mem::take(&mut *locked(&done));
    done.sort_by_key(|(number, _)| *number);
    Report {
        seed,
        cases: done.into_iter().map(|(_, outcome)| outcome).collect(),
    }
}

/// Ends services beside everything else: it blocks, and would look like a fault to the other lanes.
async fn end(services: Option<Services>) {
    // A panic in there has been told by then.
    let _ = tokio::task::spawn_blocking(move || drop(services)).await;
}

fn next(waiting: &Mutex<VecDeque<(usize, Case)>>) -> Option<(usize, Case)> {
    locked(waiting).pop_front()
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs a case, whatever happens. The services serve the next one as well, unless it failed.
async fn one(case: Case, options: &Options, seed: u64, services: &mut Option<Services>) -> Outcome {
    let description = case.description();
    if let Err(reason) = possible(case) {
        return not_run(case, &reason);
    }
    say(case.name(), description.what);
    let began = Instant::now();
    let mut outcome = match Place::new(case.name()) {
        Ok(place) => {
            let run = attempt(case, options, seed, services, &place);
            // The testkit panics when a service does not start: this case has failed then, and the others go on.
            let outcome = AssertUnwindSafe(run).catch_unwind().await;
            let mut outcome = match outcome {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(error)) => failed(format!("{error:#}")),
                Err(panic) => failed(words(panic.as_ref())),
            };
            outcome.decide();
            if outcome.result == Ended::Failed {
                // The next case does not get services that this one may have broken.
                let broken = services.take();
                keep(case, options, seed, &place, broken.as_ref(), &mut outcome);
                end(broken).await;
            }
            outcome
        }
        Err(error) => failed(format!("{error:#}")),
    };
    case.name().clone_into(&mut outcome.case);
    outcome.took_seconds = began.elapsed().as_secs_f64();
    let result = if outcome.result == Ended::Passed {
        "passed"
    } else {
        "FAILED"
    };
    say(
        case.name(),
        format!("{result} after {:.0} s", outcome.took_seconds),
    );
    for finding in &outcome.findings {
        say(case.name(), finding);
    }
    outcome
}

async fn attempt(
    case: Case,
    options: &Options,
    seed: u64,
    services: &mut Option<Services>,
    place: &Place,
) -> anyhow::Result<Outcome> {
    if case == Case::EmbeddedKill {
        return scenario::embedded_kill::run(place, options, seed).await;
    }
    if case == Case::ConsumerTimeout {
        // It wants other settings of the broker than all others.
        let services = scenario::consumer_timeout::services().await;
        let outcome = scenario::consumer_timeout::run(&services, place).await;
        end(Some(services)).await;
        return outcome;
    }
    let services = match services {
        Some(services) => services,
        none => none.insert(Services::start().await),
    };
    match case {
        Case::Series(_) | Case::Mixed => {
            let schedule = Schedule::new(case, seed, options.tasks(), options.times());
            striking::run(case, services, place, &schedule).await
        }
        Case::ServerAway => scenario::server_away::run(services, place, seed, options).await,
        Case::BrokerAway => scenario::broker_away::run(services, place).await,
        Case::QueueDeleted => scenario::queue_deleted::run(services, place).await,
        Case::QueueChanged => scenario::queue_changed::run(services, place).await,
        Case::ListenerFull => scenario::listener_full::run(services, place).await,
        Case::EventRefused => scenario::event_refused::run(services, place).await,
        Case::BrokerAlarm => scenario::broker_alarm::run(services, place).await,
        Case::EmbeddedKill | Case::ConsumerTimeout => Ok(failed("it is run elsewhere".to_owned())),
    }
}

/// Whether this machine lets us do it.
fn possible(case: Case) -> Result<(), String> {
    if case != Case::Series(crate::case::Fault::DiskFull) {
        return Ok(());
    }
    let trial = Place::new("mount").map_err(|error| format!("{error:#}"))?;
    place::mount(trial.root(), 1).map_err(|error| format!("{error:#} (it takes root's rights)"))
}

fn failed(finding: String) -> Outcome {
    Outcome {
        findings: vec![finding],
        ..Outcome::default()
    }
}

fn not_run(case: Case, reason: &str) -> Outcome {
    say(case.name(), format!("not run: {reason}"));
    Outcome {
        case: case.name().to_owned(),
        result: Ended::NotRun,
        findings: vec![format!("not run: {reason}")],
        ..Outcome::default()
    }
}

/// Keeps the logs, and the schedule with them.
fn keep(
    case: Case,
    options: &Options,
    seed: u64,
    place: &Place,
    services: Option<&Services>,
    outcome: &mut Outcome,
) {
    let schedule = Schedule::new(case, seed, options.tasks(), options.times());
    let strikes: Vec<StrikeNote> = schedule.strikes.iter().map(StrikeNote::from).collect();
    let notes = serde_json::json!({ "case": case.name(), "seed": seed, "schedule": strikes, "outcome": &outcome });
    // Notes beside the logs; without them the logs are still worth something.
    let _ = std::fs::write(place.log("notes"), format!("{notes:#}\n"));
    let mut further = Vec::new();
    if let Some(services) = services {
        further.push(("rabbitmq.log", services.broker.log_file()));
        further.push(("postgresql.log", services.database.log_file()));
    }
    match place.keep(case.name(), &further) {
        Ok(logs) => outcome.logs = Some(logs),
        Err(error) => outcome
            .findings
            .push(format!("the logs could not be kept: {error:#}")),
    }
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "a panic without words".to_owned())
}
