//! How many messages a second each broker carries on this machine: `cargo run --release -p scitq-broker --example
//! throughput [MESSAGES]`. Starts a private RabbitMQ node for itself.

use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use scitq_broker::{Broker, Channel, Confirmation, LocalBroker, Message, QueueSpec};
use scitq_testkit::RabbitMq;

const OUTSTANDING: usize = 1_000;
const PREFETCH: u16 = 200;
const BODY: &[u8] = &[b'x'; 300];

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let messages = std::env::args()
        .nth(1)
        .map_or(Ok(50_000), |text| text.parse())?;
    measure(
        "in-process",
        &Broker::local(LocalBroker::default()),
        messages,
    )
    .await?;
    let node = RabbitMq::start().await;
    measure("RabbitMQ", &Broker::amqp(&node.url())?, messages).await?;
    Ok(())
}

async fn measure(name: &str, broker: &Broker, messages: usize) -> Outcome<()> {
    let publisher = broker
        .connect("throughput publisher")
        .await?
        .channel()
        .await?;
    let consumer = broker
        .connect("throughput consumer")
        .await?
        .channel()
        .await?;

    let queue = QueueSpec::durable("throughput");
    publisher.declare_queue(&queue).await?;
    let began = Instant::now();
    publish(&publisher, &queue.name, messages).await?;
    report(
        name,
        "publish and confirm, 1,000 outstanding",
        messages,
        began.elapsed(),
    );
    let began = Instant::now();
    consume(&consumer, &queue.name, messages).await?;
    report(
        name,
        "consume and ack, prefetch 200",
        messages,
        began.elapsed(),
    );

    let few = messages / 20;
    let began = Instant::now();
    for _ in 0..few {
        publisher.publish(message(&queue.name)).await?.await?;
    }
    report(name, "publish, each confirm awaited", few, began.elapsed());
    let began = Instant::now();
    consume(&consumer, &queue.name, few).await?;
    report(
        name,
        "consume and ack, what these left",
        few,
        began.elapsed(),
    );

    let began = Instant::now();
    let outcomes = tokio::join!(
        publish(&publisher, &queue.name, messages),
        consume(&consumer, &queue.name, messages)
    );
    outcomes.0?;
    outcomes.1?;
    report(name, "both at once", messages, began.elapsed());

    let settled = QueueSpec {
        confirm_when_settled: true,
        ..QueueSpec::durable("throughput settled")
    };
    publisher.declare_queue(&settled).await?;
    let began = Instant::now();
    let outcomes = tokio::join!(
        publish(&publisher, &settled.name, messages),
        consume(&consumer, &settled.name, messages)
    );
    outcomes.0?;
    outcomes.1?;
    report(
        name,
        "both at once, in-process confirmed when settled",
        messages,
        began.elapsed(),
    );
    Ok(())
}

fn message(queue: &str) -> Message {
    Message::new("", queue, BODY)
}

async fn publish(channel: &Channel, queue: &str, messages: usize) -> Outcome<()> {
    let mut outstanding = std::collections::VecDeque::<Confirmation>::with_capacity(OUTSTANDING);
    for _ in 0..messages {
        if outstanding.len() == OUTSTANDING
            && let Some(oldest) = outstanding.pop_front()
        {
            oldest.await?;
        }
        outstanding.push_back(channel.publish(message(queue)).await?);
    }
    for confirmation in outstanding {
        confirmation.await?;
    }
    Ok(())
}

async fn consume(channel: &Channel, queue: &str, messages: usize) -> Outcome<()> {
    let prefetch = NonZeroU16::new(PREFETCH).unwrap_or(NonZeroU16::MIN);
    let mut consumer = channel.consume(queue, prefetch).await?;
    for _ in 0..messages {
        let delivery = consumer.next().await?;
        channel.ack(delivery.tag).await?;
    }
    consumer.cancel().await?;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
fn report(broker: &str, what: &str, messages: usize, took: Duration) {
    println!(
        "{broker:>10}  {what:<50} {:>9.0}/s",
        messages as f64 / took.as_secs_f64()
    );
}
