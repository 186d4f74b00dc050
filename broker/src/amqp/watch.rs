//! Noticing the end of a connection and of its channels.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use lapin::{ChannelStatus, ConnectionStatus, Event};
use tokio::task::JoinHandle;

use super::failure::failure;
use crate::ending::Ending;
use crate::error::BrokerError;
use crate::message::ChannelId;

/// lapin tells the ends it knows of as events, except for a close by the broker without an error code; those are found
/// by looking this often.
pub(super) const LOOK: Duration = Duration::from_secs(5);

/// The watch over one connection. A connection has one at a time: lapin gives each event to one listener only.
#[derive(Debug)]
pub(crate) struct Watch {
    ending: Ending,
    channels: OpenChannels,
    task: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// Starts to watch.
    pub(crate) fn over(connection: &lapin::Connection) -> Self {
        let ending = Ending::new();
        let channels = OpenChannels::default();
        let task = tokio::spawn(watch(
            connection.events_listener(),
            connection.status().clone(),
            ending.clone(),
            channels.clone(),
        ));
        Self {
            ending,
            channels,
            task,
        }
    }

    /// The end of the connection.
    pub(crate) fn ending(&self) -> &Ending {
        &self.ending
    }

    /// Remembers an open channel, whose ending is set when it or the connection ends.
    pub(crate) fn register(&self, id: ChannelId, status: ChannelStatus, ending: &Ending) {
        self.channels.lock().insert(id, (status, ending.clone()));
        // The connection may have ended before the channel was known.
        if let Some(reason) = self.ending.get() {
            ending.set(reason);
        }
    }

    /// The channel is of no interest any more.
    pub(crate) fn forget(&self, id: ChannelId) {
        self.channels.lock().remove(&id);
    }

    /// Notes that the connection has ended: it and all its channels.
    pub(crate) fn end(&self, reason: &BrokerError) {
        end(&self.ending, &self.channels, reason);
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
            // One that is closing has an event of its own to come.
            let open = status.connected() || status.closing();
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
        last_error = match tokio::time::timeout(LOOK, events.next()).await {
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
