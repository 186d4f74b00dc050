//! Messages that cannot be read are put aside with the reason, and stop nobody.

use std::time::Duration;

use scitq_broker::{Broker, Channel, Delivery, Message, topology};
use scitq_e2e::{Separate, Setup, WORKER, eventually};
use scitq_testkit::Postgres;
use serde_json::json;

async fn channel(system: &Separate) -> Channel {
    let broker = Broker::amqp(system.broker_url()).expect("an address");
    let connection = broker.connect("test").await.expect("a connection");
    connection.channel().await.expect("a channel")
}

async fn publish(channel: &Channel, exchange: &str, routing_key: &str, body: &[u8]) {
    let message = Message::new(exchange, routing_key, body.to_vec());
    let confirmation = channel
        .publish(message)
        .await
        .expect("a channel that is open");
    confirmation.await.expect("a confirm");
}

/// The next message that was put aside.
async fn rejected(channel: &Channel) -> Delivery {
    let delivery = eventually("a message is put aside", || async {
        channel
            .get(topology::REJECTED_QUEUE)
            .await
            .expect("the queue of rejected messages")
    })
    .await;
    channel
        .ack(delivery.tag)
        .await
        .expect("a channel that is open");
    delivery
}

/// Whatever is readable and yet refused by the database ends no term of leadership: it would come again in the next.
#[tokio::test]
async fn what_the_database_refuses_is_put_aside() {
    let system = Separate::start(Setup::default()).await;
    let refuse = "ALTER TABLE worker ADD CONSTRAINT no_stranger CHECK (name <> 'stranger')";
    let postgres = Postgres::shared().await;
    postgres.execute(system.database_url(), refuse).await;
    let channel = channel(&system).await;
    let hello = json!({
        "version": 1, "worker": "stranger", "incarnation": "00000000-0000-4000-8000-000000000001", "epoch": 1,
        "sequence": 1, "sent_at": "2026-01-01T00:00:00Z",
        "event": {
            "kind": "hello", "hostname": "strange", "program_version": "1", "cores": 1, "memory_bytes": 1,
            "initial": {"version": 0, "batch": "Nobody", "concurrency": 0, "prefetch": 0, "paused": true},
            "desired_version": 0, "inventory": [],
        },
    });
    let exchange = topology::EVENTS_EXCHANGE;
    publish(
        &channel,
        exchange,
        "state.hello",
        hello.to_string().as_bytes(),
    )
    .await;
    let aside = rejected(&channel).await;
    let reason = &aside.properties.headers["scitq-reason"];
    assert!(reason.contains("no_stranger"), "{reason}");

    // Heartbeats cannot be noted any more: the series goes on all the same.
    let refuse = "ALTER TABLE worker ADD CONSTRAINT no_beat CHECK (cores < 0) NOT VALID";
    postgres.execute(system.database_url(), refuse).await;
    let log = || system.server().log();
    eventually("a heartbeat is refused", || async {
        log().contains("heartbeats cannot be noted").then_some(())
    })
    .await;
    let task = system.launch(["true"]).await;
    system.succeeded(&[task]).await;
    assert!(!log().contains("it begins anew"), "{}", log());
}

#[tokio::test]
async fn events_that_cannot_be_read_are_put_aside() {
    let system = Separate::start(Setup::default()).await;
    let channel = channel(&system).await;
    // routing key; body; words of the reason
    let junk: [(&str, &[u8], &str); 6] = [
        ("state.w1", b"\xff\xfe no JSON", ""),
        ("state.w1", b"{\"version\":1}", "missing field"),
        ("state.w1", b"{\"version\":9999}", "version 9999"),
        ("output.stdout", b"[]", ""),
        (
            "output.stderr",
            b"{\"version\":1,\"worker\":\"w1\"}",
            "missing field",
        ),
        ("heartbeat.w1", b"{}", "version"),
    ];
    for (routing_key, body, reason) in junk {
        publish(&channel, topology::EVENTS_EXCHANGE, routing_key, body).await;
        let aside = rejected(&channel).await;
        assert_eq!(aside.body, body);
        let header = |name: &str| aside.properties.headers.get(name).map(String::as_str);
        assert_eq!(header("scitq-routing-key"), Some(routing_key));
        let told = header("scitq-reason").unwrap_or_default();
        assert!(
            !told.is_empty() && told.contains(reason),
            "{reason:?} in {told:?}"
        );
    }
    // A good message behind bad ones is read.
    for (routing_key, body, _) in junk {
        publish(&channel, topology::EVENTS_EXCHANGE, routing_key, body).await;
    }
    let task = system.launch(["echo", "still here"]).await;
    system.succeeded(&[task]).await;
    assert_eq!(system.output(task, "stdout").await, b"still here\n");
    let log = system.server().log();
    assert!(log.contains("scitq.rejected"), "it is logged: {log}");
}

#[tokio::test]
async fn well_formed_nonsense_stops_nobody() {
    let system = Separate::start(Setup::default()).await;
    let channel = channel(&system).await;
    let real = system.launch(["true"]).await;
    system.succeeded(&[real]).await;
    let execution = system.execution(real).await;
    let uuid = "00000000-0000-4000-8000-000000000001";
    // An output chunk of an attempt that nobody knows, and one whose packed bytes are damaged.
    let chunk = |attempt: &serde_json::Value, data: &str| {
        json!({"version": 1, "worker": WORKER, "incarnation": uuid, "epoch": 1, "attempt": attempt, "task": real,
            "stream": "stdout", "offset": 0, "length": 3, "encoding": "zstd", "data": data})
    };
    for body in [
        chunk(&json!(uuid), "AAAA"),
        chunk(&execution["attempt_id"], "!!!"),
        chunk(&json!("x"), "AAAA"),
    ] {
        let body = body.to_string();
        publish(
            &channel,
            topology::EVENTS_EXCHANGE,
            "output.stdout",
            body.as_bytes(),
        )
        .await;
    }
    let task = system.launch(["echo", "fine"]).await;
    system.succeeded(&[task]).await;
    assert_eq!(system.output(task, "stdout").await, b"fine\n");
}

#[tokio::test]
async fn task_messages_that_cannot_be_read_are_put_aside() {
    let system = Separate::start(Setup::default()).await;
    let channel = channel(&system).await;
    // The queue exists once its batch has had work.
    let first = system.launch(["true"]).await;
    system.succeeded(&[first]).await;
    let queue = topology::batch_queue_name("Default");
    let table = [
        (&b"\0\xff"[..], "cannot be read"),
        (b"{}", "cannot be read"),
        (b"{\"version\":9999}", "version 9999"),
    ];
    for (body, reason) in table {
        publish(&channel, topology::TASKS_EXCHANGE, &queue, body).await;
        let aside = rejected(&channel).await;
        assert_eq!(aside.body, body);
        let header = |name: &str| aside.properties.headers.get(name).map(String::as_str);
        assert_eq!(header("scitq-routing-key"), Some(queue.as_str()));
        let told = header("scitq-reason").unwrap_or_default();
        assert!(told.contains(reason), "{reason:?} in {told:?}");
    }
    let task = system.launch(["echo", "still here"]).await;
    system.succeeded(&[task]).await;
    let log = system.server().log() + &system.worker_process(WORKER).log();
    assert!(log.contains("9999"), "it is logged with the reason: {log}");
    let left = tokio::time::timeout(
        Duration::from_secs(10),
        channel.get(topology::REJECTED_QUEUE),
    )
    .await;
    assert!(
        left.expect("an answer").expect("a queue").is_none(),
        "nothing else was put aside"
    );
}
