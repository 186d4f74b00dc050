//! Our messages and queues in lapin's types, and back.

use std::collections::BTreeMap;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::error::BrokerError;
use crate::message::{ChannelId, Delivery, DeliveryTag, Message, Properties};
use crate::spec::{Overflow, QueueSpec, QueueType};

/// Delivery mode of messages that survive a restart of the broker.
const PERSISTENT: u8 = 2;
const TRANSIENT: u8 = 1;

/// A name as lapin wants it.
pub(super) fn short(text: &str) -> Result<ShortString, BrokerError> {
    ShortString::try_new(text).map_err(|error| BrokerError::Invalid {
        what: error.to_string(),
    })
}

/// A text value of a header or argument.
fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// What is said of a queue when it is declared.
pub(super) fn queue_arguments(spec: &QueueSpec) -> Result<FieldTable, BrokerError> {
    let mut arguments = FieldTable::default();
    // Classic is the default of RabbitMQ, but a virtual host may have another.
    let queue_type = match spec.queue_type {
        QueueType::Classic => "classic",
        QueueType::Quorum => "quorum",
    };
    arguments.insert("x-queue-type".into(), long(queue_type));
    if let Some(limit) = spec.limit {
        if let Some(bytes) = limit.bytes {
            arguments.insert("x-max-length-bytes".into(), number("bytes", bytes)?);
        }
        if let Some(messages) = limit.messages {
            arguments.insert("x-max-length".into(), number("messages", messages)?);
        }
        let overflow = match limit.overflow {
            Overflow::RejectPublish => "reject-publish",
            Overflow::DropHead => "drop-head",
        };
        arguments.insert("x-overflow".into(), long(overflow));
    }
    if let Some(letter) = &spec.dead_letter {
        arguments.insert("x-dead-letter-exchange".into(), long(&letter.exchange));
        if let Some(key) = &letter.routing_key {
            arguments.insert("x-dead-letter-routing-key".into(), long(key));
        }
    }
    Ok(arguments)
}

fn number(what: &str, value: u64) -> Result<AMQPValue, BrokerError> {
    let too_large = |_| BrokerError::Invalid {
        what: format!("a limit of {value} {what}; at most {}", i64::MAX),
    };
    i64::try_from(value)
        .map(AMQPValue::LongLongInt)
        .map_err(too_large)
}

/// The properties of a message to send.
pub(super) fn to_lapin(message: &Message) -> Result<BasicProperties, BrokerError> {
    let mode = if message.persistent {
        PERSISTENT
    } else {
        TRANSIENT
    };
    let mut properties = BasicProperties::default().with_delivery_mode(mode);
    let Properties {
        message_id,
        correlation_id,
        reply_to,
        content_type,
        headers,
    } = &message.properties;
    if let Some(text) = message_id {
        properties = properties.with_message_id(short(text)?);
    }
    if let Some(text) = correlation_id {
        properties = properties.with_correlation_id(short(text)?);
    }
    if let Some(text) = reply_to {
        properties = properties.with_reply_to(short(text)?);
    }
    if let Some(text) = content_type {
        properties = properties.with_content_type(short(text)?);
    }
    if !headers.is_empty() {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert(short(name)?, long(value));
        }
        properties = properties.with_headers(table);
    }
    Ok(properties)
}

/// Marks a message with a number that comes back with it if no queue takes it. Receivers do not see it.
pub(super) fn mark(properties: BasicProperties, sequence: u64) -> BasicProperties {
    properties.with_app_id(sequence.to_string().into())
}

/// The number that [`mark`] put on a message.
pub(super) fn marked(properties: &BasicProperties) -> Option<u64> {
    properties.app_id().as_ref()?.as_str().parse().ok()
}

/// A message received.
pub(super) fn from_lapin(channel: ChannelId, delivery: lapin::message::Delivery) -> Delivery {
    Delivery {
        tag: DeliveryTag(delivery.delivery_tag),
        channel,
        redelivered: delivery.redelivered,
        exchange: delivery.exchange.into(),
        routing_key: delivery.routing_key.into(),
        properties: properties_from_lapin(&delivery.properties),
        body: delivery.data.into(),
    }
}

fn properties_from_lapin(properties: &BasicProperties) -> Properties {
    let text = |value: &Option<ShortString>| value.as_ref().map(ToString::to_string);
    let headers = properties.headers().as_ref().map(|table| {
        let texts = table
            .inner()
            .iter()
            .filter_map(|(name, value)| Some((name.to_string(), header_text(value)?)));
        texts.collect::<BTreeMap<String, String>>()
    });
    Properties {
        message_id: text(properties.message_id()),
        correlation_id: text(properties.correlation_id()),
        reply_to: text(properties.reply_to()),
        content_type: text(properties.content_type()),
        headers: headers.unwrap_or_default(),
    }
}

/// A header's value as text; what foreign clients may set to a number or truth value is written out, lists and tables
/// are left out.
fn header_text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes())
            .ok()
            .map(ToOwned::to_owned),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        AMQPValue::Boolean(value) => Some(value.to_string()),
        AMQPValue::ShortShortInt(value) => Some(value.to_string()),
        AMQPValue::ShortShortUInt(value) => Some(value.to_string()),
        AMQPValue::ShortInt(value) => Some(value.to_string()),
        AMQPValue::ShortUInt(value) => Some(value.to_string()),
        AMQPValue::LongInt(value) => Some(value.to_string()),
        AMQPValue::LongUInt(value) => Some(value.to_string()),
        AMQPValue::LongLongInt(value) => Some(value.to_string()),
        _ => None,
    }
}
