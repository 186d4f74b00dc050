//! The order that the announced start (D7) rests on.

use scitq_broker::{Message, topology};

use crate::fixture::{Fixture, bodies, consume, queue, soon, take, to};

/// A worker has a delivery unacknowledged, publishes `started` on its channel, and its connection is cut as soon as that
/// is confirmed (or just before). Whoever receives the delivery again publishes `returned`. In the state queue the start
/// must stand first, or be missing.
pub async fn a_start_stands_before_the_return(fixture: &Fixture) {
    let rounds = if fixture.is_in_process() { 200 } else { 40 };
    for round in 0..rounds {
        let setup = fixture.channel().await;
        soon(setup.declare(&topology::base_topology()))
            .await
            .unwrap();
        let tasks = queue(&setup).await;
        soon(soon(setup.publish(to(&tasks, "dispatch"))).await.unwrap())
            .await
            .unwrap();

        let worker = fixture.channel().await;
        let mut consumer = consume(&worker, &tasks, 1).await;
        assert!(!take(&mut consumer, 1).await[0].redelivered);
        let event = |kind: &str| {
            Message::new(
                topology::EVENTS_EXCHANGE,
                format!("state.{kind}"),
                kind.to_owned(),
            )
        };
        let started = soon(worker.publish(event("started"))).await.unwrap();
        // In-process, the confirm comes when the event is settled; on the wire it comes when it is stored.
        let confirmed = if fixture.is_in_process() {
            false
        } else {
            round % 2 == 0
        };
        if confirmed {
            soon(started).await.unwrap();
        }
        fixture.cut().await;
        fixture.heal().await;

        let other = fixture.channel().await;
        let mut consumer = consume(&other, &tasks, 1).await;
        let again = take(&mut consumer, 1).await;
        assert!(again[0].redelivered, "round {round}");
        let returned = soon(other.publish(event("returned"))).await.unwrap();

        let server = fixture.channel().await;
        let mut events = consume(&server, topology::STATE_QUEUE, 10).await;
        let mut seen = bodies(&take(&mut events, 1).await);
        if seen == ["started"] {
            seen.extend(bodies(&take(&mut events, 1).await));
            assert_eq!(seen, ["started", "returned"], "round {round}");
        } else {
            // It was lost with the connection: then it must not come later.
            assert_eq!(seen, ["returned"], "round {round}");
            assert!(!confirmed, "round {round}: a confirmed start is gone");
            let late =
                tokio::time::timeout(std::time::Duration::from_millis(50), events.next()).await;
            assert!(late.is_err(), "round {round}: {late:?}");
        }
        drop(returned);
        // The next round begins with an empty queue.
        soon(server.delete_queue(topology::STATE_QUEUE))
            .await
            .unwrap();
    }
}
