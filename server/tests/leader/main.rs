//! The server as its workers see it: each test plays a worker over the in-process broker, with a SQLite database.

#![expect(clippy::unwrap_used, reason = "a test: what fails is shown")]

mod fixture;
mod leases;
mod pausing;
mod restarting;
mod restored;

use fixture::{Fixture, PlayedWorker};
use scitq_broker::topology;
use scitq_shared::execution::Exit;
use scitq_shared::output::Stream;
use scitq_shared::protocol::{AttemptPhase, ControlCommand, ReleaseReason, WorkerEvent};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_task_goes_in_and_its_history_comes_out() {
    let fixture = Fixture::start().await;
    let mut worker = PlayedWorker::hello(&fixture, "w", 2).await;
    let created = fixture
        .post(
            "/api/v1/tasks",
            &json!({"command": "echo hi", "name": "greeting"}),
        )
        .await;
    assert_eq!(created[0]["task_id"], 1);
    assert_eq!(created[0]["status"], "pending");

    let (task, delivery) = worker.delivery().await;
    assert_eq!(task.definition.command, "echo hi");
    let attempt = PlayedWorker::accept(&task);
    worker.started(&attempt).await;
    worker.output(&attempt, Stream::Stdout, 0, b"hi\n").await;
    worker.ended(&attempt, Exit::Code(0), 3, 0).await;
    worker.ack(&delivery).await;
    assert_eq!(worker.applied().await, [attempt.attempt]);

    let task = fixture.get("/api/v1/tasks/1").await;
    assert_eq!(
        (&task["status"], &task["execution_id"]),
        (&json!("succeeded"), &json!(1))
    );
    let execution = fixture.get("/api/v1/executions/1").await;
    assert_eq!(execution["command"], "echo hi");
    assert_eq!(execution["worker"], "w");
    assert_eq!(execution["exit_code"], 0);
    assert_eq!(execution["output_complete"], true);
    assert!(
        execution["queued_at"].is_string()
            && execution["started_at"].is_string()
            && execution["ended_at"].is_string()
    );
    assert_eq!(
        fixture
            .bytes("/api/v1/tasks/1/output/stdout?follow=true")
            .await,
        b"hi\n"
    );
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_window_is_bounded_and_refilled() {
    let fixture = Fixture::start().await;
    let tasks: Vec<_> = (0..1000)
        .map(|n| json!({"command": format!("echo {n}")}))
        .collect();
    fixture.post("/api/v1/tasks", &json!(tasks)).await;
    assert_eq!(
        fixture.get("/api/v1/batches/Default").await["tasks"],
        json!({"pending": 1000})
    );

    let mut worker = PlayedWorker::hello(&fixture, "w", 4).await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let (task, delivery) = worker.delivery().await;
        assert!(seen.insert(task.dispatch), "a dispatch came twice");
        let attempt = PlayedWorker::accept(&task);
        worker.started(&attempt).await;
        worker.ended(&attempt, Exit::Code(0), 0, 0).await;
        worker.ack(&delivery).await;
    }
    // `ended` is confirmed after the commit, so the counters are final here, whatever the dispatcher still does.
    let batch = fixture.get("/api/v1/batches/Default").await;
    assert_eq!(batch["tasks"]["succeeded"], 100);
    let assigned = batch["tasks"]["assigned"].as_i64().unwrap();
    assert!((150..=256).contains(&assigned), "{batch}");
    assert_eq!(fixture.get("/api/v1/maintenance/counters").await, json!([]));
    fixture.stop().await;
}

/// Submits so many tasks that nobody takes, an urgent one then, and has a worker take its first.
async fn first_of(before: usize) -> String {
    let fixture = Fixture::start().await;
    let mut worker = PlayedWorker::hello(&fixture, "w", 1).await;
    let tasks: Vec<_> = (0..before)
        .map(|n| json!({"command": format!("echo {n}")}))
        .collect();
    fixture.post("/api/v1/tasks", &json!(tasks)).await;
    fixture.until_task(1, "assigned").await;
    let urgent = json!({"command": "urgent", "priority": 5});
    let id = fixture.post("/api/v1/tasks", &urgent).await[0]["task_id"]
        .as_u64()
        .unwrap();
    fixture.until_task(id, "assigned").await;
    let (first, _) = worker.delivery().await;
    let counters = fixture.get("/api/v1/maintenance/counters").await;
    assert_eq!(counters, json!([]));
    fixture.stop().await;
    first.definition.command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_more_urgent_task_overtakes_those_in_a_full_window() {
    assert_eq!(first_of(300).await, "urgent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_more_urgent_task_overtakes_those_in_a_window_with_room() {
    assert_eq!(first_of(20).await, "urgent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_returned_dispatch_comes_back_under_another_id() {
    let fixture = Fixture::start().await;
    let mut worker = PlayedWorker::hello(&fixture, "w", 1).await;
    fixture
        .post("/api/v1/tasks", &json!({"command": "true"}))
        .await;
    let (first, delivery) = worker.delivery().await;
    worker
        .say(WorkerEvent::Returned {
            dispatch: first.dispatch,
            task: first.task,
            message: None,
        })
        .await;
    worker.ack(&delivery).await;
    let (second, _) = worker.delivery().await;
    assert_eq!(second.task, first.task);
    assert_ne!(second.dispatch, first.dispatch);
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_attempt_is_kept_and_its_task_dispatched_anew() {
    let fixture = Fixture::start().await;
    let mut worker = PlayedWorker::hello(&fixture, "w", 1).await;
    fixture
        .post("/api/v1/tasks", &json!({"command": "true"}))
        .await;
    let (task, delivery) = worker.delivery().await;
    let report = PlayedWorker::accept(&task);
    worker.say(WorkerEvent::Accepted(report.clone())).await;
    worker
        .say(WorkerEvent::Released {
            report,
            reason: ReleaseReason::LessRoom,
        })
        .await;
    worker.ack(&delivery).await;
    let (again, _) = worker.delivery().await;
    assert_eq!(again.task, task.task);
    assert_eq!(
        fixture.get("/api/v1/executions/1").await["status"],
        "released"
    );
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_its_worker_does_not_know_is_lost_at_once() {
    let fixture = Fixture::start().await;
    let mut worker = PlayedWorker::hello(&fixture, "w", 2).await;
    fixture
        .post(
            "/api/v1/tasks",
            &json!([{"command": "true"}, {"command": "false"}]),
        )
        .await;
    let (first, one) = worker.delivery().await;
    let (second, other) = worker.delivery().await;
    let (forgotten, known) = (PlayedWorker::accept(&first), PlayedWorker::accept(&second));
    worker.started(&forgotten).await;
    worker.started(&known).await;
    worker.ack(&one).await;
    worker.ack(&other).await;
    worker.heartbeat(&[(&known, AttemptPhase::Running)]).await;
    let (again, _) = worker.delivery().await;
    assert_eq!(again.task, forgotten.task);
    let execution = fixture.get("/api/v1/executions/1").await;
    assert_eq!(
        (&execution["status"], &execution["failure_reason"]),
        (&json!("lost"), &json!("lost"))
    );
    assert_eq!(
        fixture.get("/api/v1/executions/2").await["status"],
        "running"
    );
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_set_aside_with_the_reason() {
    let fixture = Fixture::start().await;
    let mut worker = PlayedWorker::hello(&fixture, "w", 1).await;
    worker
        .publish_raw("state.started", b"not json".to_vec())
        .await;
    worker
        .publish_raw("state.started", br#"{"version":99,"later":true}"#.to_vec())
        .await;
    worker
        .publish_raw("output.stdout", b"\xff\xfe".to_vec())
        .await;
    let reasons = worker.rejected(3).await;
    assert!(
        reasons
            .iter()
            .any(|reason| reason.contains("has version 99, this program reads version 1")),
        "{reasons:?}"
    );
    assert_eq!(
        reasons
            .iter()
            .filter(|reason| reason.contains("cannot be read"))
            .count(),
        2,
        "{reasons:?}"
    );

    // A chunk that is damaged is found out by the database layer: it alone is set aside, and the batch goes on.
    fixture
        .post("/api/v1/tasks", &json!({"command": "true"}))
        .await;
    let (task, delivery) = worker.delivery().await;
    let attempt = PlayedWorker::accept(&task);
    worker.started(&attempt).await;
    worker.damaged_output(&attempt).await;
    worker.output(&attempt, Stream::Stdout, 0, b"good").await;
    worker.ended(&attempt, Exit::Code(0), 4, 0).await;
    worker.ack(&delivery).await;
    assert_eq!(worker.applied().await, [attempt.attempt]);
    assert!(worker.rejected(1).await[0].contains("damaged"));
    assert_eq!(
        fixture.bytes("/api/v1/tasks/1/output/stdout").await,
        b"good"
    );
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_told_of_changes_and_keeps_them() {
    let fixture = Fixture::start().await;
    let mut worker = PlayedWorker::hello(&fixture, "w", 2).await;
    let changed = fixture
        .patch(
            "/api/v1/workers/w",
            &json!({"concurrency": 7, "batch": "other", "prefetch": 3}),
        )
        .await;
    assert_eq!(
        (&changed["concurrency"], &changed["batch"]),
        (&json!(7), &json!("other"))
    );
    let told = loop {
        match worker.control().await {
            ControlCommand::Welcome { desired, .. } | ControlCommand::Desired { desired } => {
                break desired;
            }
            _ => {}
        }
    };
    assert_eq!(
        (told.concurrency, told.prefetch, told.batch.as_str()),
        (7, 3, "other")
    );
    // The queue of the new batch is there before the worker is told.
    worker.has_queue(&topology::batch_queue_name("other")).await;
    drop(worker);
    // Under the same name, asking for something else, it gets what the server holds.
    let worker = PlayedWorker::hello(&fixture, "w", 2).await;
    assert_eq!(worker.desired, told);
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_missed_a_change_is_told_again() {
    let fixture = Fixture::start().await;
    let mut worker = PlayedWorker::hello(&fixture, "w", 2).await;
    fixture
        .patch("/api/v1/workers/w", &json!({"paused": true}))
        .await;
    let told = |command: &ControlCommand| matches!(command, ControlCommand::Welcome { desired, .. } | ControlCommand::Desired { desired } if desired.paused);
    while !told(&worker.control().await) {}
    // Its heartbeat shows the version of before.
    worker.heartbeat(&[]).await;
    while !told(&worker.control().await) {}
    fixture.stop().await;
}
