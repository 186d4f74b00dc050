//! A connection, and the watch over its end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use lapin::options::ConfirmSelectOptions;
use lapin::{ChannelStatus, ConnectionStatus, Event};

use super::channel::AmqpChannel;
use super::connect::Socket;
use super::failure::failure;
use crate::ending::Ending;
use crate::error::BrokerError;
use crate::message::ChannelId;

/// How long a graceful close may take before the socket is shut down.
const CLOSE: Duration = Duration::from_secs(5);
/// lapin tells the ends it knows of as events, except for a close by the broker without an error code; those are found
/// by looking this often.
const LOOK: Duration = Duration::from_secs(5);

/// A connection; it ends with its last handle, those inside channels and consumers included.
#[derive(Clone, Debug)]
pub(crate) struct AmqpConnection(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lapin: lapin::Connection,
    socket: Socket,
    ending: Ending,
    channels: OpenChannels,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // lapin closes the connection with its last handle; this is for those who still wait for the end.
        self.ending.set(BrokerError::ConnectionLost {
            reason: "its last handle was dropped".to_owned(),
        });
    }
}

impl AmqpConnection {
    pub(super) fn new(lapin: lapin::Connection, socket: Socket) -> Self {
        let ending = Ending::new();
        let channels = OpenChannels::default();
        let watch = watch(
            lapin.events_listener(),
            lapin.status().clone(),
            ending.clone(),
            channels.clone(),
        );
        tokio::spawn(watch);
        Self(Arc::new(Inner {
            lapin,
            socket,
            ending,
            channels,
        }))
    }

    pub(crate) fn ending(&self) -> &Ending {
        &self.0.ending
    }

    pub(crate) async fn channel(&self) -> Result<AmqpChannel, BrokerError> {
        let open = async {
            let lapin = self.0.lapin.create_channel().await?;
            lapin
                .confirm_select(ConfirmSelectOptions::default())
                .await?;
            Ok(lapin)
        };
        let lapin = tokio::select! {
            biased;
            opened = open => match opened {
                Ok(lapin) => lapin,
                Err(error) => return Err(self.explain(&error).await),
            },
            reason = self.0.ending.reached() => return Err(reason),
        };
        Ok(AmqpChannel::new(self.clone(), lapin))
    }

    /// Remembers an open channel, whose ending is set when the channel or this connection ends.
    pub(super) fn register(&self, id: ChannelId, status: ChannelStatus, ending: &Ending) {
        self.0.channels.lock().insert(id, (status, ending.clone()));
        // The connection may have ended before the channel was known.
        if let Some(reason) = self.0.ending.get() {
            ending.set(reason);
        }
    }

    pub(super) fn forget(&self, id: ChannelId) {
        self.0.channels.lock().remove(&id);
    }

    /// Notes that the connection has ended: it and all its channels.
    pub(super) fn end(&self, reason: &BrokerError) {
        end(&self.0.ending, &self.0.channels, reason);
    }

    /// Why something failed on this connection.
    async fn explain(&self, error: &lapin::Error) -> BrokerError {
        if let Some(reason) = failure(error) {
            if reason.is_connection_lost() {
                self.end(&reason);
            }
            return reason;
        }
        // It had ended before; the watch knows why in a moment.
        match tokio::time::timeout(LOOK, self.0.ending.reached()).await {
            Ok(reason) => reason,
            Err(_) => BrokerError::ConnectionLost {
                reason: error.to_string(),
            },
        }
    }

    pub(crate) async fn close(&self) {
        self.end(&BrokerError::ConnectionLost {
            reason: "closed by us".to_owned(),
        });
        let closing = self.0.lapin.close(200, "closed".into());
        if tokio::time::timeout(CLOSE, closing).await.is_err() {
            self.0.socket.shut_down();
        }
    }
}

/// The channels whose end is to be noticed.
#[derive(Clone, Debug, Default)]
struct OpenChannels(Arc<Mutex<HashMap<ChannelId, (ChannelStatus, Ending)>>>);

impl OpenChannels {
    fn lock(&self) -> MutexGuard<'_, HashMap<ChannelId, (ChannelStatus, Ending)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the channels that lapin has ended.
    fn end_closed(&self, reason: &BrokerError) {
        self.lock().retain(|_, (status, ending)| {
            let open = status.connected();
            if !open {
                ending.set(reason.clone());
            }
            open
        });
    }
}

/// Watches over a connection until it has ended.
async fn watch(
    events: impl Stream<Item = Event> + Send,
    status: ConnectionStatus,
    ending: Ending,
    channels: OpenChannels,
) {
    let mut events = std::pin::pin!(events);
    let mut last_error = None;
    while status.connected() && !ending.is_set() {
        let event = tokio::time::timeout(LOOK, events.next()).await;
        last_error = match event {
            Ok(Some(Event::Error(error))) => failure(&error),
            Ok(Some(Event::ConnectionBlocked(reason))) => {
                tracing::warn!(reason, "the broker has blocked publishing");
                continue;
            }
            Ok(Some(Event::ConnectionUnblocked)) => {
                tracing::warn!("the broker accepts messages again");
                continue;
            }
            Ok(Some(_)) => continue,
            Ok(None) => break,
            Err(_) => None,
        };
        if status.connected() {
            let unknown = || BrokerError::ChannelClosed {
                code: 0,
                reason: "closed without a reason".to_owned(),
            };
            channels.end_closed(&last_error.clone().unwrap_or_else(unknown));
        }
    }
    let reason = last_error.filter(BrokerError::is_connection_lost);
    let unknown = || BrokerError::ConnectionLost {
        reason: "the broker closed it".to_owned(),
    };
    end(&ending, &channels, &reason.unwrap_or_else(unknown));
}

fn end(ending: &Ending, channels: &OpenChannels, reason: &BrokerError) {
    ending.set(reason.clone());
    // Others may have given a reason before.
    let reason = ending.get().unwrap_or_else(|| reason.clone());
    for (_, (_, channel)) in channels.lock().drain() {
        channel.set(reason.clone());
    }
}
