//! Captured output on its way to the server.
//!
//! Tasks write straight into files of the attempt's directory, so neither a full queue nor a dead agent ever stops
//! them. [`book`] decides what is to be sent, [`watch`] notices that running tasks have written something, and
//! [`sender`] publishes it on a connection of its own. What the broker refuses, or was not confirmed when a connection
//! broke, is read from the file and sent again.

mod book;
mod holes;
mod piece;
pub(crate) mod sender;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

use scitq_shared::ids::{AttemptId, TaskId};
use scitq_shared::output::Stream;

use self::book::Book;
pub(crate) use self::sender::Sender;
pub(crate) use self::watch::Watcher;
use crate::agent::core::OutputToSend;
use crate::attempt::directory;

/// Index of a stream in pairs: standard output, standard error.
const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

/// The output of all attempts of this worker. Cheap to clone; no call waits for the network.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    attempts: Arc<PathBuf>,
    book: Arc<Book>,
    watches: Arc<watch::Watches>,
    cap_bytes: u64,
}

impl Output {
    /// The output of attempts kept in that directory, and what has to run for it.
    pub(crate) fn new(attempts: PathBuf, cap_bytes: u64) -> std::io::Result<(Self, Watcher)> {
        let (watches, inotify) = watch::Watches::new()?;
        let output = Self {
            attempts: Arc::new(attempts),
            book: Arc::new(Book::new(cap_bytes)),
            watches: Arc::new(watches),
            cap_bytes,
        };
        let looking = Watcher::new(output.clone(), inotify);
        Ok((output, looking))
    }

    /// Sends the output of an attempt while it runs, as it comes.
    pub(crate) fn follow(&self, attempt: AttemptId, task: TaskId) {
        self.book.follow(attempt, task);
        self.watches
            .add(attempt, &directory::of(&self.attempts, attempt));
        self.look(attempt);
    }

    /// The task has ended with so many bytes in its files: no byte behind that is sent. Answers where the streams end,
    /// which is further only if the task cut its own file below what was sent already.
    pub(crate) fn close(&self, attempt: AttemptId, written: [u64; 2]) -> [u64; 2] {
        self.watches.remove(attempt);
        self.book.close(attempt, written)
    }

    /// Sends all that is kept of an ended attempt, from where the sender is or from where it is told. True when the
    /// broker has all of it already; otherwise [`Input::OutputSent`](crate::agent::core::Input) follows.
    pub(crate) fn send(&self, output: &OutputToSend) -> bool {
        self.book.send(output)
    }

    /// Nothing more of the attempt is to be sent; its files go.
    pub(crate) fn forget(&self, attempt: AttemptId) {
        self.watches.remove(attempt);
        self.book.forget(attempt);
    }

    /// Looks how long the streams of a running attempt are.
    fn look(&self, attempt: AttemptId) -> [u64; 2] {
        let directory = directory::of(&self.attempts, attempt);
        let written = STREAMS.map(|stream| directory::stream_bytes(&directory, stream));
        self.book.grown(attempt, written);
        written
    }
}
