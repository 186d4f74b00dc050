//! Message brokers of scitq: RabbitMQ and an in-process one behind one interface.
//!
//! Start with [`Broker`]: it says where to connect. A [`Connection`] opens [`Channel`]s; a channel publishes (each
//! message answered by a [`Confirmation`]), consumes and acknowledges. The names of exchanges and queues live in
//! [`topology`].
//!
//! Nothing here reconnects behind the caller's back: a lost connection ends its channels, consumers and outstanding
//! confirmations with a typed error, and the caller opens new ones. That is on purpose: what a worker may do with a
//! delivery depends on the channel that brought it being still the same one.
//!
//! The only crate that names lapin.

mod address;
mod amqp;
mod broker;
mod channel;
mod confirmation;
mod connection;
mod consumer;
mod ending;
mod error;
mod local;
mod message;
mod publisher;
mod spec;
pub mod topology;

pub use broker::Broker;
pub use channel::Channel;
pub use confirmation::{Confirmation, PublishFailure};
pub use connection::Connection;
pub use consumer::{Consumer, ConsumerEnd};
pub use error::BrokerError;
pub use local::LocalBroker;
pub use message::{ChannelId, Delivery, DeliveryTag, Message, Properties};
pub use publisher::Publisher;
pub use spec::{
    Binding, DeadLetter, ExchangeKind, ExchangeSpec, Overflow, QueueDepth, QueueLimit, QueueSpec,
    QueueType, Topology,
};
