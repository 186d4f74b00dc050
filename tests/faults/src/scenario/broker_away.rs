//! The broker away: running tasks finish, and their results arrive when it is back.

use std::time::Duration;

use chrono::Utc;

use super::{accept, ended_late, instant, struck_since, tasks_ended};
use crate::outcome::Outcome;
use crate::place::Place;
use crate::series::Series;
use crate::system::{Services, Setup, System};
use crate::task::Effect;

pub(crate) async fn run(services: &Services, place: &Place) -> anyhow::Result<Outcome> {
    let setup = Setup::default();
    let slots = setup.workers * usize::from(setup.concurrency);
    let mut system = System::start(services, place, setup).await?;
    let series = Series::new(&system.api, place, Effect::First, 0);
    // As many as there are slots: none waits unstarted for the broker.
    let long = vec![Duration::from_secs(4); slots];
    let mut tasks = series.submit("running", &long).await?;
    series.ledger.wait_for(slots).await?;
    let began_at = Utc::now();
    services.broker.stop().await;
    series.ended.wait_for(slots).await?;
    tasks_ended(place.root()).await?;
    let returned_at = Utc::now();
    services.broker.restart().await;
    let struck = struck_since("broker-away", "broker", began_at);
    let first = tasks.clone();
    // And work goes on.
    tasks.extend(series.submit("after", &instant(slots)).await?);
    accept(&mut system, &series, &tasks, vec![struck], |executions| {
        let before: Vec<_> = executions
            .iter()
            .filter(|it| first.contains(&it.task_id))
            .cloned()
            .collect();
        ended_late(&before, returned_at)
    })
    .await
}
