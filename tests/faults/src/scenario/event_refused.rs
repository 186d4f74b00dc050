//! Messages that are well formed and that the database refuses: they are put aside with the reason, and stop nobody.

use std::time::Duration;

use chrono::Utc;
use serde_json::{Value, json};

use super::{accept, instant, struck_since};
use crate::broker;
use crate::outcome::Outcome;
use crate::place::Place;
use crate::series::Series;
use crate::system::{Services, Setup, System};
use crate::task::Effect;

const REJECTED: &str = "scitq.rejected";
const INCARNATION: &str = "00000000-0000-4000-8000-000000000001";
/// Whatever would still be storable by accident: from this worker the database takes nothing.
const REFUSED: [&str; 2] = [
    "ALTER TABLE worker ADD CONSTRAINT no_stranger CHECK (name <> 'stranger')",
    "ALTER TABLE execution ADD CONSTRAINT no_stranger CHECK (worker <> 'stranger')",
];

pub(crate) async fn run(services: &Services, place: &Place) -> anyhow::Result<Outcome> {
    let mut system = System::start(services, place, Setup::default()).await?;
    for statement in REFUSED {
        system.sql(statement).await;
    }
    let series = Series::new(&system.api, place, Effect::First, 0);
    let mut durations = vec![Duration::from_millis(500); 8];
    durations.extend(instant(16));
    let tasks = series.submit("series", &durations).await?;
    // What the messages speak of: a task that no worker can have.
    let of_nobody = json!([{ "command": "true", "batch": "Nobody" }]);
    let of_nobody = system.api.submit(&of_nobody).await?;
    series.ledger.wait_for(4).await?;
    let began_at = Utc::now();
    let refused = [
        hello(),
        ended(of_nobody.first().copied().unwrap_or_default()),
    ];
    for (routing_key, body) in &refused {
        let body = body.to_string();
        broker::publish(
            &services.broker,
            "scitq.events",
            routing_key,
            body.as_bytes(),
        )
        .await;
    }
    system
        .until("all that the database refuses is put aside", || async {
            let queues = broker::queues(&services.broker).await?;
            let aside = queues.iter().find(|(name, _)| name == REJECTED);
            Ok(aside.is_some_and(|(_, count)| *count == refused.len() as u64))
        })
        .await?;
    broker::purge(&services.broker, REJECTED).await;
    let struck = struck_since("event-refused", "server1", began_at);
    let mut outcome = accept(&mut system, &series, &tasks, vec![struck], |_| Vec::new()).await?;
    outcome.injected = refused.len();
    Ok(outcome)
}

fn message(kind: &str, mut event: Value) -> (String, Value) {
    event["kind"] = json!(kind);
    let message = json!({
        "version": 1, "worker": "stranger", "incarnation": INCARNATION, "epoch": 1, "sequence": 1,
        "sent_at": Utc::now(), "event": event,
    });
    (format!("state.{kind}"), message)
}

/// A worker that the database does not want.
fn hello() -> (String, Value) {
    message(
        "hello",
        json!({
            "hostname": "strange", "program_version": "1", "cores": 1, "memory_bytes": 1,
            "initial": { "version": 0, "batch": "Nobody", "concurrency": 0, "prefetch": 0, "paused": true },
            "desired_version": 0, "boots": 1, "inventory": [],
        }),
    )
}

/// The end of an attempt of that worker.
fn ended(task: i64) -> (String, Value) {
    message(
        "ended",
        json!({
            "attempt": "00000000-0000-7000-8000-000000000002",
            "dispatch": "00000000-0000-4000-8000-000000000003",
            "dispatch_epoch": 1, "task": task, "batch": "Nobody", "revision": 1,
            "queued_at": Utc::now(), "accepted_at": Utc::now(), "started_at": Utc::now(), "ended_at": Utc::now(),
            "outcome": { "result": "failed", "reason": "worker_fault", "detail": "strange" },
            "stdout": { "length": 0 }, "stderr": { "length": 0 },
        }),
    )
}
