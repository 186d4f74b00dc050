//! Workers that only fail, and batches that nobody can run.

use scitq_shared::execution::FailureReason;
use scitq_shared::protocol::ControlCommand;
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
    fixture
        .post("/api/v1/tasks", &json!({"command": "true"}))
        .await;
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
    let executions = fixture.get("/api/v1/executions?task=1").await;
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
    let (message, _) = second.delivery().await;
    assert_eq!(message.task.0, 1);
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
