//! Properties of queues.

use std::num::NonZeroU16;

use scitq_broker::{
    BrokerError, ExchangeSpec, Message, Overflow, PublishFailure, QueueLimit, QueueSpec, QueueType,
    Topology, topology,
};

use crate::fixture::{
    Fixture, bodies, body, consume, eventually, fill, queue, soon, take, to, unused_name,
};

pub async fn a_rejected_message_is_dead_lettered(fixture: &Fixture) {
    let channel = fixture.channel().await;
    let name = unused_name();
    let topology = Topology {
        exchanges: vec![ExchangeSpec::direct("dead")],
        queues: vec![
            QueueSpec::durable("graveyard").bound_to("dead", "here"),
            QueueSpec::durable(name.clone()).dead_lettered_to("dead", "here"),
        ],
    };
    soon(channel.declare(&topology)).await.unwrap();
    let mut message = to(&name, "bad");
    message.properties.message_id = Some("id".into());
    message
        .properties
        .headers
        .insert("kept".into(), "yes".into());
    soon(soon(channel.publish(message)).await.unwrap())
        .await
        .unwrap();
    let delivery = soon(channel.get(&name)).await.unwrap().unwrap();
    soon(channel.reject(delivery.tag, false)).await.unwrap();

    let mut consumer = consume(&channel, "graveyard", 1).await;
    let letter = soon(consumer.next()).await.unwrap();
    assert_eq!(body(&letter), "bad");
    assert!(!letter.redelivered);
    assert_eq!(letter.exchange, "dead");
    assert_eq!(letter.routing_key, "here");
    assert_eq!(letter.properties.message_id.as_deref(), Some("id"));
    let header = |name: &str| letter.properties.headers.get(name).map(String::as_str);
    assert_eq!(header("kept"), Some("yes"));
    assert_eq!(header("x-first-death-queue"), Some(name.as_str()));
    assert_eq!(header("x-first-death-reason"), Some("rejected"));
    assert_eq!(soon(channel.get(&name)).await.unwrap(), None);
}

pub async fn a_full_queue_refuses(fixture: &Fixture) {
    let channel = fixture.channel().await;
    let name = unused_name();
    let limit = QueueLimit {
        bytes: Some(1_000),
        messages: None,
        overflow: Overflow::RejectPublish,
    };
    soon(channel.declare_queue(&QueueSpec::durable(name.clone()).limited(limit)))
        .await
        .unwrap();
    let half = "x".repeat(500);
    fill(&channel, &name, [&half, &half]).await;
    let confirmation = soon(channel.publish(to(&name, "y"))).await.unwrap();
    assert_eq!(soon(confirmation).await, Err(PublishFailure::Refused));
    assert!(channel.is_open());
    // What is out for delivery makes room, as what is settled does.
    let held = soon(channel.get(&name)).await.unwrap().unwrap();
    soon(channel.ack(held.tag)).await.unwrap();
    fill(&channel, &name, ["z"]).await;
    let mut consumer = consume(&channel, &name, 9).await;
    assert_eq!(bodies(&take(&mut consumer, 2).await), [half.as_str(), "z"]);
}

pub async fn a_full_queue_drops_its_oldest(fixture: &Fixture) {
    let channel = fixture.channel().await;
    let name = unused_name();
    let limit = QueueLimit {
        bytes: None,
        messages: Some(3),
        overflow: Overflow::DropHead,
    };
    soon(channel.declare_queue(&QueueSpec::durable(name.clone()).limited(limit)))
        .await
        .unwrap();
    fill(&channel, &name, ["1", "2", "3", "4", "5"]).await;
    let mut consumer = consume(&channel, &name, 9).await;
    assert_eq!(bodies(&take(&mut consumer, 3).await), ["3", "4", "5"]);
}

pub async fn a_missing_queue_is_not_found_and_the_connection_stays(fixture: &Fixture) {
    let connection = fixture.connect().await;
    let other = soon(connection.channel()).await.unwrap();
    let channel = soon(connection.channel()).await.unwrap();
    let error = soon(channel.consume("no such queue", NonZeroU16::MIN))
        .await
        .unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
    assert!(error.to_string().contains("no such queue"), "{error}");
    assert!(soon(channel.closed()).await.is_not_found());
    let error = soon(channel.get("other")).await.unwrap_err();
    assert!(error.is_not_found(), "a closed channel says why: {error:?}");

    let channel = soon(connection.channel()).await.unwrap();
    let error = soon(channel.get("no such queue")).await.unwrap_err();
    assert!(error.is_not_found(), "{error:?}");

    assert!(connection.is_open() && other.is_open());
    let name = queue(&other).await;
    fill(&other, &name, ["x"]).await;
}

pub async fn other_properties_are_refused(fixture: &Fixture) {
    let connection = fixture.connect().await;
    let channel = soon(connection.channel()).await.unwrap();
    let name = queue(&channel).await;
    let limit = QueueLimit {
        bytes: Some(10),
        messages: None,
        overflow: Overflow::DropHead,
    };
    let others = [
        QueueSpec::durable(name.clone()).limited(limit),
        QueueSpec::durable(name.clone()).dead_lettered_to("dead", "here"),
        QueueSpec {
            auto_delete: true,
            ..QueueSpec::durable(name.clone())
        },
    ];
    for other in others {
        let channel = soon(connection.channel()).await.unwrap();
        let error = soon(channel.declare_queue(&other)).await.unwrap_err();
        assert!(
            matches!(error, BrokerError::PreconditionFailed { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains(&name), "{error}");
    }
    let exchange = |spec| Topology {
        exchanges: vec![spec],
        queues: vec![],
    };
    soon(channel.declare(&exchange(ExchangeSpec::direct("kind"))))
        .await
        .unwrap();
    let error = soon(channel.declare(&exchange(ExchangeSpec::topic("kind"))))
        .await
        .unwrap_err();
    assert!(
        matches!(error, BrokerError::PreconditionFailed { .. }),
        "{error:?}"
    );
    assert!(connection.is_open());
}

pub async fn declaring_tells_the_depth(fixture: &Fixture) {
    let channel = fixture.channel().await;
    let name = queue(&channel).await;
    let spec = QueueSpec::durable(name.clone());
    let depth = soon(channel.declare_queue(&spec)).await.unwrap();
    assert_eq!((depth.messages, depth.consumers), (0, 0));
    fill(&channel, &name, ["1", "2", "3"]).await;
    let held = soon(channel.get(&name)).await.unwrap().unwrap();
    let depth = soon(channel.declare_queue(&spec)).await.unwrap();
    assert_eq!(
        (depth.messages, depth.consumers),
        (2, 0),
        "what is out for delivery does not count"
    );
    soon(channel.ack(held.tag)).await.unwrap();
    let mut consumer = consume(&channel, &name, 1).await;
    take(&mut consumer, 1).await;
    let depth = soon(channel.declare_queue(&spec)).await.unwrap();
    assert_eq!((depth.messages, depth.consumers), (1, 1));
}

/// Leadership and the names of workers rest on this.
pub async fn an_exclusive_queue_is_refused_to_others_until_its_connection_goes(fixture: &Fixture) {
    let holder = fixture.connect().await;
    let channel = soon(holder.channel()).await.unwrap();
    soon(channel.declare_queue(&topology::leader_queue()))
        .await
        .unwrap();
    let mut nudges = consume(&channel, topology::LEADER_QUEUE, 1).await;
    // Again on the same connection is fine.
    let second = soon(holder.channel()).await.unwrap();
    soon(second.declare_queue(&topology::leader_queue()))
        .await
        .unwrap();

    let rival = fixture.connect().await;
    for attempt in 0..3 {
        let channel = soon(rival.channel()).await.unwrap();
        let error = match attempt {
            0 => soon(channel.declare_queue(&topology::leader_queue()))
                .await
                .unwrap_err(),
            1 => soon(channel.consume(topology::LEADER_QUEUE, NonZeroU16::MIN))
                .await
                .unwrap_err(),
            _ => soon(channel.delete_queue(topology::LEADER_QUEUE))
                .await
                .unwrap_err(),
        };
        assert!(error.is_in_use(), "{error:?}");
        assert!(
            error.to_string().contains(topology::LEADER_QUEUE),
            "{error}"
        );
    }
    assert!(rival.is_open());
    // Anyone may publish to it.
    let channel = soon(rival.channel()).await.unwrap();
    fill(&channel, topology::LEADER_QUEUE, ["nudge"]).await;
    assert_eq!(body(&soon(nudges.next()).await.unwrap()), "nudge");

    soon(holder.close()).await;
    eventually(|| async {
        let channel = soon(rival.channel()).await.unwrap();
        match soon(channel.declare_queue(&topology::leader_queue())).await {
            Ok(depth) => {
                assert_eq!((depth.messages, depth.consumers), (0, 0), "a new queue");
                true
            }
            Err(error) => {
                assert!(error.is_in_use(), "{error:?}");
                false
            }
        }
    })
    .await;
}

pub async fn an_auto_delete_queue_goes_with_its_last_consumer(fixture: &Fixture) {
    let connection = fixture.connect().await;
    let channel = soon(connection.channel()).await.unwrap();
    let queue = topology::worker_control_queue("node.1 é");
    soon(channel.declare(&topology::base_topology()))
        .await
        .unwrap();
    soon(channel.declare_queue(&queue)).await.unwrap();
    let mut consumer = consume(&channel, &queue.name, 5).await;
    let key = topology::worker_routing_key("node.1 é");
    let message = Message::new(topology::CONTROL_EXCHANGE, key.clone(), "hello");
    soon(soon(channel.publish(message.clone())).await.unwrap())
        .await
        .unwrap();
    assert_eq!(body(&soon(consumer.next()).await.unwrap()), "hello");
    soon(consumer.cancel()).await.unwrap();
    let outcome = soon(soon(channel.publish(message)).await.unwrap()).await;
    assert!(
        matches!(outcome, Err(PublishFailure::Returned { .. })),
        "{outcome:?}"
    );
}

pub async fn deleting_what_is_not_there_is_fine(fixture: &Fixture) {
    let channel = fixture.channel().await;
    soon(channel.delete_queue("never was")).await.unwrap();
    let name = queue(&channel).await;
    soon(channel.delete_queue(&name)).await.unwrap();
    soon(channel.delete_queue(&name)).await.unwrap();
    assert!(channel.is_open());
}

pub async fn every_name_can_be_a_batch(fixture: &Fixture) {
    let channel = fixture.channel().await;
    soon(channel.declare(&topology::base_topology()))
        .await
        .unwrap();
    let longest = "é".repeat(33);
    let names = [
        "Default",
        "a.b",
        "a b",
        "#",
        "*",
        "100 %",
        "日本語",
        "a%2Eb",
        longest.as_str(),
        "amq.x",
        "",
    ];
    for (number, name) in names.iter().enumerate() {
        let spec = topology::batch_queue(name, QueueType::Classic);
        soon(channel.declare_queue(&spec)).await.unwrap();
        let message = Message::new(
            topology::TASKS_EXCHANGE,
            spec.name.clone(),
            number.to_string(),
        );
        soon(soon(channel.publish(message)).await.unwrap())
            .await
            .unwrap();
    }
    for (number, name) in names.iter().enumerate() {
        let queue = topology::batch_queue_name(name);
        let delivery = soon(channel.get(&queue)).await.unwrap().unwrap();
        assert_eq!(body(&delivery), number.to_string(), "{name}");
        soon(channel.ack(delivery.tag)).await.unwrap();
        assert_eq!(soon(channel.get(&queue)).await.unwrap(), None, "{name}");
        // A task that cannot be read goes where the server looks.
        soon(
            soon(channel.publish(Message::new(
                topology::TASKS_EXCHANGE,
                queue.clone(),
                (*name).to_owned(),
            )))
            .await
            .unwrap(),
        )
        .await
        .unwrap();
        let delivery = soon(channel.get(&queue)).await.unwrap().unwrap();
        soon(channel.reject(delivery.tag, false)).await.unwrap();
        let mut rejected = consume(&channel, topology::REJECTED_QUEUE, 1).await;
        let letter = soon(rejected.next()).await.unwrap();
        assert_eq!(body(&letter), *name);
        soon(channel.ack(letter.tag)).await.unwrap();
        soon(rejected.cancel()).await.unwrap();
    }
}

pub async fn the_base_topology_carries_events(fixture: &Fixture) {
    let worker = fixture.channel().await;
    let server = fixture.channel().await;
    // Both declare alike, at the same time and again.
    let topology = topology::base_topology();
    let (one, two) = tokio::join!(
        soon(worker.declare(&topology)),
        soon(server.declare(&topology))
    );
    one.unwrap();
    two.unwrap();
    soon(server.declare(&topology)).await.unwrap();

    let queues = [
        (topology::STATE_QUEUE, "state.started"),
        (topology::OUTPUT_QUEUE, "output.stdout"),
        (topology::HEARTBEAT_QUEUE, "heartbeat"),
    ];
    for (queue, key) in queues {
        let message = Message::new(topology::EVENTS_EXCHANGE, key, key);
        let confirmation = soon(worker.publish(message)).await.unwrap();
        let mut consumer = consume(&server, queue, 10).await;
        let delivery = soon(consumer.next()).await.unwrap();
        assert_eq!(body(&delivery), key);
        soon(server.ack(delivery.tag)).await.unwrap();
        soon(confirmation).await.unwrap();
        soon(consumer.cancel()).await.unwrap();
    }
    let error = soon(server.declare(&topology::base_topology_with_output_limit(1)))
        .await
        .unwrap_err();
    assert!(
        matches!(error, BrokerError::PreconditionFailed { .. }),
        "{error:?}"
    );
    assert!(
        error.to_string().contains(topology::OUTPUT_QUEUE),
        "{error}"
    );
}

pub async fn only_an_idle_queue_is_deleted_as_idle(fixture: &Fixture) {
    let connection = fixture.connect().await;
    let channel = soon(connection.channel()).await.unwrap();
    let name = queue(&channel).await;
    fill(&channel, &name, ["1"]).await;
    let refused = |error: &BrokerError| matches!(error, BrokerError::PreconditionFailed { .. });
    // Not with a message in it, nor with a consumer.
    let mut consumers = Vec::new();
    for _ in 0..2 {
        let tidy = soon(connection.channel()).await.unwrap();
        let error = soon(tidy.delete_idle_queue(&name)).await.unwrap_err();
        assert!(refused(&error), "{error}");
        let delivery = soon(channel.get(&name)).await.unwrap();
        if let Some(delivery) = delivery {
            assert_eq!(body(&delivery), "1");
            soon(channel.ack(delivery.tag)).await.unwrap();
            consumers.push(consume(&channel, &name, 1).await);
        }
    }
    soon(channel.close()).await;
    let tidy = soon(connection.channel()).await.unwrap();
    soon(tidy.delete_idle_queue(&name)).await.unwrap();
    soon(tidy.delete_idle_queue(&name)).await.unwrap();
    let error = soon(tidy.get(&name)).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
}
