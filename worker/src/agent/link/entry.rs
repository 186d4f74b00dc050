//! Entering a connection: declaring what is shared, and getting the name.

use std::num::NonZeroU16;
use std::time::Duration;

use scitq_broker::{BrokerError, Channel, Connection, Consumer, topology};
use tokio::time::Instant;

use super::Link;
use crate::error::WorkerError;

/// Between two tries to get the control queue.
const NAME_PAUSE: Duration = Duration::from_secs(1);
/// Control messages that may wait here.
const CONTROL_PREFETCH: NonZeroU16 = NonZeroU16::new(64).unwrap();

/// Why the control queue could not be had.
pub(super) enum Entry {
    NameInUse(WorkerError),
    Failed(BrokerError),
}

impl From<BrokerError> for Entry {
    fn from(error: BrokerError) -> Self {
        Self::Failed(error)
    }
}

impl Link {
    /// Declares what is shared and gets the control queue.
    pub(super) async fn enter(
        &mut self,
        connection: &Connection,
    ) -> Result<(Channel, Consumer), Entry> {
        let since = Instant::now();
        let queue = topology::worker_control_queue(self.worker.as_str());
        connection
            .channel()
            .await?
            .declare(&topology::base_topology())
            .await?;
        let mut told = false;
        loop {
            let channel = connection.channel().await?;
            match channel.declare_queue(&queue).await {
                Ok(_) => {
                    self.had_name = true;
                    let control = channel.consume(&queue.name, CONTROL_PREFETCH).await?;
                    return Ok((channel, control));
                }
                Err(error) if error.is_in_use() => {
                    // Whoever has the name after us may be our own former connection; and what runs here is reported.
                    if since.elapsed() >= self.double_after && !self.had_name {
                        return Err(Entry::NameInUse(WorkerError::NameInUse {
                            name: self.worker.clone(),
                            address: self.broker.address(),
                            tried_for: self.double_after,
                        }));
                    }
                    if !told {
                        tracing::warn!(
                            worker = %self.worker,
                            "another connection has this worker's name; it may be a broken one of its own: tries again"
                        );
                        told = true;
                    }
                    tokio::time::sleep(NAME_PAUSE.min(self.double_after / 4)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
