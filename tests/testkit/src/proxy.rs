//! A network to cut.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Forwards connections to a service, until told otherwise. It works on the runtime it was started on and ends when
/// dropped, with its connections.
#[derive(Debug)]
pub struct LocalTcpProxy {
    address: SocketAddr,
    target: SocketAddr,
    /// What the connections do; a new number per cut ends those of before.
    line: watch::Sender<Line>,
    listener: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    cuts: u64,
    frozen: bool,
}

impl LocalTcpProxy {
    /// Listens on a free port of 127.0.0.1 and forwards to `target`.
    pub async fn start(target: SocketAddr) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, crate::free_port()));
        let line = watch::Sender::new(Line {
            cuts: 0,
            frozen: false,
        });
        let proxy = Self {
            address,
            target,
            line,
            listener: Mutex::new(None),
        };
        proxy.heal().await;
        proxy
    }

    /// Where to connect instead of to the target.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of the target with this proxy's address in the place of its own.
    pub fn url(&self, target_url: &str) -> String {
        target_url.replacen(&self.target.to_string(), &self.address.to_string(), 1)
    }

    /// Ends all connections and refuses new ones.
    pub async fn cut(&self) {
        let listener = self
            .listener
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(listener) = listener {
            listener.abort();
            // Aborted is what it was to be; afterwards the port is closed.
            let _ = listener.await;
        }
        self.line.send_modify(|line| {
            *line = Line {
                cuts: line.cuts + 1,
                frozen: false,
            }
        });
    }

    /// Stops forwarding without ending anything: to both sides the other seems silent. New connections are taken and get
    /// no further.
    pub fn freeze(&self) {
        self.line.send_modify(|line| line.frozen = true);
    }

    /// Forwards again, and accepts new connections.
    ///
    /// # Panics
    /// If something else has taken the port meanwhile.
    pub async fn heal(&self) {
        self.line.send_modify(|line| line.frozen = false);
        if self
            .listener
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
        {
            return;
        }
        let listener = TcpListener::bind(self.address)
            .await
            .unwrap_or_else(|error| panic!("the proxy cannot listen on {}: {error}", self.address));
        let task = tokio::spawn(accept(listener, self.target, self.line.subscribe()));
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }
}

impl Drop for LocalTcpProxy {
    fn drop(&mut self) {
        if let Some(listener) = self
            .listener
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            listener.abort();
        }
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, line: watch::Receiver<Line>) {
    while let Ok((near, _)) = listener.accept().await {
        let mut line = line.clone();
        tokio::spawn(async move {
            // A frozen line carries no new connections to the target either.
            if line.wait_for(|line| !line.frozen).await.is_err() {
                return;
            }
            if let Ok(far) = TcpStream::connect(target).await {
                forward(near, far, line).await;
            }
        });
    }
}

/// Copies both ways until both sides have finished or the line is cut.
async fn forward(mut near: TcpStream, mut far: TcpStream, line: watch::Receiver<Line>) {
    // Failing to set it makes it slower, not wrong.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let cuts = line.borrow().cuts;
    let (near_read, near_write) = near.split();
    let (far_read, far_write) = far.split();
    let mut cut = line.clone();
    let copying = async {
        tokio::join!(
            copy(near_read, far_write, line.clone()),
            copy(far_read, near_write, line.clone())
        )
    };
    tokio::select! {
        _ = copying => {}
        // The proxy being dropped is a cut as well.
        _ = cut.wait_for(|line| line.cuts != cuts) => {}
    }
}

/// Copies one way; what is read while the line is frozen is held until it is not.
async fn copy(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut line: watch::Receiver<Line>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if line.wait_for(|line| !line.frozen).await.is_err() || length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
    }
}
