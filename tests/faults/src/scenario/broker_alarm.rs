//! The broker's disk alarm: it takes no message until there is room again.

use std::time::Duration;

use chrono::Utc;
use tokio::time::sleep;

use super::{PATIENCE, accept, instant, struck_since};
use crate::broker;
use crate::outcome::Outcome;
use crate::place::Place;
use crate::series::Series;
use crate::system::{Services, Setup, System};
use crate::task::Effect;

/// Longer than two heartbeats: a connection that is blocked must not be taken for a dead one.
const HOLD: Duration = Duration::from_secs(5);

pub(crate) async fn run(services: &Services, place: &Place) -> anyhow::Result<Outcome> {
    let mut system = System::start(services, place, Setup::default()).await?;
    let series = Series::new(&system.api, place, Effect::First, 0);
    let mut durations = vec![Duration::from_secs(1); 8];
    durations.extend(instant(16));
    let mut tasks = series.submit("before", &durations).await?;
    series.ledger.wait_for(4).await?;
    let began_at = Utc::now();
    broker::raise_alarm(&services.broker).await;
    // What is submitted now is kept in the database.
    tasks.extend(series.submit("during", &instant(8)).await?);
    let [server, worker] = [system.server_journal(0)?, system.worker_journal("w1")?];
    for journal in [server, worker] {
        journal
            .wait_for(0, &["blocked publishing"], PATIENCE)
            .await?;
    }
    sleep(HOLD).await;
    broker::end_alarm(&services.broker).await;
    let struck = struck_since("broker-alarm", "broker", began_at);
    accept(&mut system, &series, &tasks, vec![struck], |_| Vec::new()).await
}
