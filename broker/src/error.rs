//! What can go wrong with a broker, told apart as far as callers act on it.

use std::time::Duration;

/// Why an operation on a broker failed. Texts are for people and never contain a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// The address of the broker cannot be understood; nothing was tried.
    #[error(
        "broker address {address} is not usable: {reason}; expected amqp://user:password@host:port/vhost"
    )]
    InvalidAddress {
        /// The address as given, password masked.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What was asked cannot be asked of any broker, for instance with a name over 255 bytes. Nothing was sent.
    #[error("not possible with a message broker: {what}")]
    Invalid {
        /// What is wrong, and the limit.
        what: String,
    },
    /// Nobody answers at the address, or the connection could not be opened for another reason.
    #[error("the broker at {address} cannot be reached: {reason}")]
    Unreachable {
        /// host:port/vhost.
        address: String,
        /// What the network or the broker said.
        reason: String,
    },
    /// The broker answers but does not accept the user, the password or the virtual host.
    #[error(
        "the broker at {address} refused the login: {reason}; check user, password and virtual host"
    )]
    LoginRefused {
        /// host:port/vhost.
        address: String,
        /// What the broker said.
        reason: String,
    },
    /// A queue or an exchange does not exist. The channel is closed by this.
    #[error("not found on the broker: {what}")]
    NotFound {
        /// What the broker said is missing.
        what: String,
    },
    /// A queue belongs exclusively to another connection. The channel is closed by this.
    #[error("in use by another connection: {what}")]
    InUse {
        /// What the broker said is taken.
        what: String,
    },
    /// A queue or exchange exists with other properties, or a tag is unknown. The channel is closed by this.
    #[error("the broker refused a precondition: {what}")]
    PreconditionFailed {
        /// What differs, in the broker's words.
        what: String,
    },
    /// The broker did not answer in time. Whether it did what was asked is unknown.
    #[error("the broker did not answer within {after:?}: {what}")]
    TimedOut {
        /// What was asked of it.
        what: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The channel is closed, by us (code 200) or by the broker.
    #[error("the channel is closed ({code}): {reason}")]
    ChannelClosed {
        /// AMQP reply code; 200 when we closed it.
        code: u16,
        /// The reason given.
        reason: String,
    },
    /// The connection has ended, by us or by the network or the broker.
    #[error("the connection to the broker is lost: {reason}")]
    ConnectionLost {
        /// What ended it.
        reason: String,
    },
}

impl BrokerError {
    /// Whether something is held exclusively by another connection: worth a retry after a half-open connection.
    pub fn is_in_use(&self) -> bool {
        matches!(self, Self::InUse { .. })
    }

    /// Whether a queue or an exchange does not exist (yet, or any more).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the whole connection is gone, so that a new one is needed rather than a new channel.
    pub fn is_connection_lost(&self) -> bool {
        matches!(self, Self::ConnectionLost { .. } | Self::Unreachable { .. })
    }
}
