//! Where to connect.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

use crate::address::Address;
use crate::amqp;
use crate::connection::Connection;
use crate::error::BrokerError;
use crate::local::LocalBroker;
use crate::publisher::Publisher;

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// Where messages go: a RabbitMQ address or an in-process broker. Cheap to clone; connects to nothing by itself.
#[derive(Clone, Debug)]
pub struct Broker(Backend);

#[derive(Clone, Debug)]
enum Backend {
    Amqp(Address),
    Local(LocalBroker),
}

impl Broker {
    /// RabbitMQ at `amqp://user:password@host:port/vhost` (user and password default to guest, port to 5672, the
    /// virtual host to `/`). Nothing is tried yet; an error says what is wrong with the address, password masked.
    pub fn amqp(url: &str) -> Result<Self, BrokerError> {
        Address::parse(url).map(|address| Self(Backend::Amqp(address)))
    }

    /// The in-process broker; all clones of one [`LocalBroker`] share their queues.
    pub fn local(broker: LocalBroker) -> Self {
        Self(Backend::Local(broker))
    }

    /// Whether messages survive a restart of this process: true for RabbitMQ, false in-process.
    pub fn outlives_process(&self) -> bool {
        matches!(self.0, Backend::Amqp(_))
    }

    /// The address for messages to people: host:port/vhost, never the password; `in-process` for the local one.
    pub fn address(&self) -> String {
        match &self.0 {
            Backend::Amqp(address) => address.to_string(),
            Backend::Local(_) => "in-process".to_owned(),
        }
    }

    /// Makes one attempt to connect, at most 10 s long. `name` is shown in the broker's list of connections.
    pub async fn connect(&self, name: &str) -> Result<Connection, BrokerError> {
        match &self.0 {
            Backend::Amqp(address) => amqp::connect(address, name)
                .await
                .map(Connection::from_amqp),
            Backend::Local(broker) => broker.connect(name).map(Connection::from_local),
        }
    }

    /// Tries until it is connected, waiting between attempts for 100 ms at first, up to about 5 s later, with jitter.
    /// Calls `on_failure` with the error and the delay that follows each time. Drop the future to give up.
    pub async fn connect_until_ready(
        &self,
        name: &str,
        mut on_failure: impl FnMut(&BrokerError, Duration),
    ) -> Connection {
        let mut delays = delays();
        loop {
            match self.connect(name).await {
                Ok(connection) => return connection,
                Err(error) => {
                    let delay = delays.next().unwrap_or(LONGEST_DELAY);
                    on_failure(&error, delay);
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    /// A publisher for parts that publish now and then; it connects when first used and again when needed.
    pub fn publisher(&self, name: &str) -> Publisher {
        match &self.0 {
            Backend::Amqp(address) => Publisher::amqp(address, name),
            Backend::Local(broker) => Publisher::local(broker.clone(), name),
        }
    }
}

/// The waits between attempts; they never end. Jitter adds up to as much again, so the ceiling is half the longest.
fn delays() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_DELAY)
        .with_max_delay(LONGEST_DELAY / 2)
        .with_factor(2.0)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_limit_and_never_end() {
        let delays: Vec<Duration> = delays().take(40).collect();
        assert!(
            delays[0] >= FIRST_DELAY && delays[0] <= FIRST_DELAY * 2,
            "{delays:?}"
        );
        assert!(delays[39] >= LONGEST_DELAY / 2, "{delays:?}");
        assert!(
            delays.iter().all(|delay| *delay <= LONGEST_DELAY),
            "{delays:?}"
        );
    }
}
