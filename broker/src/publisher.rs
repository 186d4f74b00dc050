//! Publishing now and then, without owning a connection.

use std::sync::Arc;
use std::time::Duration;

use deadpool_lapin::{Manager, Object, Pool, PoolError, Timeouts};
use lapin::options::ConfirmSelectOptions;
use tokio::sync::Mutex;

use crate::address::Address;
use crate::amqp::{PublishQueue, Watch, connect_failure};
use crate::confirmation::PublishFailure;
use crate::ending::Ending;
use crate::error::BrokerError;
use crate::local::{LocalBroker, LocalChannel};
use crate::message::{ChannelId, Message};

/// How long an attempt to connect may take.
const ATTEMPT: Duration = Duration::from_secs(10);

/// Publishes messages now and then, each call awaiting its confirm. It connects when first used and again when its
/// connection was lost; clones share the connection. For streams of messages use a [`Channel`](crate::Channel).
#[derive(Clone, Debug)]
pub struct Publisher(Arc<Backend>);

#[derive(Debug)]
enum Backend {
    Amqp(AmqpPublisher),
    Local(LocalPublisher),
}

impl Publisher {
    pub(crate) fn amqp(address: &Address, name: &str) -> Self {
        Self(Arc::new(Backend::Amqp(AmqpPublisher::new(
            address.clone(),
            name,
        ))))
    }

    pub(crate) fn local(broker: LocalBroker, name: &str) -> Self {
        let publisher = LocalPublisher {
            broker,
            name: name.to_owned(),
            lane: std::sync::Mutex::new(None),
        };
        Self(Arc::new(Backend::Local(publisher)))
    }

    /// Publishes a message and waits for its confirm. After [`PublishFailure::Lost`] it may be stored or not; the next
    /// call connects anew. Not bounded in time once connected: a broker that blocks publishers makes it wait.
    pub async fn publish(&self, message: Message) -> Result<(), PublishFailure> {
        message.check().map_err(PublishFailure::Lost)?;
        match &*self.0 {
            Backend::Amqp(publisher) => publisher.publish(message).await,
            Backend::Local(publisher) => publisher.publish(message).await,
        }
    }
}

/// The pool keeps the connection; the channel on it is kept here, because the pool has none.
#[derive(Debug)]
struct AmqpPublisher {
    address: Address,
    name: String,
    pool: std::sync::OnceLock<Pool>,
    lane: Mutex<Option<Arc<AmqpLane>>>,
}

/// A channel for publishing, with the pooled connection it lives on.
#[derive(Debug)]
struct AmqpLane {
    queue: PublishQueue,
    ending: Ending,
    /// Before the connection, so that it has ended when the pool hands the connection out again.
    _watch: Watch,
    _connection: Object,
}

impl AmqpPublisher {
    fn new(address: Address, name: &str) -> Self {
        Self {
            address,
            name: name.to_owned(),
            pool: std::sync::OnceLock::new(),
            lane: Mutex::new(None),
        }
    }

    async fn publish(&self, message: Message) -> Result<(), PublishFailure> {
        let lane = self.lane().await.map_err(PublishFailure::Lost)?;
        let confirmation = lane
            .queue
            .publish(message)
            .await
            .map_err(PublishFailure::Lost)?;
        confirmation.await
    }

    /// The current channel, or a new one if it has ended.
    async fn lane(&self) -> Result<Arc<AmqpLane>, BrokerError> {
        let mut current = self.lane.lock().await;
        if let Some(lane) = current.as_ref().filter(|lane| !lane.ending.is_set()) {
            return Ok(Arc::clone(lane));
        }
        // Give the connection back first: the pool drops it if it is lost, and reuses it if only the channel ended.
        *current = None;
        let lane = Arc::new(self.open().await?);
        *current = Some(Arc::clone(&lane));
        Ok(lane)
    }

    async fn open(&self) -> Result<AmqpLane, BrokerError> {
        let failed = |error: &lapin::Error| connect_failure(error, &self.address);
        let silent = || BrokerError::Unreachable {
            address: self.address.to_string(),
            reason: format!("no answer within {} s", ATTEMPT.as_secs()),
        };
        let connection = match self.pool()?.get().await {
            Ok(connection) => connection,
            Err(PoolError::Backend(error)) => return Err(failed(&error)),
            Err(PoolError::Timeout(_)) => return Err(silent()),
            Err(error) => {
                return Err(BrokerError::Unreachable {
                    address: self.address.to_string(),
                    reason: error.to_string(),
                });
            }
        };
        let opening = async {
            let channel = connection.create_channel().await?;
            channel
                .confirm_select(ConfirmSelectOptions::default())
                .await?;
            Ok(channel)
        };
        let channel = tokio::time::timeout(ATTEMPT, opening)
            .await
            .map_err(|_| silent())?;
        let channel = channel.map_err(|error: lapin::Error| failed(&error))?;
        let ending = Ending::new();
        let watch = Watch::over(&connection);
        watch.register(ChannelId::next(), channel.status().clone(), &ending);
        let queue = PublishQueue::start(channel, ending.clone());
        Ok(AmqpLane {
            queue,
            ending,
            _watch: watch,
            _connection: connection,
        })
    }

    /// The pool is made when first used, because it remembers the runtime it is made in. Two connections, so that one
    /// that lingers for its last confirms does not stand in the way of the next.
    fn pool(&self) -> Result<&Pool, BrokerError> {
        if let Some(pool) = self.pool.get() {
            return Ok(pool);
        }
        let unreachable = |reason: String| BrokerError::Unreachable {
            address: self.address.to_string(),
            reason,
        };
        let runtime =
            lapin::runtime::default_runtime().map_err(|error| unreachable(error.to_string()))?;
        let name = self.name.clone();
        let properties = move || {
            lapin::ConnectionProperties::default().with_connection_name(name.as_str().into())
        };
        let manager = Manager::new(self.address.uri().to_string(), properties, runtime);
        let timeouts = Timeouts {
            wait: Some(ATTEMPT),
            create: Some(ATTEMPT),
            recycle: Some(ATTEMPT),
        };
        let builder = Pool::builder(manager)
            .max_size(2)
            .timeouts(timeouts)
            .runtime(deadpool_lapin::Runtime::Tokio1);
        let pool = builder
            .build()
            .map_err(|error| unreachable(error.to_string()))?;
        Ok(self.pool.get_or_init(|| pool))
    }
}

#[derive(Debug)]
struct LocalPublisher {
    broker: LocalBroker,
    name: String,
    lane: std::sync::Mutex<Option<LocalChannel>>,
}

impl LocalPublisher {
    async fn publish(&self, message: Message) -> Result<(), PublishFailure> {
        let confirmation = self
            .lane()
            .and_then(|lane| lane.publish(message))
            .map_err(PublishFailure::Lost)?;
        confirmation.await
    }

    /// The current channel, or a new one if it has ended.
    fn lane(&self) -> Result<LocalChannel, BrokerError> {
        let mut current = self
            .lane
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(lane) = current.as_ref().filter(|lane| !lane.ending().is_set()) {
            return Ok(lane.clone());
        }
        let lane = self.broker.connect(&self.name)?.channel()?;
        *current = Some(lane.clone());
        Ok(lane)
    }
}
