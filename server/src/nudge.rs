//! How the parts of all servers tell the leader that there is something to look at.
//!
//! A nudge carries no truth: the leader reads the database. On the leading server it goes through a channel inside the
//! process, from other servers through the leader's queue (D12).

use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use scitq_broker::{Message, Properties, Publisher, topology};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::worker::DesiredState;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// What the leader is asked to look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Nudge {
    /// These batches have new pending tasks.
    Pending {
        /// The batches.
        batches: BTreeSet<BatchName>,
    },
    /// A batch is paused: what is dispatched of it and has not started is to come back.
    Paused {
        /// The batch.
        batch: BatchName,
    },
    /// The wanted state of a worker has changed.
    Worker {
        /// The worker.
        worker: WorkerName,
        /// What is wanted of it now.
        desired: DesiredState,
    },
    /// A person has declared a worker lost.
    Lost {
        /// The worker.
        worker: WorkerName,
        /// The batches that have pending tasks by it.
        batches: BTreeSet<BatchName>,
    },
    /// The agent of a worker is to start anew.
    Restart {
        /// The worker.
        worker: WorkerName,
        /// The start of the agent that the request is for.
        boots: u32,
    },
}

/// Nudges that may wait inside the leader. When it is full the nudge is dropped: the leader then looks at everything.
pub const WAITING_NUDGES: usize = 1024;

/// Gives nudges to whichever server leads.
#[derive(Clone)]
pub struct Nudger {
    leading: Arc<RwLock<Option<mpsc::Sender<Nudge>>>>,
    publisher: Publisher,
}

impl Nudger {
    /// A nudger of a server that does not lead yet.
    pub fn new(publisher: Publisher) -> Self {
        Self {
            leading: Arc::default(),
            publisher,
        }
    }

    /// This server leads now: its nudges go there. `None`: it leads no more.
    pub fn lead(&self, sender: Option<mpsc::Sender<Nudge>>) {
        *self
            .leading
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = sender;
    }

    /// Nudges the leader. Never fails: a leader that is away reads the database when it comes.
    pub async fn nudge(&self, nudge: Nudge) {
        let leading = self
            .leading
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone();
        if let Some(sender) = leading
            && sender.send(nudge.clone()).await.is_ok()
        {
            return;
        }
        let message = Message {
            exchange: String::new(),
            routing_key: topology::LEADER_QUEUE.to_owned(),
            body: Bytes::from(serde_json::to_vec(&nudge).unwrap_or_default()),
            mandatory: false,
            persistent: false,
            properties: Properties::default(),
        };
        if let Err(failure) = self.publisher.publish(message).await {
            tracing::debug!(%failure, "no leader could be nudged; it reads the database when it comes");
        }
    }
}
