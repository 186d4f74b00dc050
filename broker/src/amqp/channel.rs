//! A channel.

use std::future::Future;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicQosOptions, BasicRejectOptions,
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use tokio::sync::Mutex;

use super::connection::AmqpConnection;
use super::consumer::AmqpConsumer;
use super::convert::{from_lapin, queue_arguments, short};
use super::failure::failure;
use super::publishing::PublishQueue;
use crate::confirmation::Confirmation;
use crate::ending::Ending;
use crate::error::BrokerError;
use crate::message::{ChannelId, Delivery, DeliveryTag, Message};
use crate::spec::{ExchangeKind, ExchangeSpec, QueueDepth, QueueSpec, Topology};

/// How long after a failure the reason for it may take to be known.
const REASON: Duration = Duration::from_secs(6);
/// How long a graceful close may take.
const CLOSE: Duration = Duration::from_secs(5);

/// A channel; it ends with its last handle, those inside consumers included.
#[derive(Clone, Debug)]
pub(crate) struct AmqpChannel(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: ChannelId,
    connection: AmqpConnection,
    lapin: lapin::Channel,
    ending: Ending,
    publishing: PublishQueue,
    /// Held from setting the prefetch to the consumer that gets it.
    consuming: Mutex<()>,
    last_consumer: AtomicU64,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.connection.watch().forget(self.id);
    }
}

impl AmqpChannel {
    pub(super) fn new(connection: AmqpConnection, lapin: lapin::Channel) -> Self {
        let id = ChannelId::next();
        let ending = Ending::new();
        connection
            .watch()
            .register(id, lapin.status().clone(), &ending);
        let publishing = PublishQueue::start(lapin.clone(), ending.clone());
        let consuming = Mutex::new(());
        Self(Arc::new(Inner {
            id,
            connection,
            lapin,
            ending,
            publishing,
            consuming,
            last_consumer: AtomicU64::new(0),
        }))
    }

    pub(crate) fn id(&self) -> ChannelId {
        self.0.id
    }

    pub(crate) fn ending(&self) -> &Ending {
        &self.0.ending
    }

    /// Whether lapin still has the channel open.
    pub(super) fn lapin_is_open(&self) -> bool {
        self.0.lapin.status().connected()
    }

    pub(super) fn lapin(&self) -> &lapin::Channel {
        &self.0.lapin
    }

    pub(crate) async fn declare(&self, topology: &Topology) -> Result<(), BrokerError> {
        for exchange in &topology.exchanges {
            self.declare_exchange(exchange).await?;
        }
        for queue in &topology.queues {
            self.declare_queue(queue).await?;
        }
        Ok(())
    }

    async fn declare_exchange(&self, spec: &ExchangeSpec) -> Result<(), BrokerError> {
        let kind = match spec.kind {
            ExchangeKind::Direct => lapin::ExchangeKind::Direct,
            ExchangeKind::Topic => lapin::ExchangeKind::Topic,
        };
        let options = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let declared =
            self.0
                .lapin
                .exchange_declare(short(&spec.name)?, kind, options, FieldTable::default());
        self.call(declared).await
    }

    pub(crate) async fn declare_queue(&self, spec: &QueueSpec) -> Result<QueueDepth, BrokerError> {
        let name = short(&spec.name)?;
        let options = QueueDeclareOptions {
            passive: false,
            durable: spec.durable,
            exclusive: spec.exclusive,
            auto_delete: spec.auto_delete,
            nowait: false,
        };
        let declared = self
            .0
            .lapin
            .queue_declare(name.clone(), options, queue_arguments(spec)?);
        let queue = self.call(declared).await?;
        for binding in &spec.bindings {
            let exchange = short(&binding.exchange)?;
            let key = short(&binding.routing_key)?;
            let options = QueueBindOptions::default();
            let bound = self.0.lapin.queue_bind(
                name.clone(),
                exchange,
                key,
                options,
                FieldTable::default(),
            );
            self.call(bound).await?;
        }
        Ok(QueueDepth {
            messages: queue.message_count().into(),
            consumers: queue.consumer_count().into(),
        })
    }

    pub(crate) async fn delete_queue(&self, name: &str) -> Result<(), BrokerError> {
        let deleted = self
            .0
            .lapin
            .queue_delete(short(name)?, QueueDeleteOptions::default());
        self.call(deleted).await.map(|_messages| ())
    }

    pub(crate) async fn delete_idle_queue(&self, name: &str) -> Result<(), BrokerError> {
        let options = QueueDeleteOptions {
            if_unused: true,
            if_empty: true,
            ..QueueDeleteOptions::default()
        };
        let deleted = self.0.lapin.queue_delete(short(name)?, options);
        self.call(deleted).await.map(|_messages| ())
    }

    pub(crate) async fn consume(
        &self,
        queue: &str,
        prefetch: NonZeroU16,
    ) -> Result<AmqpConsumer, BrokerError> {
        let queue = short(queue)?;
        let number = self.0.last_consumer.fetch_add(1, Ordering::Relaxed) + 1;
        let tag = short(&format!("{}-consumer-{number}", self.0.id))?;
        let _turn = self.0.consuming.lock().await;
        self.call(
            self.0
                .lapin
                .basic_qos(prefetch.get(), BasicQosOptions { global: false }),
        )
        .await?;
        let options = BasicConsumeOptions::default();
        let consuming = self
            .0
            .lapin
            .basic_consume(queue, tag, options, FieldTable::default());
        let consumer = self.call(consuming).await?;
        Ok(AmqpConsumer::new(self.clone(), consumer))
    }

    pub(crate) async fn get(&self, queue: &str) -> Result<Option<Delivery>, BrokerError> {
        let got = self
            .0
            .lapin
            .basic_get(short(queue)?, BasicGetOptions::default());
        let message = self.call(got).await?;
        Ok(message.map(|message| from_lapin(self.0.id, message.delivery)))
    }

    pub(crate) async fn publish(&self, message: Message) -> Result<Confirmation, BrokerError> {
        self.check_open()?;
        self.0.publishing.publish(message).await
    }

    pub(crate) fn ack(&self, tag: DeliveryTag, multiple: bool) -> Result<(), BrokerError> {
        self.check_open()?;
        self.hand_over(self.0.lapin.basic_ack(tag.0, BasicAckOptions { multiple }))
    }

    pub(crate) fn reject(&self, tag: DeliveryTag, requeue: bool) -> Result<(), BrokerError> {
        self.check_open()?;
        self.hand_over(
            self.0
                .lapin
                .basic_reject(tag.0, BasicRejectOptions { requeue }),
        )
    }

    pub(crate) async fn close(&self) {
        let reason = BrokerError::ChannelClosed {
            code: 200,
            reason: "closed by us".to_owned(),
        };
        if self.0.ending.set(reason) {
            // It may have been closed meanwhile, and a peer that does not answer is noticed by its heartbeats.
            let _ = tokio::time::timeout(CLOSE, self.0.lapin.close(200, "closed".into())).await;
        }
    }

    fn check_open(&self) -> Result<(), BrokerError> {
        self.0.ending.get().map_or(Ok(()), Err)
    }

    /// Queues a frame that has no answer: lapin does so at the first poll, and only then waits for the network.
    fn hand_over(
        &self,
        sending: impl Future<Output = lapin::Result<()>>,
    ) -> Result<(), BrokerError> {
        match sending.now_or_never() {
            None | Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(self.note(&error).unwrap_or_else(|| {
                let closed = || BrokerError::ChannelClosed {
                    code: 0,
                    reason: error.to_string(),
                };
                self.0.ending.get().unwrap_or_else(closed)
            })),
        }
    }

    /// Waits for the broker's answer, or for the end of the channel.
    pub(super) async fn call<T>(
        &self,
        operation: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, BrokerError> {
        self.check_open()?;
        let failed = tokio::select! {
            biased;
            answer = operation => match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            },
            reason = self.0.ending.reached() => return Err(reason),
        };
        Err(self.explain(&failed).await)
    }

    /// Why something failed on this channel. Any failure of lapin ends it.
    pub(super) async fn explain(&self, error: &lapin::Error) -> BrokerError {
        if let Some(reason) = self.note(error) {
            return reason;
        }
        // It had ended before; whoever met the end tells the reason in a moment.
        let unknown = |_| BrokerError::ChannelClosed {
            code: 0,
            reason: error.to_string(),
        };
        tokio::time::timeout(REASON, self.0.ending.reached())
            .await
            .unwrap_or_else(unknown)
    }

    /// Notes the end that an error tells of, and gives the reason.
    fn note(&self, error: &lapin::Error) -> Option<BrokerError> {
        let reason = failure(error)?;
        if reason.is_connection_lost() {
            self.0.connection.watch().end(&reason);
        }
        self.0.ending.set(reason.clone());
        Some(reason)
    }
}
