//! Workers that are silent, lost, and come back.

use std::time::{Duration, Instant};

use scitq_shared::execution::{Exit, FailureReason};
use scitq_shared::protocol::{AttemptPhase, AttemptReport, ControlCommand};
use serde_json::{Value, json};

use crate::fixture::{Fixture, PlayedWorker};

/// A worker that has started task 1.
async fn with_a_started_task(fixture: &Fixture) -> (PlayedWorker, AttemptReport) {
    let mut worker = PlayedWorker::hello(fixture, "w", 1).await;
    let task = json!({"command": "true", "retry": 1});
    fixture.post("/api/v1/tasks", &task).await;
    let (message, delivery) = worker.delivery().await;
    let attempt = PlayedWorker::accept(&message);
    worker.started(&attempt).await;
    worker.ack(&delivery).await;
    (worker, attempt)
}

async fn task(fixture: &Fixture) -> (Value, Value, Value) {
    let task = fixture.get("/api/v1/tasks/1").await;
    (
        task["status"].clone(),
        task["execution_id"].clone(),
        task["retries_left"].clone(),
    )
}

async fn lose(fixture: &Fixture) {
    let loss = fixture
        .post("/api/v1/workers/w/lost", &json!({"force": true}))
        .await;
    assert_eq!(
        loss,
        json!({"worker": "w", "executions": 1, "task_ids": [1]})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_worker_is_lost_and_taken_back_when_it_returns() {
    let fixture = Fixture::start_with(|settings| settings.server.offline_after_seconds = 2).await;
    let (mut worker, attempt) = with_a_started_task(&fixture).await;
    let lease = |seconds: Value| json!({ "lost_after_seconds": seconds });
    let short = fixture
        .refused_patch("/api/v1/workers/w", &lease(json!(1)))
        .await;
    assert_eq!(
        (&short["status"], &short["field"]),
        (&json!(422), &json!("lost_after_seconds"))
    );
    assert!(
        short["detail"]
            .as_str()
            .unwrap()
            .contains("at least 2, not 1: by the server's setting server.offline_after_seconds"),
        "{short}"
    );
    let changed = fixture.patch("/api/v1/workers/w", &lease(json!(2))).await;
    assert_eq!(changed["lost_after_seconds"], 2);
    let lost = fixture
        .until("/api/v1/executions/1", |found| found["status"] == "lost")
        .await;
    let detail = lost["failure_detail"].as_str().unwrap();
    assert!(
        detail.contains("worker w has been silent since 20") && detail.contains("lease of 2 s"),
        "{detail}"
    );
    let view = fixture
        .until("/api/v1/workers/w", |found| found["lost_at"].is_string())
        .await;
    assert_eq!(view["status"], "offline");
    // Its task is dispatched anew as soon as there is somebody: no retry was used.
    fixture
        .patch("/api/v1/workers/w", &lease(Value::Null))
        .await;
    let _other = PlayedWorker::hello(&fixture, "other", 1).await;
    fixture.until_task(1, "assigned").await;
    assert_eq!(
        task(&fixture).await,
        (json!("assigned"), json!(1), json!(1))
    );

    // Nothing newer has started: it goes on with what it runs.
    worker.heartbeat(&[(&attempt, AttemptPhase::Running)]).await;
    let revoked = worker
        .told(|command| match command {
            ControlCommand::Revoke { dispatches } => Some(dispatches.clone()),
            _ => None,
        })
        .await;
    assert_ne!(revoked, [attempt.dispatch]);
    assert_eq!(task(&fixture).await, (json!("running"), json!(1), json!(1)));
    let execution = fixture.get("/api/v1/executions/1").await;
    assert_eq!(
        (&execution["status"], &execution["failure_detail"]),
        (&json!("running"), &Value::Null)
    );
    let view = fixture.get("/api/v1/workers/w").await;
    assert_eq!(
        (&view["status"], &view["lost_at"]),
        (&json!("running"), &Value::Null)
    );
    // What the queue still holds of the newer dispatch starts all the same: it is told to stop.
    let (newer, delivery) = worker.delivery().await;
    assert_eq!(revoked, [newer.dispatch]);
    let stale = PlayedWorker::accept(&newer);
    worker.started(&stale).await;
    worker.ack(&delivery).await;
    let stopped = worker
        .told(|command| match command {
            ControlCommand::Stop { attempts } => Some(attempts.clone()),
            _ => None,
        })
        .await;
    assert_eq!(stopped, [stale.attempt]);
    worker.ended(&attempt, Exit::Code(0), 0, 0).await;
    assert_eq!(
        task(&fixture).await,
        (json!("succeeded"), json!(1), json!(1))
    );
    assert_eq!(fixture.get("/api/v1/maintenance/counters").await, json!([]));
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_returns_after_the_newer_start_is_stopped_and_kept_in_the_history() {
    let fixture = Fixture::start().await;
    let (mut worker, old) = with_a_started_task(&fixture).await;
    lose(&fixture).await;
    worker.heartbeat(&[]).await;
    let (message, delivery) = worker.delivery().await;
    assert_ne!(message.dispatch, old.dispatch);
    let newer = PlayedWorker::accept(&message);
    worker.started(&newer).await;
    worker.ack(&delivery).await;
    let both = [
        (&old, AttemptPhase::Running),
        (&newer, AttemptPhase::Running),
    ];
    worker.heartbeat(&both).await;
    let stopped = worker
        .told(|command| match command {
            ControlCommand::Stop { attempts } => Some(attempts.clone()),
            _ => None,
        })
        .await;
    assert_eq!(stopped, [old.attempt]);
    let running = (json!("running"), json!(2), json!(1));
    assert_eq!(task(&fixture).await, running);
    // It is told again in answer to a hello, and says how it ended.
    worker.say_hello(1, &both).await;
    worker
        .told(|command| matches!(command, ControlCommand::Stop { .. }).then_some(()))
        .await;
    worker
        .failed(&old, FailureReason::Cancelled, "stopped")
        .await;
    assert_eq!(task(&fixture).await, running);
    let execution = fixture.get("/api/v1/executions/1").await;
    assert_eq!(
        (&execution["status"], &execution["failure_reason"]),
        (&json!("failed"), &json!("cancelled"))
    );
    worker.ended(&newer, Exit::Code(0), 0, 0).await;
    assert_eq!(
        task(&fixture).await,
        (json!("succeeded"), json!(2), json!(1))
    );
    assert_eq!(fixture.get("/api/v1/maintenance/counters").await, json!([]));
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_lost_attempt_counts_if_nothing_newer_has_started() {
    let fixture = Fixture::start().await;
    let (mut worker, attempt) = with_a_started_task(&fixture).await;
    let pause = async |paused: bool| {
        let change = json!({ "paused": paused });
        fixture.patch("/api/v1/batches/Default", &change).await;
    };
    pause(true).await;
    lose(&fixture).await;
    // A failure like any other: it costs a retry.
    worker.ended(&attempt, Exit::Code(1), 0, 0).await;
    assert_eq!(task(&fixture).await, (json!("pending"), json!(1), json!(0)));
    worker.heartbeat(&[]).await;
    pause(false).await;
    let (message, _) = worker.delivery().await;
    let last = PlayedWorker::accept(&message);
    worker.started(&last).await;
    lose(&fixture).await;
    worker.ended(&last, Exit::Code(0), 0, 0).await;
    assert_eq!(
        task(&fixture).await,
        (json!("succeeded"), json!(2), json!(0))
    );
    assert_eq!(fixture.get("/api/v1/maintenance/counters").await, json!([]));
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_declares_lost_only_what_is_offline() {
    let fixture = Fixture::start_with(|settings| settings.server.offline_after_seconds = 2).await;
    let (mut worker, _) = with_a_started_task(&fixture).await;
    let no = json!({"force": false});
    let refused = fixture.refusal("/api/v1/workers/w/lost", &no).await;
    assert_eq!(refused["status"], 409, "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("w is running"));
    let unknown = fixture.refusal("/api/v1/workers/nobody/lost", &no).await;
    assert_eq!(unknown["status"], 404, "{unknown}");
    let wrong = json!({"forced": true});
    let wrong = fixture.refusal("/api/v1/workers/w/lost", &wrong).await;
    assert_eq!(wrong["field"], "forced", "{wrong}");
    fixture
        .until("/api/v1/workers/w", |found| found["status"] == "offline")
        .await;
    let loss = fixture.post("/api/v1/workers/w/lost", &no).await;
    assert_eq!(loss["task_ids"], json!([1]));
    let again = fixture.post("/api/v1/workers/w/lost", &no).await;
    assert_eq!(
        (&again["executions"], &again["task_ids"]),
        (&json!(0), &json!([]))
    );
    let execution = fixture.get("/api/v1/executions/1").await;
    assert!(
        execution["failure_detail"]
            .as_str()
            .unwrap()
            .contains("by a person")
    );
    // It is not gone after all: there is work for it again.
    worker.heartbeat(&[]).await;
    worker.delivery().await;
    fixture.stop().await;
}

/// What its own agent has given up is not taken back, though an older heartbeat shows it alive.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_heartbeat_brings_nothing_back() {
    let fixture = Fixture::start().await;
    let (mut worker, attempt) = with_a_started_task(&fixture).await;
    let restarted = FailureReason::AgentRestarted;
    worker.failed(&attempt, restarted, "its agent ended").await;
    assert_eq!(fixture.get("/api/v1/executions/1").await["status"], "lost");
    let heard = fixture.get("/api/v1/workers/w").await["last_contact_at"].clone();
    worker.heartbeat(&[(&attempt, AttemptPhase::Running)]).await;
    fixture
        .until("/api/v1/workers/w", |worker| {
            worker["last_contact_at"] != heard
        })
        .await;
    assert_eq!(fixture.get("/api/v1/executions/1").await["status"], "lost");
    let (message, _) = worker.delivery().await;
    let newer = PlayedWorker::accept(&message);
    worker.started(&newer).await;
    assert_eq!(task(&fixture).await, (json!("running"), json!(2), json!(1)));
    fixture.stop().await;
}

/// A worker whose heartbeats are lost says other things: it is not lost.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_worker_says_is_a_sign_of_life() {
    let lease = Duration::from_secs(8);
    let fixture = Fixture::start_with(|settings| {
        settings.server.offline_after_seconds = 2;
        settings.server.lost_after_seconds = lease.as_secs();
    })
    .await;
    let (mut worker, attempt) = with_a_started_task(&fixture).await;
    let began = Instant::now();
    while began.elapsed() < lease + Duration::from_secs(4) {
        worker.started(&attempt).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let execution = fixture.get("/api/v1/executions/1").await;
    assert_eq!(execution["status"], "running", "{execution}");
    // And without any word it is.
    fixture
        .until("/api/v1/executions/1", |found| found["status"] == "lost")
        .await;
    fixture.stop().await;
}
