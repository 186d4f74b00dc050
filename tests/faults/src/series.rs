//! A series of tasks: submitting it, and waiting for it.

use std::time::Duration;

use anyhow::bail;
use scitq_shared::api::Progress;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::api::Api;
use crate::ledger::Ledger;
use crate::place::Place;
use crate::task::Effect;

/// How long a series may show no progress.
const PATIENCE: Duration = Duration::from_mins(2);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A series and the files that its tasks write. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    api: Api,
    script: String,
    effect: Effect,
    /// How often a failed attempt is repeated.
    retry: u32,
    /// Gets an id for every effect.
    pub(crate) ledger: Ledger,
    /// Gets an id for every task that came to its end.
    pub(crate) ended: Ledger,
}

impl Series {
    pub(crate) fn new(api: &Api, place: &Place, effect: Effect, retry: u32) -> Self {
        Self {
            api: api.clone(),
            script: place.path("task.sh").display().to_string(),
            effect,
            retry,
            ledger: Ledger::new(place.path("ledger")),
            ended: Ledger::new(place.path("ended")),
        }
    }

    /// Submits tasks of these durations. The key makes repeated submissions of the same portion one.
    pub(crate) async fn submit(
        &self,
        key: &str,
        durations: &[Duration],
    ) -> anyhow::Result<Vec<i64>> {
        let tasks: Vec<Value> = durations
            .iter()
            .enumerate()
            .map(|(number, duration)| self.task(&format!("{key}-{number}"), *duration))
            .collect();
        self.api.submit(&Value::Array(tasks)).await
    }

    fn task(&self, key: &str, duration: Duration) -> Value {
        let command = format!(
            "sh {} {} {} {} {}",
            self.script,
            self.ledger.path().display(),
            self.ended.path().display(),
            self.effect.word(),
            duration.as_secs_f64(),
        );
        json!({ "command": command, "retry": self.retry, "idempotency_key": key })
    }

    /// Waits until all these tasks are over. An error that tells where they are when nothing happens for long.
    pub(crate) async fn over(&self, tasks: &[i64]) -> anyhow::Result<Progress> {
        let mut since = Instant::now();
        let mut seen = None;
        loop {
            let progress = self.api.progress(tasks).await?;
            if progress.over == progress.total {
                return Ok(progress);
            }
            if seen.as_ref() != Some(&progress) {
                (seen, since) = (Some(progress), Instant::now());
            } else if since.elapsed() > PATIENCE {
                bail!(
                    "the series stands still for {} s; tasks by status: {:?}",
                    PATIENCE.as_secs(),
                    progress.tasks
                );
            }
            sleep(LOOK_EVERY).await;
        }
    }
}
