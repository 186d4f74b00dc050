//! How work is taken: order, slots, redelivery, early acknowledgement.

use std::time::Duration;

use scitq_shared::definition::TaskDefinition;
use scitq_shared::ids::{Epoch, TaskId};
use scitq_shared::protocol::{AttemptPhase, TaskMessage};

use super::server::{GATE, definition, script};
use super::site::Site;

#[tokio::test]
async fn many_tasks_all_run_once() {
    let site = Site::start(4, 4).await;
    let mut tasks = Vec::new();
    for number in 0..200 {
        tasks.push(
            site.server
                .dispatch(definition(&format!("echo {number}")))
                .await,
        );
    }
    for task in tasks {
        site.server.until_applied(task).await;
    }
    site.until_kept(0).await;
    let heard = site.server.heard.lock().unwrap();
    assert_eq!((heard.count("started"), heard.count("ended")), (200, 200));
    for report in heard.reports("ended") {
        let expected = format!("{}\n", report.task.0 - 1).into_bytes();
        assert_eq!(
            heard.text(report.attempt, scitq_shared::output::Stream::Stdout),
            expected
        );
    }
}

#[tokio::test]
async fn tasks_wait_for_slots_and_are_announced_when_they_wait_for_long() {
    let site = Site::start(1, 1).await;
    let first = site.server.dispatch(script(GATE)).await;
    let second = site.server.dispatch(definition("true")).await;
    let waiting = site
        .server
        .until("the second one accepted", |heard| {
            heard
                .reports("accepted")
                .into_iter()
                .find(|report| report.task == second)
        })
        .await;
    assert!(waiting.started_at.is_none());
    site.server
        .until("both in a heartbeat", |heard| {
            let inventory = &heard.heartbeats.last()?.inventory;
            let phase = |task: TaskId| Some(inventory.iter().find(|item| item.task == task)?.phase);
            let expected = [Some(AttemptPhase::Running), Some(AttemptPhase::Accepted)];
            ([phase(first), phase(second)] == expected).then_some(())
        })
        .await;
    std::fs::write(site.work().join("go"), "").unwrap();
    site.server.until_applied(first).await;
    let report = site.server.until_applied(second).await;
    assert_eq!(report.attempt, waiting.attempt);
}

#[tokio::test]
async fn redelivered_messages_are_returned() {
    let mut site = Site::without_worker(1, 0).await;
    let message = site.server.message(TaskId(7), definition("echo never"));
    site.server.publish(&message).await;
    // Someone takes it and goes.
    let connection = site.broker.connect("another worker").await.unwrap();
    let channel = connection.channel().await.unwrap();
    let queue = scitq_broker::topology::batch_queue_name(message.batch.as_str());
    channel.get(&queue).await.unwrap().unwrap();
    connection.close().await;
    site.start_worker(|_| {}).await;
    site.server
        .until("the return", |heard| {
            (heard.count("returned") == 1).then_some(())
        })
        .await;
    let task = site.server.dispatch(definition("true")).await;
    site.server.until_applied(task).await;
    assert_eq!(site.server.heard.lock().unwrap().count("started"), 1);
    let depth = channel_depth(&site, &queue).await;
    assert_eq!(depth, 0, "acknowledged");
}

async fn channel_depth(site: &Site, queue: &str) -> u64 {
    let batch = &site.server.batch;
    let spec =
        scitq_broker::topology::batch_queue(batch.as_str(), scitq_broker::QueueType::Classic);
    assert_eq!(spec.name, queue);
    site.server
        .channel()
        .await
        .declare_queue(&spec)
        .await
        .unwrap()
        .messages
}

#[tokio::test]
async fn messages_of_an_old_epoch_are_returned_and_unreadable_ones_dead_lettered() {
    let site = Site::start(1, 0).await;
    let newer = TaskMessage {
        epoch: Epoch(5),
        ..site.server.message(TaskId(1), definition("true"))
    };
    site.server.publish(&newer).await;
    site.server.until_applied(TaskId(1)).await;
    site.server
        .publish(&site.server.message(TaskId(2), definition("echo never")))
        .await;
    site.server
        .until("the return", |heard| {
            (heard.count("returned") == 1).then_some(())
        })
        .await;
    for bad in [&b"{"[..], b"", b"{\"version\":99}", b"\xff\xfe"] {
        site.server.publish_bytes("Default", bad.to_vec()).await;
    }
    let newest = TaskMessage {
        epoch: Epoch(5),
        ..site.server.message(TaskId(3), definition("true"))
    };
    site.server.publish(&newest).await;
    site.server.until_applied(TaskId(3)).await;
    let channel = site.server.channel().await;
    for word in [
        "cannot be read",
        "cannot be read",
        "version 99",
        "cannot be read",
    ] {
        let rejected = channel
            .get(scitq_broker::topology::REJECTED_QUEUE)
            .await
            .unwrap()
            .expect("one dead letter for each");
        let header = |name: &str| rejected.properties.headers.get(name).cloned();
        let reason = header("scitq-reason").unwrap();
        assert!(reason.contains(word), "{reason}");
        let queue = scitq_broker::topology::batch_queue_name("Default");
        assert_eq!(header("scitq-routing-key"), Some(queue));
        channel.ack(rejected.tag).await.unwrap();
    }
}

#[tokio::test]
async fn long_tasks_are_acknowledged_early_and_the_worker_holds_no_more_than_it_should() {
    let mut site = Site::without_worker(2, 0).await;
    site.start_worker(|options| options.ack_after = Duration::from_millis(300))
        .await;
    let mut tasks = Vec::new();
    for _ in 0..3 {
        tasks.push(site.server.dispatch(script(GATE)).await);
    }
    for task in &tasks[..2] {
        site.server.until_begun(*task).await;
    }
    // Held for longer than that, they are acknowledged: when the worker's connection is cut, they do not come back.
    let queue = scitq_broker::topology::batch_queue("Default", scitq_broker::QueueType::Classic);
    let channel = site.server.channel().await;
    let settled = async {
        // An acknowledgement is seen by nobody but the broker: the consumer is gone once both are acknowledged.
        while channel.declare_queue(&queue).await.unwrap().consumers > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), settled)
        .await
        .expect("no consumer while there is no room");
    site.local.cut_connections();
    site.server.until_hello(2).await;
    assert_eq!(
        site.server.heard.lock().unwrap().count("started"),
        2,
        "the third one waits in the queue"
    );
    std::fs::write(site.work().join("go"), "").unwrap();
    for task in tasks {
        site.server.until_applied(task).await;
    }
    let heard = site.server.heard.lock().unwrap();
    assert_eq!(
        (
            heard.count("started"),
            heard.count("returned"),
            heard.count("released")
        ),
        (3, 0, 0)
    );
}

#[tokio::test]
async fn a_heavy_task_gets_all_slots() {
    let site = Site::start(2, 1).await;
    let small = site.server.dispatch(script(GATE)).await;
    let heavy = site
        .server
        .dispatch(TaskDefinition {
            weight: 50,
            ..definition("true")
        })
        .await;
    site.server
        .until("the heavy one waits", |heard| {
            heard
                .reports("accepted")
                .into_iter()
                .find(|report| report.task == heavy)
        })
        .await;
    std::fs::write(site.work().join("go"), "").unwrap();
    site.server.until_applied(small).await;
    let (small, heavy) = (
        site.server.until_applied(small).await,
        site.server.until_applied(heavy).await,
    );
    assert!(heavy.started_at.unwrap() >= small.ended_at.unwrap());
}
