//! Exchanges, queues and bindings as data: what is declared, not how.

use crate::error::BrokerError;
use crate::message::check_short;

/// How an exchange chooses the queues of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeKind {
    /// Queues bound with exactly the message's routing key.
    Direct,
    /// Queues bound with a pattern: words separated by dots, `*` for one word, `#` for any number.
    Topic,
}

/// An exchange to declare. All are durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeSpec {
    /// Its name.
    pub name: String,
    /// How it routes.
    pub kind: ExchangeKind,
}

impl ExchangeSpec {
    /// An exchange that routes by equal keys.
    pub fn direct(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kind: ExchangeKind::Direct,
        }
    }

    /// An exchange that routes by patterns.
    pub fn topic(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kind: ExchangeKind::Topic,
        }
    }
}

/// How a queue is stored by RabbitMQ; the in-process broker knows one kind only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueType {
    /// On one node.
    #[default]
    Classic,
    /// Replicated over the nodes of a cluster.
    Quorum,
}

/// What a full queue does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// Refuses what comes ([`PublishFailure::Refused`](crate::PublishFailure)); what it holds stays.
    RejectPublish,
    /// Drops its oldest messages.
    DropHead,
}

/// A bound on what a queue holds ready; messages out for delivery do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimit {
    /// At most that many bytes of bodies.
    pub bytes: Option<u64>,
    /// At most that many messages.
    pub messages: Option<u64>,
    /// What happens beyond.
    pub overflow: Overflow,
}

/// Where rejected messages of a queue go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The exchange they are published to.
    pub exchange: String,
    /// Their new routing key; `None` keeps the one they had.
    pub routing_key: Option<String>,
}

/// A queue's subscription to an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The exchange.
    pub exchange: String,
    /// Routing key or pattern, by the kind of the exchange.
    pub routing_key: String,
}

/// A queue to declare, with its bindings. Declaring twice alike does nothing; otherwise than it exists is
/// [`BrokerError::PreconditionFailed`](crate::BrokerError).
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent properties of AMQP queues, set by name"
)]
pub struct QueueSpec {
    /// Its name, at most 255 bytes.
    pub name: String,
    /// How it is stored.
    pub queue_type: QueueType,
    /// Whether it survives a restart of the broker.
    pub durable: bool,
    /// Whether it belongs to the connection that declares it alone, and goes with it.
    pub exclusive: bool,
    /// Whether it goes with its last consumer.
    pub auto_delete: bool,
    /// Bound on its content.
    pub limit: Option<QueueLimit>,
    /// Where rejected messages go; `None` drops them.
    pub dead_letter: Option<DeadLetter>,
    /// In-process broker only: a message is confirmed when its consumer has settled it, because messages there die
    /// with the process. RabbitMQ ignores it.
    pub confirm_when_settled: bool,
    /// What it receives, besides what is published to the default exchange under its name.
    pub bindings: Vec<Binding>,
}

impl QueueSpec {
    /// A classic queue that survives restarts of the broker.
    pub fn durable(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            queue_type: QueueType::Classic,
            durable: true,
            exclusive: false,
            auto_delete: false,
            limit: None,
            dead_letter: None,
            confirm_when_settled: false,
            bindings: Vec::new(),
        }
    }

    /// A queue that belongs to the declaring connection and goes with it.
    pub fn exclusive(name: impl Into<String>) -> Self {
        Self {
            durable: false,
            exclusive: true,
            ..Self::durable(name)
        }
    }

    /// The same, also fed by `exchange` for `routing_key`.
    #[must_use]
    pub fn bound_to(mut self, exchange: impl Into<String>, routing_key: impl Into<String>) -> Self {
        self.bindings.push(Binding {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
        });
        self
    }

    /// The same, its rejected messages going to `exchange` under `routing_key`.
    #[must_use]
    pub fn dead_lettered_to(
        mut self,
        exchange: impl Into<String>,
        routing_key: impl Into<String>,
    ) -> Self {
        self.dead_letter = Some(DeadLetter {
            exchange: exchange.into(),
            routing_key: Some(routing_key.into()),
        });
        self
    }

    /// The same, bounded.
    #[must_use]
    pub fn limited(mut self, limit: QueueLimit) -> Self {
        self.limit = Some(limit);
        self
    }
}

impl QueueSpec {
    /// Whether it can be declared at all; both backends refuse alike.
    pub(crate) fn check(&self) -> Result<(), BrokerError> {
        check_short("queue name", &self.name)?;
        for Binding {
            exchange,
            routing_key,
        } in &self.bindings
        {
            check_short("exchange name", exchange)?;
            check_short("routing key", routing_key)?;
        }
        if let Some(letter) = &self.dead_letter {
            check_short("exchange name", &letter.exchange)?;
            check_short(
                "routing key",
                letter.routing_key.as_deref().unwrap_or_default(),
            )?;
        }
        Ok(())
    }
}

/// Everything to declare at once, in order: exchanges, then queues with their bindings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// The exchanges.
    pub exchanges: Vec<ExchangeSpec>,
    /// The queues.
    pub queues: Vec<QueueSpec>,
}

/// How full a queue is, as its declaration reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueDepth {
    /// Messages ready for delivery; those out for delivery do not count.
    pub messages: u64,
    /// Consumers it has.
    pub consumers: u64,
}

impl Topology {
    /// Whether it can be declared at all.
    pub(crate) fn check(&self) -> Result<(), BrokerError> {
        for exchange in &self.exchanges {
            check_short("exchange name", &exchange.name)?;
        }
        self.queues.iter().try_for_each(QueueSpec::check)
    }
}
