//! Connections that ended, in whatever way, leave no thread behind. Alone in its process, because it counts threads.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]

use std::fs;
use std::time::{Duration, Instant};

use scitq_broker::{Broker, BrokerError, Message, QueueSpec};
use scitq_testkit::{LocalTcpProxy, RabbitMq};
use tokio::net::TcpListener;

/// lapin's threads, one per connection.
fn connection_threads() -> usize {
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
    threads
        .filter(|thread| {
            fs::read_to_string(thread.path().join("comm"))
                .is_ok_and(|name| name.starts_with("lapin"))
        })
        .count()
}

async fn until_there_are(count: usize) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while connection_threads() != count {
        assert!(
            Instant::now() < deadline,
            "{} threads instead of {count}",
            connection_threads()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_connections_leave_no_threads() {
    let node = RabbitMq::start().await;
    let proxy = LocalTcpProxy::start(node.address()).await;
    let broker = Broker::amqp(&proxy.url(&node.url())).unwrap();

    let kept = broker.connect("kept").await.unwrap();
    until_there_are(1).await;

    for _ in 0..10 {
        let connection = broker.connect("closed").await.unwrap();
        let channel = connection.channel().await.unwrap();
        channel
            .declare_queue(&QueueSpec::durable("q"))
            .await
            .unwrap();
        drop(channel.publish(Message::new("", "q", "x")).await.unwrap());
        connection.close().await;
    }
    until_there_are(1).await;

    for _ in 0..10 {
        let channel = broker
            .connect("dropped")
            .await
            .unwrap()
            .channel()
            .await
            .unwrap();
        channel
            .publish(Message::new("", "q", "x"))
            .await
            .unwrap()
            .await
            .unwrap();
    }
    until_there_are(1).await;

    let mut cut = Vec::new();
    for _ in 0..10 {
        let connection = broker.connect("cut").await.unwrap();
        cut.push((connection.channel().await.unwrap(), connection));
    }
    proxy.cut().await;
    assert!(kept.lost().await.is_connection_lost());
    for (channel, connection) in cut {
        assert!(connection.lost().await.is_connection_lost());
        assert!(channel.closed().await.is_connection_lost());
    }
    until_there_are(0).await;

    for _ in 0..5 {
        assert!(broker.connect("refused").await.is_err());
    }
    until_there_are(0).await;

    // One that accepts and never speaks.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let broker = Broker::amqp(&format!("amqp://{}/", silent.local_addr().unwrap())).unwrap();
    let began = Instant::now();
    let error = broker.connect("silent").await.unwrap_err();
    assert!(
        matches!(error, BrokerError::Unreachable { .. }),
        "{error:?}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(40),
        "{:?}",
        began.elapsed()
    );
    until_there_are(0).await;
}
