//! Agents that are to start anew.

use scitq_shared::protocol::ControlCommand;
use serde_json::json;

use crate::fixture::{Fixture, PlayedWorker};

fn restart(command: &ControlCommand) -> Option<u32> {
    match command {
        ControlCommand::Restart { boots } => Some(*boots),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_asked_for_until_it_has_happened() {
    let fixture = Fixture::start().await;
    let mut worker = PlayedWorker::hello(&fixture, "w", 1).await;
    let unknown = fixture
        .refusal("/api/v1/workers/nobody/restart", &json!({}))
        .await;
    assert_eq!(unknown["status"], 404, "{unknown}");
    let asked = fixture.post("/api/v1/workers/w/restart", &json!({})).await;
    assert_eq!(
        (&asked["boots"], &asked["restart_requested"]),
        (&json!(1), &json!(true))
    );
    assert_eq!(worker.told(restart).await, 1);
    // It goes on as if it had not heard it.
    worker.heartbeat(&[]).await;
    assert_eq!(worker.told(restart).await, 1);
    worker.say_hello(1, &[]).await;
    assert_eq!(worker.told(restart).await, 1);
    worker.say_hello(2, &[]).await;
    let view = fixture.get("/api/v1/workers/w").await;
    assert_eq!(
        (&view["boots"], &view["restart_requested"]),
        (&json!(2), &json!(false))
    );
    // Nothing is left to be repeated: what comes next is the answer to the next change.
    worker.heartbeat(&[]).await;
    fixture
        .patch("/api/v1/workers/w", &json!({"concurrency": 5}))
        .await;
    loop {
        match worker.control().await {
            ControlCommand::Restart { .. } => panic!("it has started anew"),
            ControlCommand::Welcome { desired, .. } if desired.concurrency == 5 => break,
            _ => {}
        }
    }
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_taken_back_and_one_that_cannot_be_met_is_refused() {
    let fixture = Fixture::start().await;
    let mut worker = PlayedWorker::hello(&fixture, "w", 1).await;
    let path = "/api/v1/workers/w/restart";
    fixture.post(path, &json!({})).await;
    assert_eq!(worker.told(restart).await, 1);
    let view = fixture.delete(path).await;
    assert_eq!(view["restart_requested"], false);
    // A part of another program.
    worker.can_restart = false;
    worker.say_hello(1, &[]).await;
    let refused = fixture.refusal(path, &json!({})).await;
    assert_eq!(refused["status"], 409, "{refused}");
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("`scitq-ctl up`"), "{detail}");
    // Nothing is repeated: what comes next is the answer to the next change.
    worker.heartbeat(&[]).await;
    fixture
        .patch("/api/v1/workers/w", &json!({"concurrency": 5}))
        .await;
    loop {
        match worker.control().await {
            ControlCommand::Restart { .. } => panic!("nobody asks for it any more"),
            ControlCommand::Welcome { desired, .. } if desired.concurrency == 5 => break,
            _ => {}
        }
    }
    fixture.stop().await;
}
