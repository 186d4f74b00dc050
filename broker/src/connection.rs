//! One connection to a broker.

use crate::amqp::AmqpConnection;
use crate::channel::Channel;
use crate::error::BrokerError;
use crate::local::LocalConnection;

/// An open connection; clones are handles of the same one. It ends by [`close`](Self::close), by the network or by the
/// broker, and when the last handle of it and of its channels and consumers is dropped. It never comes back: connect
/// anew.
#[derive(Clone, Debug)]
pub struct Connection(Backend);

#[derive(Clone, Debug)]
enum Backend {
    Amqp(AmqpConnection),
    Local(LocalConnection),
}

impl Connection {
    pub(crate) fn from_amqp(connection: AmqpConnection) -> Self {
        Self(Backend::Amqp(connection))
    }

    pub(crate) fn from_local(connection: LocalConnection) -> Self {
        Self(Backend::Local(connection))
    }

    /// Opens a channel on which every publication is confirmed.
    pub async fn channel(&self) -> Result<Channel, BrokerError> {
        match &self.0 {
            Backend::Amqp(connection) => connection.channel().await.map(Channel::from_amqp),
            Backend::Local(connection) => connection.channel().map(Channel::from_local),
        }
    }

    /// Completes once the connection has ended, whatever the cause (our close too), and says why. Cancel-safe; may be
    /// awaited by many.
    pub async fn lost(&self) -> BrokerError {
        match &self.0 {
            Backend::Amqp(connection) => connection.ending().reached().await,
            Backend::Local(connection) => connection.ending().reached().await,
        }
    }

    /// Whether it has not ended as far as is known; a half-open connection is noticed by missing heartbeats only.
    pub fn is_open(&self) -> bool {
        match &self.0 {
            Backend::Amqp(connection) => !connection.ending().is_set(),
            Backend::Local(connection) => !connection.ending().is_set(),
        }
    }

    /// Ends the connection and with it all its channels and consumers; what was delivered and not acknowledged goes
    /// back to its queue. Messages whose confirmation is outstanding may or may not arrive.
    pub async fn close(&self) {
        match &self.0 {
            Backend::Amqp(connection) => connection.close().await,
            Backend::Local(connection) => connection.close(),
        }
    }
}
