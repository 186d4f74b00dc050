//! How something ends once: a cell that is set one time and that many can wait for.

use tokio::sync::watch;

use crate::error::BrokerError;

/// The end of a connection or a channel. The first reason given is kept.
#[derive(Clone, Debug)]
pub(crate) struct Ending(watch::Sender<Option<BrokerError>>);

impl Ending {
    /// Not ended.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Ends it, unless it has ended already; true if this was the end.
    pub(crate) fn set(&self, reason: BrokerError) -> bool {
        self.0.send_if_modified(|slot| {
            let first = slot.is_none();
            if first {
                *slot = Some(reason);
            }
            first
        })
    }

    /// The reason, if it has ended.
    pub(crate) fn get(&self) -> Option<BrokerError> {
        self.0.borrow().clone()
    }

    /// Whether it has ended.
    pub(crate) fn is_set(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Completes with the reason once it has ended. Cancel-safe.
    pub(crate) async fn reached(&self) -> BrokerError {
        self.watch().reached().await
    }

    /// For who waits for it again and again.
    pub(crate) fn watch(&self) -> EndingWatch {
        EndingWatch(self.0.subscribe())
    }
}

/// A place to wait for an [`Ending`].
#[derive(Debug)]
pub(crate) struct EndingWatch(watch::Receiver<Option<BrokerError>>);

impl EndingWatch {
    /// Completes with the reason once it has ended. Cancel-safe.
    pub(crate) async fn reached(&mut self) -> BrokerError {
        match self.0.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_else(unknown),
            // The last holder of the ending went without giving a reason.
            Err(_) => unknown(),
        }
    }
}

fn unknown() -> BrokerError {
    BrokerError::ConnectionLost {
        reason: "ended without a reason".to_owned(),
    }
}
