//! The connection for work: deliveries, the control queue and state events share it (D7).
//!
//! It turns what the broker says into [`Input`]s and performs what the core asks of the broker. It decides nothing but
//! when to connect again.

mod deliveries;
mod entry;
mod session;

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use scitq_broker::{Broker, BrokerError};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::protocol::WorkerMessage;
use tokio::sync::{Notify, mpsc};

use self::entry::Entry;
use super::core::{ChannelNumber, ConsumerNumber, Input, Place, PublicationNumber};
use super::shell::Told;
use crate::error::WorkerError;

/// Between two connections; longer after one that the core gave up, so that a broken broker is not hammered.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// What the agent asks of the connection. Commands of an earlier session are left undone: their channels are gone.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) session: u64,
    pub(crate) what: What,
}

/// See [`super::core::Effect`].
#[derive(Debug)]
pub(crate) enum What {
    Publish {
        publication: PublicationNumber,
        on: Option<ChannelNumber>,
        message: Box<WorkerMessage>,
    },
    Ack(Place),
    Reject(Place),
    Consume {
        consumer: ConsumerNumber,
        batch: BatchName,
        qos: NonZeroU16,
    },
    Cancel {
        consumer: ConsumerNumber,
    },
    CloseChannel {
        channel: ChannelNumber,
    },
    Reconnect {
        reason: String,
    },
}

/// Runs beside the agent for as long as the worker lives.
pub(crate) struct Link {
    pub(crate) broker: Broker,
    pub(crate) worker: WorkerName,
    pub(crate) double_after: Duration,
    pub(crate) tell: mpsc::Sender<Told>,
    pub(crate) commands: mpsc::Receiver<Command>,
    /// Told when commands are lost because they are too many: the session has to begin anew.
    pub(crate) reset: Arc<Notify>,
    numbers: u64,
    sessions: u64,
    had_name: bool,
}

/// Why a session ended.
enum SessionEnd {
    /// The connection is of no use any more; why, and whether to take time.
    Again(String, Duration),
    /// The agent is gone.
    AgentGone,
}

impl From<BrokerError> for SessionEnd {
    fn from(error: BrokerError) -> Self {
        Self::Again(error.to_string(), PAUSE.0)
    }
}

impl<T> From<mpsc::error::SendError<T>> for SessionEnd {
    fn from(_: mpsc::error::SendError<T>) -> Self {
        Self::AgentGone
    }
}

impl Link {
    pub(crate) fn new(
        broker: Broker,
        worker: WorkerName,
        double_after: Duration,
        tell: mpsc::Sender<Told>,
        commands: mpsc::Receiver<Command>,
        reset: Arc<Notify>,
    ) -> Self {
        Self {
            broker,
            worker,
            double_after,
            tell,
            commands,
            reset,
            numbers: 0,
            sessions: 0,
            had_name: false,
        }
    }

    /// Runs until the agent is gone, or another worker turns out to have the name.
    pub(crate) async fn run(mut self) -> Result<(), WorkerError> {
        let name = format!("scitq-worker {}", self.worker);
        loop {
            let mut waiting = false;
            let connection = self.broker.connect_until_ready(&name, |error, _| {
                if !waiting {
                    tracing::warn!(%error, "waits for the broker");
                }
                waiting = true;
            });
            let connection = connection.await;
            if waiting {
                tracing::info!(address = self.broker.address(), "the broker is back");
            }
            let end = match self.enter(&connection).await {
                Ok((channel, control)) => self.session(&connection, &channel, control).await,
                Err(Entry::NameInUse(error)) => return Err(error),
                Err(Entry::Failed(error)) => SessionEnd::Again(error.to_string(), PAUSE.1),
            };
            connection.close().await;
            match end {
                SessionEnd::AgentGone => return Ok(()),
                SessionEnd::Again(reason, pause) => {
                    tracing::warn!(reason, "the connection for work ended, a new one is made");
                    if self.tell.send(Input::LinkDown.into()).await.is_err() {
                        return Ok(());
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }
}
