use scitq_broker::{Delivery, topology};
use scitq_shared::names::BatchName;
use scitq_shared::protocol::{TaskMessage, decode};

use super::dispatcher::Dispatcher;
use crate::events::{Consumed, Happening};

/// Messages taken back in one transaction: bounds what is held in memory, as a task may be a megabyte long.
const AT_ONCE: usize = 64;

impl Dispatcher {
    /// Takes back what no worker has got yet (D4): reads the batch's queue until it is empty, commits each dispatch as
    /// returned, and acks then. Nothing is ever purged, so it is known exactly which dispatches are held again. The
    /// caller has waited for outstanding confirms and publishes nothing meanwhile.
    ///
    /// Answers how many dispatches have left the queue.
    pub(super) async fn withdraw(&self, batch: &BatchName) -> Result<usize, Consumed> {
        let queue = topology::batch_queue_name(batch.as_str());
        let mut withdrawn = 0;
        loop {
            let mut held = Vec::new();
            while held.len() < AT_ONCE {
                let Some(delivery) = self.channel.get(&queue).await? else {
                    break;
                };
                held.push(delivery);
            }
            if held.is_empty() {
                return Ok(withdrawn);
            }
            withdrawn += self.take_back(&held).await?;
        }
    }

    async fn take_back(&self, held: &[Delivery]) -> Result<usize, Consumed> {
        let mut returned = Vec::with_capacity(held.len());
        for delivery in held {
            match decode::<TaskMessage>(&delivery.body) {
                Ok(task) => returned.push(Happening::Returned {
                    dispatch: task.dispatch,
                    task: task.task,
                }),
                Err(error) => {
                    tracing::warn!(%error, "a message in a batch's queue cannot be read and is set aside");
                }
            }
        }
        self.commit_returned(&returned).await?;
        for delivery in held {
            if decode::<TaskMessage>(&delivery.body).is_ok() {
                self.channel.ack(delivery.tag).await?;
            } else {
                self.channel.reject(delivery.tag, false).await?;
            }
        }
        Ok(held.len())
    }
}
