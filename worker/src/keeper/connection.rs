//! The agent's connection to one keeper.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use scitq_shared::ids::AttemptId;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

use super::frame::{FrameError, FrameReader};
use super::message::{NotStarted, Order, Program, Word};
use super::start::Sockets;
use crate::attempt::journal::ProcessEnd;

/// Words about one attempt that may wait: more are not said.
const MOST_WORDS: usize = 4;
/// How long an order waits for a connection that is being made anew.
const PATIENCE: Duration = Duration::from_secs(10);

/// Before a connection that ended is made anew, so that one that ends at once does not keep a processor busy.
const PAUSE: Duration = Duration::from_millis(50);

/// What is told about one attempt.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    /// Its program runs.
    Started { pid: u64 },
    /// Its program was not started.
    NotStarted(NotStarted),
    /// Its process has ended.
    Ended(ProcessEnd),
    /// The keeper does not have it, or is gone. Its journal says what became of it.
    Absent,
}

/// A keeper that the agent speaks with.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) name: String,
    sockets: Arc<Sockets>,
    state: Mutex<State>,
    changed: Condvar,
    /// Held by who writes: frames of two senders must not mix. Never waited for by anybody that holds the state.
    writing: Mutex<()>,
}

#[derive(Debug)]
struct State {
    way: Way,
    /// Nothing new is started there: it is left when nothing of it is listened to any more.
    retiring: bool,
    /// It has said hello to this agent: what runs there and is not listened to by then was left by another one.
    greeted: bool,
    listeners: HashMap<AttemptId, Listener>,
}

/// The way to the keeper.
#[derive(Debug)]
enum Way {
    /// Connected, but the keeper has not said hello: nothing is asked of it before.
    Pending,
    Open {
        stream: Arc<UnixStream>,
        program: Program,
    },
    /// The keeper, or the agent, is gone.
    Closed,
}

#[derive(Debug)]
struct Listener {
    tell: mpsc::Sender<Told>,
    /// True when the keeper knows of the attempt, or was asked to start it.
    handed_over: bool,
    /// The signal that it was sent last, SIGKILL for good.
    signal: Option<i32>,
}

impl Connection {
    pub(super) fn new(name: String, sockets: Arc<Sockets>) -> Self {
        let state = State {
            way: Way::Pending,
            retiring: false,
            greeted: false,
            listeners: HashMap::new(),
        };
        Self {
            name,
            sockets,
            state: Mutex::new(state),
            changed: Condvar::new(),
            writing: Mutex::default(),
        }
    }

    /// Waits until the keeper has said hello, for so long. None when it has not, or is gone. Blocking.
    pub(super) fn program(&self, patience: Duration) -> Option<Program> {
        match &self.settled(patience).way {
            Way::Open { program, .. } => Some(*program),
            Way::Pending | Way::Closed => None,
        }
    }

    /// True when nothing can be asked of it any more.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.lock().way, Way::Closed)
    }

    /// Listens to what is told about an attempt, until its end is.
    pub(super) fn listen_to(&self, attempt: AttemptId, handed_over: bool) -> mpsc::Receiver<Told> {
        let (tell, told) = mpsc::channel(MOST_WORDS);
        let mut state = self.lock();
        if matches!(state.way, Way::Closed) {
            // The channel is new: there is room.
            let _ = tell.try_send(Told::Absent);
        } else {
            let listener = Listener {
                tell,
                handed_over,
                signal: None,
            };
            state.listeners.insert(attempt, listener);
        }
        told
    }

    /// Forgets whoever does not listen to an attempt any more.
    pub(super) fn forget(&self, attempt: AttemptId) {
        let mut state = self.lock();
        let deaf = |listener: &Listener| listener.tell.is_closed();
        if state.listeners.get(&attempt).is_some_and(deaf) {
            state.listeners.remove(&attempt);
        }
    }

    /// A signal is sent to an attempt: to be said again should the keeper not hear it.
    pub(super) fn remember(&self, attempt: AttemptId, signal: i32) {
        let mut state = self.lock();
        if let Some(listener) = state.listeners.get_mut(&attempt)
            && listener.signal != Some(libc::SIGKILL)
        {
            listener.signal = Some(signal);
        }
    }

    /// Sends an order; one that is about an attempt hands it over. Blocking, but only as long as the keeper does not
    /// read.
    pub(super) fn send(&self, order: &Order) -> io::Result<()> {
        let mut frame = Vec::new();
        order
            .write(&mut frame)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let mut state = self.settled(PATIENCE);
        let stream = match &state.way {
            Way::Open { stream, .. } => Arc::clone(stream),
            Way::Pending => return Err(io::ErrorKind::TimedOut.into()),
            Way::Closed => return Err(io::ErrorKind::NotConnected.into()),
        };
        if let Order::Start(order) = order
            && let Some(listener) = state.listeners.get_mut(&order.attempt)
        {
            listener.handed_over = true;
        }
        drop(state);
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = write_all(&stream, &frame, PATIENCE);
        drop(writing);
        if sent.is_err() {
            // Half a frame may be on its way, which nobody obeys: whoever reads finds the end, and connects anew.
            let _ = stream.shutdown(std::net::Shutdown::Both);
            let mut state = self.lock();
            if matches!(&state.way, Way::Open { stream: broken, .. } if Arc::ptr_eq(broken, &stream))
            {
                state.way = Way::Pending;
            }
        }
        sent
    }

    /// Writes a few bytes without waiting; hangs up where that is not possible. With the state held.
    fn write_at_once(&self, stream: &UnixStream, order: &Order) {
        let mut frame = Vec::new();
        let written = order.write(&mut frame).is_ok()
            && self
                .writing
                .try_lock()
                .is_ok_and(|_writing| write_all(stream, &frame, Duration::ZERO).is_ok());
        if !written {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Says that the agent ends on purpose, and hangs up. Blocking.
    pub(super) fn leave(&self) {
        if matches!(self.lock().way, Way::Open { .. }) {
            // A keeper that does not listen ends by itself.
            let _ = self.send(&Order::Leave);
        }
        self.close();
    }

    /// Starts nothing new there, and leaves the keeper when the last task there has ended.
    pub(super) fn retire(&self) {
        let mut state = self.lock();
        state.retiring = true;
        self.leave_if_done(&mut state);
    }

    fn leave_if_done(&self, state: &mut State) {
        let done = state.retiring && state.listeners.is_empty();
        if let Way::Open { stream, .. } = &state.way
            && done
        {
            // If it does not hear that, it ends by itself when it is alone.
            self.write_at_once(stream, &Order::Leave);
            let _ = stream.shutdown(std::net::Shutdown::Both);
            state.way = Way::Closed;
            self.changed.notify_all();
        }
    }

    /// Hears the keeper until it is gone for good, or this is aborted.
    pub(super) async fn listen(self: Arc<Self>, stream: UnixStream) {
        let mut stream = stream;
        loop {
            if let Err(error) = self.hear(stream).await {
                tracing::debug!(keeper = self.name, %error, "the connection to a keeper ended");
            }
            {
                let mut state = self.lock();
                if matches!(state.way, Way::Closed) {
                    return;
                }
                state.way = Way::Pending;
            }
            match self.connect_again().await {
                Some(again) => stream = again,
                None => break,
            }
        }
        self.lost();
    }

    /// Connects anew; none when the keeper is gone.
    async fn connect_again(&self) -> Option<UnixStream> {
        let mut told = false;
        loop {
            tokio::time::sleep(if told { PAUSE * 10 } else { PAUSE }).await;
            if self.is_closed() {
                return None;
            }
            let (sockets, name) = (Arc::clone(&self.sockets), self.name.clone());
            let connected = tokio::task::spawn_blocking(move || sockets.connect(&name)).await;
            let error = match connected {
                Ok(Ok(stream)) => return Some(stream),
                Ok(Err(error)) => error,
                Err(defect) => io::Error::other(defect),
            };
            let gone = [io::ErrorKind::ConnectionRefused, io::ErrorKind::NotFound];
            if gone.contains(&error.kind()) {
                return None;
            }
            // For want of descriptors, perhaps: its tasks run on.
            if !told {
                tracing::warn!(keeper = self.name, %error, "a keeper of tasks cannot be reached; tried until it can");
                told = true;
            }
        }
    }

    /// Hears what is said on one connection, until it ends.
    async fn hear(&self, stream: UnixStream) -> io::Result<()> {
        let writer = Arc::new(stream.try_clone()?);
        let mut stream = tokio::net::UnixStream::from_std(stream)?;
        let mut reader = FrameReader::default();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = stream.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            reader.push(&buffer[..length]);
            let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            while let Some(fields) = reader.next().map_err(invalid)? {
                match Word::read(fields) {
                    Ok(word) => self.heard(word, &writer),
                    // Of a newer keeper.
                    Err(FrameError::Kind(kind)) => {
                        tracing::debug!(keeper = self.name, kind, "passed over a word");
                    }
                    Err(error) => return Err(invalid(error)),
                }
            }
        }
    }

    fn heard(&self, word: Word, writer: &Arc<UnixStream>) {
        match word {
            Word::Hello { program, running } => self.begin(program, &running, writer),
            Word::Started { attempt, pid } => self.tell(attempt, Told::Started { pid }, false),
            Word::NotStarted { attempt, why } => self.tell(attempt, Told::NotStarted(why), true),
            Word::Ended { attempt, end } => self.tell(attempt, Told::Ended(end), true),
        }
    }

    /// The keeper has said hello: compares what runs there with what is listened to.
    fn begin(&self, program: Program, running: &[AttemptId], writer: &Arc<UnixStream>) {
        let mut state = self.lock();
        if matches!(state.way, Way::Closed) {
            return;
        }
        state.listeners.retain(|attempt, listener| {
            let absent = listener.handed_over && !running.contains(attempt);
            if absent {
                // Room enough: nothing but its start may have been said.
                let _ = listener.tell.try_send(Told::Absent);
            }
            !absent
        });
        let greeted = std::mem::replace(&mut state.greeted, true);
        let unknown = running
            .iter()
            .filter(|attempt| !greeted && !state.listeners.contains_key(attempt));
        let unknown: Vec<(AttemptId, i32)> = unknown.map(|it| (*it, libc::SIGKILL)).collect();
        let listeners = state.listeners.iter();
        let again = listeners.filter_map(|(attempt, it)| Some((*attempt, it.signal?)));
        let signals: Vec<(AttemptId, i32)> = unknown.iter().copied().chain(again).collect();
        state.way = Way::Open {
            stream: Arc::clone(writer),
            program,
        };
        self.changed.notify_all();
        for (attempt, _) in unknown {
            tracing::warn!(%attempt, "ends a process of an attempt that nothing is known of");
        }
        for (attempt, signal) in signals {
            // A few bytes each, on a new connection: they fit.
            self.write_at_once(writer, &Order::Signal { attempt, signal });
        }
        self.leave_if_done(&mut state);
    }

    fn tell(&self, attempt: AttemptId, told: Told, last: bool) {
        let mut state = self.lock();
        if let Some(listener) = state.listeners.get(&attempt) {
            // Room enough: at most a start and an end are said. One who does not listen any more does not need it.
            let _ = listener.tell.try_send(told);
        }
        if last {
            state.listeners.remove(&attempt);
            self.leave_if_done(&mut state);
        }
    }

    /// The agent ends, or has no use for the keeper. What it keeps goes on, so nobody is told that it is absent.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        if let Way::Open { stream, .. } = &state.way {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        state.way = Way::Closed;
        drop(state);
        self.changed.notify_all();
    }

    /// The keeper is gone: whoever listens is told so.
    fn lost(&self) {
        let mut state = self.lock();
        if matches!(state.way, Way::Closed) {
            return;
        }
        state.way = Way::Closed;
        for (_, listener) in state.listeners.drain() {
            let _ = listener.tell.try_send(Told::Absent);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The state once the way is open or closed, or so much time has passed.
    fn settled(&self, patience: Duration) -> MutexGuard<'_, State> {
        let pending = |state: &mut State| matches!(state.way, Way::Pending);
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), patience, pending);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is guarded is never left half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes everything to a stream that does not block, by waiting for room, for so long.
fn write_all(stream: &UnixStream, mut bytes: &[u8], patience: Duration) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    let mut stream = stream;
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                let descriptor = stream.as_fd();
                let mut watched = [PollFd::new(&descriptor, PollFlags::OUT)];
                let left = rustix::event::Timespec::try_from(left).ok();
                rustix::event::poll(&mut watched, left.as_ref())?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
