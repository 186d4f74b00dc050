//! lapin's errors in our words.

use lapin::protocol::AMQPErrorKind;
use lapin::{Error, ErrorKind};

use crate::address::Address;
use crate::error::BrokerError;

const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const RESOURCE_LOCKED: u16 = 405;
const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;

/// What an error of lapin means for whoever used a channel; `None` if it only says that channel or connection had ended
/// before, for a reason to be found elsewhere.
pub(crate) fn failure(error: &Error) -> Option<BrokerError> {
    match error.kind() {
        ErrorKind::ProtocolError(protocol) => {
            let code = protocol.get_id();
            let text = protocol.get_message().to_string();
            Some(match protocol.kind() {
                AMQPErrorKind::Soft(_) => channel_failure(code, text),
                AMQPErrorKind::Hard(_) => BrokerError::ConnectionLost {
                    reason: format!("{text} ({code})"),
                },
            })
        }
        ErrorKind::InvalidChannel(_)
        | ErrorKind::InvalidChannelState(..)
        | ErrorKind::InvalidConnectionState(_)
        | ErrorKind::FutureCompleted => None,
        ErrorKind::ChannelsLimitReached => Some(BrokerError::Invalid {
            what: "no more channels on one connection; close some or connect again".to_owned(),
        }),
        _ => Some(BrokerError::ConnectionLost {
            reason: error.to_string(),
        }),
    }
}

/// What the broker meant when it closed a channel.
fn channel_failure(code: u16, text: String) -> BrokerError {
    match code {
        NOT_FOUND => BrokerError::NotFound { what: text },
        // 403 is also how an exclusive consumer is refused.
        RESOURCE_LOCKED => BrokerError::InUse { what: text },
        ACCESS_REFUSED if text.contains("exclusive") => BrokerError::InUse { what: text },
        PRECONDITION_FAILED => BrokerError::PreconditionFailed { what: text },
        code => BrokerError::ChannelClosed { code, reason: text },
    }
}

/// What an error while connecting means.
pub(crate) fn connect_failure(error: &Error, address: &Address) -> BrokerError {
    let address = address.to_string();
    match error.kind() {
        ErrorKind::ProtocolError(protocol)
            if [ACCESS_REFUSED, NOT_ALLOWED].contains(&protocol.get_id()) =>
        {
            BrokerError::LoginRefused {
                address,
                reason: protocol.get_message().to_string(),
            }
        }
        ErrorKind::IOError(io) => BrokerError::Unreachable {
            address,
            reason: io.to_string(),
        },
        _ => BrokerError::Unreachable {
            address,
            reason: error.to_string(),
        },
    }
}
