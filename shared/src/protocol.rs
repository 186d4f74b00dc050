//! Messages between server and workers, all JSON with a version field; unknown fields are ignored.
//!
//! Every message names its epoch, and every message of a worker its incarnation, so that handling can tell an old
//! sender from the present one (D7, D12). Reports about an attempt are cumulative: each carries all that is known so
//! far, so any one of them, in any order and any number of times, leads to the same history.

mod control;
mod event;
mod task_message;

pub use control::{ControlCommand, ControlMessage};
pub use event::{
    AttemptPhase, AttemptReport, Heartbeat, Hello, InventoryItem, Marker, OutputMessage,
    ReleaseReason, ReturnedDispatch, WorkerEvent, WorkerMessage,
};
pub use task_message::{TaskMessage, TaskParticulars};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Version of the messages that this program writes. It reads this version and no other.
pub const PROTOCOL_VERSION: u16 = 1;

/// Longest message that is read, in bytes: the longest definition with all its escapes, with room.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// The number of a worker's message: those of a later start of its agent follow all of the earlier ones. `boots` is how many
/// times it was started on its directory, `counter` what it has numbered since.
pub fn sequence(boots: u32, counter: u64) -> u64 {
    (u64::from(boots) << 32) + counter
}

/// How many times an agent was started that gave a message this number.
pub fn boots_of(sequence: u64) -> u32 {
    u32::try_from(sequence >> 32).unwrap_or(u32::MAX)
}

/// Why a message cannot be read; such a message is dead-lettered with this text as its reason.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// Longer than any message of ours.
    #[error("the message is {0} bytes long, at most {MAX_MESSAGE_BYTES} are read")]
    TooLong(usize),
    /// Another version than ours.
    #[error("the message has version {0}, this program reads version {PROTOCOL_VERSION}")]
    Version(u64),
    /// Not the JSON expected.
    #[error("the message cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Reads a message. The version is looked at first, so that a message of another version is named as that.
pub fn decode<M: DeserializeOwned>(body: &[u8]) -> Result<M, ProtocolError> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u64,
    }
    if body.len() > MAX_MESSAGE_BYTES {
        return Err(ProtocolError::TooLong(body.len()));
    }
    match serde_json::from_slice(body) {
        Ok(message) if is_version(body) => Ok(message),
        outcome => {
            let found: Versioned = serde_json::from_slice(body)?;
            if found.version == u64::from(PROTOCOL_VERSION) {
                Ok(outcome?)
            } else {
                Err(ProtocolError::Version(found.version))
            }
        }
    }
}

/// True when the body begins as our own writer begins it; saves parsing every message twice.
fn is_version(body: &[u8]) -> bool {
    body.starts_with(format!("{{\"version\":{PROTOCOL_VERSION},").as_bytes())
}

/// Writes a message.
///
/// # Panics
/// Never with the messages of this module: they have text keys and no serialiser that fails.
pub fn encode<M: Serialize>(message: &M) -> Vec<u8> {
    #[expect(
        clippy::expect_used,
        reason = "our messages have text keys and no failing serialiser, so JSON cannot refuse them"
    )]
    serde_json::to_vec(message).expect("messages are always valid JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::*;

    #[test]
    fn versions_are_told_apart_and_unknown_fields_ignored() {
        let message = ControlMessage::new(
            Epoch(3),
            ControlCommand::Applied {
                attempts: vec![AttemptId::generate()],
            },
        );
        let body = encode(&message);
        assert!(is_version(&body), "{}", String::from_utf8_lossy(&body));
        assert_eq!(decode::<ControlMessage>(&body).unwrap(), message);

        let mut value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        value["later_field"] = serde_json::json!({"a": 1});
        assert_eq!(
            decode::<ControlMessage>(value.to_string().as_bytes()).unwrap(),
            message
        );
        value["version"] = serde_json::json!(2);
        assert!(matches!(
            decode::<ControlMessage>(value.to_string().as_bytes()),
            Err(ProtocolError::Version(2))
        ));
        for bad in [
            &b""[..],
            b"{",
            b"[]",
            b"{\"version\":1}",
            b"\xff\xfe",
            b"{\"version\":-1}",
        ] {
            assert!(
                matches!(
                    decode::<ControlMessage>(bad),
                    Err(ProtocolError::Malformed(_))
                ),
                "{bad:?}"
            );
        }
    }
}
