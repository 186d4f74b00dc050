//! The in-process broker: the same exchanges, queues and rules as RabbitMQ, in memory.
//!
//! One lock guards all of it and is held for one operation at a time, never across an await; every operation is a few
//! hash-map steps, whatever the number of messages. What is decided lives in [`state`], without any waiting; the types
//! in [`handles`] are what callers hold.

mod confirms;
mod handles;
mod queue;
mod routing;
mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use handles::{LocalChannel, LocalConnection, LocalConsumer};
use state::State;

use crate::error::BrokerError;

/// A broker that lives in this process. Clones share their queues; messages are gone when the last clone and all its
/// connections are.
#[derive(Clone, Default)]
pub struct LocalBroker(Arc<Mutex<State>>);

impl LocalBroker {
    /// Ends all current connections as if the network had gone: what they hold unacknowledged goes back to its queues.
    /// New connections are accepted. For tests.
    pub fn cut_connections(&self) {
        self.lock().cut_connections();
    }

    /// Refuses new connections, or accepts them again; current ones stay. For tests.
    pub fn refuse_connections(&self, refuse: bool) {
        self.lock().refuse_connections(refuse);
    }

    pub(crate) fn connect(&self, name: &str) -> Result<LocalConnection, BrokerError> {
        let (id, ending) = self.lock().connect(name)?;
        Ok(LocalConnection::new(self.clone(), id, ending))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held would be a defect in here; the state is as good as it was.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for LocalBroker {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("LocalBroker")
    }
}
