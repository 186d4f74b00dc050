//! The queue of a batch is there, with other arguments than ours: somebody made it. Nothing can be dispatched, which must
//! show, until it is gone.

use chrono::Utc;

use super::{BATCH_QUEUE, PATIENCE, accept, instant, struck_since};
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
    let mut tasks = series.submit("before", &instant(8)).await?;
    series.over(&tasks).await?;
    let seen = system.server_journal(0)?.len();
    let began_at = Utc::now();
    broker::delete_queue(&services.broker, BATCH_QUEUE).await;
    broker::declare_strange_queue(&services.broker, BATCH_QUEUE).await;
    tasks.extend(series.submit("after", &instant(8)).await?);
    // It is said what is wrong, and of which queue.
    let journal = system.server_journal(0)?;
    journal
        .wait_for(seen, &["PRECONDITION_FAILED", BATCH_QUEUE], PATIENCE)
        .await?;
    broker::delete_queue(&services.broker, BATCH_QUEUE).await;
    let struck = struck_since("queue-changed", BATCH_QUEUE, began_at);
    accept(&mut system, &series, &tasks, vec![struck], |_| Vec::new()).await
}
