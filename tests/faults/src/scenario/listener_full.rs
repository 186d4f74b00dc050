//! Somebody listens to the events of workers with a queue that is full and refuses: the broker tells workers that it has not
//! taken what they said. They wait, which must show, until the listener has gone.

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

const LISTENER: &str = "a-listener";
/// How long it stays, and what the worker may say of it: it is not to try as fast as it can.
const HOLD: Duration = Duration::from_secs(4);
const MOST_LINES: usize = 200;

pub(crate) async fn run(services: &Services, place: &Place) -> anyhow::Result<Outcome> {
    let setup = Setup {
        workers: 1,
        ..Setup::default()
    };
    let mut system = System::start(services, place, setup).await?;
    let series = Series::new(&system.api, place, Effect::First, 0);
    let mut tasks = series.submit("before", &instant(8)).await?;
    series.over(&tasks).await?;
    let seen = system.worker_journal("w1")?.len();
    let began_at = Utc::now();
    broker::declare_full_listener(&services.broker, LISTENER, "scitq.events").await;
    tasks.extend(series.submit("during", &instant(24)).await?);
    let journal = system.worker_journal("w1")?;
    journal
        .wait_for(seen, &["a state event was not taken"], PATIENCE)
        .await?;
    sleep(HOLD).await;
    let said = journal.len().saturating_sub(seen);
    anyhow::ensure!(
        said < MOST_LINES,
        "the worker waits between two tries; it has said {said} lines"
    );
    broker::delete_queue(&services.broker, LISTENER).await;
    let struck = struck_since("listener-full", LISTENER, began_at);
    accept(&mut system, &series, &tasks, vec![struck], |_| Vec::new()).await
}
