use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;

use scitq_broker::{
    BrokerError, Channel, Consumer, ConsumerEnd, Delivery, DeliveryTag, PublishFailure,
};
use scitq_shared::ids::Epoch;
use scitq_shared::names::WorkerName;
use scitq_shared::protocol::{
    ControlCommand, Hello, InventoryItem, TaskMessage, WorkerEvent, WorkerMessage,
};
use tokio_util::sync::CancellationToken;

use super::heartbeat::Present;
use super::import::import_unknown;
use super::inventory::{Answer, compare, unknown};
use super::markers::Markers;
use super::project::{Happening, SideEffects, needs, project_restored};
use super::read::{StateMessage, dead_letter, next_batch, output_chunk, state_message};
use crate::control::ControlSender;
use crate::db::{Database, DbError, Loaded, NewChunk, Projected, Restorations};
use crate::dispatch::{DispatchInput, DispatchSender};
use crate::notices::{Notice, Notices};
use crate::patience::patiently;

/// Why the leader cannot go on as it is: it begins anew.
#[derive(Debug, thiserror::Error)]
pub enum Consumed {
    /// The server stops, or this term of leadership has ended elsewhere.
    #[error("this term of leadership is over")]
    Stopped,
    /// Another server leads.
    #[error("another server has taken over the leadership")]
    Fenced,
    /// A message speaks of a later epoch: another server has led since, or the database is older than the messages.
    #[error("a message speaks of epoch {0}, later than this term")]
    Superseded(Epoch),
    /// Something of the broker's has ended.
    #[error("the broker: {0}")]
    Broker(String),
    /// The database refuses what it must not refuse.
    #[error("the database: {0}")]
    Database(DbError),
}

impl From<ConsumerEnd> for Consumed {
    fn from(end: ConsumerEnd) -> Self {
        Self::Broker(match end {
            ConsumerEnd::CancelledByBroker => {
                "it has cancelled a consumer of the event queues".to_owned()
            }
            ConsumerEnd::ChannelClosed(error) | ConsumerEnd::ConnectionLost(error) => {
                error.to_string()
            }
        })
    }
}

impl From<BrokerError> for Consumed {
    fn from(error: BrokerError) -> Self {
        Self::Broker(error.to_string())
    }
}

impl From<PublishFailure> for Consumed {
    fn from(failure: PublishFailure) -> Self {
        Self::Broker(failure.to_string())
    }
}

impl From<DbError> for Consumed {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Fenced => Self::Fenced,
            other => Self::Database(other),
        }
    }
}

/// Applies state events and output, a transaction a batch, and acks after the commit.
pub struct EventsConsumer {
    /// Where things are applied.
    pub database: Database,
    /// The leader's epoch.
    pub epoch: Epoch,
    /// Channel of `state`; acks are cumulative, so each consumer has its own.
    pub state_channel: Channel,
    /// Consumer of the state queue.
    pub state: Consumer,
    /// Channel of `output`.
    pub output_channel: Channel,
    /// Consumer of the output queue.
    pub output: Consumer,
    /// Tells workers what was applied.
    pub control: ControlSender,
    /// Tells the dispatcher of room and of newly pending tasks.
    pub dispatcher: DispatchSender,
    /// Tells waiting requests.
    pub notices: Notices,
    /// Who waits for what has been read.
    pub markers: Markers,
    /// What is known of restorations of the database.
    pub restorations: Arc<Restorations>,
    /// The workers heard of: whatever they say is a sign of life.
    pub present: Present,
    /// After how many failures in a row of its own a worker is paused (D13).
    pub pause_worker_after: u32,
    /// Ends the work between two batches.
    pub stop: CancellationToken,
}

/// One message of a batch, ready to be applied.
enum Item {
    Happening(Happening, usize),
    Chunk(NewChunk, usize),
}

impl EventsConsumer {
    /// Works until something ends.
    pub async fn run(mut self) -> Result<Infallible, Consumed> {
        loop {
            let batch = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Consumed::Stopped),
                batch = next_batch(&mut self.state, &mut self.output) => batch?,
            };
            let mut items = Vec::with_capacity(batch.state.len() + batch.output.len());
            // Output first: an end that comes in the same batch then finds its output complete.
            for (index, delivery) in batch.output.iter().enumerate() {
                match output_chunk(delivery) {
                    Ok(chunk) => items.push(Item::Chunk(chunk, index)),
                    Err(reason) => dead_letter(&self.output_channel, delivery, &reason).await?,
                }
            }
            for (index, delivery) in batch.state.iter().enumerate() {
                let message = match state_message(delivery, self.epoch) {
                    Ok(message) => message,
                    Err(reason) => {
                        dead_letter(&self.state_channel, delivery, &reason).await?;
                        continue;
                    }
                };
                self.fence(message.epoch())?;
                let message = match message {
                    StateMessage::Worker(message) => {
                        self.present.heard(&message.worker);
                        message
                    }
                    StateMessage::Marker(marker) => {
                        items.extend(marker.returned.iter().map(|returned| {
                            let happening = Happening::Returned {
                                dispatch: returned.dispatch,
                                task: returned.task,
                            };
                            Item::Happening(happening, index)
                        }));
                        self.store(std::mem::take(&mut items), &batch.state, &batch.output)
                            .await?;
                        if marker.epoch == self.epoch && !self.markers.read(marker.marker) {
                            let marker = marker.marker;
                            self.dispatcher
                                .send(DispatchInput::MarkerRead { marker })
                                .await;
                        }
                        continue;
                    }
                };
                if let Some(unknown) = describes(&message.event) {
                    // Before anything that is said about it.
                    match self.import(unknown).await {
                        Err(Consumed::Database(error)) => {
                            dead_letter(&self.state_channel, delivery, &error.to_string()).await?;
                            continue;
                        }
                        outcome => outcome?,
                    }
                }
                match Happening::of(&message) {
                    _ if matches!(message.event, WorkerEvent::Described { .. }) => {}
                    Ok(Some(happening)) => items.push(Item::Happening(happening, index)),
                    Ok(None) => {
                        // Everything that its worker said before it speaks of itself comes first.
                        self.store(std::mem::take(&mut items), &batch.state, &batch.output)
                            .await?;
                        match self.about_worker(message).await {
                            // Refused for good: nobody's later messages wait for it.
                            Err(Consumed::Database(error)) => {
                                dead_letter(&self.state_channel, delivery, &error.to_string())
                                    .await?;
                            }
                            outcome => outcome?,
                        }
                    }
                    Err(reason) => dead_letter(&self.state_channel, delivery, &reason).await?,
                }
            }
            self.store(items, &batch.state, &batch.output).await?;
            ack(
                &self.state_channel,
                batch.state.last().map(|delivery| delivery.tag),
            )
            .await?;
            ack(
                &self.output_channel,
                batch.output.last().map(|delivery| delivery.tag),
            )
            .await?;
        }
    }

    /// Takes a task in that a restored database does not know.
    async fn import(&self, message: &TaskMessage) -> Result<(), Consumed> {
        import_unknown(
            &self.database,
            self.epoch,
            &self.restorations,
            message,
            &self.stop,
        )
        .await
    }

    /// A word of a later epoch proves that another server leads: what is read is left to it, unacknowledged.
    fn fence(&self, epoch: Epoch) -> Result<(), Consumed> {
        if epoch > self.epoch {
            return Err(Consumed::Superseded(epoch));
        }
        Ok(())
    }

    /// Applies items in one transaction. What the database refuses is isolated by halving, and dead-lettered.
    async fn store(
        &mut self,
        items: Vec<Item>,
        state: &[Delivery],
        output: &[Delivery],
    ) -> Result<(), Consumed> {
        let mut parts = vec![items];
        while let Some(mut items) = parts.pop() {
            if items.is_empty() {
                continue;
            }
            match self.store_at_once(&items).await {
                Ok((projected, effects)) => self.follow_up(projected, effects).await?,
                Err(Consumed::Database(error)) if items.len() > 1 => {
                    tracing::debug!(%error, items = items.len(), "the database refused a batch of events; it is halved");
                    let second = items.split_off(items.len() / 2);
                    parts.push(second);
                    parts.push(items);
                }
                Err(Consumed::Database(error)) => {
                    for item in &items {
                        let (channel, delivery) = match item {
                            Item::Happening(_, index) => (&self.state_channel, state.get(*index)),
                            Item::Chunk(_, index) => (&self.output_channel, output.get(*index)),
                        };
                        if let Some(delivery) = delivery {
                            dead_letter(channel, delivery, &error.to_string()).await?;
                        }
                    }
                }
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// One transaction; waits as long as the database is away. `Consumed::Database` is the data's fault.
    async fn store_at_once(&self, items: &[Item]) -> Result<(Projected, SideEffects), Consumed> {
        let happenings: Vec<Happening> = items
            .iter()
            .filter_map(|item| match item {
                Item::Happening(happening, _) => Some(happening.clone()),
                Item::Chunk(..) => None,
            })
            .collect();
        let needs = needs(&happenings);
        let mut effects = SideEffects::default();
        let projected = patiently!(&self.stop, "the events consumer", {
            let chunks = items.iter().filter_map(|item| match item {
                Item::Chunk(chunk, _) => Some(chunk.clone()),
                Item::Happening(..) => None,
            });
            let decide = |loaded: &Loaded| {
                let (projection, side_effects) =
                    project_restored(loaded, &happenings, &self.restorations);
                effects = side_effects;
                projection
            };
            self.database
                .project(self.epoch, &needs, chunks.collect(), decide)
                .await
        })?;
        Ok((projected, effects))
    }

    /// What follows a commit.
    async fn follow_up(&self, projected: Projected, effects: SideEffects) -> Result<(), Consumed> {
        for refused in &effects.refused {
            tracing::warn!("an event makes no sense and is left out: {refused}");
        }
        // First, so that a worker that is paused by it does not get the same tasks once more.
        for (worker, batch) in effects.faults {
            self.judge_worker(&worker, &batch).await?;
        }
        if !effects.room.is_empty() {
            self.dispatcher
                .send(DispatchInput::Room(effects.room))
                .await;
        }
        if !projected.newly_pending.is_empty() {
            let batches: BTreeSet<_> = projected.newly_pending.into_keys().collect();
            self.dispatcher.send(DispatchInput::Pending(batches)).await;
        }
        self.control.stop(effects.stop).await?;
        self.control.revoke(&self.database, &effects.revoke).await?;
        self.control.applied(projected.complete).await?;
        if effects.tasks_changed {
            self.notices.tell(Notice::Tasks);
        }
        if !projected.executions.is_empty() {
            let attempts = projected
                .executions
                .iter()
                .map(|(attempt, _)| *attempt)
                .collect();
            self.notices.tell(Notice::Output(attempts));
        }
        Ok(())
    }

    async fn about_worker(&mut self, message: WorkerMessage) -> Result<(), Consumed> {
        match message.event {
            WorkerEvent::Hello(ref hello) => {
                let greeted = patiently!(
                    &self.stop,
                    "a worker's hello",
                    self.database
                        .greet(self.epoch, &message.worker, message.incarnation, hello)
                        .await
                )?;
                tracing::info!(
                    worker = %message.worker,
                    incarnation = %message.incarnation,
                    batch = %greeted.desired.batch,
                    concurrency = greeted.desired.concurrency,
                    known = greeted.known,
                    "a worker says hello"
                );
                let lacking = self.compare_inventory(&message, &hello.inventory).await?;
                if let Some(boots) = greeted.restart {
                    let restart = ControlCommand::Restart { boots };
                    self.control.tell(&message.worker, restart).await?;
                }
                // The dispatcher makes the queue first, so that the worker finds it.
                let (worker, desired) = (message.worker.clone(), greeted.desired);
                self.dispatcher
                    .send(DispatchInput::Greeted { worker, desired })
                    .await;
                self.tell_of_restored(&message, hello, lacking).await;
            }
            WorkerEvent::Goodbye { ref reason, kept } => {
                tracing::info!(worker = %message.worker, reason, "a worker says goodbye");
                patiently!(
                    &self.stop,
                    "a worker's goodbye",
                    self.database
                        .farewell(self.epoch, &message.worker, message.incarnation, kept == 0)
                        .await
                )?;
                self.dispatcher.send(DispatchInput::WorkersChanged).await;
            }
            WorkerEvent::Absent { dispatches } => {
                let worker = message.worker;
                self.dispatcher
                    .send(DispatchInput::Absent { worker, dispatches })
                    .await;
            }
            _ => {}
        }
        Ok(())
    }

    /// Workers of a restored database are listened to (D12).
    async fn tell_of_restored(&self, message: &WorkerMessage, hello: &Hello, lacking: bool) {
        if self.restorations.is_empty() {
            return;
        }
        let worker = message.worker.clone();
        let input = if hello.recounted == Some(self.epoch) {
            let batch = hello.batch.clone();
            DispatchInput::Heard { worker, batch }
        } else {
            DispatchInput::Seen { worker, lacking }
        };
        self.dispatcher.send(input).await;
    }

    /// Attempts that a worker should hold and does not know are lost at once (D9); lost ones that it holds are taken back,
    /// or are to stop (D7). Answers whether it holds some that the database does not know.
    async fn compare_inventory(
        &mut self,
        message: &WorkerMessage,
        inventory: &[InventoryItem],
    ) -> Result<bool, Consumed> {
        let ids: Vec<_> = inventory.iter().map(|item| item.attempt).collect();
        let held = patiently!(
            &self.stop,
            "a worker's inventory",
            self.database
                .held_attempts(&message.worker, message.incarnation, &ids)
                .await
        )?;
        let answers = compare(&held, inventory, message.sequence);
        let happened = happenings_of(&answers, &message.worker);
        let applied = answers.iter().filter_map(|answer| match answer {
            Answer::Applied(attempt) => Some((message.worker.clone(), *attempt)),
            _ => None,
        });
        self.control.applied(applied.collect()).await?;
        let items = happened
            .into_iter()
            .map(|happening| Item::Happening(happening, usize::MAX));
        self.store(items.collect(), &[], &[]).await?;
        Ok(!unknown(&held, inventory).is_empty())
    }
}

/// The message of a dispatch that an event brings along, for a database that may not know its task.
fn describes(event: &WorkerEvent) -> Option<&TaskMessage> {
    match event {
        WorkerEvent::Described { message } => Some(message),
        WorkerEvent::Returned { message, .. } => message.as_deref(),
        _ => None,
    }
}

/// What the answers say about attempts that are lost, or are not lost after all.
pub(super) fn happenings_of(answers: &[Answer], worker: &WorkerName) -> Vec<Happening> {
    let happened = answers.iter().filter_map(|answer| match answer {
        Answer::Lost {
            attempt,
            dispatch,
            task,
        } => Some(Happening::Lost {
            attempt: *attempt,
            dispatch: *dispatch,
            task: *task,
            detail: format!("worker {worker} does not know this attempt any more"),
        }),
        Answer::Alive {
            attempt,
            task,
            phase,
        } => Some(Happening::Alive {
            worker: worker.clone(),
            attempt: *attempt,
            task: *task,
            phase: *phase,
        }),
        _ => None,
    });
    happened.collect()
}

/// The command that asks a worker to send again what is lacking.
pub(super) fn resend_of(answer: &Answer) -> Option<ControlCommand> {
    match answer {
        Answer::Resend {
            attempt,
            end,
            stdout_from,
            stderr_from,
        } => Some(ControlCommand::Resend {
            attempt: *attempt,
            end: *end,
            stdout_from: *stdout_from,
            stderr_from: *stderr_from,
        }),
        _ => None,
    }
}

async fn ack(channel: &Channel, tag: Option<DeliveryTag>) -> Result<(), BrokerError> {
    match tag {
        Some(tag) => channel.ack_up_to(tag).await,
        None => Ok(()),
    }
}
