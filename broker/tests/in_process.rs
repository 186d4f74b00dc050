//! What only the in-process broker does: an event is confirmed when its consumer has settled it, because a message in
//! memory is no safer than its publisher.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail their test"
)]

use std::future::Future;
use std::num::NonZeroU16;
use std::time::Duration;

use futures::FutureExt;
use scitq_broker::{
    Broker, BrokerError, Channel, Confirmation, DeliveryTag, LocalBroker, Message, Overflow,
    PublishFailure, QueueLimit, QueueSpec, topology,
};

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_mins(1), work)
        .await
        .expect("it did not happen in time")
}

struct Stage {
    broker: LocalBroker,
    worker: Channel,
    server: Channel,
}

/// A worker and a server on connections of their own, with the topology declared.
async fn stage() -> Stage {
    let broker = LocalBroker::default();
    let handle = Broker::local(broker.clone());
    let worker = handle
        .connect("worker")
        .await
        .unwrap()
        .channel()
        .await
        .unwrap();
    let server = handle
        .connect("server")
        .await
        .unwrap()
        .channel()
        .await
        .unwrap();
    worker.declare(&topology::base_topology()).await.unwrap();
    Stage {
        broker,
        worker,
        server,
    }
}

impl Stage {
    async fn event(&self) -> Confirmation {
        let event = Message::new(topology::EVENTS_EXCHANGE, "state.started", "event");
        self.worker.publish(event).await.unwrap()
    }

    async fn receive(&self) -> DeliveryTag {
        self.server
            .get(topology::STATE_QUEUE)
            .await
            .unwrap()
            .unwrap()
            .tag
    }
}

fn is_open(confirmation: &mut Confirmation) -> bool {
    confirmation.now_or_never().is_none()
}

#[tokio::test]
async fn an_ack_confirms() {
    let stage = stage().await;
    let mut first = stage.event().await;
    let mut second = stage.event().await;
    assert!(is_open(&mut first), "storing it is not enough");
    let tag = stage.receive().await;
    stage.receive().await;
    assert!(is_open(&mut first), "nor is delivering it");
    stage.server.ack(tag).await.unwrap();
    assert_eq!(soon(&mut first).await, Ok(()));
    assert!(is_open(&mut second));
    drop(stage.event().await);
    let last = stage.receive().await;
    stage.server.ack_up_to(last).await.unwrap();
    assert_eq!(soon(second).await, Ok(()));
}

#[tokio::test]
async fn a_dead_letter_confirms_and_is_kept() {
    let stage = stage().await;
    let event = stage.event().await;
    let tag = stage.receive().await;
    stage.server.reject(tag, false).await.unwrap();
    assert_eq!(soon(event).await, Ok(()));
    let letter = stage
        .server
        .get(topology::REJECTED_QUEUE)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&letter.body[..], b"event");
}

#[tokio::test]
async fn giving_back_leaves_the_confirm_open() {
    let stage = stage().await;
    let mut event = stage.event().await;
    let tag = stage.receive().await;
    stage.server.reject(tag, true).await.unwrap();
    assert!(is_open(&mut event));
    stage.receive().await;
    stage.server.close().await;
    assert!(is_open(&mut event), "nor does the server's end answer");
    let server = Broker::local(stage.broker.clone())
        .connect("next")
        .await
        .unwrap()
        .channel()
        .await
        .unwrap();
    let mut consumer = server
        .consume(topology::STATE_QUEUE, NonZeroU16::MIN)
        .await
        .unwrap();
    let delivery = soon(consumer.next()).await.unwrap();
    assert!(delivery.redelivered);
    server.ack(delivery.tag).await.unwrap();
    assert_eq!(soon(event).await, Ok(()));
}

#[tokio::test]
async fn the_publishers_end_loses_the_confirm_but_not_the_event() {
    let stage = stage().await;
    let event = stage.event().await;
    stage.broker.cut_connections();
    let outcome = soon(event).await;
    assert!(
        matches!(&outcome, Err(PublishFailure::Lost(error)) if error.is_connection_lost()),
        "{outcome:?}"
    );
    let server = Broker::local(stage.broker.clone())
        .connect("next")
        .await
        .unwrap()
        .channel()
        .await
        .unwrap();
    let delivery = server.get(topology::STATE_QUEUE).await.unwrap().unwrap();
    assert!(!delivery.redelivered);
    server.ack(delivery.tag).await.unwrap();
}

#[tokio::test]
async fn what_a_full_queue_drops_is_confirmed_and_what_goes_with_its_queue_refused() {
    let stage = stage().await;
    let limit = QueueLimit {
        bytes: None,
        messages: Some(1),
        overflow: Overflow::DropHead,
    };
    let queue = QueueSpec {
        confirm_when_settled: true,
        ..QueueSpec::durable("small").limited(limit)
    };
    stage.server.declare_queue(&queue).await.unwrap();
    let first = stage
        .worker
        .publish(Message::new("", "small", "1"))
        .await
        .unwrap();
    let mut second = stage
        .worker
        .publish(Message::new("", "small", "2"))
        .await
        .unwrap();
    assert_eq!(soon(first).await, Ok(()));
    assert!(is_open(&mut second));
    stage.server.delete_queue("small").await.unwrap();
    assert_eq!(soon(second).await, Err(PublishFailure::Refused));
}

#[tokio::test]
async fn all_queues_of_a_message_must_settle_it() {
    let stage = stage().await;
    for name in ["a", "b"] {
        let queue = QueueSpec {
            confirm_when_settled: true,
            ..QueueSpec::durable(name)
        };
        stage
            .server
            .declare_queue(&queue.bound_to(topology::FEED_EXCHANGE, "#"))
            .await
            .unwrap();
    }
    let plain = QueueSpec::durable("plain").bound_to(topology::FEED_EXCHANGE, "#");
    stage.server.declare_queue(&plain).await.unwrap();
    let mut both = stage
        .worker
        .publish(Message::new(topology::FEED_EXCHANGE, "x", "x"))
        .await
        .unwrap();
    for name in ["a", "b"] {
        assert!(is_open(&mut both));
        let delivery = stage.server.get(name).await.unwrap().unwrap();
        stage.server.ack(delivery.tag).await.unwrap();
    }
    assert_eq!(soon(both).await, Ok(()));
}

#[tokio::test]
async fn the_publisher_waits_for_the_settlement() {
    let stage = stage().await;
    let publisher = Broker::local(stage.broker.clone()).publisher("nudges");
    let event = Message::new(topology::EVENTS_EXCHANGE, "state.started", "event");
    let publishing = tokio::spawn(async move { publisher.publish(event).await });
    let mut consumer = stage
        .server
        .consume(topology::STATE_QUEUE, NonZeroU16::MIN)
        .await
        .unwrap();
    let delivery = soon(consumer.next()).await.unwrap();
    assert!(!publishing.is_finished());
    stage.server.ack(delivery.tag).await.unwrap();
    assert_eq!(soon(publishing).await.unwrap(), Ok(()));
}

#[tokio::test]
async fn refusing_connections_spares_those_that_are_open() {
    let stage = stage().await;
    stage.broker.refuse_connections(true);
    let refused = Broker::local(stage.broker.clone())
        .connect("late")
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, BrokerError::Unreachable { .. }),
        "{refused:?}"
    );
    assert!(stage.worker.is_open());
    assert!(!Broker::local(stage.broker.clone()).outlives_process());
    assert_eq!(Broker::local(stage.broker.clone()).address(), "in-process");
    drop(stage.event().await);
}
