use scitq_broker::{Delivery, topology};
use scitq_shared::names::BatchName;
use scitq_shared::protocol::{ReturnedDispatch, TaskMessage, decode};
use uuid::Uuid;

use super::dispatcher::Dispatcher;
use crate::events::{Consumed, Happening};

/// Messages taken back in one transaction: bounds what is held in memory, as a task may be a megabyte long.
const AT_ONCE: usize = 64;

impl Dispatcher {
    /// Takes back what no worker has got yet (D4): reads the batch's queue until it is empty, commits each dispatch as
    /// returned, and acks then. Nothing is ever purged, so it is known exactly which dispatches are held again. The
    /// caller has waited for outstanding confirms and publishes nothing meanwhile.
    ///
    /// Redelivered messages come back through the state queue, behind whatever was said about them (D6). Answers how many
    /// of the others there were: their tasks are pending.
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
        let (mut fresh, mut redelivered) = (Vec::new(), Vec::new());
        let mut unusable = Vec::new();
        for delivery in held {
            match decode::<TaskMessage>(&delivery.body) {
                Ok(message) => {
                    let (dispatch, task) = (message.dispatch, message.task);
                    match self.import(&message).await {
                        Err(Consumed::Database(error)) => {
                            tracing::warn!(%task, %error, "an unknown task cannot be taken in: its message is set aside");
                            unusable.push(delivery.tag);
                            continue;
                        }
                        outcome => outcome?,
                    }
                    if delivery.redelivered {
                        redelivered.push(ReturnedDispatch { dispatch, task });
                    } else {
                        fresh.push(Happening::Returned { dispatch, task });
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a message in a batch's queue cannot be read and is set aside");
                    unusable.push(delivery.tag);
                }
            }
        }
        self.commit_returned(&fresh).await?;
        if !redelivered.is_empty() {
            // Somebody had them, and may have started them: that would be in the state queue, so they come back through it.
            let marker = Uuid::new_v4();
            self.publish_marker(marker, redelivered).await?.await?;
        }
        for delivery in held {
            if unusable.contains(&delivery.tag) {
                self.channel.reject(delivery.tag, false).await?;
            } else {
                self.channel.ack(delivery.tag).await?;
            }
        }
        Ok(fresh.len())
    }
}
