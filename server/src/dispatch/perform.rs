//! Doing what the core has decided: the database and the broker.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use scitq_broker::{BrokerError, Confirmation, Message, Properties, topology};
use scitq_shared::ids::{DispatchId, TaskId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::protocol::{
    ControlCommand, Marker, PROTOCOL_VERSION, ReturnedDispatch, TaskMessage, encode,
};
use uuid::Uuid;

use super::core::{Effect, Input, MarkerNumber, Question};
use super::dispatcher::{Answered, Desk, Dispatcher, Outstanding, marker_id};
use crate::db::Loaded;
use crate::events::{Consumed, Happening, import_unknown, needs, project};
use crate::notices::Notice;
use crate::patience::patiently;

impl Dispatcher {
    pub(super) async fn perform(&self, effect: Effect, desk: &mut Desk) -> Result<(), Consumed> {
        match effect {
            Effect::LoadWorkers => {
                let capacities = patiently!(
                    &self.stop,
                    "the dispatcher",
                    self.database.batch_capacity().await
                )?;
                desk.inputs.push_back(Input::Workers { capacities });
            }
            Effect::LookAround => {
                let around = patiently!(
                    &self.stop,
                    "the dispatcher",
                    self.database.whereabouts().await
                )?;
                desk.inputs.push_back(Input::Around(around));
            }
            Effect::Recount { worker } => {
                tracing::info!(%worker, "asks for a recount");
                self.control.tell(&worker, ControlCommand::Recount).await?;
            }
            Effect::EndListening { silent } => self.end_listening(&silent, desk).await?,
            Effect::Declare { batch } => {
                let queue = topology::batch_queue(batch.as_str(), self.queue_type);
                self.channel.declare_queue(&queue).await?;
            }
            Effect::DeleteQueue { batch } => self.delete_queue(&batch).await?,
            Effect::Welcome { worker, desired } => {
                let program_version = env!("CARGO_PKG_VERSION").to_owned();
                let welcome = ControlCommand::Welcome {
                    desired,
                    program_version,
                };
                self.control.tell(&worker, welcome).await?;
            }
            Effect::Claim { batch, window } => self.claim(batch, window, desk).await?,
            Effect::Compare { batch } => {
                let overtaken = patiently!(
                    &self.stop,
                    "the dispatcher",
                    self.database.is_overtaken(&batch).await
                )?;
                desk.inputs.push_back(Input::Compared { batch, overtaken });
            }
            Effect::Withdraw { batch } => {
                let dispatches = self.withdraw(&batch).await?;
                tracing::info!(%batch, dispatches, "the queue is withdrawn, its dispatches are made anew");
                desk.inputs
                    .push_back(Input::Withdrawn { batch, dispatches });
            }
            Effect::Count { batch, age } => self.count(batch, age, desk).await?,
            Effect::List { batch, question } => self.list(batch, question, desk).await?,
            Effect::Revoke { worker, dispatches } => {
                tracing::debug!(%worker, dispatches = dispatches.len(), "asks for dispatches back");
                let command = ControlCommand::Revoke { dispatches };
                self.control.tell(&worker, command).await?;
            }
            Effect::Marker { marker } => self.mark(marker, desk).await?,
            Effect::ListUnstarted { batch, recall } => {
                self.list_unstarted(batch, recall, desk).await?;
            }
            Effect::Change { batch, recall, out } => {
                self.change(batch, recall, out, desk).await?;
            }
            Effect::Return { batch, dispatches } => {
                let count = dispatches.len();
                self.give_back(dispatches.into_iter()).await?;
                desk.inputs.push_back(Input::Returned {
                    batch,
                    dispatches: count,
                });
            }
        }
        Ok(())
    }

    /// From now on it is dispatched as always. What silent workers run may run a second time.
    async fn end_listening(&self, silent: &[WorkerName], desk: &mut Desk) -> Result<(), Consumed> {
        for worker in silent {
            tracing::warn!(%worker, "this worker has not answered since the database was restored: what it runs may run elsewhere, too");
        }
        let loads = patiently!(&self.stop, "the dispatcher", {
            match self.database.restoration_heard(self.epoch).await {
                Ok(()) => self.database.dispatchable().await,
                Err(error) => Err(error),
            }
        })?;
        tracing::info!("the workers have been heard; dispatching begins");
        desk.inputs.push_back(Input::Loaded { loads });
        Ok(())
    }

    /// Takes in the task of a message that a restored database does not know.
    pub(super) async fn import(&self, message: &TaskMessage) -> Result<(), Consumed> {
        import_unknown(
            &self.database,
            self.epoch,
            &self.restorations,
            message,
            &self.stop,
        )
        .await
    }

    /// Commits first, publishes then (D3).
    async fn claim(
        &self,
        batch: BatchName,
        window: usize,
        desk: &mut Desk,
    ) -> Result<(), Consumed> {
        let claim = patiently!(
            &self.stop,
            "the dispatcher",
            self.database.claim(self.epoch, &batch, window).await
        )?;
        let dispatches = claim.tasks.len();
        if dispatches > 0 {
            tracing::debug!(%batch, tasks = dispatches, in_window = claim.assigned, "dispatching");
            self.notices.tell(Notice::Tasks);
        }
        let mut unpublished = claim.tasks.into_iter();
        while let Some(task) = unpublished.next() {
            let (id, dispatch) = (task.task, task.dispatch);
            match self.publish(&batch, task).await {
                Ok(outstanding) => desk.outstanding.push(outstanding),
                Err(error) => {
                    // What was never handed to the broker is certainly not in its queue: nobody else would ever look for
                    // it there.
                    let rest = unpublished.map(|task| (task.task, task.dispatch));
                    self.give_back(std::iter::once((id, dispatch)).chain(rest))
                        .await?;
                    return Err(error.into());
                }
            }
        }
        desk.inputs.push_back(Input::Claimed {
            batch,
            dispatches,
            assigned: claim.assigned,
            pending_left: claim.pending_left,
        });
        Ok(())
    }

    /// Commits dispatches that the broker certainly does not have as returned.
    async fn give_back(
        &self,
        dispatches: impl Iterator<Item = (TaskId, DispatchId)>,
    ) -> Result<(), Consumed> {
        let returned: Vec<Happening> = dispatches
            .map(|(task, dispatch)| Happening::Returned { dispatch, task })
            .collect();
        self.commit_returned(&returned).await
    }

    pub(super) async fn commit_returned(&self, returned: &[Happening]) -> Result<(), Consumed> {
        if returned.is_empty() {
            return Ok(());
        }
        let needs = needs(returned);
        patiently!(&self.stop, "the dispatcher", {
            let decide = |loaded: &Loaded| project(loaded, returned).0;
            self.database
                .project(self.epoch, &needs, Vec::new(), decide)
                .await
        })
        .map(|_projected| self.notices.tell(Notice::Tasks))
    }

    async fn publish(
        &self,
        batch: &BatchName,
        task: TaskMessage,
    ) -> Result<Outstanding, BrokerError> {
        let (id, dispatch, batch) = (task.task, task.dispatch, batch.clone());
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
            Answered::Dispatch {
                task: id,
                dispatch,
                batch,
                outcome,
            }
        }))
    }

    async fn mark(&self, marker: MarkerNumber, desk: &mut Desk) -> Result<(), BrokerError> {
        let id = marker_id(self.epoch, marker);
        desk.markers.insert(id, marker);
        let confirmation = self.publish_marker(id, Vec::new()).await?;
        desk.outstanding.push(Box::pin(async move {
            let outcome = confirmation.await;
            Answered::Marker { outcome }
        }));
        Ok(())
    }

    pub(super) async fn publish_marker(
        &self,
        marker: Uuid,
        returned: Vec<ReturnedDispatch>,
    ) -> Result<Confirmation, BrokerError> {
        let message = Marker {
            version: PROTOCOL_VERSION,
            epoch: self.epoch,
            marker,
            returned,
        };
        self.channel
            .publish(Message {
                exchange: topology::EVENTS_EXCHANGE.to_owned(),
                routing_key: Marker::ROUTING_KEY.to_owned(),
                body: Bytes::from(encode(&message)),
                mandatory: true,
                persistent: true,
                properties: Properties::default(),
            })
            .await
    }

    /// Compares the dispatches with the queue. Those delivered and not yet announced make a surplus, too, for a moment.
    async fn count(
        &self,
        batch: BatchName,
        age: Duration,
        desk: &mut Desk,
    ) -> Result<(), Consumed> {
        let queue = topology::batch_queue(batch.as_str(), self.queue_type);
        let depth = self.channel.declare_queue(&queue).await?;
        let counted = patiently!(
            &self.stop,
            "the dispatcher",
            self.database
                .dispatches_beyond(&batch, age, depth.messages)
                .await
        )?;
        desk.inputs.push_back(Input::Counted {
            batch,
            surplus: counted.surplus,
            assigned: counted.assigned,
        });
        Ok(())
    }

    async fn list(
        &self,
        batch: BatchName,
        question: Question,
        desk: &mut Desk,
    ) -> Result<(), Consumed> {
        if question == Question::All {
            self.revoke_held(&batch).await?;
        }
        let unstarted = patiently!(&self.stop, "the dispatcher", {
            let among = match &question {
                Question::All => None,
                Question::Suspects(dispatches) | Question::Asked(dispatches) => {
                    Some(dispatches.clone())
                }
            };
            self.database.unaccepted(&batch, among).await
        })?;
        desk.inputs.push_back(Input::Listed {
            batch,
            question,
            unstarted: unstarted.dispatches,
            workers: unstarted.workers,
        });
        Ok(())
    }

    /// Of a paused batch: asks for what workers have accepted and not started, too. The roll call is about the rest.
    async fn revoke_held(&self, batch: &BatchName) -> Result<(), Consumed> {
        let held = patiently!(
            &self.stop,
            "the dispatcher",
            self.database.held_of_paused(batch).await
        )?;
        let mut by_worker: BTreeMap<WorkerName, Vec<DispatchId>> = BTreeMap::new();
        for (worker, dispatch) in held {
            by_worker.entry(worker).or_default().push(dispatch);
        }
        for (worker, dispatches) in by_worker {
            let command = ControlCommand::Revoke { dispatches };
            self.control.tell(&worker, command).await?;
        }
        Ok(())
    }

    /// On a channel of its own, which the broker closes when the queue is in use after all.
    async fn delete_queue(&self, batch: &BatchName) -> Result<(), BrokerError> {
        let channel = self.connection.channel().await?;
        let name = topology::batch_queue_name(batch.as_str());
        match channel.delete_idle_queue(&name).await {
            Ok(()) => {
                tracing::debug!(%batch, "its queue is deleted: no work, no workers");
                channel.close().await;
                Ok(())
            }
            Err(BrokerError::PreconditionFailed { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
