//! Publishing and confirms.

use std::collections::BTreeMap;

use scitq_broker::{
    BrokerError, ExchangeSpec, Message, Properties, PublishFailure, QueueSpec, Topology,
};

use crate::fixture::{
    Fixture, bodies, body, consume, fill, nothing_comes, queue, soon, take, to, unused_name,
};

pub async fn a_message_arrives_as_it_was_published(fixture: &Fixture) {
    let channel = fixture.channel().await;
    let name = unused_name();
    let topology = Topology {
        exchanges: vec![ExchangeSpec::direct("letters")],
        queues: vec![QueueSpec::durable(name.clone()).bound_to("letters", "key %2F é")],
    };
    soon(channel.declare(&topology)).await.unwrap();
    let properties = Properties {
        message_id: Some("id-1".into()),
        correlation_id: Some("question-1".into()),
        reply_to: Some("answers".into()),
        content_type: Some("application/json".into()),
        headers: BTreeMap::from([
            ("reason".to_owned(), "ü".repeat(400)),
            ("empty".to_owned(), String::new()),
        ]),
    };
    let sent = Message {
        properties: properties.clone(),
        ..Message::new("letters", "key %2F é", &b"\x00\xff body"[..])
    };
    soon(soon(channel.publish(sent)).await.unwrap())
        .await
        .unwrap();

    let mut consumer = consume(&channel, &name, 1).await;
    let delivery = soon(consumer.next()).await.unwrap();
    assert_eq!(delivery.exchange, "letters");
    assert_eq!(delivery.routing_key, "key %2F é");
    assert_eq!(delivery.properties, properties);
    assert_eq!(&delivery.body[..], b"\x00\xff body");
    assert_eq!(delivery.channel, channel.id());
    assert!(!delivery.redelivered);
}

pub async fn a_message_without_a_route_is_returned_if_mandatory(fixture: &Fixture) {
    let channel = fixture.channel().await;
    let confirmation = soon(channel.publish(to("nobody", "x"))).await.unwrap();
    let outcome = soon(confirmation).await;
    assert!(
        matches!(&outcome, Err(PublishFailure::Returned { code: 312, .. })),
        "{outcome:?}"
    );

    let message = Message {
        mandatory: false,
        ..to("nobody", "x")
    };
    let confirmation = soon(channel.publish(message)).await.unwrap();
    assert_eq!(soon(confirmation).await, Ok(()));
    assert!(channel.is_open());
}

/// Every confirm says what became of its own message, however the broker bundles its answers.
pub async fn returns_are_told_apart_in_a_stream(fixture: &Fixture) {
    let channel = fixture.channel().await;
    let name = queue(&channel).await;
    let mut confirmations = Vec::new();
    for number in 0..2_000 {
        let lost = number % 7 == 3;
        let target = if lost { "nobody" } else { &name };
        confirmations.push((lost, soon(channel.publish(to(target, "x"))).await.unwrap()));
    }
    for (number, (lost, confirmation)) in confirmations.into_iter().enumerate() {
        let outcome = soon(confirmation).await;
        let returned = matches!(outcome, Err(PublishFailure::Returned { .. }));
        assert_eq!(returned, lost, "message {number}: {outcome:?}");
        assert!(returned || outcome.is_ok(), "message {number}: {outcome:?}");
    }
}

pub async fn many_confirms_may_be_outstanding(fixture: &Fixture) {
    const MESSAGES: u64 = 10_000;
    let channel = fixture.channel().await;
    let name = queue(&channel).await;
    let mut confirmations = Vec::new();
    for number in 0..MESSAGES {
        confirmations.push(
            soon(channel.publish(to(&name, number.to_string())))
                .await
                .unwrap(),
        );
    }
    for confirmation in confirmations {
        soon(confirmation).await.unwrap();
    }
    let depth = soon(channel.declare_queue(&QueueSpec::durable(name)))
        .await
        .unwrap();
    assert_eq!(depth.messages, MESSAGES);
}

pub async fn messages_keep_their_order(fixture: &Fixture) {
    let channel = fixture.channel().await;
    let name = queue(&channel).await;
    let expected: Vec<String> = (0..500).map(|number| number.to_string()).collect();
    let mut confirmations = Vec::new();
    for number in &expected {
        confirmations.push(soon(channel.publish(to(&name, number))).await.unwrap());
    }
    let mut consumer = consume(&channel, &name, 500).await;
    assert_eq!(bodies(&take(&mut consumer, 500).await), expected);
    for confirmation in confirmations {
        soon(confirmation).await.unwrap();
    }
}

pub async fn a_large_body_arrives(fixture: &Fixture) {
    let channel = fixture.channel().await;
    let name = queue(&channel).await;
    // More than the room for unsent bytes in total, in bodies of many frames.
    let sent: Vec<u8> = (0..1024 * 1024)
        .map(|index: u32| index.to_le_bytes()[1] ^ index.to_le_bytes()[0])
        .collect();
    let mut confirmations = Vec::new();
    for _ in 0..8 {
        confirmations.push(
            soon(channel.publish(Message::new("", name.clone(), sent.clone())))
                .await
                .unwrap(),
        );
    }
    for confirmation in confirmations {
        soon(confirmation).await.unwrap();
    }
    let mut consumer = consume(&channel, &name, 8).await;
    for delivery in take(&mut consumer, 8).await {
        assert!(delivery.body == sent, "the body changed on the way");
    }
}

pub async fn an_empty_body_arrives(fixture: &Fixture) {
    let channel = fixture.channel().await;
    let name = queue(&channel).await;
    fill(&channel, &name, [""]).await;
    let mut consumer = consume(&channel, &name, 1).await;
    assert_eq!(body(&soon(consumer.next()).await.unwrap()), "");
}

pub async fn topics_route_by_pattern(fixture: &Fixture) {
    let channel = fixture.channel().await;
    let (narrow, wide) = (unused_name(), unused_name());
    let topology = Topology {
        exchanges: vec![ExchangeSpec::topic("news")],
        queues: vec![
            QueueSpec::durable(narrow.clone())
                .bound_to("news", "task.*.done")
                .bound_to("news", "task.a.#"),
            QueueSpec::durable(wide.clone()).bound_to("news", "task.#"),
        ],
    };
    soon(channel.declare(&topology)).await.unwrap();
    let cases = [
        // In the narrow queue once, though both its patterns match.
        ("task.a.done", 1, 1),
        ("task.b.done", 1, 1),
        ("task.b.begun", 0, 1),
        ("task", 0, 1),
        ("task.a", 1, 1),
        ("task.a.b.c", 1, 1),
    ];
    for (key, in_narrow, in_wide) in cases {
        let confirmation = soon(channel.publish(Message::new("news", key, key)))
            .await
            .unwrap();
        soon(confirmation).await.unwrap();
        for (name, expected) in [(&narrow, in_narrow), (&wide, in_wide)] {
            let mut count = 0;
            while let Some(delivery) = soon(channel.get(name)).await.unwrap() {
                soon(channel.ack(delivery.tag)).await.unwrap();
                count += 1;
            }
            assert_eq!(count, expected, "{key}");
        }
    }
    let confirmation = soon(channel.publish(Message::new("news", "worker.x", "x")))
        .await
        .unwrap();
    assert!(matches!(
        soon(confirmation).await,
        Err(PublishFailure::Returned { .. })
    ));
}

pub async fn a_missing_exchange_closes_the_channel_only(fixture: &Fixture) {
    let connection = fixture.connect().await;
    let channel = soon(connection.channel()).await.unwrap();
    let confirmation = soon(channel.publish(Message::new("no such exchange", "x", "x")))
        .await
        .unwrap();
    let outcome = soon(confirmation).await;
    assert!(
        matches!(&outcome, Err(PublishFailure::Lost(error)) if error.is_not_found()),
        "{outcome:?}"
    );
    assert!(soon(channel.closed()).await.is_not_found());
    assert!(!channel.is_open());
    assert!(connection.is_open());
    let second = soon(connection.channel()).await.unwrap();
    let name = queue(&second).await;
    fill(&second, &name, ["x"]).await;
}

pub async fn what_cannot_be_sent_is_refused_before(fixture: &Fixture) {
    let channel = fixture.channel().await;
    let long = "x".repeat(256);
    let mut headers = to("q", "x");
    headers
        .properties
        .headers
        .insert("h".into(), "x".repeat(17 * 1024));
    let mut id = to("q", "x");
    id.properties.message_id = Some(long.clone());
    for message in [
        to(&long, "x"),
        Message::new(long.clone(), "k", "x"),
        headers,
        id,
    ] {
        let refused = soon(channel.publish(message)).await;
        assert!(
            matches!(&refused, Err(BrokerError::Invalid { .. })),
            "{refused:?}"
        );
    }
    let refused = soon(channel.declare_queue(&QueueSpec::durable(long))).await;
    assert!(
        matches!(&refused, Err(BrokerError::Invalid { .. })),
        "{refused:?}"
    );
    assert!(channel.is_open());
}

pub async fn a_forgotten_confirmation_does_no_harm(fixture: &Fixture) {
    let channel = fixture.channel().await;
    let name = queue(&channel).await;
    for number in 0..100 {
        drop(
            soon(channel.publish(to(&name, number.to_string())))
                .await
                .unwrap(),
        );
    }
    fill(&channel, &name, ["last"]).await;
    let mut consumer = consume(&channel, &name, 200).await;
    let deliveries = take(&mut consumer, 101).await;
    assert_eq!(body(&deliveries[100]), "last");
    nothing_comes(&mut consumer).await;
}

pub async fn the_publisher_publishes_and_reports(fixture: &Fixture) {
    let channel = fixture.channel().await;
    let name = queue(&channel).await;
    let publisher = fixture.broker.publisher("contract publisher");
    let second = publisher.clone();
    let (one, two) = tokio::join!(
        soon(publisher.publish(to(&name, "x"))),
        soon(second.publish(to(&name, "x")))
    );
    assert_eq!((one, two), (Ok(()), Ok(())));
    let outcome = soon(publisher.publish(to("nobody", "x"))).await;
    assert!(
        matches!(outcome, Err(PublishFailure::Returned { .. })),
        "{outcome:?}"
    );
    // A failure that closes its channel does not spoil the next message.
    let outcome = soon(publisher.publish(Message::new("no such exchange", "x", "x"))).await;
    assert!(
        matches!(&outcome, Err(PublishFailure::Lost(error)) if error.is_not_found()),
        "{outcome:?}"
    );
    assert_eq!(soon(publisher.publish(to(&name, "x"))).await, Ok(()));
    let depth = soon(channel.declare_queue(&QueueSpec::durable(name)))
        .await
        .unwrap();
    assert_eq!(depth.messages, 3);
}
