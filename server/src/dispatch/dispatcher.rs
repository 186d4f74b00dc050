//! The shell around the dispatcher's core: tells it what happens and does what it decides, one thing after the other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use scitq_broker::{Channel, Connection, PublishFailure, QueueType};
use scitq_shared::ids::{DispatchId, Epoch, TaskId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::worker::DesiredState;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::core::{Core, Input, ListeningTimes, MarkerNumber, RecallNumber};
use super::revise::Revise;
use crate::control::ControlSender;
use crate::db::{Database, Restorations};
use crate::events::Consumed;
use crate::notices::Notices;
use crate::patience::patiently;

/// What the dispatcher is told.
#[derive(Debug)]
pub enum DispatchInput {
    /// These batches have newly pending tasks.
    Pending(BTreeSet<BatchName>),
    /// A batch is paused: its queue is withdrawn, and what workers hold unstarted is asked back.
    Paused(BatchName),
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
    /// Tasks are to be changed before they start (D8).
    Revise(Revise),
    /// A worker of a restored database has given a sign of life.
    Seen {
        /// The worker.
        worker: WorkerName,
        /// True when it speaks of attempts that the database does not know, or is unknown itself.
        lacking: bool,
    },
    /// A worker has recounted for this leader, and what it said is applied.
    Heard {
        /// The worker.
        worker: WorkerName,
        /// The batch that it worked for.
        batch: Option<BatchName>,
    },
    /// Everything that was in the state queue before this marker has been applied.
    MarkerRead {
        /// Which marker.
        marker: Uuid,
    },
}

/// How often the database is asked whether something waits unseen. Nothing does while every part of every server tells what
/// it has committed; one that is killed between the two cannot.
const LOOK_EVERY: Duration = Duration::from_secs(30);

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
    /// The connection that holds the leader's queue (D12).
    pub connection: Connection,
    /// A channel on it.
    pub channel: Channel,
    /// Kind of the batches' queues.
    pub queue_type: QueueType,
    /// Tells workers.
    pub control: ControlSender,
    /// What the dispatcher is told.
    pub inputs: mpsc::Receiver<DispatchInput>,
    /// What is known of restorations.
    pub restorations: Arc<Restorations>,
    /// How long is listened after one.
    pub listening: ListeningTimes,
    /// Tells waiting requests.
    pub notices: Notices,
    /// Ends the work between two transactions.
    pub stop: CancellationToken,
}

/// What became of a message.
pub(super) enum Answered {
    /// A dispatch.
    Dispatch {
        task: TaskId,
        dispatch: DispatchId,
        batch: BatchName,
        outcome: Result<(), PublishFailure>,
    },
    /// A marker.
    Marker { outcome: Result<(), PublishFailure> },
}

/// A message on its way.
pub(super) type Outstanding = Pin<Box<dyn Future<Output = Answered> + Send + Sync>>;

/// What is between the shell and the core.
pub(super) struct Desk {
    /// What the core is to be told, in this order, before anything new.
    pub(super) inputs: VecDeque<Input>,
    pub(super) outstanding: FuturesUnordered<Outstanding>,
    pub(super) markers: BTreeMap<Uuid, MarkerNumber>,
    /// Changes that are not made yet.
    pub(super) revisions: BTreeMap<RecallNumber, Revise>,
    pub(super) last_recall: u64,
}

impl Dispatcher {
    /// Works until something ends.
    pub async fn run(mut self) -> Result<Infallible, Consumed> {
        let began = Instant::now();
        let mut core = Core::default();
        let loads = patiently!(
            &self.stop,
            "the dispatcher",
            self.database.dispatchable().await
        )?;
        let mut inputs = VecDeque::new();
        if self.restorations.is_open() {
            let times = self.listening;
            tracing::warn!(at_least = ?times.least, at_most = ?times.most, "the database was restored from a backup: nothing is dispatched until the workers have said what they hold");
            inputs.push_back(Input::Restored { times });
        }
        inputs.push_back(Input::Loaded { loads });
        let mut desk = Desk {
            inputs,
            outstanding: FuturesUnordered::new(),
            markers: BTreeMap::new(),
            revisions: BTreeMap::new(),
            last_recall: 0,
        };
        self.look_at_paused(&mut desk).await?;
        let mut looks = tokio::time::interval_at(began + LOOK_EVERY, LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while let Some(input) = desk.inputs.pop_front() {
                for effect in core.handle(began.elapsed(), input) {
                    self.perform(effect, &mut desk).await?;
                }
            }
            let deadline = core.next_deadline(began.elapsed());
            tokio::select! {
                () = self.stop.cancelled() => return Err(Consumed::Stopped),
                told = self.inputs.recv() => match told {
                    Some(told) => self.take_inputs(&mut desk, told),
                    None => return Err(Consumed::Broker("the events consumer has ended".to_owned())),
                },
                Some(answered) = desk.outstanding.next(), if !desk.outstanding.is_empty() => {
                    desk.inputs.extend(input_of(answered)?);
                }
                _ = looks.tick() => self.look(&mut desk).await?,
                () = sleep_until(deadline.map(|deadline| began + deadline)) => {
                    desk.inputs.push_back(Input::Tick);
                }
            }
        }
    }

    /// Looks for what nobody has told: pending tasks of batches that are taken to have none, and paused batches of which
    /// something has not come back. A database that is away is asked the next time.
    async fn look(&self, desk: &mut Desk) -> Result<(), Consumed> {
        match self.database.dispatchable().await {
            Ok(loads) => desk.inputs.push_back(Input::Looked { loads }),
            Err(error) if error.is_transient() => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        self.look_at_paused(desk).await
    }

    async fn look_at_paused(&self, desk: &mut Desk) -> Result<(), Consumed> {
        let paused = patiently!(
            &self.stop,
            "the dispatcher",
            self.database.paused_with_dispatches().await
        )?;
        let paused = paused.into_iter().map(|batch| Input::Paused { batch });
        desk.inputs.extend(paused);
        Ok(())
    }

    /// Takes what the dispatcher is told, and what has come meanwhile, so that one refill serves all.
    fn take_inputs(&mut self, desk: &mut Desk, first: DispatchInput) {
        let mut pending = BTreeSet::new();
        let mut room: BTreeMap<BatchName, usize> = BTreeMap::new();
        let mut changed = false;
        let mut next = Some(first);
        while let Some(told) = next {
            match told {
                DispatchInput::Pending(batches) => pending.extend(batches),
                DispatchInput::Room(more) => {
                    for (batch, dispatches) in more {
                        *room.entry(batch).or_default() += dispatches;
                    }
                }
                DispatchInput::Greeted { worker, desired } => {
                    desk.inputs.push_back(Input::Greeted { worker, desired });
                }
                DispatchInput::Paused(batch) => desk.inputs.push_back(Input::Paused { batch }),
                DispatchInput::WorkersChanged => changed = true,
                DispatchInput::Absent { worker, dispatches } => {
                    desk.inputs.push_back(Input::Absent { worker, dispatches });
                }
                DispatchInput::Revise(revise) => Self::take_revision(desk, revise),
                DispatchInput::Seen { worker, lacking } => {
                    desk.inputs.push_back(Input::Seen { worker, lacking });
                }
                DispatchInput::Heard { worker, batch } => {
                    desk.inputs.push_back(Input::Heard { worker, batch });
                }
                DispatchInput::MarkerRead { marker } => {
                    let ours = desk.markers.remove(&marker);
                    desk.inputs
                        .extend(ours.map(|marker| Input::MarkerRead { marker }));
                }
            }
            next = self.inputs.try_recv().ok();
        }
        if changed {
            desk.inputs.push_back(Input::WorkersChanged);
        }
        if !room.is_empty() {
            desk.inputs.push_back(Input::Room { room });
        }
        if !pending.is_empty() {
            let batches = pending;
            desk.inputs.push_back(Input::Pending { batches });
        }
    }
}

/// What an answer means. One that the broker certainly did not take comes back at once; one whose fate is unknown counts
/// as published (D3), and the term is over.
fn input_of(answered: Answered) -> Result<Option<Input>, Consumed> {
    Ok(match answered {
        Answered::Dispatch {
            batch,
            outcome,
            task,
            dispatch,
        } => match outcome {
            Ok(()) => Some(Input::Confirmed { batch }),
            Err(PublishFailure::Lost(error)) => return Err(error.into()),
            Err(failure) => {
                tracing::warn!(%task, %batch, %failure, "the broker did not take a dispatch; it will be dispatched anew");
                Some(Input::Refused {
                    batch,
                    task,
                    dispatch,
                })
            }
        },
        // Whoever waits for a marker that is not there would wait for ever.
        Answered::Marker { outcome } => {
            outcome?;
            None
        }
    })
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The marker of this number in this epoch: no other dispatcher makes the same.
pub(super) fn marker_id(epoch: Epoch, marker: MarkerNumber) -> Uuid {
    Uuid::from_u64_pair(epoch.0.unsigned_abs(), marker.0)
}
