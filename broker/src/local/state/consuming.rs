//! Deliveries go out and are settled.

use std::collections::HashSet;
use std::num::NonZeroU16;

use tokio::sync::mpsc;

use super::super::queue::{ConsumerEntry, ConsumerId, QueueId};
use super::{State, Subscription, Unacknowledged};
use crate::error::BrokerError;
use crate::message::{ChannelId, Delivery, DeliveryTag};

impl State {
    pub(in crate::local) fn consume(
        &mut self,
        channel: ChannelId,
        queue: &str,
        prefetch: NonZeroU16,
    ) -> Result<Subscription, BrokerError> {
        let (queue_id, _) = self.usable_queue(channel, queue)?;
        let id = ConsumerId(self.next_id());
        // Bounded by the prefetch: see ConsumerEntry.
        let (sender, deliveries) = mpsc::unbounded_channel();
        self.channel(channel)?.consumers.insert(id, queue_id);
        if let Some(queue) = self.queues.get_mut(&queue_id) {
            queue.add_consumer(id, ConsumerEntry::new(channel, prefetch.get(), sender));
        }
        self.deliver(queue_id);
        Ok(Subscription { id, deliveries })
    }

    /// Ends a subscription; what it was delivered stays out for delivery.
    pub(in crate::local) fn cancel(
        &mut self,
        channel: ChannelId,
        consumer: ConsumerId,
    ) -> Result<(), BrokerError> {
        if let Some(queue) = self.channel(channel)?.consumers.remove(&consumer)
            && self.remove_consumer(queue, consumer)
        {
            self.remove_queue(queue);
        }
        Ok(())
    }

    /// Takes a consumer off its queue; true if the queue is to go with it.
    pub(super) fn remove_consumer(&mut self, queue: QueueId, consumer: ConsumerId) -> bool {
        self.queues.get_mut(&queue).is_some_and(|queue| {
            queue.remove_consumer(consumer).is_some()
                && queue.spec.auto_delete
                && !queue.has_consumers()
        })
    }

    pub(in crate::local) fn get(
        &mut self,
        channel: ChannelId,
        queue: &str,
    ) -> Result<Option<Delivery>, BrokerError> {
        let (queue_id, queue) = self.usable_queue(channel, queue)?;
        let Some(stored) = queue.pop() else {
            return Ok(None);
        };
        let delivery = self
            .channel(channel)?
            .hand_out(channel, stored, queue_id, None);
        Ok(Some(delivery))
    }

    pub(in crate::local) fn acknowledge(
        &mut self,
        channel: ChannelId,
        tag: DeliveryTag,
    ) -> Result<(), BrokerError> {
        let unacknowledged = self.unacknowledged(channel, tag)?;
        let queue = unacknowledged.queue;
        self.settle(&unacknowledged);
        self.deliver(queue);
        Ok(())
    }

    pub(in crate::local) fn acknowledge_up_to(
        &mut self,
        channel: ChannelId,
        tag: DeliveryTag,
    ) -> Result<(), BrokerError> {
        let state = self.channel(channel)?;
        let later = state.unacknowledged.split_off(&(tag.0 + 1));
        let settled = std::mem::replace(&mut state.unacknowledged, later);
        if settled.is_empty() && tag.0 > state.last_tag {
            return Err(self.fail(channel, unknown_tag(tag)));
        }
        let mut queues = HashSet::new();
        for unacknowledged in settled.into_values() {
            queues.insert(unacknowledged.queue);
            self.settle(&unacknowledged);
        }
        for queue in queues {
            self.deliver(queue);
        }
        Ok(())
    }

    pub(in crate::local) fn reject(
        &mut self,
        channel: ChannelId,
        tag: DeliveryTag,
        requeue: bool,
    ) -> Result<(), BrokerError> {
        let unacknowledged = self.unacknowledged(channel, tag)?;
        let queue = unacknowledged.queue;
        if requeue {
            self.take_back(unacknowledged);
            self.trim(queue);
        } else {
            self.dead_letter(queue, &unacknowledged.stored.message, "rejected");
            self.settle(&unacknowledged);
        }
        self.deliver(queue);
        Ok(())
    }

    fn unacknowledged(
        &mut self,
        channel: ChannelId,
        tag: DeliveryTag,
    ) -> Result<Unacknowledged, BrokerError> {
        match self.channel(channel)?.unacknowledged.remove(&tag.0) {
            Some(unacknowledged) => Ok(unacknowledged),
            None => Err(self.fail(channel, unknown_tag(tag))),
        }
    }

    /// A delivery is done with: its consumer has room again, its publisher is told.
    fn settle(&mut self, unacknowledged: &Unacknowledged) {
        let queue = self.queues.get_mut(&unacknowledged.queue);
        if let (Some(queue), Some(consumer)) = (queue, unacknowledged.consumer) {
            queue.release(consumer);
        }
        if let Some(confirm) = unacknowledged.stored.confirm {
            self.settle_confirm(confirm);
        }
    }

    /// A delivery goes back to its queue, to where it was.
    pub(super) fn take_back(&mut self, unacknowledged: Unacknowledged) {
        let Unacknowledged {
            stored,
            queue,
            consumer,
        } = unacknowledged;
        match self.queues.get_mut(&queue) {
            Some(queue) => {
                if let Some(consumer) = consumer {
                    queue.release(consumer);
                }
                queue.push_back_in(stored);
            }
            None => {
                if let Some(confirm) = stored.confirm {
                    self.refuse_confirm(confirm);
                }
            }
        }
    }

    /// Hands ready messages to consumers with room, in turn.
    pub(super) fn deliver(&mut self, queue_id: QueueId) {
        let Some(queue) = self.queues.get_mut(&queue_id) else {
            return;
        };
        while let Some((stored, consumer_id, consumer)) = queue.pop_for_consumer() {
            let Some(channel) = self.channels.get_mut(&consumer.channel) else {
                // A channel leaves its consumers before it goes.
                debug_assert!(false, "consumer without a channel");
                continue;
            };
            let delivery = channel.hand_out(consumer.channel, stored, queue_id, Some(consumer_id));
            // A receiver that is being dropped cancels its consumer next; the delivery stays unacknowledged as it
            // would on a wire.
            let _ = consumer.deliveries.send(delivery);
        }
    }
}

fn unknown_tag(tag: DeliveryTag) -> BrokerError {
    BrokerError::PreconditionFailed {
        what: format!("unknown delivery tag {tag}"),
    }
}
