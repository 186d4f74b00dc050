//! A connection.

use std::sync::Arc;
use std::time::Duration;

use lapin::options::ConfirmSelectOptions;

use super::channel::AmqpChannel;
use super::connect::Socket;
use super::failure::failure;
use super::watch::{LOOK, Watch};
use crate::ending::Ending;
use crate::error::BrokerError;

/// How long a graceful close may take before the socket is shut down.
const CLOSE: Duration = Duration::from_secs(5);

/// A connection; it ends with its last handle, those inside channels and consumers included.
#[derive(Clone, Debug)]
pub(crate) struct AmqpConnection(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lapin: lapin::Connection,
    socket: Socket,
    watch: Watch,
}

impl AmqpConnection {
    pub(super) fn new(lapin: lapin::Connection, socket: Socket) -> Self {
        let watch = Watch::over(&lapin);
        Self(Arc::new(Inner {
            lapin,
            socket,
            watch,
        }))
    }

    pub(crate) fn ending(&self) -> &Ending {
        self.0.watch.ending()
    }

    pub(super) fn watch(&self) -> &Watch {
        &self.0.watch
    }

    pub(crate) async fn channel(&self) -> Result<AmqpChannel, BrokerError> {
        let open = async {
            let lapin = self.0.lapin.create_channel().await?;
            lapin
                .confirm_select(ConfirmSelectOptions::default())
                .await?;
            Ok(lapin)
        };
        let lapin = tokio::select! {
            biased;
            opened = open => match opened {
                Ok(lapin) => lapin,
                Err(error) => return Err(self.explain(&error).await),
            },
            reason = self.ending().reached() => return Err(reason),
        };
        Ok(AmqpChannel::new(self.clone(), lapin))
    }

    /// Why something failed on this connection.
    async fn explain(&self, error: &lapin::Error) -> BrokerError {
        if let Some(reason) = failure(error) {
            if reason.is_connection_lost() {
                self.0.watch.end(&reason);
            }
            return reason;
        }
        // It had ended before; the watch knows why in a moment.
        let unknown = |_| BrokerError::ConnectionLost {
            reason: error.to_string(),
        };
        tokio::time::timeout(LOOK, self.ending().reached())
            .await
            .unwrap_or_else(unknown)
    }

    pub(crate) async fn close(&self) {
        self.0.watch.end(&BrokerError::ConnectionLost {
            reason: "closed by us".to_owned(),
        });
        let closing = self.0.lapin.close(200, "closed".into());
        if tokio::time::timeout(CLOSE, closing).await.is_err() {
            self.0.socket.shut_down();
        }
    }
}
