use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use scitq_broker::{Channel, Message, Properties, PublishFailure, QueueType, topology};
use scitq_shared::ids::{DispatchId, Epoch, TaskId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::protocol::{ControlCommand, TaskMessage, encode};
use scitq_shared::worker::DesiredState;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::windows::Windows;
use crate::control::ControlSender;
use crate::db::{Database, Loaded};
use crate::events::{Consumed, Happening, needs, project};
use crate::notices::{Notice, Notices};
use crate::patience::{patiently, pause};

/// What the dispatcher is told.
#[derive(Debug)]
pub enum DispatchInput {
    /// These batches have newly pending tasks.
    Pending(BTreeSet<BatchName>),
    /// So many dispatches of these batches were accepted or came back.
    Room(BTreeMap<BatchName, usize>),
    /// A worker is to be told what is wanted of it, once its batch's queue is there.
    Greeted {
        /// The worker.
        worker: WorkerName,
        /// What is wanted.
        desired: DesiredState,
    },
    /// Workers came, went or changed.
    WorkersChanged,
    /// A worker has none of these dispatches, and will not start any of them (D4).
    Absent {
        /// The worker.
        worker: WorkerName,
        /// The dispatches.
        dispatches: Vec<DispatchId>,
    },
    /// Everything that was in the state queue before this marker has been applied.
    MarkerRead {
        /// Which marker.
        marker: uuid::Uuid,
    },
}

/// How long the window of a batch is left alone after a withdrawal.
const BETWEEN_WITHDRAWALS: Duration = Duration::from_secs(1);

/// Inputs that may wait; senders wait beyond that.
const WAITING_INPUTS: usize = 256;

/// Tells the dispatcher. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DispatchSender(mpsc::Sender<DispatchInput>);

impl DispatchSender {
    /// A sender, and the end that the dispatcher reads.
    pub fn new() -> (Self, mpsc::Receiver<DispatchInput>) {
        let (sender, receiver) = mpsc::channel(WAITING_INPUTS);
        (Self(sender), receiver)
    }

    /// Tells the dispatcher; waits while it is busy. A dispatcher that has ended hears nothing more: its successor reads
    /// the database.
    pub async fn send(&self, input: DispatchInput) {
        let _ = self.0.send(input).await;
    }
}

/// Commits dispatches and publishes them. One task owns it.
pub struct Dispatcher {
    /// Where dispatches are committed.
    pub database: Database,
    /// The leader's epoch.
    pub epoch: Epoch,
    /// A channel on the connection that holds the leader's queue (D12).
    pub channel: Channel,
    /// Kind of the batches' queues.
    pub queue_type: QueueType,
    /// Tells workers.
    pub control: ControlSender,
    /// What the dispatcher is told.
    pub inputs: mpsc::Receiver<DispatchInput>,
    /// Tells waiting requests.
    pub notices: Notices,
    /// Ends the work between two transactions.
    pub stop: CancellationToken,
}

/// What became of a publication.
struct Published {
    task: TaskId,
    dispatch: DispatchId,
    batch: BatchName,
    outcome: Result<(), PublishFailure>,
}

/// A publication on its way.
type Outstanding = Pin<Box<dyn Future<Output = Published> + Send + Sync>>;

struct State {
    windows: Windows,
    declared: BTreeSet<BatchName>,
    /// When to look whether a newly pending task is more urgent than those in the queue, by batch.
    look_at: BTreeMap<BatchName, Instant>,
    outstanding: FuturesUnordered<Outstanding>,
}

impl Dispatcher {
    /// Works until something ends.
    pub async fn run(mut self) -> Result<Infallible, Consumed> {
        let mut state = State {
            windows: Windows::default(),
            declared: BTreeSet::new(),
            look_at: BTreeMap::new(),
            outstanding: FuturesUnordered::new(),
        };
        let loads = patiently!(
            &self.stop,
            "the dispatcher",
            self.database.dispatchable().await
        )?;
        state.windows.load(loads);
        self.reload_workers(&mut state).await?;
        loop {
            // Urgent tasks first: a refill would put them behind what is in the queue.
            self.prefer_urgent(&mut state).await?;
            self.refill(&mut state).await?;
            tokio::select! {
                () = self.stop.cancelled() => return Err(Consumed::Stopped),
                input = self.inputs.recv() => match input {
                    Some(input) => self.take_inputs(&mut state, input).await?,
                    None => return Err(Consumed::Broker("the events consumer has ended".to_owned())),
                },
                Some(published) = state.outstanding.next(), if !state.outstanding.is_empty() => {
                    self.published(&mut state, published).await?;
                }
                () = sleep_until(state.look_at.values().min().copied()) => {}
            }
        }
    }

    /// Takes an input, and those that have come meanwhile, so that one refill serves all.
    async fn take_inputs(
        &mut self,
        state: &mut State,
        first: DispatchInput,
    ) -> Result<(), Consumed> {
        let mut reload = false;
        let mut greeted = Vec::new();
        let mut next = Some(first);
        while let Some(input) = next {
            match input {
                DispatchInput::Pending(batches) => {
                    for batch in &batches {
                        state
                            .look_at
                            .entry(batch.clone())
                            .or_insert_with(Instant::now);
                    }
                    state.windows.pending(batches);
                }
                DispatchInput::Room(room) => {
                    for (batch, dispatches) in room {
                        state.windows.room(&batch, dispatches);
                    }
                }
                DispatchInput::Greeted { worker, desired } => {
                    reload = true;
                    greeted.push((worker, desired));
                }
                DispatchInput::WorkersChanged => reload = true,
                DispatchInput::Absent { .. } | DispatchInput::MarkerRead { .. } => {}
            }
            next = self.inputs.try_recv().ok();
        }
        if reload {
            self.reload_workers(state).await?;
        }
        for (worker, desired) in greeted {
            self.declare(state, &desired.batch).await?;
            let program_version = env!("CARGO_PKG_VERSION").to_owned();
            let welcome = ControlCommand::Welcome {
                desired,
                program_version,
            };
            self.control.tell(&worker, welcome).await?;
        }
        Ok(())
    }

    async fn reload_workers(&self, state: &mut State) -> Result<(), Consumed> {
        let capacities = patiently!(
            &self.stop,
            "the dispatcher",
            self.database.batch_capacity().await
        )?;
        state.windows.capacities(capacities);
        for batch in state.windows.with_workers() {
            self.declare(state, &batch).await?;
        }
        Ok(())
    }

    /// Makes a batch's queue, once a session.
    async fn declare(&self, state: &mut State, batch: &BatchName) -> Result<(), Consumed> {
        if !state.declared.contains(batch) {
            self.channel
                .declare_queue(&topology::batch_queue(batch.as_str(), self.queue_type))
                .await?;
            state.declared.insert(batch.clone());
        }
        Ok(())
    }

    /// Fills the windows that are due: commits first, publishes then (D3).
    async fn refill(&self, state: &mut State) -> Result<(), Consumed> {
        for (batch, size) in state.windows.due() {
            let claim = patiently!(
                &self.stop,
                "the dispatcher",
                self.database.claim(self.epoch, &batch, size).await
            )?;
            state
                .windows
                .claimed(&batch, claim.assigned, claim.pending_left);
            if claim.tasks.is_empty() {
                continue;
            }
            self.declare(state, &batch).await?;
            tracing::debug!(%batch, tasks = claim.tasks.len(), in_window = claim.assigned, "dispatching");
            self.notices.tell(Notice::Tasks);
            let mut unpublished = claim.tasks.into_iter();
            while let Some(task) = unpublished.next() {
                let (id, dispatch) = (task.task, task.dispatch);
                match self.publish(&batch, task).await {
                    Ok(outstanding) => state.outstanding.push(outstanding),
                    Err(error) => {
                        // What was never handed to the broker is certainly not in its queue: nobody else would ever
                        // look for it there.
                        let rest = unpublished.map(|task| (task.task, task.dispatch));
                        self.take_back_unpublished(std::iter::once((id, dispatch)).chain(rest))
                            .await?;
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    /// Commits dispatches that the broker certainly does not have as returned.
    async fn take_back_unpublished(
        &self,
        dispatches: impl Iterator<Item = (TaskId, DispatchId)>,
    ) -> Result<(), Consumed> {
        let returned: Vec<Happening> = dispatches
            .map(|(task, dispatch)| Happening::Returned { dispatch, task })
            .collect();
        let needs = needs(&returned);
        patiently!(&self.stop, "the dispatcher", {
            let decide = |loaded: &Loaded| project(loaded, &returned).0;
            self.database
                .project(self.epoch, &needs, Vec::new(), decide)
                .await
        })
        .map(drop)
    }

    async fn publish(&self, batch: &BatchName, task: TaskMessage) -> Result<Outstanding, Consumed> {
        let (id, dispatch, batch_name) = (task.task, task.dispatch, batch.clone());
        let confirmation = self
            .channel
            .publish(Message {
                exchange: topology::TASKS_EXCHANGE.to_owned(),
                routing_key: topology::batch_queue_name(batch.as_str()),
                body: Bytes::from(encode(&task)),
                mandatory: true,
                persistent: true,
                properties: Properties {
                    message_id: Some(dispatch.to_string()),
                    content_type: Some("application/json".to_owned()),
                    ..Properties::default()
                },
            })
            .await?;
        Ok(Box::pin(async move {
            let outcome = confirmation.await;
            Published {
                task: id,
                dispatch,
                batch: batch_name,
                outcome,
            }
        }))
    }

    /// Withdraws and refills the windows of batches in which a pending task is more urgent than a dispatched one, at most
    /// once a second each (D3).
    async fn prefer_urgent(&self, state: &mut State) -> Result<(), Consumed> {
        let now = Instant::now();
        let due: Vec<BatchName> = state
            .look_at
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(batch, _)| batch.clone())
            .collect();
        for batch in due {
            state.look_at.remove(&batch);
            if !state.windows.is_contended(&batch) || !state.declared.contains(&batch) {
                continue;
            }
            if !patiently!(
                &self.stop,
                "the dispatcher",
                self.database.is_overtaken(&batch).await
            )? {
                continue;
            }
            // A confirm that is outstanding may stand for a message that is not yet in the queue.
            while let Some(published) = state.outstanding.next().await {
                self.published(state, published).await?;
            }
            let withdrawn = self.withdraw(&batch).await?;
            tracing::info!(%batch, withdrawn, "more urgent tasks have come: those in the queue are dispatched anew in their order");
            state.windows.room(&batch, withdrawn);
            state.windows.pending([batch.clone()]);
            state.look_at.insert(batch, now + BETWEEN_WITHDRAWALS);
        }
        Ok(())
    }

    /// What became of a publication. One that the broker certainly did not take comes back at once; one whose fate is
    /// unknown counts as published (D3).
    async fn published(&self, state: &mut State, published: Published) -> Result<(), Consumed> {
        let Published {
            task,
            dispatch,
            batch,
            outcome,
        } = published;
        let failure = match outcome {
            Ok(()) => return Ok(()),
            Err(PublishFailure::Lost(error)) => return Err(error.into()),
            Err(failure) => failure,
        };
        tracing::warn!(%task, %batch, %failure, "the broker did not take a dispatch; it will be dispatched anew");
        state.declared.remove(&batch);
        let returned = [Happening::Returned { dispatch, task }];
        let needs = needs(&returned);
        let projected = patiently!(&self.stop, "the dispatcher", {
            let decide = |loaded: &Loaded| project(loaded, &returned).0;
            self.database
                .project(self.epoch, &needs, Vec::new(), decide)
                .await
        })?;
        // A queue that does not take messages now does not take them in the next millisecond either.
        pause(&self.stop, Duration::from_millis(200)).await?;
        state.windows.room(&batch, 1);
        state.windows.pending(projected.newly_pending.into_keys());
        Ok(())
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
