//! Workers that only fail, and batches that nobody can run.

use scitq_shared::execution::{FailureReason, HINDRANCES_SPARED};
use scitq_shared::protocol::{ControlCommand, ReleaseReason, WorkerEvent};
use serde_json::json;

use crate::fixture::{Fixture, PlayedWorker};

const FULL: &str = "no space is left for the attempt's directory";

/// Fails so many deliveries in a row, and takes no more before the last of them has failed.
async fn fail(worker: &mut PlayedWorker, times: usize) {
    for left in (0..times).rev() {
        let (message, delivery) = worker.delivery().await;
        if left == 0 {
            worker.stop_consuming().await;
        }
        let attempt = PlayedWorker::accept(&message);
        worker.failed(&attempt, FailureReason::DiskFull, FULL).await;
        worker.ack(&delivery).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_only_fails_is_paused_and_the_second_pauses_the_batch() {
    let fixture = Fixture::start_with(|settings| settings.server.pause_worker_after = 3).await;
    let mut first = PlayedWorker::hello(&fixture, "w1", 1).await;
    for _ in 0..3 {
        fixture
            .post("/api/v1/tasks", &json!({"command": "true"}))
            .await;
    }
    fail(&mut first, 3).await;
    first
        .told(|command| match command {
            ControlCommand::Welcome { desired, .. } | ControlCommand::Desired { desired } => {
                desired.paused.then_some(())
            }
            _ => None,
        })
        .await;
    let view = fixture.get("/api/v1/workers/w1").await;
    let reason = view["pause_reason"].as_str().unwrap();
    assert_eq!(view["status"], "paused");
    assert!(
        reason.contains("3 attempts in a row") && reason.contains(&format!("disk_full: {FULL}")),
        "{reason}"
    );
    // It costs the task nothing, and the history has it all.
    let task = fixture.get("/api/v1/tasks/1").await;
    assert!(
        task["status"] == "pending" || task["status"] == "assigned",
        "{task}"
    );
    let executions = fixture.get("/api/v1/executions").await;
    let items = executions["items"].as_array().unwrap();
    assert_eq!(items.len(), 3, "{executions}");
    for execution in items {
        assert_eq!(
            (&execution["status"], &execution["failure_reason"]),
            (&json!("failed"), &json!("disk_full"))
        );
    }
    let batch = fixture.get("/api/v1/batches/Default").await;
    assert_eq!(batch["paused"], false);

    let mut second = PlayedWorker::hello(&fixture, "w2", 1).await;
    fail(&mut second, 3).await;
    let batch = fixture
        .until("/api/v1/batches/Default", |batch| batch["paused"] == true)
        .await;
    let reason = batch["pause_reason"].as_str().unwrap();
    assert!(
        reason.contains("worker w2") && reason.contains("worker w1") && reason.contains(FULL),
        "{reason}"
    );
    let view = fixture.get("/api/v1/workers/w2").await;
    assert_eq!(view["status"], "running", "{view}");

    // Resumed by a person, it goes on where it was.
    let resumed = fixture
        .patch("/api/v1/batches/Default", &json!({"paused": false}))
        .await;
    assert_eq!(
        (&resumed["paused"], &resumed["pause_reason"]),
        (&json!(false), &json!(null))
    );
    let (message, delivery) = second.delivery().await;
    // What failed before counts no more: the next failure alone does not pause it again.
    let attempt = PlayedWorker::accept(&message);
    second.failed(&attempt, FailureReason::DiskFull, FULL).await;
    second.ack(&delivery).await;
    second.delivery().await;
    let batch = fixture.get("/api/v1/batches/Default").await;
    assert_eq!(batch["paused"], false, "{batch}");
    let resumed = fixture
        .patch("/api/v1/workers/w1", &json!({"paused": false}))
        .await;
    assert_eq!(
        (&resumed["status"], &resumed["pause_reason"]),
        (&json!("running"), &json!(null))
    );
    assert_eq!(fixture.get("/api/v1/maintenance/counters").await, json!([]));
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_paused_batch_is_dispatched() {
    let fixture = Fixture::start().await;
    let paused = json!({"paused": true});
    let unknown = fixture.refused_patch("/api/v1/batches/none", &paused).await;
    assert_eq!(unknown["status"], 404, "{unknown}");
    let mut worker = PlayedWorker::hello(&fixture, "w", 1).await;
    fixture.patch("/api/v1/batches/Default", &paused).await;
    fixture
        .post("/api/v1/tasks", &json!({"command": "first"}))
        .await;
    let other = json!({"command": "other", "batch": "other"});
    fixture.post("/api/v1/tasks", &other).await;
    // Its dispatcher has looked at both when the other batch's task is dispatched.
    let _other = {
        let other = PlayedWorker::hello(&fixture, "w2", 1).await;
        let change = json!({"batch": "other"});
        fixture.patch("/api/v1/workers/w2", &change).await;
        other
    };
    fixture.until_task(2, "assigned").await;
    assert_eq!(fixture.get("/api/v1/tasks/1").await["status"], "pending");
    let resume = json!({"paused": false});
    fixture.patch("/api/v1/batches/Default", &resume).await;
    let (message, _) = worker.delivery().await;
    assert_eq!(message.definition.command, "first");
    fixture.stop().await;
}

/// Neither what the queue holds nor what workers hold starts any more, but for what starts in the same moment.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_dispatched_of_a_paused_batch_comes_back() {
    let fixture = Fixture::start().await;
    let mut worker = PlayedWorker::hello(&fixture, "w", 3).await;
    for _ in 0..10 {
        fixture
            .post("/api/v1/tasks", &json!({"command": "true"}))
            .await;
    }
    // One runs, one is accepted, one is held without a word; the others are in the queue.
    let (running, _) = worker.delivery().await;
    let running = PlayedWorker::accept(&running);
    worker.started(&running).await;
    let (accepted, _) = worker.delivery().await;
    let accepted = PlayedWorker::accept(&accepted);
    worker.say(WorkerEvent::Accepted(accepted.clone())).await;
    let (held, _) = worker.delivery().await;
    fixture.until_task(10, "assigned").await;
    fixture
        .patch("/api/v1/batches/Default", &json!({"paused": true}))
        .await;
    let mut asked = std::collections::BTreeSet::new();
    while asked.len() < 2 {
        let revoked = worker
            .told(|command| match command {
                ControlCommand::Revoke { dispatches } => Some(dispatches.clone()),
                _ => None,
            })
            .await;
        asked.extend(revoked);
    }
    assert_eq!(asked, [accepted.dispatch, held.dispatch].into());
    for report in [accepted, PlayedWorker::accept(&held)] {
        let reason = ReleaseReason::Revoked;
        worker.say(WorkerEvent::Released { report, reason }).await;
    }
    for task in 2..=10 {
        fixture.until_task(task, "pending").await;
    }
    assert_eq!(fixture.get("/api/v1/tasks/1").await["status"], "running");
    // It goes on where it was.
    fixture
        .patch("/api/v1/batches/Default", &json!({"paused": false}))
        .await;
    fixture.until_task(10, "assigned").await;
    assert_eq!(fixture.get("/api/v1/maintenance/counters").await, json!([]));
    fixture.stop().await;
}

/// A task that every worker is hindered at comes to an end.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_hindered_for_ever_fails() {
    let fixture = Fixture::start_with(|settings| settings.server.pause_worker_after = 1000).await;
    let mut worker = PlayedWorker::hello(&fixture, "w", 1).await;
    let task = json!({"command": "true", "retry": 1});
    fixture.post("/api/v1/tasks", &task).await;
    for _ in 0..HINDRANCES_SPARED + 2 {
        let (message, delivery) = worker.delivery().await;
        let attempt = PlayedWorker::accept(&message);
        let reason = FailureReason::WorkerFault;
        worker.failed(&attempt, reason, "no directory").await;
        worker.ack(&delivery).await;
    }
    let task = fixture.get("/api/v1/tasks/1").await;
    assert_eq!(
        (&task["status"], &task["retries_left"]),
        (&json!("failed"), &json!(0))
    );
    fixture.stop().await;
}
