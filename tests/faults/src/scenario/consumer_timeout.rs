//! Deliveries that are held longer than the broker's consumer timeout, because `ack_after` is set above it by mistake:
//! RabbitMQ 3.10 closes the channel and leaves the connection open.

use std::time::Duration;

use chrono::Utc;

use super::{accept, instant, struck_since};
use crate::outcome::Outcome;
use crate::place::Place;
use crate::series::Series;
use crate::system::{Services, Setup, System};
use crate::task::Effect;

/// What the broker writes into its log when it strikes.
const TIMED_OUT: &str = "timed out waiting for delivery acknowledgement";
/// Longer than the timeout and the broker's look at it.
const TASK: Duration = Duration::from_secs(7);

/// A broker that loses patience after four seconds. It looks once a minute by default, which is its real minimum; once a
/// second here, so that the same thing happens sooner.
pub(crate) async fn services() -> Services {
    let services = Services::start_with(&["consumer_timeout = 4000"]).await;
    services
        .broker
        .evaluate("application:set_env(rabbit, channel_tick_interval, 1000).")
        .await;
    services
}

pub(crate) async fn run(services: &Services, place: &Place) -> anyhow::Result<Outcome> {
    let setup = Setup {
        workers: 1,
        concurrency: 2,
        prefetch: 2,
        settings: vec![("SCITQ_WORKER_ACK_AFTER_SECONDS", "3600".to_owned())],
        ..Setup::default()
    };
    let mut system = System::start(services, place, setup).await?;
    let series = Series::new(&system.api, place, Effect::First, 0);
    let began_at = Utc::now();
    let mut tasks = series.submit("long", &[TASK; 4]).await?;
    tasks.extend(series.submit("short", &instant(8)).await?);
    series.ended.wait_for(tasks.len()).await?;
    let struck = struck_since("consumer-timeout", "w1", began_at);
    let times = std::fs::read_to_string(services.broker.log_file())?
        .matches(TIMED_OUT)
        .count();
    anyhow::ensure!(times > 0, "the broker's consumer timeout never struck");
    let mut outcome = accept(&mut system, &series, &tasks, vec![struck], |_| Vec::new()).await?;
    outcome.injected = times;
    Ok(outcome)
}
