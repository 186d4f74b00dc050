//! Publishing on one channel: order, confirms, and which confirm belongs to a returned message.
//!
//! A task per channel does it, for three reasons. lapin counts publications and queues their frames in two steps, so
//! that two callers at once could get each other's confirms. It gives a message that came back to whichever
//! confirm it completes next. And a confirm that nobody awaits is kept by lapin for ever.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
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
    /// Messages that came back, by number, until their confirms come.
    returned: HashMap<u64, PublishFailure>,
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
            drain(&mut under_way, &mut done);
            self.state.settle(&mut done, &self.ending);
        };
        drain(&mut under_way, &mut done);
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
            Poll::Ready(finished) => done.push(finished),
            Poll::Pending => under_way.push(publishing),
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
            drain(under_way, &mut done);
            self.state.settle(&mut done, &self.ending);
        }
        BrokerError::ChannelClosed {
            code: 200,
            reason: "its last handle was dropped".to_owned(),
        }
    }
}

/// Takes all publications that are complete by now. None may be missed: lapin may have hung the message that came back
/// for one of them on any that it completed before.
fn drain(under_way: &mut FuturesUnordered<Publishing>, done: &mut Vec<Done>) {
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    loop {
        match under_way.poll_next_unpin(&mut context) {
            Poll::Ready(Some(finished)) => done.push(finished),
            // The collection pauses now and then in favour of other tasks, and then wakes itself.
            Poll::Pending if woken.take() => {}
            Poll::Pending | Poll::Ready(None) => return,
        }
    }
}

/// Whether there was a wake-up since it was last asked.
#[derive(Debug, Default)]
struct Woken(AtomicBool);

impl Woken {
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

impl State {
    /// Answers the publishers of completed publications.
    fn settle(&mut self, done: &mut Vec<Done>, ending: &Ending) {
        // lapin hangs a message that came back on whichever confirm it completes next, of this message or another.
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
                self.returned.insert(sequence, failure);
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
                    self.returned.remove(&sequence)
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

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use lapin::message::{BasicReturnMessage, Delivery};

    use super::*;

    fn state(messages: u64) -> (State, Vec<Confirmation>) {
        let mut state = State::default();
        let confirmations = (1..=messages).map(|sequence| {
            let (answer, confirmation) = Confirmation::waiting();
            state.answers.insert(
                sequence,
                OpenAnswer {
                    answer,
                    mandatory: true,
                },
            );
            confirmation
        });
        let confirmations = confirmations.collect();
        (state, confirmations)
    }

    /// The confirm of one message, on which lapin has hung another one that came back.
    fn confirmed(sequence: u64, came_back: Option<u64>) -> Done {
        let message = came_back.map(|number| {
            let mut delivery = Delivery::mock(0, "".into(), "nobody".into(), false, Vec::new());
            delivery.properties = mark(BasicProperties::default(), number);
            BasicReturnMessage {
                delivery,
                reply_code: 312,
                reply_text: "NO_ROUTE".into(),
            }
        });
        Done {
            sequence,
            outcome: Ok(lapin::Confirmation::Ack(message)),
        }
    }

    fn is_returned(confirmation: Confirmation) -> bool {
        matches!(
            confirmation.now_or_never(),
            Some(Err(PublishFailure::Returned { code: 312, .. }))
        )
    }

    #[test]
    fn a_message_that_came_back_fails_its_own_confirm_wherever_lapin_hung_it() {
        let ending = Ending::new();
        // On a later one of the same batch, on an earlier one of an earlier batch, on its own.
        let cases: [Vec<Vec<Done>>; 3] = [
            vec![vec![
                confirmed(2, None),
                confirmed(1, None),
                confirmed(3, Some(2)),
            ]],
            vec![
                vec![confirmed(1, Some(2))],
                vec![confirmed(3, None)],
                vec![confirmed(2, None)],
            ],
            vec![
                vec![confirmed(2, Some(2))],
                vec![confirmed(1, None), confirmed(3, None)],
            ],
        ];
        for batches in cases {
            let (mut state, confirmations) = state(3);
            for mut batch in batches {
                state.settle(&mut batch, &ending);
            }
            assert!(state.answers.is_empty() && state.returned.is_empty());
            let returned: Vec<bool> = confirmations.into_iter().map(is_returned).collect();
            assert_eq!(returned, [false, true, false]);
        }
    }

    #[test]
    fn the_end_of_the_channel_is_told_to_all_that_wait() {
        let (mut state, confirmations) = state(2);
        let reason = BrokerError::NotFound {
            what: "exchange".to_owned(),
        };
        state.lose(&reason);
        for confirmation in confirmations {
            assert_eq!(
                confirmation.now_or_never(),
                Some(Err(PublishFailure::Lost(reason.clone())))
            );
        }
    }
}
