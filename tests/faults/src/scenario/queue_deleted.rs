//! The queue of a batch is deleted under the leader's feet, with the dispatches in it.

use std::time::Duration;

use chrono::Utc;

use super::{BATCH_QUEUE, accept, instant, struck_since};
use crate::broker;
use crate::outcome::Outcome;
use crate::place::Place;
use crate::series::Series;
use crate::system::{Services, Setup, System};
use crate::task::Effect;

pub(crate) async fn run(services: &Services, place: &Place) -> anyhow::Result<Outcome> {
    let setup = Setup {
        workers: 1,
        ..Setup::default()
    };
    let mut system = System::start(services, place, setup).await?;
    let series = Series::new(&system.api, place, Effect::First, 0);
    let mut durations = vec![Duration::from_secs(2); 4];
    durations.extend(instant(20));
    let mut tasks = series.submit("queued", &durations).await?;
    series.ledger.wait_for(4).await?;
    let queued = broker::queues(&services.broker).await?;
    let lost = queued
        .iter()
        .any(|(name, count)| name == BATCH_QUEUE && *count > 0);
    anyhow::ensure!(
        lost,
        "nothing was queued when the queue was deleted: {queued:?}"
    );
    let began_at = Utc::now();
    broker::delete_queue(&services.broker, BATCH_QUEUE).await;
    let struck = struck_since("queue-deleted", BATCH_QUEUE, began_at);
    tasks.extend(series.submit("after", &instant(4)).await?);
    accept(&mut system, &series, &tasks, vec![struck], |_| Vec::new()).await
}
