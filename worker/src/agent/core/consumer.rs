//! The subscription to the batch's queue: opened, sized, closed and opened again (D5).

use std::num::NonZeroU16;
use std::time::Duration;

use scitq_shared::ids::AttemptId;
use scitq_shared::names::BatchName;

use super::held::Active;
use super::input::{ChannelNumber, ConsumerNumber, Effect, Now};
use super::publishing::Publication;
use super::{Core, Rules};

/// Where the subscription stands.
#[derive(Debug)]
pub(super) enum Consumer {
    /// There is none; not to be tried again before `retry_at`.
    Closed {
        retry_at: Option<Duration>,
        failures: u32,
    },
    /// Asked for.
    Opening {
        number: ConsumerNumber,
        subscription: Subscription,
        failures: u32,
    },
    /// There.
    Open {
        number: ConsumerNumber,
        subscription: Subscription,
    },
    /// Being cancelled; deliveries may still come.
    Closing { number: ConsumerNumber },
}

/// What is subscribed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subscription {
    pub(super) batch: BatchName,
    pub(super) qos: NonZeroU16,
}

impl Consumer {
    pub(super) fn closed() -> Self {
        Self::Closed {
            retry_at: None,
            failures: 0,
        }
    }

    /// When a missing queue is looked for again.
    pub(super) fn retry_at(&self) -> Option<Duration> {
        match self {
            Self::Closed { retry_at, .. } => *retry_at,
            _ => None,
        }
    }

    /// The subscription whose unacknowledged deliveries count in its own limit, while it is there.
    fn counting(&self) -> Option<ConsumerNumber> {
        match self {
            Self::Open { number, .. } | Self::Closing { number } => Some(*number),
            _ => None,
        }
    }

    /// Our cancelling is done.
    pub(super) fn cancelled(&mut self, consumer: ConsumerNumber) {
        if matches!(self, Self::Closing { number } if *number == consumer) {
            *self = Self::closed();
        }
    }

    fn failed(&mut self, now: Now, rules: &Rules) {
        let failures = match self {
            Self::Closed { failures, .. } | Self::Opening { failures, .. } => *failures,
            _ => 0,
        };
        let (first, longest) = rules.queue_retry;
        let wait = first.saturating_mul(1 << failures.min(16)).min(longest);
        *self = Self::Closed {
            retry_at: Some(now.elapsed + wait),
            failures: failures + 1,
        };
    }
}

impl Core {
    /// What should be subscribed to now; nothing when no task may start or there is no room.
    pub(super) fn wanted_subscription(&self) -> Option<Subscription> {
        let desired = self.desired.as_ref().filter(|_| self.link_up)?;
        let outside = self
            .active
            .values()
            .filter(|active| !self.counts_in_subscription(active))
            .count();
        let room = self.room().saturating_sub(outside);
        let qos = NonZeroU16::new(u16::try_from(room).unwrap_or(u16::MAX))?;
        Some(Subscription {
            batch: desired.batch.clone(),
            qos,
        })
    }

    fn counts_in_subscription(&self, active: &Active) -> bool {
        active.unacked
            && !active.ack_early
            && self.consumer.counting() == Some(active.origin.consumer)
    }

    /// Brings the subscription to what it should be, one step at a time.
    pub(super) fn tend_consumer(&mut self, now: Now) {
        let wanted = self.wanted_subscription();
        match &self.consumer {
            Consumer::Closed { retry_at, failures } => {
                let Some(subscription) =
                    wanted.filter(|_| retry_at.is_none_or(|at| at <= now.elapsed))
                else {
                    return;
                };
                let failures = *failures;
                let number = ConsumerNumber(self.next_number());
                let Subscription { batch, qos } = subscription.clone();
                self.effects.push(Effect::Consume {
                    consumer: number,
                    batch,
                    qos,
                });
                self.consumer = Consumer::Opening {
                    number,
                    subscription,
                    failures,
                };
            }
            Consumer::Open {
                number,
                subscription,
            } if wanted.as_ref() != Some(subscription) => {
                let number = *number;
                self.effects
                    .push(Effect::CancelConsumer { consumer: number });
                self.consumer = Consumer::Closing { number };
            }
            Consumer::Open { .. } | Consumer::Opening { .. } | Consumer::Closing { .. } => {}
        }
    }

    pub(super) fn consuming(&mut self, consumer: ConsumerNumber, channel: ChannelNumber) {
        if let Consumer::Opening {
            number,
            subscription,
            ..
        } = &self.consumer
            && *number == consumer
        {
            self.consumer = Consumer::Open {
                number: consumer,
                subscription: subscription.clone(),
            };
            self.channel = Some(channel);
        }
    }

    pub(super) fn consume_failed(&mut self, now: Now, consumer: ConsumerNumber) {
        if matches!(&self.consumer, Consumer::Opening { number, .. } if *number == consumer) {
            self.consumer.failed(now, &self.rules);
        }
    }

    /// The leader says that the queue is there.
    pub(super) fn queue_ready(&mut self, batch: &BatchName) {
        let is_ours = self
            .desired
            .as_ref()
            .is_some_and(|desired| desired.batch == *batch);
        if let Consumer::Closed { retry_at, .. } = &mut self.consumer
            && is_ours
        {
            *retry_at = None;
        }
    }

    /// The broker ended the subscription: what it brought and has not started is void, though the channel lives.
    pub(super) fn consumer_ended(&mut self, now: Now, consumer: ConsumerNumber) {
        match &self.consumer {
            Consumer::Open { number, .. } | Consumer::Closing { number } if *number == consumer => {
                self.consumer.failed(now, &self.rules);
                self.void(now, false, |place| place.consumer == consumer);
            }
            _ => {}
        }
    }

    /// A channel is gone, and with it whatever it brought that has not started.
    pub(super) fn channel_closed(&mut self, now: Now, channel: ChannelNumber) {
        if self.channel != Some(channel) {
            return;
        }
        self.channel = None;
        self.tombstones.clear();
        match self.consumer {
            Consumer::Open { .. } | Consumer::Closing { .. } => {
                self.consumer.failed(now, &self.rules);
            }
            // The subscription asked for comes on a new channel, or fails by itself.
            Consumer::Closed { .. } | Consumer::Opening { .. } => {}
        }
        self.sent.retain(|_, sent| !matches!(&sent.what, Publication::Returned(place) if place.channel == channel));
        self.void(now, true, |place| place.channel == channel);
    }

    /// A delivery is held for long: it is to be acknowledged, together with others that will soon be due, so that the
    /// subscription is opened anew once for all of them.
    pub(super) fn mark_for_early_ack(&mut self, now: Now, attempt: AttemptId) {
        let Some(due) = self
            .active
            .get_mut(&attempt)
            .filter(|active| active.unacked)
        else {
            return;
        };
        if !due.is_announced_for_certain() {
            // The announcement is on its way: looked at again shortly.
            due.ack_at = now.elapsed + self.rules.accept_after;
            self.timers.insert(due.ack_timer());
            return;
        }
        let soon = self.rules.ack_after / 2;
        let unacked = self
            .active
            .values_mut()
            .filter(|active| active.unacked && active.is_announced_for_certain());
        for active in unacked.filter(|active| active.delivered_at + soon <= now.elapsed) {
            active.ack_early = true;
        }
    }

    /// Acknowledges what is marked, once that cannot make the subscription bring more than there is room for: not while
    /// the one that brought it is open. (It counts as outside since it was marked, so that one is being closed.)
    pub(super) fn acknowledge_early(&mut self) {
        let counting = self.consumer.counting();
        for active in self.active.values_mut() {
            if active.ack_early && active.unacked && Some(active.origin.consumer) != counting {
                active.unacked = false;
                self.effects.push(Effect::Ack(active.origin));
            }
        }
    }
}
