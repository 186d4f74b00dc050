//! What became of a published message.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::error::BrokerError;

/// Why a published message is not known to be stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishFailure {
    /// No queue took it (published `mandatory`). It is not stored anywhere.
    #[error("no queue took the message ({code}): {reason}")]
    Returned {
        /// AMQP reply code, 312 for no route.
        code: u16,
        /// The broker's words.
        reason: String,
    },
    /// The broker refused it, for instance because a bounded queue is full. Some other queue may have taken it.
    #[error("the broker refused the message (a queue is full or failed)")]
    Refused,
    /// Unknown: connection or channel went before the answer. It may be stored or not.
    #[error("no answer about the message: {0}")]
    Lost(BrokerError),
}

/// Completes when the broker has said what became of a message; a future that many may be held of at once. Dropping it
/// does not take the message back. Awaiting it again after it has completed panics like any future might.
#[derive(Debug)]
#[must_use = "a publication is unfinished until it is confirmed"]
pub struct Confirmation(Inner);

#[derive(Debug)]
enum Inner {
    Ready(Option<Result<(), PublishFailure>>),
    Waiting(oneshot::Receiver<Result<(), PublishFailure>>),
}

impl Confirmation {
    /// One that is already decided.
    pub(crate) fn ready(outcome: Result<(), PublishFailure>) -> Self {
        Self(Inner::Ready(Some(outcome)))
    }

    /// One that the holder of the returned sender decides. A dropped sender counts as lost.
    pub(crate) fn waiting() -> (oneshot::Sender<Result<(), PublishFailure>>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(Inner::Waiting(receiver)))
    }
}

impl Future for Confirmation {
    type Output = Result<(), PublishFailure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Inner::Ready(outcome) => {
                Poll::Ready(outcome.take().unwrap_or_else(|| Err(nobody_answers())))
            }
            Inner::Waiting(receiver) => Pin::new(receiver)
                .poll(context)
                .map(|answer| answer.unwrap_or_else(|_| Err(nobody_answers()))),
        }
    }
}

fn nobody_answers() -> PublishFailure {
    PublishFailure::Lost(BrokerError::ConnectionLost {
        reason: "the connection ended before the confirm".to_owned(),
    })
}
