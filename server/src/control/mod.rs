//! What the leader tells workers, through exchange `scitq.control`.

use std::collections::BTreeMap;

use bytes::Bytes;
use scitq_broker::{BrokerError, Channel, Message, Properties, topology};
use scitq_shared::ids::{AttemptId, DispatchId, Epoch};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::protocol::{ControlCommand, ControlMessage, encode};

use crate::db::Database;
use crate::events::Consumed;

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
        self.send(worker, command, false).await
    }

    async fn send(
        &self,
        worker: &WorkerName,
        command: ControlCommand,
        mandatory: bool,
    ) -> Result<(), BrokerError> {
        let message = Message {
            exchange: topology::CONTROL_EXCHANGE.to_owned(),
            routing_key: topology::worker_routing_key(worker.as_str()),
            body: Bytes::from(encode(&ControlMessage::new(self.epoch, command))),
            mandatory,
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

    /// Asks every worker of these batches to give dispatches back that count no more. Nothing depends on it: one that starts
    /// all the same is told to stop then.
    pub async fn revoke(
        &self,
        database: &Database,
        revoke: &BTreeMap<BatchName, Vec<DispatchId>>,
    ) -> Result<(), Consumed> {
        if revoke.is_empty() {
            return Ok(());
        }
        let workers = match database.workers().await {
            Ok(workers) => workers,
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, "dispatches that count no more cannot be revoked now");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        for worker in workers {
            let (Ok(name), Ok(batch)) =
                (WorkerName::new(&worker.name), BatchName::new(worker.batch))
            else {
                continue;
            };
            if let Some(dispatches) = revoke.get(&batch) {
                let dispatches = dispatches.clone();
                self.send(&name, ControlCommand::Revoke { dispatches }, true)
                    .await?;
            }
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
