//! RabbitMQ through lapin.

mod channel;
mod connect;
mod connection;
mod consumer;
mod convert;
mod failure;
mod publishing;
mod watch;

pub(crate) use channel::AmqpChannel;
pub(crate) use connect::connect;
pub(crate) use connection::AmqpConnection;
pub(crate) use consumer::AmqpConsumer;
pub(crate) use failure::connect_failure;
pub(crate) use publishing::PublishQueue;
pub(crate) use watch::Watch;
