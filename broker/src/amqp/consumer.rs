//! A subscription.

use std::time::Duration;

use futures::{FutureExt, StreamExt};
use lapin::options::BasicCancelOptions;

use super::channel::AmqpChannel;
use super::convert::from_lapin;
use crate::consumer::ConsumerEnd;
use crate::ending::EndingWatch;
use crate::error::BrokerError;
use crate::message::Delivery;

/// How long after the end of a consumer the end of its channel may take to be known.
const REASON: Duration = Duration::from_secs(6);

/// A subscription; dropping it cancels it.
#[derive(Debug)]
pub(crate) struct AmqpConsumer {
    channel: AmqpChannel,
    ended: EndingWatch,
    lapin: lapin::Consumer,
    /// What ended lapin's stream, once it has ended: it says so one time only.
    end: Option<StreamEnd>,
}

/// How lapin's stream of deliveries ends.
#[derive(Debug)]
enum StreamEnd {
    Failed(lapin::Error),
    Finished,
}

impl AmqpConsumer {
    pub(super) fn new(channel: AmqpChannel, lapin: lapin::Consumer) -> Self {
        let ended = channel.ending().watch();
        Self {
            channel,
            ended,
            lapin,
            end: None,
        }
    }

    pub(crate) async fn next(&mut self) -> Result<Delivery, ConsumerEnd> {
        if self.end.is_none() {
            let next = tokio::select! {
                biased;
                reason = self.ended.reached() => return Err(ConsumerEnd::from_error(reason)),
                next = self.lapin.next() => next,
            };
            if let Some(delivery) = self.received(next) {
                return Ok(delivery);
            }
        }
        Err(self.why_ended().await)
    }

    pub(crate) fn try_next(&mut self) -> Option<Delivery> {
        if self.end.is_some() || self.channel.ending().is_set() {
            return None;
        }
        let next = self.lapin.next().now_or_never()?;
        self.received(next)
    }

    /// A delivery, or the note that there are no more.
    fn received(
        &mut self,
        next: Option<lapin::Result<lapin::message::Delivery>>,
    ) -> Option<Delivery> {
        self.end = Some(match next {
            Some(Ok(delivery)) => return Some(from_lapin(self.channel.id(), delivery)),
            Some(Err(error)) => StreamEnd::Failed(error),
            None => StreamEnd::Finished,
        });
        None
    }

    async fn why_ended(&mut self) -> ConsumerEnd {
        match &self.end {
            Some(StreamEnd::Failed(error)) => {
                ConsumerEnd::from_error(self.channel.explain(error).await)
            }
            // lapin changes the state of the channel before it ends its consumers.
            _ if self.channel.lapin_is_open() => ConsumerEnd::CancelledByBroker,
            _ => {
                let reason = tokio::time::timeout(REASON, self.ended.reached()).await;
                let unknown = |_| BrokerError::ChannelClosed {
                    code: 0,
                    reason: "closed without a reason".to_owned(),
                };
                ConsumerEnd::from_error(reason.unwrap_or_else(unknown))
            }
        }
    }

    pub(crate) async fn cancel(mut self) -> Result<Vec<Delivery>, BrokerError> {
        let cancelled = self
            .channel
            .lapin()
            .basic_cancel(self.lapin.tag(), BasicCancelOptions::default());
        self.channel.call(cancelled).await?;
        // The broker sends nothing after its answer, and lapin ends the stream when it has read that.
        let mut buffered = Vec::new();
        while self.end.is_none() {
            let next = self.lapin.next().await;
            buffered.extend(self.received(next));
        }
        Ok(buffered)
    }
}
