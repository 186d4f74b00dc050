//! What the leader tells workers, through exchange `scitq.control`.

use std::collections::BTreeMap;

use bytes::Bytes;
use scitq_broker::{BrokerError, Channel, Message, Properties, topology};
use scitq_shared::ids::{AttemptId, Epoch};
use scitq_shared::names::WorkerName;
use scitq_shared::protocol::{ControlCommand, ControlMessage, encode};

/// Sends control messages on one channel of the leader. Cheap to clone.
///
/// Nothing here waits for a worker: the wanted state lives in the database and is told again at every hello, and an
/// `Applied` that is lost is repeated in answer to the next inventory (D9, D12).
#[derive(Clone)]
pub struct ControlSender {
    channel: Channel,
    epoch: Epoch,
}

impl ControlSender {
    /// Messages of this epoch go through this channel.
    pub fn new(channel: Channel, epoch: Epoch) -> Self {
        Self { channel, epoch }
    }

    /// Tells a worker something. A worker that is away does not hear it.
    pub async fn tell(
        &self,
        worker: &WorkerName,
        command: ControlCommand,
    ) -> Result<(), BrokerError> {
        let message = Message {
            exchange: topology::CONTROL_EXCHANGE.to_owned(),
            routing_key: topology::worker_routing_key(worker.as_str()),
            body: Bytes::from(encode(&ControlMessage::new(self.epoch, command))),
            mandatory: false,
            persistent: false,
            properties: Properties::default(),
        };
        // Dropping the confirmation does not take the message back.
        self.channel.publish(message).await.map(drop)
    }

    /// Tells each worker which of its attempts are in the database with their output.
    pub async fn applied(&self, complete: Vec<(WorkerName, AttemptId)>) -> Result<(), BrokerError> {
        for (worker, attempts) in by_worker(complete) {
            self.tell(&worker, ControlCommand::Applied { attempts })
                .await?;
        }
        Ok(())
    }

    /// Tells each worker which of its attempts count no more.
    pub async fn stop(&self, stop: Vec<(WorkerName, AttemptId)>) -> Result<(), BrokerError> {
        for (worker, attempts) in by_worker(stop) {
            self.tell(&worker, ControlCommand::Stop { attempts })
                .await?;
        }
        Ok(())
    }
}

fn by_worker(pairs: Vec<(WorkerName, AttemptId)>) -> BTreeMap<WorkerName, Vec<AttemptId>> {
    let mut map: BTreeMap<WorkerName, Vec<AttemptId>> = BTreeMap::new();
    for (worker, attempt) in pairs {
        map.entry(worker).or_default().push(attempt);
    }
    map
}
