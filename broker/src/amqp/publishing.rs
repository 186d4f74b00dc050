//! Publishing on one channel: order, confirms, and which confirm belongs to a returned message.
//!
//! A task per channel does it, for three reasons. lapin counts publications and queues their frames in two steps, so
//! that two callers at once could get each other's confirms. It gives a returned message to whichever confirm of the
//! same batch it completes first. And a confirm that nobody awaits is kept by lapin for ever.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::convert::{mark, marked, short, to_lapin};
use super::failure::failure;
use crate::confirmation::{Confirmation, PublishFailure};
use crate::ending::Ending;
use crate::error::BrokerError;
use crate::message::Message;

/// How many bytes may wait for the network on one channel before publishers wait.
const UNSENT_BYTES: usize = 4 * 1024 * 1024;
/// What a message costs beside its body.
const MESSAGE_BYTES: usize = 512;
/// How long a channel without handles stays open for the confirms of what was published on it.
const LINGER: Duration = Duration::from_secs(10);

/// The way into the publishing task of a channel.
#[derive(Debug)]
pub(crate) struct PublishQueue {
    /// Bounded by `room`: every message in it holds some.
    publications: mpsc::UnboundedSender<Publication>,
    room: Arc<Semaphore>,
    ending: Ending,
}

/// A message in lapin's types, and whom to tell.
#[derive(Debug)]
struct Publication {
    exchange: ShortString,
    routing_key: ShortString,
    mandatory: bool,
    properties: BasicProperties,
    body: Bytes,
    answer: Answer,
    room: OwnedSemaphorePermit,
}

type Answer = oneshot::Sender<Result<(), PublishFailure>>;
type Publishing = Pin<Box<dyn Future<Output = Done> + Send>>;

/// The end of one publication: its number and what lapin said.
struct Done {
    sequence: u64,
    outcome: lapin::Result<lapin::Confirmation>,
}

impl PublishQueue {
    /// Starts the publishing task of a channel. It sets `ending` when it meets the end of the channel first.
    pub(crate) fn start(channel: lapin::Channel, ending: Ending) -> Self {
        let (publications, receiver) = mpsc::unbounded_channel();
        let publisher = ChannelPublisher {
            channel: Arc::new(channel),
            ending: ending.clone(),
            state: State::default(),
        };
        tokio::spawn(publisher.run(receiver));
        Self {
            publications,
            room: Arc::new(Semaphore::new(UNSENT_BYTES)),
            ending,
        }
    }

    /// Hands over a message, in the order of the calls; waits while too much is unsent.
    pub(crate) async fn publish(&self, message: Message) -> Result<Confirmation, BrokerError> {
        let cost = (message.body.len() + MESSAGE_BYTES).min(UNSENT_BYTES);
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        let room = tokio::select! {
            biased;
            room = Arc::clone(&self.room).acquire_many_owned(cost) => room,
            reason = self.ending.reached() => return Err(reason),
        };
        let Ok(room) = room else {
            return Err(ended(&self.ending));
        };
        let (answer, confirmation) = Confirmation::waiting();
        let publication = Publication {
            exchange: short(&message.exchange)?,
            routing_key: short(&message.routing_key)?,
            mandatory: message.mandatory,
            properties: to_lapin(&message)?,
            body: message.body,
            answer,
            room,
        };
        self.publications
            .send(publication)
            .map_err(|_| ended(&self.ending))?;
        Ok(confirmation)
    }
}

/// Why a channel takes no more messages.
fn ended(ending: &Ending) -> BrokerError {
    let unknown = || BrokerError::ChannelClosed {
        code: 200,
        reason: "the channel has ended".to_owned(),
    };
    ending.get().unwrap_or_else(unknown)
}

struct ChannelPublisher {
    channel: Arc<lapin::Channel>,
    ending: Ending,
    state: State,
}

#[derive(Default)]
struct State {
    last_sequence: u64,
    answers: HashMap<u64, OpenAnswer>,
}

struct OpenAnswer {
    answer: Answer,
    mandatory: bool,
}

impl ChannelPublisher {
    async fn run(mut self, mut publications: mpsc::UnboundedReceiver<Publication>) {
        let mut under_way = FuturesUnordered::new();
        let mut ended = self.ending.watch();
        let mut done = Vec::new();
        let reason = loop {
            tokio::select! {
                biased;
                reason = ended.reached() => break reason,
                publication = publications.recv() => {
                    let Some(publication) = publication else { break self.linger(&mut under_way).await };
                    self.start(publication, &mut under_way, &mut done).await;
                }
                Some(first) = under_way.next() => done.push(first),
            }
            // All that are complete by now: a returned message comes with this confirm or one completed before it.
            while let Some(Some(more)) = under_way.next().now_or_never() {
                done.push(more);
            }
            self.state.settle(&mut done, &self.ending);
        };
        while let Some(Some(more)) = under_way.next().now_or_never() {
            done.push(more);
        }
        self.state.settle(&mut done, &self.ending);
        self.state.lose(&reason);
        publications.close();
        while let Some(publication) = publications.recv().await {
            // The publisher may have stopped waiting.
            let _ = publication
                .answer
                .send(Err(PublishFailure::Lost(reason.clone())));
        }
    }

    /// Hands one message to lapin; its frames are queued when this returns, so that the next one comes after it.
    async fn start(
        &mut self,
        publication: Publication,
        under_way: &mut FuturesUnordered<Publishing>,
        done: &mut Vec<Done>,
    ) {
        let Publication {
            exchange,
            routing_key,
            mandatory,
            properties,
            body,
            answer,
            room,
        } = publication;
        self.state.last_sequence += 1;
        let sequence = self.state.last_sequence;
        self.state
            .answers
            .insert(sequence, OpenAnswer { answer, mandatory });
        let properties = if mandatory {
            mark(properties, sequence)
        } else {
            properties
        };
        let channel = Arc::clone(&self.channel);
        let mut publishing: Publishing = Box::pin(async move {
            let options = BasicPublishOptions {
                mandatory,
                immediate: false,
            };
            let sent = channel
                .basic_publish(exchange, routing_key, options, &body, properties)
                .await;
            drop((room, body));
            let outcome = match sent {
                Ok(confirm) => confirm.await,
                Err(error) => Err(error),
            };
            Done { sequence, outcome }
        });
        match futures::poll!(publishing.as_mut()) {
            std::task::Poll::Ready(finished) => done.push(finished),
            std::task::Poll::Pending => under_way.push(publishing),
        }
    }

    /// All handles of the channel are gone: wait a little for what was published, then end.
    async fn linger(&mut self, under_way: &mut FuturesUnordered<Publishing>) -> BrokerError {
        let mut ended = self.ending.watch();
        let deadline = tokio::time::sleep(LINGER);
        tokio::pin!(deadline);
        let mut done = Vec::new();
        while !under_way.is_empty() {
            tokio::select! {
                biased;
                Some(first) = under_way.next() => done.push(first),
                reason = ended.reached() => return reason,
                () = &mut deadline => break,
            }
            while let Some(Some(more)) = under_way.next().now_or_never() {
                done.push(more);
            }
            self.state.settle(&mut done, &self.ending);
        }
        BrokerError::ChannelClosed {
            code: 200,
            reason: "its last handle was dropped".to_owned(),
        }
    }
}

impl State {
    /// Answers the publishers of completed publications.
    fn settle(&mut self, done: &mut Vec<Done>, ending: &Ending) {
        // lapin completes the confirms of one batch in any order and hangs a returned message on the first.
        let mut returned = HashMap::new();
        for Done { outcome, .. } in &*done {
            if let Ok(
                lapin::Confirmation::Ack(Some(message)) | lapin::Confirmation::Nack(Some(message)),
            ) = outcome
                && let Some(sequence) = marked(&message.delivery.properties)
            {
                let failure = PublishFailure::Returned {
                    code: message.reply_code,
                    reason: message.reply_text.to_string(),
                };
                returned.insert(sequence, failure);
            }
        }
        for Done { sequence, outcome } in done.drain(..) {
            let answer = match outcome {
                Ok(lapin::Confirmation::Ack(_)) => Ok(()),
                // Confirms are selected before the channel is used: the latter does not happen.
                Ok(lapin::Confirmation::Nack(_) | lapin::Confirmation::NotRequested) => {
                    Err(PublishFailure::Refused)
                }
                Err(error) => {
                    // The channel has ended, now or before; whoever knows why tells all that are open.
                    if let Some(reason) = failure(&error) {
                        ending.set(reason);
                    }
                    continue;
                }
            };
            if let Some(open) = self.answers.remove(&sequence) {
                let came_back = if open.mandatory {
                    returned.remove(&sequence)
                } else {
                    None
                };
                // The publisher may have stopped waiting.
                let _ = open.answer.send(came_back.map_or(answer, Err));
            }
        }
    }

    /// Nobody will ever answer the rest.
    fn lose(&mut self, reason: &BrokerError) {
        for (_, open) in self.answers.drain() {
            // The publisher may have stopped waiting.
            let _ = open.answer.send(Err(PublishFailure::Lost(reason.clone())));
        }
    }
}
