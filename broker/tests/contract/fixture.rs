//! A broker to test, and the network to it.

use std::future::Future;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use scitq_broker::{
    Broker, Channel, Connection, Consumer, Delivery, LocalBroker, Message, QueueSpec,
};
use scitq_testkit::{LocalTcpProxy, RabbitMq};

/// How long anything may take that must happen; generous, for loaded machines.
const DEADLINE: Duration = Duration::from_mins(1);
/// How long is waited for something that must not happen.
const A_WHILE: Duration = Duration::from_millis(300);

pub struct Fixture {
    pub broker: Broker,
    network: Network,
}

enum Network {
    InProcess(LocalBroker),
    Proxy(LocalTcpProxy),
}

impl Fixture {
    pub fn in_process() -> Self {
        let broker = LocalBroker::default();
        Self {
            broker: Broker::local(broker.clone()),
            network: Network::InProcess(broker),
        }
    }

    pub async fn rabbitmq() -> Self {
        let node = RabbitMq::shared().await;
        let url = node.vhost().await;
        let proxy = LocalTcpProxy::start(node.address()).await;
        let broker = Broker::amqp(&proxy.url(&url)).unwrap();
        Self {
            broker,
            network: Network::Proxy(proxy),
        }
    }

    pub fn is_in_process(&self) -> bool {
        matches!(self.network, Network::InProcess(_))
    }

    /// Ends all connections as if the network went; new ones are refused until [`heal`](Self::heal).
    pub async fn cut(&self) {
        match &self.network {
            Network::InProcess(broker) => {
                broker.refuse_connections(true);
                broker.cut_connections();
            }
            Network::Proxy(proxy) => proxy.cut().await,
        }
    }

    pub async fn heal(&self) {
        match &self.network {
            Network::InProcess(broker) => broker.refuse_connections(false),
            Network::Proxy(proxy) => proxy.heal().await,
        }
    }

    pub async fn connect(&self) -> Connection {
        soon(self.broker.connect("contract")).await.unwrap()
    }

    /// A channel on a connection of its own.
    pub async fn channel(&self) -> Channel {
        soon(self.connect().await.channel()).await.unwrap()
    }
}

/// Awaits what must happen.
pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work)
        .await
        .expect("it did not happen in time")
}

/// Tries until it holds.
pub async fn eventually<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    soon(async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// That nothing is delivered for a while.
pub async fn nothing_comes(consumer: &mut Consumer) {
    let came = tokio::time::timeout(A_WHILE, consumer.next()).await;
    assert!(came.is_err(), "unexpected: {came:?}");
}

/// A new queue with an unused name, that anyone may publish to by that name.
pub async fn queue(channel: &Channel) -> String {
    let name = unused_name();
    soon(channel.declare_queue(&QueueSpec::durable(name.clone())))
        .await
        .unwrap();
    name
}

pub fn unused_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("queue-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A message for a queue.
pub fn to(queue: &str, body: impl Into<String>) -> Message {
    Message::new("", queue, body.into())
}

/// Publishes bodies to a queue, all confirmed.
pub async fn fill<B: Into<String>>(
    channel: &Channel,
    queue: &str,
    bodies: impl IntoIterator<Item = B>,
) {
    for body in bodies {
        let confirmation = soon(channel.publish(to(queue, body))).await.unwrap();
        soon(confirmation).await.unwrap();
    }
}

pub async fn consume(channel: &Channel, queue: &str, prefetch: u16) -> Consumer {
    soon(channel.consume(queue, NonZeroU16::new(prefetch).unwrap()))
        .await
        .unwrap()
}

/// The next deliveries, which must come.
pub async fn take(consumer: &mut Consumer, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    while deliveries.len() < count {
        deliveries.push(soon(consumer.next()).await.unwrap());
    }
    deliveries
}

pub fn body(delivery: &Delivery) -> String {
    String::from_utf8(delivery.body.to_vec()).unwrap()
}

pub fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(body).collect()
}
