//! Messages as they are published and as they arrive.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::error::BrokerError;

/// The longest name, routing key or property that AMQP can carry, in bytes.
const SHORT_TEXT_BYTES: usize = 255;
/// All headers of a message together: they must fit into one frame.
const HEADERS_BYTES: usize = 16 * 1024;

/// Names one channel for as long as the process lives: a reopened channel has another id, so that a delivery can be
/// tied to the very channel that brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId(u64);

impl ChannelId {
    /// The next unused id of this process.
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for ChannelId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "channel-{}", self.0)
    }
}

/// Names a delivery on its channel, for [`Channel::ack`](crate::Channel::ack). Meaningless on any other channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryTag(pub(crate) u64);

impl DeliveryTag {
    /// Any tag, for tests of what happens with one that was never delivered.
    #[doc(hidden)]
    pub fn for_tests(tag: u64) -> Self {
        Self(tag)
    }
}

impl fmt::Display for DeliveryTag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

/// What travels beside a message's body. Headers are text; headers of other types set by foreign clients are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Names the message; the default idempotency key of submissions.
    pub message_id: Option<String>,
    /// Ties an answer to its question.
    pub correlation_id: Option<String>,
    /// The queue where an answer is expected.
    pub reply_to: Option<String>,
    /// MIME type of the body.
    pub content_type: Option<String>,
    /// Free headers, sorted by name.
    pub headers: BTreeMap<String, String>,
}

/// A message to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it goes; empty for the default exchange, which routes to the queue named by the routing key.
    pub exchange: String,
    /// What the exchange routes by. At most 255 bytes.
    pub routing_key: String,
    /// The content.
    pub body: Bytes,
    /// Whether a message that no queue takes is a failure ([`PublishFailure::Returned`](crate::PublishFailure)).
    pub mandatory: bool,
    /// Whether the message is to survive a restart of the broker (in a durable queue).
    pub persistent: bool,
    /// What travels beside the body.
    pub properties: Properties,
}

impl Message {
    /// A persistent, mandatory message without further properties: what most of scitq publishes.
    pub fn new(
        exchange: impl Into<String>,
        routing_key: impl Into<String>,
        body: impl Into<Bytes>,
    ) -> Self {
        Self {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            body: body.into(),
            mandatory: true,
            persistent: true,
            properties: Properties::default(),
        }
    }
}

impl Message {
    /// Whether it can be sent at all; both backends refuse alike.
    pub(crate) fn check(&self) -> Result<(), BrokerError> {
        let Properties {
            message_id,
            correlation_id,
            reply_to,
            content_type,
            headers,
        } = &self.properties;
        check_short("exchange name", &self.exchange)?;
        check_short("routing key", &self.routing_key)?;
        let properties = [
            ("message id", message_id),
            ("correlation id", correlation_id),
            ("reply-to", reply_to),
            ("content type", content_type),
        ];
        for (what, value) in properties {
            check_short(what, value.as_deref().unwrap_or_default())?;
        }
        for name in headers.keys() {
            check_short("name of a header", name)?;
        }
        let bytes: usize = headers
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if bytes > HEADERS_BYTES {
            let what = format!("headers of {bytes} bytes; at most {HEADERS_BYTES} together");
            return Err(BrokerError::Invalid { what });
        }
        Ok(())
    }
}

/// Refuses a text that AMQP cannot carry as a name or property.
pub(crate) fn check_short(what: &str, text: &str) -> Result<(), BrokerError> {
    if text.len() > SHORT_TEXT_BYTES {
        let what = format!("{what} of {} bytes; at most {SHORT_TEXT_BYTES}", text.len());
        return Err(BrokerError::Invalid { what });
    }
    Ok(())
}

/// A message received, to be acknowledged with its tag on the channel it came by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// For [`Channel::ack`](crate::Channel::ack) and its like.
    pub tag: DeliveryTag,
    /// The channel that brought it; the tag is valid there only.
    pub channel: ChannelId,
    /// False means never delivered before; true means maybe.
    pub redelivered: bool,
    /// The exchange it was published to.
    pub exchange: String,
    /// The routing key it was published with.
    pub routing_key: String,
    /// What travelled beside the body.
    pub properties: Properties,
    /// The content.
    pub body: Bytes,
}
