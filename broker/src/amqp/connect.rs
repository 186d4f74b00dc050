//! One attempt to connect, bounded in time.

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lapin::tcp::{AMQPUriTcpExt, AsyncTcpStream};
use lapin::{ConnectionProperties, ErrorKind};

use super::connection::AmqpConnection;
use super::failure::connect_failure;
use crate::address::Address;
use crate::error::BrokerError;

/// How long an attempt may take.
const ATTEMPT: Duration = Duration::from_secs(10);

/// A second handle of a connection's socket: lapin's thread waits for it without a limit while it connects or closes,
/// and only shutting the socket down makes it give up.
#[derive(Clone, Debug, Default)]
pub(super) struct Socket(Arc<OnceLock<TcpStream>>);

impl Socket {
    /// Ends the connection without ceremony, as if the peer had.
    pub(super) fn shut_down(&self) {
        if let Some(stream) = self.0.get() {
            // It may be shut down already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Connects and logs in. `name` is shown in the broker's list of connections.
pub(crate) async fn connect(address: &Address, name: &str) -> Result<AmqpConnection, BrokerError> {
    let runtime =
        lapin::runtime::default_runtime().map_err(|error| connect_failure(&error, address))?;
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let socket = Socket::default();
    let slot = socket.clone();
    let attempt = lapin::Connection::connector(
        address.uri().clone(),
        runtime,
        async move |uri, runtime| {
            let opened = uri.connect_async(&runtime);
            let timed_out = |_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut));
            let stream = tokio::time::timeout(ATTEMPT, opened)
                .await
                .unwrap_or_else(timed_out);
            let stream = stream.map_err(|error| ErrorKind::IOError(Arc::new(error)))?;
            if let AsyncTcpStream::Plain(plain) = &stream {
                let plain: &tokio::net::TcpStream = plain.get_ref();
                // Small messages that wait for each other's acknowledgement would wait 40 ms. A connection without is slow,
                // not broken.
                let _ = plain.set_nodelay(true);
                if let Ok(second) = plain.as_fd().try_clone_to_owned() {
                    let _ = slot.0.set(TcpStream::from(second));
                }
            }
            Ok(stream)
        },
        properties,
    );
    match tokio::time::timeout(ATTEMPT, attempt).await {
        Ok(Ok(connection)) => Ok(AmqpConnection::new(connection, socket)),
        Ok(Err(error)) => Err(connect_failure(&error, address)),
        Err(_) => {
            socket.shut_down();
            let reason = format!("no answer within {} s", ATTEMPT.as_secs());
            Err(BrokerError::Unreachable {
                address: address.to_string(),
                reason,
            })
        }
    }
}
