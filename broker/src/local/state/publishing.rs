//! Messages are routed, stored, and dead-lettered.

use std::sync::Arc;

use super::super::confirms::ConfirmKey;
use super::super::queue::{Queue, QueueId};
use super::{State, no_exchange};
use crate::confirmation::{Confirmation, PublishFailure};
use crate::error::BrokerError;
use crate::message::{ChannelId, Message};

/// AMQP's code for a message that no queue took.
const NO_ROUTE: u16 = 312;

impl State {
    pub(in crate::local) fn publish(
        &mut self,
        channel: ChannelId,
        message: Message,
    ) -> Result<Confirmation, BrokerError> {
        self.channel(channel)?;
        let Some(queues) = self.route(&message.exchange, &message.routing_key) else {
            let error = self.fail(channel, no_exchange(&message.exchange));
            return Ok(Confirmation::ready(Err(PublishFailure::Lost(error))));
        };
        if queues.is_empty() {
            let outcome = if message.mandatory {
                Err(PublishFailure::Returned {
                    code: NO_ROUTE,
                    reason: "NO_ROUTE".to_owned(),
                })
            } else {
                Ok(())
            };
            return Ok(Confirmation::ready(outcome));
        }
        let bytes = message.body.len();
        let count = queues.len();
        let accepting: Vec<QueueId> = queues
            .into_iter()
            .filter(|id| {
                self.queues
                    .get(id)
                    .is_some_and(|queue| !queue.refuses(bytes))
            })
            .collect();
        let refused = accepting.len() < count;
        let waiting = |id: &&QueueId| {
            self.queues
                .get(id)
                .is_some_and(|queue| queue.spec.confirm_when_settled)
        };
        let copies = if refused {
            0
        } else {
            accepting.iter().filter(waiting).count()
        };
        let (confirm, confirmation) = if refused {
            (None, Confirmation::ready(Err(PublishFailure::Refused)))
        } else if copies == 0 {
            (None, Confirmation::ready(Ok(())))
        } else {
            let (key, confirmation) = self.channel(channel)?.confirms.open(channel, copies);
            (Some(key), confirmation)
        };
        let message = Arc::new(message);
        for queue in accepting {
            self.enqueue(queue, Arc::clone(&message), confirm);
            self.trim(queue);
            self.deliver(queue);
        }
        Ok(confirmation)
    }

    /// The queues for a message; `None` if the exchange does not exist.
    fn route(&self, exchange: &str, routing_key: &str) -> Option<Vec<QueueId>> {
        if exchange.is_empty() {
            return Some(
                self.queue_names
                    .get(routing_key)
                    .copied()
                    .into_iter()
                    .collect(),
            );
        }
        self.exchanges
            .get(exchange)
            .map(|exchange| exchange.route(routing_key))
    }

    fn enqueue(&mut self, queue: QueueId, message: Arc<Message>, confirm: Option<ConfirmKey>) {
        if let Some(queue) = self.queues.get_mut(&queue) {
            let confirm = confirm.filter(|_| queue.spec.confirm_when_settled);
            queue.push(message, confirm);
        }
    }

    /// Drops the oldest messages of a queue that holds too many.
    pub(super) fn trim(&mut self, id: QueueId) {
        while let Some(stored) = self.queues.get_mut(&id).and_then(Queue::pop_excess) {
            self.dead_letter(id, &stored.message, "maxlen");
            if let Some(confirm) = stored.confirm {
                self.settle_confirm(confirm);
            }
        }
    }

    /// Publishes a message to where dead letters of the queue go, if anywhere. What is full there does not take it,
    /// and what it displaces there is gone, so that dead letters cannot run in circles.
    pub(super) fn dead_letter(&mut self, queue: QueueId, message: &Message, reason: &str) {
        let Some(queue) = self.queues.get(&queue) else {
            return;
        };
        let Some(target) = &queue.spec.dead_letter else {
            return;
        };
        let mut letter = message.clone();
        let headers = &mut letter.properties.headers;
        headers
            .entry("x-first-death-queue".to_owned())
            .or_insert_with(|| queue.spec.name.clone());
        headers
            .entry("x-first-death-reason".to_owned())
            .or_insert_with(|| reason.to_owned());
        headers
            .entry("x-first-death-exchange".to_owned())
            .or_insert_with(|| message.exchange.clone());
        letter.exchange.clone_from(&target.exchange);
        if let Some(key) = &target.routing_key {
            letter.routing_key.clone_from(key);
        }
        let letter = Arc::new(letter);
        let bytes = letter.body.len();
        for id in self
            .route(&letter.exchange, &letter.routing_key)
            .unwrap_or_default()
        {
            let Some(queue) = self
                .queues
                .get_mut(&id)
                .filter(|queue| !queue.refuses(bytes))
            else {
                continue;
            };
            queue.push(Arc::clone(&letter), None);
            while let Some(displaced) = queue.pop_excess() {
                if let Some(confirm) = displaced.confirm
                    && let Some(channel) = self.channels.get_mut(&confirm.channel)
                {
                    channel.confirms.settle(confirm);
                }
            }
            self.deliver(id);
        }
    }

    pub(super) fn settle_confirm(&mut self, confirm: ConfirmKey) {
        if let Some(channel) = self.channels.get_mut(&confirm.channel) {
            channel.confirms.settle(confirm);
        }
    }

    pub(super) fn refuse_confirm(&mut self, confirm: ConfirmKey) {
        if let Some(channel) = self.channels.get_mut(&confirm.channel) {
            channel.confirms.refuse(confirm);
        }
    }
}
