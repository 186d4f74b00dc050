use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use scitq_broker::{Channel, Message, Properties, topology};
use scitq_shared::ids::Epoch;
use scitq_shared::protocol::{Marker, PROTOCOL_VERSION, encode};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::consume::Consumed;

/// The leader's own words in the queue of state events that have not been read back yet. Whoever has read one back knows
/// that everything said before it has been applied (D7). Cheap to clone; one term of leadership has one.
#[derive(Clone, Debug, Default)]
pub struct Markers(Arc<Mutex<BTreeMap<Uuid, oneshot::Sender<()>>>>);

impl Markers {
    /// A new marker, and what completes when it has been read. It is forgotten when the receiver is dropped.
    pub fn register(&self) -> (Uuid, oneshot::Receiver<()>) {
        let marker = Uuid::new_v4();
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.lock();
        waiting.retain(|_, sender| !sender.is_closed());
        waiting.insert(marker, sender);
        (marker, receiver)
    }

    /// A marker was read, and everything before it has been applied. False when it was not registered here.
    pub fn read(&self, marker: Uuid) -> bool {
        match self.lock().remove(&marker) {
            Some(sender) => {
                // Whoever waited may have given up.
                let _ = sender.send(());
                true
            }
            None => false,
        }
    }

    /// Sends a marker through the state queue and waits until it is read back: as long as the database is away.
    pub async fn round_trip(&self, channel: &Channel, epoch: Epoch) -> Result<(), Consumed> {
        let (marker, read) = self.register();
        let confirmation = publish(channel, epoch, marker).await?;
        let published = async {
            match confirmation.await {
                // It is on its way: what comes back is its reading.
                Ok(()) => std::future::pending().await,
                Err(failure) => Consumed::from(failure),
            }
        };
        tokio::select! {
            biased;
            read = read => read.map_err(|_| Consumed::Stopped),
            failure = published => Err(failure),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Uuid, oneshot::Sender<()>>> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Publishes a marker into the queue of state events.
pub async fn publish(
    channel: &Channel,
    epoch: Epoch,
    marker: Uuid,
) -> Result<scitq_broker::Confirmation, Consumed> {
    let marker = Marker {
        version: PROTOCOL_VERSION,
        epoch,
        marker,
        returned: Vec::new(),
    };
    let message = Message {
        exchange: topology::EVENTS_EXCHANGE.to_owned(),
        routing_key: Marker::ROUTING_KEY.to_owned(),
        body: Bytes::from(encode(&marker)),
        mandatory: true,
        persistent: true,
        properties: Properties::default(),
    };
    Ok(channel.publish(message).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_marker_completes_once_and_only_where_it_is_registered() {
        let markers = Markers::default();
        let (one, read_one) = markers.register();
        let (other, mut read_other) = markers.register();
        assert!(!markers.read(Uuid::new_v4()));
        assert!(markers.read(one) && !markers.read(one));
        assert_eq!(read_one.await, Ok(()));
        assert!(read_other.try_recv().is_err());
        drop(read_other);
        // Nobody waits any more: it goes when the next one comes.
        let _third = markers.register();
        assert!(!markers.read(other));
    }
}
