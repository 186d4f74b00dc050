//! The server away for long, compressed: workers finish the whole window without it.

use chrono::Utc;

use super::{accept, ended_late, struck_since, tasks_ended};
use crate::dice::Dice;
use crate::options::Options;
use crate::outcome::Outcome;
use crate::place::Place;
use crate::schedule::durations;
use crate::series::Series;
use crate::system::{Services, Setup, System};
use crate::task::Effect;

/// Fewer than a window holds.
const MOST_TASKS: usize = 200;

pub(crate) async fn run(
    services: &Services,
    place: &Place,
    seed: u64,
    options: &Options,
) -> anyhow::Result<Outcome> {
    let mut system = System::start(services, place, Setup::default()).await?;
    let series = Series::new(&system.api, place, Effect::First, 0);
    let number = options.tasks().min(MOST_TASKS);
    let durations = durations(number, &mut Dice::of(seed, "server-away"));
    let tasks = series.submit("away", &durations).await?;
    system
        .until("all tasks are dispatched", || async {
            let progress = system.api.progress(&tasks).await?;
            Ok(!progress.tasks.contains_key("pending"))
        })
        .await?;
    series.ledger.wait_for(1).await?;
    let began_at = Utc::now();
    system.stop_server(0).await?;
    anyhow::ensure!(
        series.ended.len() < number,
        "the series was over before the server was stopped: take longer tasks"
    );
    series.ended.wait_for(number).await?;
    tasks_ended(place.root()).await?;
    let returned_at = Utc::now();
    system.start_server(0)?;
    let struck = struck_since("server-away", "server1", began_at);
    accept(&mut system, &series, &tasks, vec![struck], |executions| {
        ended_late(executions, returned_at)
    })
    .await
}
