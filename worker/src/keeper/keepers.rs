//! All keepers of a state directory, as the agent has them.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use scitq_shared::ids::AttemptId;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::connection::{Connection, Told};
use super::message::{Order, Program, StartOrder};
use super::serve::own_program;
use super::start::Sockets;

/// How long a keeper that was just started may take to say hello.
const HELLO: Duration = Duration::from_secs(10);
/// How long one that was found is waited for, when a program is to be started and it could do that.
const HELLO_OF_FOUND: Duration = Duration::from_secs(2);

/// The keepers of this agent: those found at its start, which have tasks of agents before it, and the one that starts
/// new tasks.
#[derive(Debug)]
pub(crate) struct Keepers {
    sockets: Arc<Sockets>,
    /// The program that is run to be a keeper.
    file: PathBuf,
    own: Program,
    boots: u32,
    runtime: tokio::runtime::Handle,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Found, and not listened to yet.
    found: Vec<(Arc<Connection>, UnixStream)>,
    all: Vec<(Arc<Connection>, AbortHandle)>,
    current: Option<Arc<Connection>>,
    started: u32,
    closed: bool,
}

/// An attempt that is with a keeper.
#[derive(Debug)]
pub(crate) struct Kept {
    attempt: AttemptId,
    keeper: Arc<Connection>,
    told: mpsc::Receiver<Told>,
}

impl Kept {
    /// What is told about it next; absent when nothing more will be. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Told {
        self.told.recv().await.unwrap_or(Told::Absent)
    }

    /// Asks for the program to be started. Blocking.
    pub(crate) fn start(&self, order: &StartOrder) -> io::Result<()> {
        self.keeper.send(&Order::Start(order.clone()))
    }

    /// Sends a signal to all of its process group, and again whenever the connection to its keeper is made anew. In the
    /// background; needs the runtime's context.
    pub(crate) fn signal(&self, signal: Signal) {
        let (keeper, attempt) = (Arc::clone(&self.keeper), self.attempt);
        let signal = signal.as_raw();
        keeper.remember(attempt, signal);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = keeper.send(&Order::Signal { attempt, signal }) {
                tracing::warn!(%attempt, signal, %error, "a signal could not be sent; it will be when the keeper is reached");
            }
        });
    }

    /// Name of its keeper.
    pub(crate) fn keeper(&self) -> &str {
        &self.keeper.name
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Closed first: another one may listen to the same attempt by now.
        self.told.close();
        self.keeper.forget(self.attempt);
    }
}

impl Keepers {
    /// Connects to all keepers that live. They are not heard before [`Keepers::listen`]. Needs the runtime's context.
    pub(crate) fn find(state: &Path, file: &Path, boots: u32) -> io::Result<Self> {
        let sockets = Arc::new(Sockets::open(&state.join(super::DIRECTORY))?);
        let found = sockets.connect_all()?.into_iter().map(|(name, stream)| {
            let connection = Arc::new(Connection::new(name, Arc::clone(&sockets)));
            (connection, stream)
        });
        let state = State {
            found: found.collect(),
            ..State::default()
        };
        Ok(Self {
            file: file.to_owned(),
            own: own_program(file)?,
            boots,
            runtime: tokio::runtime::Handle::current(),
            state: Mutex::new(state),
            sockets,
        })
    }

    /// Takes over an attempt that was handed to the keeper of this name, if that lives. Before [`Keepers::listen`].
    pub(crate) fn adopt(&self, keeper: &str, attempt: AttemptId) -> Option<Kept> {
        let state = self.lock();
        let (connection, _) = state
            .found
            .iter()
            .find(|(connection, _)| connection.name == keeper)?;
        Some(Kept {
            attempt,
            told: connection.listen_to(attempt, true),
            keeper: Arc::clone(connection),
        })
    }

    /// Begins to hear the keepers that were found; what runs there and was not adopted is ended.
    pub(crate) fn listen(&self) {
        let mut state = self.lock();
        for (connection, stream) in std::mem::take(&mut state.found) {
            let hearing = self
                .runtime
                .spawn(Arc::clone(&connection).listen(stream))
                .abort_handle();
            state.all.push((connection, hearing));
        }
    }

    /// The keeper that starts new tasks, for this one; makes one if there is none. Blocking.
    pub(crate) fn take(&self, attempt: AttemptId) -> io::Result<Kept> {
        let keeper = self.current()?;
        Ok(Kept {
            attempt,
            told: keeper.listen_to(attempt, false),
            keeper,
        })
    }

    /// Makes sure that there is a keeper for new tasks. Blocking.
    pub(crate) fn ready(&self) -> io::Result<()> {
        self.current().map(drop)
    }

    fn current(&self) -> io::Result<Arc<Connection>> {
        let mut state = self.lock();
        if state.closed {
            return Err(io::Error::other("the worker is ending"));
        }
        if let Some(current) = state.current.as_ref().filter(|it| !it.is_closed()) {
            return Ok(Arc::clone(current));
        }
        state.all.retain(|(connection, _)| !connection.is_closed());
        let ours = |connection: &Connection| connection.program(HELLO_OF_FOUND) == Some(self.own);
        let found = state.all.iter().find(|(connection, _)| ours(connection));
        let keeper = match found {
            Some((connection, _)) => Arc::clone(connection),
            None => self.start(&mut state)?,
        };
        for (other, _) in &state.all {
            if !Arc::ptr_eq(other, &keeper) {
                other.retire();
            }
        }
        state.current = Some(Arc::clone(&keeper));
        Ok(keeper)
    }

    fn start(&self, state: &mut State) -> io::Result<Arc<Connection>> {
        state.started += 1;
        let (name, stream) = self
            .sockets
            .start(&self.file, (self.boots, state.started))?;
        let connection = Arc::new(Connection::new(name, Arc::clone(&self.sockets)));
        let hearing = self.runtime.spawn(Arc::clone(&connection).listen(stream));
        state
            .all
            .push((Arc::clone(&connection), hearing.abort_handle()));
        if connection.program(HELLO).is_none() {
            connection.close();
            return Err(io::Error::other("it does not answer"));
        }
        Ok(connection)
    }

    /// Ends the connections of an agent that ends on purpose: keepers without tasks end at once, the others with their
    /// last task. Blocking.
    pub(crate) fn leave(&self) {
        let mut state = self.lock();
        state.closed = true;
        for (connection, hearing) in state.all.drain(..) {
            connection.leave();
            hearing.abort();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is guarded is never left half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Keepers {
    fn drop(&mut self) {
        let mut state = self.lock();
        for (connection, hearing) in state.all.drain(..) {
            hearing.abort();
            connection.close();
        }
    }
}
