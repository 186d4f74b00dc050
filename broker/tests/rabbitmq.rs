//! What only RabbitMQ does: it survives restarts, logs people in, raises alarms, and stands behind a network.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail their test"
)]

use std::future::Future;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use futures::FutureExt;
use scitq_broker::{
    Broker, BrokerError, Channel, ConsumerEnd, Message, PublishFailure, QueueSpec, QueueType,
    topology,
};
use scitq_testkit::{LocalTcpProxy, RabbitMq};

/// Longer than elsewhere: a node is started and stopped within.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_mins(2), work)
        .await
        .expect("it did not happen in time")
}

async fn channel(broker: &Broker) -> Channel {
    let connection = soon(broker.connect_until_ready("rabbitmq test", |_, _| {})).await;
    soon(connection.channel()).await.unwrap()
}

fn message(queue: &str, body: &str, persistent: bool) -> Message {
    Message {
        persistent,
        ..Message::new("", queue, body.to_owned())
    }
}

async fn publish(channel: &Channel, message: Message) -> Result<(), PublishFailure> {
    soon(soon(channel.publish(message)).await.unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn confirmed_persistent_messages_survive_a_stop_and_a_crash() {
    let node = RabbitMq::start().await;
    let broker = Broker::amqp(&node.url()).unwrap();
    assert!(broker.outlives_process());
    let queue = QueueSpec::durable("kept");
    for crash in [false, true] {
        let first = channel(&broker).await;
        soon(first.declare_queue(&queue)).await.unwrap();
        publish(&first, message("kept", "persistent", true))
            .await
            .unwrap();
        publish(&first, message("kept", "transient", false))
            .await
            .unwrap();
        let mut consumer = soon(first.consume("kept", NonZeroU16::MIN)).await.unwrap();
        assert_eq!(
            &soon(consumer.next()).await.unwrap().body[..],
            b"persistent"
        );
        if crash {
            node.kill().await;
        } else {
            node.stop().await;
        }
        let end = soon(consumer.next()).await;
        assert!(
            matches!(end, Err(ConsumerEnd::ConnectionLost(_))),
            "{end:?}"
        );
        let reason = soon(first.closed()).await;
        assert!(reason.is_connection_lost(), "{reason:?}");

        let mut failures = Vec::new();
        let reconnecting =
            broker.connect_until_ready("again", |error, _| failures.push(error.clone()));
        let (connection, ()) = soon(async { tokio::join!(reconnecting, node.restart()) }).await;
        assert!(
            failures
                .iter()
                .all(|error| matches!(error, BrokerError::Unreachable { .. })),
            "{failures:?}"
        );
        let second = soon(connection.channel()).await.unwrap();
        let delivery = soon(second.get("kept")).await.unwrap().unwrap();
        assert_eq!(&delivery.body[..], b"persistent");
        assert!(delivery.redelivered);
        soon(second.ack(delivery.tag)).await.unwrap();
        assert_eq!(
            soon(second.get("kept")).await.unwrap(),
            None,
            "the transient one is gone"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_says_so_without_the_password() {
    let node = RabbitMq::shared().await;
    let address = node.address();
    let cases = [
        format!("amqp://guest:sesame@{address}/"),
        format!("amqp://nobody:sesame@{address}/"),
        format!("amqp://guest:guest@{address}/no-such-vhost"),
    ];
    for url in cases {
        let broker = Broker::amqp(&url).unwrap();
        let error = soon(broker.connect("login")).await.unwrap_err();
        assert!(
            matches!(error, BrokerError::LoginRefused { .. }),
            "{url}: {error:?}"
        );
        let text = error.to_string();
        assert!(
            text.contains(&broker.address()) && !text.contains("sesame"),
            "{text}"
        );
        let outcome = soon(broker.publisher("login").publish(message("q", "x", true))).await;
        let Err(PublishFailure::Lost(error)) = outcome else {
            panic!("{url}: {outcome:?}")
        };
        assert!(
            matches!(error, BrokerError::LoginRefused { .. }),
            "{url}: {error:?}"
        );
        assert!(!error.to_string().contains("sesame"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_host_is_unreachable() {
    let broker = Broker::amqp("amqp://u:sesame@no-such-host.invalid:1234/").unwrap();
    let error = soon(broker.connect("nobody")).await.unwrap_err();
    assert!(
        matches!(error, BrokerError::Unreachable { .. }),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(
        text.contains("no-such-host.invalid:1234") && !text.contains("sesame"),
        "{text}"
    );
}

/// Nothing says that the other side is gone but its silence.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_line_is_noticed_by_its_heartbeats() {
    let node = RabbitMq::shared().await;
    let url = node.vhost().await;
    let proxy = LocalTcpProxy::start(node.address()).await;
    let broker = Broker::amqp(&proxy.url(&url)).unwrap();
    let connection = soon(broker.connect("silent")).await.unwrap();
    let lane = soon(connection.channel()).await.unwrap();
    soon(lane.declare_queue(&QueueSpec::durable("q")))
        .await
        .unwrap();
    let mut consumer = soon(lane.consume("q", NonZeroU16::MIN)).await.unwrap();
    proxy.freeze();
    let confirmation = soon(lane.publish(message("q", "x", true))).await.unwrap();
    assert!(soon(connection.lost()).await.is_connection_lost());
    let outcome = soon(confirmation).await;
    assert!(
        matches!(outcome, Err(PublishFailure::Lost(_))),
        "{outcome:?}"
    );
    let end = soon(consumer.next()).await;
    assert!(
        matches!(end, Err(ConsumerEnd::ConnectionLost(_))),
        "{end:?}"
    );
}

/// While a resource is short the broker reads nothing from publishers. They wait, bounded, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn publishers_wait_while_the_broker_has_an_alarm() {
    const BODIES: usize = 40;
    let node = RabbitMq::start().await;
    let broker = Broker::amqp(&node.url()).unwrap();
    let lane = channel(&broker).await;
    soon(lane.declare_queue(&QueueSpec::durable("q")))
        .await
        .unwrap();
    node.evaluate("rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []}).")
        .await;
    // The connection hears of the alarm a moment later; then its next message stays without an answer.
    let began = Instant::now();
    let mut blocked = loop {
        assert!(
            began.elapsed() < Duration::from_mins(1),
            "the connection is never blocked"
        );
        let mut next = soon(lane.publish(message("q", "x", true))).await.unwrap();
        match tokio::time::timeout(Duration::from_secs(2), &mut next).await {
            Ok(confirmed) => confirmed.unwrap(),
            Err(_) => break next,
        }
    };

    let publishing = tokio::spawn({
        let lane = lane.clone();
        async move {
            let mut confirmations = Vec::new();
            for _ in 0..BODIES {
                let large = Message::new("", "q", vec![b'x'; 1024 * 1024]);
                confirmations.push(lane.publish(large).await.unwrap());
            }
            confirmations
        }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!publishing.is_finished(), "40 MiB must not be buffered");
    assert!((&mut blocked).now_or_never().is_none());
    node.evaluate("rabbit_alarm:clear_alarm({resource_limit, memory, node()}).")
        .await;
    soon(blocked).await.unwrap();
    for confirmation in soon(publishing).await.unwrap() {
        soon(confirmation).await.unwrap();
    }
}

/// Batch queues may be quorum queues: the same life on one.
#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_batch_queue_works() {
    let node = RabbitMq::shared().await;
    let broker = Broker::amqp(&node.vhost().await).unwrap();
    let leader = channel(&broker).await;
    soon(leader.declare(&topology::base_topology()))
        .await
        .unwrap();
    let queue = topology::batch_queue("quorum", QueueType::Quorum);
    soon(leader.declare_queue(&queue)).await.unwrap();
    for body in ["1", "2", "3"] {
        let task = Message::new(topology::TASKS_EXCHANGE, queue.name.clone(), body);
        publish(&leader, task).await.unwrap();
    }
    let worker = channel(&broker).await;
    let mut consumer = soon(worker.consume(&queue.name, NonZeroU16::MIN))
        .await
        .unwrap();
    let first = soon(consumer.next()).await.unwrap();
    assert_eq!((&first.body[..], first.redelivered), (&b"1"[..], false));
    soon(worker.close()).await;

    let worker = channel(&broker).await;
    let mut consumer = soon(worker.consume(&queue.name, NonZeroU16::new(3).unwrap()))
        .await
        .unwrap();
    let mut redelivered = Vec::new();
    for _ in 0..3 {
        let delivery = soon(consumer.next()).await.unwrap();
        if delivery.redelivered {
            redelivered.push(String::from_utf8_lossy(&delivery.body).into_owned());
        }
        if &delivery.body[..] == b"3" {
            soon(worker.reject(delivery.tag, false)).await.unwrap();
        } else {
            soon(worker.ack(delivery.tag)).await.unwrap();
        }
    }
    assert_eq!(redelivered, ["1"]);
    let mut rejected = soon(leader.consume(topology::REJECTED_QUEUE, NonZeroU16::MIN))
        .await
        .unwrap();
    assert_eq!(&soon(rejected.next()).await.unwrap().body[..], b"3");
    soon(leader.delete_queue(&queue.name)).await.unwrap();
    assert_eq!(
        soon(consumer.next()).await,
        Err(ConsumerEnd::CancelledByBroker)
    );
}
