//! A series in which faults strike.

use tokio::time::sleep;

use crate::acceptance::{accept_end, accept_tasks};
use crate::case::{Case, Fault};
use crate::judge::Rules;
use crate::outcome::Outcome;
use crate::place::Place;
use crate::say;
use crate::schedule::Schedule;
use crate::series::Series;
use crate::strike::strike;
use crate::system::{Services, Setup, System};
use crate::task::Effect;

/// Attempts that a full disk may cost a task.
const RETRIES: u32 = 20;
/// Room for the attempts of a series, not for much more.
const SMALL_DISK_MEBIBYTES: u32 = 16;

/// Runs a series by its schedule.
pub(crate) async fn run(
    case: Case,
    services: &Services,
    place: &Place,
    schedule: &Schedule,
) -> anyhow::Result<Outcome> {
    let mut system = System::start(services, place, setup(case)).await?;
    let disk_full = case == Case::Series(Fault::DiskFull);
    // On a full disk tasks fail while they write: their effect must come after.
    let (effect, retry) = if disk_full {
        (Effect::Last, RETRIES)
    } else {
        (Effect::First, 0)
    };
    let series = Series::new(&system.api, place, effect, retry);
    let rules = Rules {
        effect,
        workers_destroyed: matches!(case, Case::Mixed | Case::Series(Fault::WorkerDestroyed)),
    };

    let mut tasks = Vec::new();
    let mut strikes = Vec::new();
    let mut portions = schedule.portions.iter().enumerate();
    if let Some((number, first)) = portions.next() {
        tasks.extend(series.submit(&format!("portion{number}"), first).await?);
    }
    for (next, (number, portion)) in schedule.strikes.iter().zip(portions) {
        let before = schedule.portions[..number - 1]
            .iter()
            .map(Vec::len)
            .sum::<usize>();
        // What counts is how far the series is; where effects may be missing or doubled it is found afterwards.
        series.ledger.wait_for(before + next.after_started).await?;
        sleep(next.after).await;
        // Half of the next portion while the fault lasts, and half when it is over: then something ends after it.
        let (during, after) = portion.split_at(portion.len().div_ceil(2));
        let submitting = async {
            sleep(next.submit_after).await;
            series
                .submit(&format!("portion{number}-during"), during)
                .await
        };
        let (struck, submitted) = tokio::join!(strike(&mut system, next), submitting);
        let struck = struck?;
        tasks.extend(submitted?);
        tasks.extend(
            series
                .submit(&format!("portion{number}-after"), after)
                .await?,
        );
        let took = (struck.ended_at - struck.began_at).as_seconds_f64();
        say(
            case.name(),
            format!(
                "{} of {} for {took:.1} s; {} of {} tasks have started",
                struck.fault,
                struck.target,
                series.ledger.len(),
                schedule.tasks()
            ),
        );
        strikes.push(struck);
    }

    let accepted = accept_tasks(&system.api, &series, &tasks, rules).await?;
    let mut outcome = Outcome {
        tasks: tasks.len(),
        ..Outcome::default()
    };
    outcome.struck(strikes, &accepted);
    outcome.judged(accepted.verdict);
    if outcome.findings.is_empty() {
        outcome.findings.extend(accept_end(&mut system).await);
    }
    Ok(outcome)
}

fn setup(case: Case) -> Setup {
    let mut setup = Setup::default();
    if matches!(
        case,
        Case::Mixed | Case::Series(Fault::LeaderKill | Fault::LeaderStop)
    ) {
        setup.servers = 2;
    }
    if case == Case::Series(Fault::DiskFull) {
        setup.small_disk_mebibytes = Some(SMALL_DISK_MEBIBYTES);
    }
    setup
}
