//! Deliveries and what becomes of them.

use scitq_broker::{BrokerError, ConsumerEnd, DeliveryTag, QueueSpec};

use crate::fixture::{
    Fixture, bodies, body, consume, eventually, fill, nothing_comes, queue, soon, take, to,
};

pub async fn prefetch_bounds_what_is_delivered(fixture: &Fixture) {
    let channel = fixture.channel().await;
    let name = queue(&channel).await;
    fill(&channel, &name, ["1", "2", "3", "4", "5"]).await;
    let mut consumer = consume(&channel, &name, 2).await;
    let held = take(&mut consumer, 2).await;
    assert_eq!(bodies(&held), ["1", "2"]);
    nothing_comes(&mut consumer).await;
    soon(channel.ack(held[1].tag)).await.unwrap();
    assert_eq!(body(&soon(consumer.next()).await.unwrap()), "3");
    nothing_comes(&mut consumer).await;
}

pub async fn an_ack_settles(fixture: &Fixture) {
    let connection = fixture.connect().await;
    let channel = soon(connection.channel()).await.unwrap();
    let name = queue(&channel).await;
    fill(&channel, &name, ["1", "2", "3"]).await;
    let mut consumer = consume(&channel, &name, 3).await;
    let held = take(&mut consumer, 3).await;
    soon(channel.ack(held[0].tag)).await.unwrap();
    soon(channel.ack(held[2].tag)).await.unwrap();
    soon(channel.close()).await;

    let second = soon(connection.channel()).await.unwrap();
    let mut consumer = consume(&second, &name, 3).await;
    let back = soon(consumer.next()).await.unwrap();
    assert_eq!((body(&back).as_str(), back.redelivered), ("2", true));
    nothing_comes(&mut consumer).await;
}

pub async fn ack_up_to_settles_all_before(fixture: &Fixture) {
    let connection = fixture.connect().await;
    let channel = soon(connection.channel()).await.unwrap();
    let (first, second) = (queue(&channel).await, queue(&channel).await);
    fill(&channel, &first, ["1", "2", "3", "4"]).await;
    fill(&channel, &second, ["other"]).await;
    let mut other = consume(&channel, &second, 1).await;
    take(&mut other, 1).await;
    let mut consumer = consume(&channel, &first, 4).await;
    let held = take(&mut consumer, 4).await;
    soon(channel.ack(held[1].tag)).await.unwrap();
    soon(channel.ack_up_to(held[2].tag)).await.unwrap();
    soon(channel.close()).await;

    let channel = soon(connection.channel()).await.unwrap();
    let mut consumer = consume(&channel, &first, 4).await;
    assert_eq!(bodies(&take(&mut consumer, 1).await), ["4"]);
    nothing_comes(&mut consumer).await;
    assert_eq!(
        soon(channel.get(&second)).await.unwrap(),
        None,
        "deliveries of all consumers are settled"
    );
}

pub async fn a_requeued_message_comes_back_redelivered(fixture: &Fixture) {
    let channel = fixture.channel().await;
    let name = queue(&channel).await;
    fill(&channel, &name, ["1", "2"]).await;
    let first = soon(channel.get(&name)).await.unwrap().unwrap();
    assert!(!first.redelivered);
    soon(channel.reject(first.tag, true)).await.unwrap();
    let mut consumer = consume(&channel, &name, 2).await;
    let held = take(&mut consumer, 2).await;
    assert_eq!(bodies(&held), ["1", "2"], "it goes back to where it was");
    assert_eq!([held[0].redelivered, held[1].redelivered], [true, false]);
}

pub async fn get_takes_one_at_a_time(fixture: &Fixture) {
    let connection = fixture.connect().await;
    let channel = soon(connection.channel()).await.unwrap();
    let name = queue(&channel).await;
    assert_eq!(soon(channel.get(&name)).await.unwrap(), None);
    fill(&channel, &name, ["1", "2"]).await;
    let first = soon(channel.get(&name)).await.unwrap().unwrap();
    let second = soon(channel.get(&name)).await.unwrap().unwrap();
    assert_eq!((body(&first).as_str(), body(&second).as_str()), ("1", "2"));
    assert_eq!(first.channel, channel.id());
    assert_eq!(soon(channel.get(&name)).await.unwrap(), None);
    soon(channel.ack(first.tag)).await.unwrap();
    soon(channel.close()).await;
    let channel = soon(connection.channel()).await.unwrap();
    let mut consumer = consume(&channel, &name, 9).await;
    let back = soon(consumer.next()).await.unwrap();
    assert_eq!((body(&back).as_str(), back.redelivered), ("2", true));
}

/// What the leader does to know which dispatches it holds again: get and ack until empty, while a worker has some.
pub async fn withdrawing_empties_a_queue(fixture: &Fixture) {
    let worker = fixture.channel().await;
    let leader = fixture.channel().await;
    let name = queue(&leader).await;
    let all: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    fill(&leader, &name, &all).await;
    let mut consumer = consume(&worker, &name, 3).await;
    let mut known = bodies(&take(&mut consumer, 3).await);
    let mut withdrawn = Vec::new();
    while let Some(delivery) = soon(leader.get(&name)).await.unwrap() {
        withdrawn.push(body(&delivery));
        soon(leader.ack(delivery.tag)).await.unwrap();
    }
    assert_eq!(withdrawn.len(), 47);
    known.extend(withdrawn);
    assert_eq!(known, all, "each is held by exactly one");
    nothing_comes(&mut consumer).await;
}

pub async fn consumers_take_turns(fixture: &Fixture) {
    let publisher = fixture.channel().await;
    let (left, right) = (fixture.channel().await, fixture.channel().await);
    let name = queue(&publisher).await;
    let mut first = consume(&left, &name, 50).await;
    let mut second = consume(&right, &name, 50).await;
    fill(&publisher, &name, (0..20).map(|number| number.to_string())).await;
    assert_eq!(
        take(&mut first, 10).await.len() + take(&mut second, 10).await.len(),
        20
    );
    // One that is full is passed over.
    let mut small = consume(&right, &name, 1).await;
    drop((first, second));
    let mut large = consume(&left, &name, 50).await;
    fill(&publisher, &name, (0..9).map(|number| number.to_string())).await;
    take(&mut small, 1).await;
    take(&mut large, 8).await;
    nothing_comes(&mut small).await;
}

pub async fn a_deleted_queue_cancels_its_consumers(fixture: &Fixture) {
    let owner = fixture.channel().await;
    let channel = fixture.channel().await;
    let (doomed, other) = (queue(&owner).await, queue(&owner).await);
    fill(&owner, &doomed, ["held", "buffered", "ready"]).await;
    let mut consumer = consume(&channel, &doomed, 1).await;
    let mut survivor = consume(&channel, &other, 1).await;
    let held = soon(consumer.next()).await.unwrap();
    soon(owner.delete_queue(&doomed)).await.unwrap();
    assert_eq!(
        soon(consumer.next()).await,
        Err(ConsumerEnd::CancelledByBroker)
    );
    assert_eq!(
        soon(consumer.next()).await,
        Err(ConsumerEnd::CancelledByBroker),
        "it stays so"
    );
    assert!(consumer.try_next().is_none());
    // Channel and connection are good; a late ack is too.
    soon(channel.ack(held.tag)).await.unwrap();
    fill(&channel, &other, ["x"]).await;
    assert_eq!(body(&soon(survivor.next()).await.unwrap()), "x");
    assert!(channel.is_open());
}

pub async fn cancel_keeps_deliveries_and_returns_buffered_ones(fixture: &Fixture) {
    let channel = fixture.channel().await;
    let name = queue(&channel).await;
    fill(&channel, &name, ["1", "2", "3", "4"]).await;
    let mut consumer = consume(&channel, &name, 3).await;
    let held = take(&mut consumer, 1).await;
    // All that it may have is under way: the queue keeps one.
    eventually(|| async { depth(&channel, &name).await == 1 }).await;
    let buffered = soon(consumer.cancel()).await.unwrap();
    assert_eq!(bodies(&buffered), ["2", "3"]);
    assert_eq!(depth(&channel, &name).await, 1);

    // Both kinds are this channel's to settle.
    soon(channel.ack(held[0].tag)).await.unwrap();
    soon(channel.ack(buffered[0].tag)).await.unwrap();
    soon(channel.reject(buffered[1].tag, true)).await.unwrap();
    let mut consumer = consume(&channel, &name, 9).await;
    let rest = take(&mut consumer, 2).await;
    assert_eq!(bodies(&rest), ["3", "4"]);
    assert!(channel.is_open());
}

/// Raising a worker's prefetch by consuming anew must count from nothing.
pub async fn a_cancelled_consumer_does_not_count_in_the_next_prefetch(fixture: &Fixture) {
    let channel = fixture.channel().await;
    let name = queue(&channel).await;
    fill(&channel, &name, (0..10).map(|number| number.to_string())).await;
    let mut consumer = consume(&channel, &name, 2).await;
    let held = take(&mut consumer, 2).await;
    assert!(soon(consumer.cancel()).await.unwrap().is_empty());
    let mut consumer = consume(&channel, &name, 3).await;
    let more = take(&mut consumer, 3).await;
    assert_eq!(bodies(&more), ["2", "3", "4"]);
    nothing_comes(&mut consumer).await;
    // Settling what the old one got makes no room in the new one.
    soon(channel.ack(held[0].tag)).await.unwrap();
    soon(channel.ack(held[1].tag)).await.unwrap();
    nothing_comes(&mut consumer).await;
    soon(channel.ack(more[0].tag)).await.unwrap();
    assert_eq!(body(&soon(consumer.next()).await.unwrap()), "5");
}

pub async fn a_dropped_consumer_gets_nothing_more(fixture: &Fixture) {
    let channel = fixture.channel().await;
    let name = queue(&channel).await;
    drop(consume(&channel, &name, 9).await);
    eventually(|| async { consumers(&channel, &name).await == 0 }).await;
    fill(&channel, &name, ["1"]).await;
    assert_eq!(depth(&channel, &name).await, 1);
}

pub async fn a_dropped_channel_gives_its_messages_back(fixture: &Fixture) {
    let connection = fixture.connect().await;
    let channel = soon(connection.channel()).await.unwrap();
    let name = queue(&channel).await;
    fill(&channel, &name, ["1"]).await;
    soon(channel.get(&name)).await.unwrap().unwrap();
    drop(channel);
    let channel = soon(connection.channel()).await.unwrap();
    let mut consumer = consume(&channel, &name, 1).await;
    assert!(soon(consumer.next()).await.unwrap().redelivered);
}

pub async fn a_closed_channel_ends_its_consumers_and_gives_back_in_order(fixture: &Fixture) {
    let connection = fixture.connect().await;
    let channel = soon(connection.channel()).await.unwrap();
    let name = queue(&channel).await;
    let all: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    fill(&channel, &name, &all).await;
    let mut consumer = consume(&channel, &name, 15).await;
    take(&mut consumer, 5).await;
    soon(channel.close()).await;
    let end = soon(consumer.next()).await;
    assert!(
        matches!(
            &end,
            Err(ConsumerEnd::ChannelClosed(BrokerError::ChannelClosed {
                code: 200,
                ..
            }))
        ),
        "{end:?}"
    );
    assert!(
        consumer.try_next().is_none(),
        "buffered deliveries of a closed channel are void"
    );
    assert!(!channel.is_open());
    assert!(matches!(
        soon(channel.closed()).await,
        BrokerError::ChannelClosed { code: 200, .. }
    ));
    let refused = soon(channel.publish(to(&name, "x"))).await;
    assert!(
        matches!(&refused, Err(BrokerError::ChannelClosed { .. })),
        "{refused:?}"
    );
    assert!(soon(channel.ack(DeliveryTag::for_tests(1))).await.is_err());
    assert!(connection.is_open());

    let channel = soon(connection.channel()).await.unwrap();
    let mut consumer = consume(&channel, &name, 20).await;
    let back = take(&mut consumer, 20).await;
    assert_eq!(bodies(&back), all);
    assert!(back[..5].iter().all(|delivery| delivery.redelivered));
    assert!(!back[19].redelivered, "what was never sent is not marked");
}

pub async fn an_unknown_tag_closes_the_channel(fixture: &Fixture) {
    let connection = fixture.connect().await;
    let channel = soon(connection.channel()).await.unwrap();
    // The answer may come with the call or after it.
    let _ = soon(channel.ack(DeliveryTag::for_tests(77))).await;
    let reason = soon(channel.closed()).await;
    assert!(
        matches!(reason, BrokerError::PreconditionFailed { .. }),
        "{reason:?}"
    );
    assert!(connection.is_open());
}

pub async fn try_next_takes_what_is_there(fixture: &Fixture) {
    let channel = fixture.channel().await;
    let name = queue(&channel).await;
    let mut consumer = consume(&channel, &name, 10).await;
    assert!(consumer.try_next().is_none());
    fill(&channel, &name, ["1", "2", "3"]).await;
    let mut got = take(&mut consumer, 1).await;
    soon(async {
        while got.len() < 3 {
            match consumer.try_next() {
                Some(delivery) => got.push(delivery),
                None => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    assert_eq!(bodies(&got), ["1", "2", "3"]);
    assert!(consumer.try_next().is_none());
    fill(&channel, &name, ["4"]).await;
    assert_eq!(body(&soon(consumer.next()).await.unwrap()), "4");
}

async fn depth(channel: &scitq_broker::Channel, queue: &str) -> u64 {
    soon(channel.declare_queue(&QueueSpec::durable(queue)))
        .await
        .unwrap()
        .messages
}

async fn consumers(channel: &scitq_broker::Channel, queue: &str) -> u64 {
    soon(channel.declare_queue(&QueueSpec::durable(queue)))
        .await
        .unwrap()
        .consumers
}
