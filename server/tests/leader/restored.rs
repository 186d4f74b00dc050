//! A server whose database was restored from a backup, here an empty one, as its workers see it.

use std::time::{Duration, Instant};

use scitq_shared::definition::TaskDefinition;
use scitq_shared::execution::Exit;
use scitq_shared::ids::{DispatchId, Epoch, TaskId};
use scitq_shared::names::BatchName;
use scitq_shared::output::Stream;
use scitq_shared::protocol::{AttemptPhase, ControlCommand, TaskMessage, WorkerEvent};
use serde_json::json;

use crate::fixture::{Fixture, PlayedWorker};

/// A dispatch of a leader that the backup knows nothing of.
fn forgotten(task: i64, command: &str) -> TaskMessage {
    TaskMessage::new(
        Epoch(7),
        DispatchId::generate(),
        TaskId(task),
        BatchName::default(),
        scitq_shared::now(),
        TaskDefinition::bare(command),
    )
}

fn recount(command: &ControlCommand) -> Option<()> {
    matches!(command, ControlCommand::Recount).then_some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_workers_tell_is_believed_and_nothing_is_dispatched_before() {
    let fixture = Fixture::start_restored(|settings| {
        settings.server.offline_after_seconds = 3;
    })
    .await;
    let began = Instant::now();
    let mut worker = PlayedWorker::hello(&fixture, "w", 2).await;
    let created = fixture
        .post("/api/v1/tasks", &json!({"command": "new"}))
        .await;
    assert_eq!(created[0]["task_id"], 1_000_001);
    worker.told(recount).await;

    // One runs, one has ended, and one came back to it after it had lost its channel.
    let (runs, ended, returned) = (
        forgotten(5, "runs"),
        forgotten(6, "ended"),
        forgotten(8, "returned"),
    );
    let (running, over) = (PlayedWorker::accept(&runs), PlayedWorker::accept(&ended));
    for message in [&runs, &ended] {
        let message = Box::new(message.clone());
        worker.say(WorkerEvent::Described { message }).await;
    }
    worker.started(&running).await;
    worker.ended(&over, Exit::Code(0), 3, 0).await;
    worker.output(&over, Stream::Stdout, 0, b"hi\n").await;
    worker
        .say(WorkerEvent::Returned {
            dispatch: returned.dispatch,
            task: returned.task,
            message: Some(Box::new(returned)),
        })
        .await;
    for (task, status, command) in [
        (5, "running", "runs"),
        (6, "succeeded", "ended"),
        (8, "pending", "returned"),
    ] {
        let found = fixture.get(&format!("/api/v1/tasks/{task}")).await;
        assert_eq!(
            (&found["status"], &found["command"]),
            (&json!(status), &json!(command))
        );
    }
    let held = [
        (&running, AttemptPhase::Running),
        (&over, AttemptPhase::Ended),
    ];
    worker.say_recounted(&held).await;
    assert_eq!(worker.applied().await, [over.attempt]);
    assert_eq!(
        fixture.bytes("/api/v1/tasks/6/output/stdout").await,
        b"hi\n"
    );

    // It listens for those that it does not know before it dispatches.
    let mut commands = std::collections::BTreeSet::new();
    for _ in 0..2 {
        let (task, delivery) = worker.delivery_recounting(&held).await;
        commands.insert(task.definition.command.clone());
        let attempt = PlayedWorker::accept(&task);
        worker.started(&attempt).await;
        worker.ended(&attempt, Exit::Code(0), 0, 0).await;
        worker.ack(&delivery).await;
    }
    assert!(began.elapsed() >= Duration::from_secs(3));
    assert_eq!(commands, ["new".to_owned(), "returned".to_owned()].into());
    worker.ended(&running, Exit::Code(0), 0, 0).await;
    for task in [5, 6, 8, 1_000_001] {
        fixture.until_task(task, "succeeded").await;
        let executions = fixture
            .get(&format!("/api/v1/executions?task={task}"))
            .await;
        assert_eq!(executions["items"].as_array().unwrap().len(), 1);
    }
    assert_eq!(fixture.get("/api/v1/maintenance/counters").await, json!([]));
    fixture.stop().await;
}

/// Without `--restored` what a server does not know is nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_not_restored_takes_nothing_in() {
    let fixture = Fixture::start().await;
    let mut worker = PlayedWorker::hello(&fixture, "w", 2).await;
    let runs = forgotten(5, "runs");
    let attempt = PlayedWorker::accept(&runs);
    let mut message = runs.clone();
    message.epoch = Epoch(0);
    let message = Box::new(message);
    worker.say(WorkerEvent::Described { message }).await;
    worker.started(&attempt).await;
    let created = fixture
        .post("/api/v1/tasks", &json!({"command": "new"}))
        .await;
    assert_eq!(created[0]["task_id"], 1);
    let (task, _) = worker.delivery().await;
    assert_eq!(task.task, TaskId(1));
    let tasks = fixture.get("/api/v1/tasks").await;
    assert_eq!(tasks["items"].as_array().unwrap().len(), 1, "{tasks}");
    fixture.stop().await;
}
