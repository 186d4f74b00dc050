use std::collections::BTreeMap;

use scitq_broker::{
    Channel, Consumer, ConsumerEnd, Delivery, Message, Properties, PublishFailure, topology,
};
use scitq_shared::ids::Epoch;
use scitq_shared::output::{Chunk, MAX_CHUNK_BYTES};
use scitq_shared::protocol::{Marker, OutputMessage, ProtocolError, WorkerMessage, decode};

use crate::db::NewChunk;

/// Most state events of one transaction: enough to spread its cost, few enough to keep it short.
const MAX_STATE_EVENTS: usize = 512;
/// Most bytes of output of one transaction.
const MAX_OUTPUT_BYTES: usize = 4 * 1024 * 1024;

/// Messages read at once, in their order.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) state: Vec<Delivery>,
    pub(super) output: Vec<Delivery>,
}

/// Waits for a message and takes what has come with it.
pub(super) async fn next_batch(
    state: &mut Consumer,
    output: &mut Consumer,
) -> Result<Batch, ConsumerEnd> {
    let mut batch = Batch::default();
    tokio::select! {
        delivery = state.next() => batch.state.push(delivery?),
        delivery = output.next() => batch.output.push(delivery?),
    }
    while batch.state.len() < MAX_STATE_EVENTS {
        let Some(delivery) = state.try_next() else {
            break;
        };
        batch.state.push(delivery);
    }
    let mut bytes: usize = batch
        .output
        .iter()
        .map(|delivery| delivery.body.len())
        .sum();
    while bytes < MAX_OUTPUT_BYTES {
        let Some(delivery) = output.try_next() else {
            break;
        };
        bytes += delivery.body.len();
        batch.output.push(delivery);
    }
    Ok(batch)
}

/// A message in the queue of state events.
#[expect(clippy::large_enum_variant, reason = "never kept: taken apart at once")]
pub(super) enum StateMessage {
    /// Of a worker.
    Worker(WorkerMessage),
    /// Of a leader.
    Marker(Marker),
}

impl StateMessage {
    /// The latest epoch that its sender had heard of.
    pub(super) fn epoch(&self) -> Epoch {
        match self {
            Self::Worker(message) => message.epoch,
            Self::Marker(marker) => marker.epoch,
        }
    }
}

/// An epoch so much later than the reader's is no later leader's but a broken sender's.
const MOST_AHEAD: i64 = 1 << 40;

/// Reads a state event; `epoch` is the reader's.
pub(super) fn state_message(delivery: &Delivery, epoch: Epoch) -> Result<StateMessage, String> {
    let read = if delivery.routing_key == Marker::ROUTING_KEY {
        decode(&delivery.body).map(StateMessage::Marker)
    } else {
        decode(&delivery.body).map(StateMessage::Worker)
    };
    let message = read.map_err(|error: ProtocolError| error.to_string())?;
    let said = message.epoch();
    if said.0 < 0 || said.0.saturating_sub(epoch.0) > MOST_AHEAD {
        return Err(format!("the epoch {said} cannot be: this is epoch {epoch}"));
    }
    Ok(message)
}

/// Reads a piece of output.
pub(super) fn output_chunk(delivery: &Delivery) -> Result<NewChunk, String> {
    let message: OutputMessage =
        decode(&delivery.body).map_err(|error: ProtocolError| error.to_string())?;
    if message.length as usize > MAX_CHUNK_BYTES || message.length == 0 {
        return Err(format!(
            "a chunk of {} bytes is not between 1 and {MAX_CHUNK_BYTES}",
            message.length
        ));
    }
    if i64::try_from(message.offset).is_err() {
        return Err(format!("the offset {} is out of range", message.offset));
    }
    Ok(NewChunk {
        attempt: message.attempt,
        task: message.task,
        stream: message.stream,
        offset: message.offset,
        chunk: Chunk {
            length: message.length,
            encoding: message.encoding,
            data: message.data,
        },
    })
}

/// Moves a message that cannot be used to `scitq.rejected`, with the reason in a header, and acks it once it is there.
pub(super) async fn dead_letter(
    channel: &Channel,
    delivery: &Delivery,
    reason: &str,
) -> Result<(), PublishFailure> {
    tracing::warn!(
        queue_key = %delivery.routing_key,
        bytes = delivery.body.len(),
        reason,
        "a message cannot be used and is moved to scitq.rejected"
    );
    let mut headers = BTreeMap::new();
    headers.insert("scitq-reason".to_owned(), reason.to_owned());
    headers.insert("scitq-exchange".to_owned(), delivery.exchange.clone());
    headers.insert("scitq-routing-key".to_owned(), delivery.routing_key.clone());
    let message = Message {
        exchange: topology::REJECTED_EXCHANGE.to_owned(),
        routing_key: topology::REJECTED_QUEUE.to_owned(),
        body: delivery.body.clone(),
        mandatory: true,
        persistent: true,
        properties: Properties {
            headers,
            ..delivery.properties.clone()
        },
    };
    let confirmation = channel
        .publish(message)
        .await
        .map_err(PublishFailure::Lost)?;
    confirmation.await
}
