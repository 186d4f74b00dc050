//! The end of connections.

use scitq_broker::{BrokerError, ConsumerEnd, PublishFailure, QueueSpec};

use crate::fixture::{
    Fixture, bodies, consume, eventually, fill, queue, soon, take, to, unused_name,
};

pub async fn a_lost_connection_ends_everything(fixture: &Fixture) {
    let connection = fixture.connect().await;
    let channel = soon(connection.channel()).await.unwrap();
    let idle = soon(connection.channel()).await.unwrap();
    let name = queue(&channel).await;
    let mut waiting = consume(&channel, &name, 1).await;
    let full = queue(&channel).await;
    fill(&channel, &full, ["1", "2"]).await;
    let mut busy = consume(&channel, &full, 2).await;
    let held = take(&mut busy, 1).await;

    let watcher = tokio::spawn({
        let connection = connection.clone();
        async move { connection.lost().await }
    });
    let waiter = tokio::spawn(async move { waiting.next().await });
    let closed = tokio::spawn(async move { idle.closed().await });
    // Many publications under way, of which some will be lost.
    let mut confirmations = Vec::new();
    for number in 0..3_000 {
        confirmations.push(
            soon(channel.publish(to(&name, number.to_string())))
                .await
                .unwrap(),
        );
    }
    fixture.cut().await;

    assert!(soon(watcher).await.unwrap().is_connection_lost());
    assert!(!connection.is_open());
    let first = soon(waiter).await.unwrap();
    match first {
        Ok(_) => {} // It had got a message before the cut.
        Err(end) => assert!(matches!(end, ConsumerEnd::ConnectionLost(_)), "{end:?}"),
    }
    assert!(soon(closed).await.unwrap().is_connection_lost());
    assert!(soon(channel.closed()).await.is_connection_lost());
    let end = soon(busy.next()).await;
    assert!(
        matches!(end, Err(ConsumerEnd::ConnectionLost(_))),
        "{end:?}"
    );
    for confirmation in confirmations {
        let outcome = soon(confirmation).await;
        let known = match &outcome {
            Ok(()) => true,
            Err(PublishFailure::Lost(error)) => error.is_connection_lost(),
            Err(_) => false,
        };
        assert!(known, "{outcome:?}");
    }
    for error in [
        soon(channel.publish(to(&name, "x"))).await.unwrap_err(),
        soon(channel.get(&name)).await.unwrap_err(),
        soon(channel.ack(held[0].tag)).await.unwrap_err(),
        soon(channel.declare_queue(&QueueSpec::durable(name.clone())))
            .await
            .unwrap_err(),
        soon(connection.channel()).await.unwrap_err(),
        soon(busy.cancel()).await.unwrap_err(),
    ] {
        assert!(error.is_connection_lost(), "{error:?}");
    }
}

pub async fn a_closed_connection_ends_everything(fixture: &Fixture) {
    let connection = fixture.connect().await;
    let channel = soon(connection.channel()).await.unwrap();
    let name = queue(&channel).await;
    fill(&channel, &name, ["1"]).await;
    let mut consumer = consume(&channel, &name, 1).await;
    take(&mut consumer, 1).await;
    let waiter = tokio::spawn(async move { consumer.next().await });
    soon(connection.close()).await;
    soon(connection.close()).await;
    assert!(
        soon(connection.lost())
            .await
            .to_string()
            .contains("closed by us")
    );
    assert!(!connection.is_open() && !channel.is_open());
    let end = soon(waiter).await.unwrap();
    assert!(
        matches!(end, Err(ConsumerEnd::ConnectionLost(_))),
        "{end:?}"
    );
    let again = fixture.channel().await;
    let mut consumer = consume(&again, &name, 1).await;
    assert!(take(&mut consumer, 1).await[0].redelivered);
}

pub async fn one_connects_again_after_a_loss(fixture: &Fixture) {
    let connection = fixture.connect().await;
    fixture.cut().await;
    assert!(soon(connection.lost()).await.is_connection_lost());
    let error = soon(fixture.broker.connect("refused")).await.unwrap_err();
    assert!(
        matches!(&error, BrokerError::Unreachable { .. }),
        "{error:?}"
    );
    assert!(
        error.to_string().contains(&fixture.broker.address()),
        "{error}"
    );
    assert!(!error.to_string().contains("guest"), "{error}");

    let (failed, mut failures) = tokio::sync::mpsc::unbounded_channel();
    let connecting = fixture.broker.connect_until_ready("again", |error, delay| {
        failed.send((error.clone(), delay)).unwrap();
    });
    let healing = async {
        for _ in 0..2 {
            let (error, delay) = failures.recv().await.unwrap();
            assert!(
                matches!(error, BrokerError::Unreachable { .. }),
                "{error:?}"
            );
            assert!(!delay.is_zero());
        }
        fixture.heal().await;
    };
    let (connection, ()) = soon(async { tokio::join!(connecting, healing) }).await;
    let channel = soon(connection.channel()).await.unwrap();
    let name = queue(&channel).await;
    fill(&channel, &name, ["x"]).await;
}

pub async fn unacknowledged_messages_come_back_after_a_loss(fixture: &Fixture) {
    let connection = fixture.connect().await;
    let channel = soon(connection.channel()).await.unwrap();
    let name = queue(&channel).await;
    let all: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    fill(&channel, &name, &all).await;
    let mut consumer = consume(&channel, &name, 4).await;
    let held = take(&mut consumer, 4).await;
    soon(channel.ack(held[0].tag)).await.unwrap();
    let fifth = take(&mut consumer, 1).await;
    assert_eq!(bodies(&fifth), ["4"], "the ack has arrived");
    fixture.cut().await;
    fixture.heal().await;

    let channel = fixture.channel().await;
    let mut consumer = consume(&channel, &name, 20).await;
    let mut back = Vec::new();
    while back.len() < 9 {
        back.extend(take(&mut consumer, 1).await);
    }
    let mut got = bodies(&back);
    // The broker may notice the loss after the new consumer has come.
    got.sort();
    assert_eq!(got, all[1..]);
    for delivery in &back {
        let was_held = ["1", "2", "3", "4"].contains(&&*String::from_utf8_lossy(&delivery.body));
        assert_eq!(delivery.redelivered, was_held, "{delivery:?}");
    }
}

pub async fn the_publisher_survives_a_loss(fixture: &Fixture) {
    let channel = fixture.channel().await;
    let name = queue(&channel).await;
    let publisher = fixture.broker.publisher("contract publisher");
    assert_eq!(soon(publisher.publish(to(&name, "1"))).await, Ok(()));
    let neighbour = fixture.connect().await;
    fixture.cut().await;
    soon(neighbour.lost()).await;
    for _ in 0..3 {
        let outcome = soon(publisher.publish(to(&name, "2"))).await;
        assert!(
            matches!(&outcome, Err(PublishFailure::Lost(error)) if error.is_connection_lost()),
            "{outcome:?}"
        );
    }
    fixture.heal().await;
    eventually(|| async { soon(publisher.publish(to(&name, "3"))).await.is_ok() }).await;
}

pub async fn a_dropped_connection_is_gone(fixture: &Fixture) {
    let connection = fixture.connect().await;
    let channel = soon(connection.channel()).await.unwrap();
    let name = unused_name();
    soon(channel.declare_queue(&QueueSpec::exclusive(name.clone())))
        .await
        .unwrap();
    // Its last handle is inside the channel's, and that one's inside the consumer.
    let mut consumer = consume(&channel, &name, 1).await;
    drop(connection);
    fill(&channel, &name, ["x"]).await;
    drop(channel);
    take(&mut consumer, 1).await;
    drop(consumer);

    let other = fixture.connect().await;
    eventually(|| async {
        let channel = soon(other.channel()).await.unwrap();
        soon(channel.declare_queue(&QueueSpec::exclusive(name.clone())))
            .await
            .is_ok()
    })
    .await;
}
