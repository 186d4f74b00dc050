//! Which bytes of which stream are to be sent next. Decides only; reading and publishing are the sender's.
//!
//! Of one stream one piece is under way at a time, so the server receives it in order even when a full queue refuses
//! some; many streams are under way side by side, together at most [`MOST_BYTES`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use scitq_shared::ids::{AttemptId, TaskId};
use scitq_shared::output::{MAX_CHUNK_BYTES, StreamEnd};
use tokio::sync::Notify;

use crate::agent::core::OutputToSend;

/// Bytes of output under way at once.
const MOST_BYTES: u64 = 2 * 1024 * 1024;
/// Pieces under way at once: small ones cost memory too.
const MOST_PIECES: usize = 512;

/// What is known about the output of all attempts that have some to send.
#[derive(Debug)]
pub(super) struct Book {
    cap_bytes: u64,
    pages: Mutex<Pages>,
    something_to_send: Notify,
}

#[derive(Debug, Default)]
struct Pages {
    attempts: BTreeMap<AttemptId, Page>,
    ready: VecDeque<(AttemptId, usize)>,
    bytes_under_way: u64,
    pieces_under_way: usize,
    passes: u64,
}

#[derive(Debug)]
struct Page {
    task: TaskId,
    streams: [Progress; 2],
}

#[derive(Debug, Default)]
struct Progress {
    /// First byte that the broker does not have for certain.
    next: u64,
    /// Length of the piece that begins there and is under way.
    under_way: Option<u64>,
    /// Bytes that are known to be in the file.
    written: u64,
    /// True when the task has ended: nothing behind `written` counts.
    closed: bool,
    /// Where the stream ended, once all of it is to be sent.
    end: Option<StreamEnd>,
    queued: bool,
    /// Rises when sending begins anew: what is under way from before says nothing any more.
    pass: u64,
}

/// A piece to be read and published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) attempt: AttemptId,
    pub(super) task: TaskId,
    /// 0 for standard output, 1 for standard error.
    pub(super) stream: usize,
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pass: u64,
}

impl Progress {
    /// The next piece of it, if there is something to send.
    fn piece(&self, cap_bytes: u64) -> Option<(u64, u64)> {
        let (offset, limit) = match self.end {
            None => (self.next, self.written.min(cap_bytes)),
            Some(StreamEnd { length, cut: None }) => (self.next, length),
            Some(StreamEnd { cut: Some(cut), .. }) if self.next < cut.from => (self.next, cut.from),
            Some(StreamEnd {
                length,
                cut: Some(cut),
            }) => (self.next.max(cut.to), length),
        };
        let bytes = limit.saturating_sub(offset).min(MAX_CHUNK_BYTES as u64);
        (bytes > 0).then_some((offset, bytes))
    }

    fn is_done(&self, cap_bytes: u64) -> bool {
        self.end.is_some() && self.under_way.is_none() && self.piece(cap_bytes).is_none()
    }
}

impl Book {
    pub(super) fn new(cap_bytes: u64) -> Self {
        Self {
            cap_bytes,
            pages: Mutex::default(),
            something_to_send: Notify::new(),
        }
    }

    /// Opens the page of a running attempt.
    pub(super) fn follow(&self, attempt: AttemptId, task: TaskId) {
        self.lock().attempts.entry(attempt).or_insert_with(|| Page {
            task,
            streams: Default::default(),
        });
    }

    /// A running attempt has written so much.
    pub(super) fn grown(&self, attempt: AttemptId, written: [u64; 2]) {
        let mut pages = self.lock();
        let Some(page) = pages.attempts.get_mut(&attempt) else {
            return;
        };
        for (progress, written) in page.streams.iter_mut().zip(written) {
            if !progress.closed {
                progress.written = progress.written.max(written);
            }
        }
        self.queue(&mut pages, attempt);
    }

    /// See [`super::Output::close`].
    pub(super) fn close(&self, attempt: AttemptId, written: [u64; 2]) -> [u64; 2] {
        let mut pages = self.lock();
        let Some(page) = pages.attempts.get_mut(&attempt) else {
            return written;
        };
        let mut ends = written;
        for (progress, end) in page.streams.iter_mut().zip(&mut ends) {
            *end = (*end).max(progress.next + progress.under_way.unwrap_or(0));
            progress.written = *end;
            progress.closed = true;
        }
        ends
    }

    /// See [`super::Output::send`].
    pub(super) fn send(&self, output: &OutputToSend) -> bool {
        let mut pages = self.lock();
        pages.passes += 1;
        let pass = pages.passes;
        let new = || Page {
            task: output.task,
            streams: Default::default(),
        };
        let page = pages.attempts.entry(output.attempt).or_insert_with(new);
        for (progress, (end, from)) in page.streams.iter_mut().zip([output.stdout, output.stderr]) {
            progress.written = end.length;
            progress.closed = true;
            progress.end = Some(end);
            if let Some(from) = from {
                progress.next = from;
                progress.pass = pass;
            }
        }
        self.queue(&mut pages, output.attempt);
        drop(pages);
        self.finish(output.attempt)
    }

    pub(super) fn forget(&self, attempt: AttemptId) {
        self.lock().attempts.remove(&attempt);
    }

    /// Takes the next piece, unless enough is under way.
    pub(super) fn next_piece(&self) -> Option<Piece> {
        let mut pages = self.lock();
        loop {
            if pages.pieces_under_way >= MOST_PIECES || pages.bytes_under_way >= MOST_BYTES {
                return None;
            }
            let (attempt, stream) = pages.ready.pop_front()?;
            let Some(page) = pages.attempts.get_mut(&attempt) else {
                continue;
            };
            let task = page.task;
            let progress = &mut page.streams[stream];
            progress.queued = false;
            let Some((offset, bytes)) = progress
                .piece(self.cap_bytes)
                .filter(|_| progress.under_way.is_none())
            else {
                continue;
            };
            progress.next = offset;
            progress.under_way = Some(bytes);
            let pass = progress.pass;
            pages.bytes_under_way += bytes;
            pages.pieces_under_way += 1;
            return Some(Piece {
                attempt,
                task,
                stream,
                offset,
                bytes,
                pass,
            });
        }
    }

    /// What became of a piece.
    pub(super) fn settle(&self, piece: &Piece, stored: bool) {
        let mut pages = self.lock();
        pages.bytes_under_way -= piece.bytes;
        pages.pieces_under_way -= 1;
        let Some(page) = pages.attempts.get_mut(&piece.attempt) else {
            return;
        };
        let progress = &mut page.streams[piece.stream];
        progress.under_way = None;
        if stored && progress.pass == piece.pass {
            progress.next = piece.offset + piece.bytes;
        }
        self.queue(&mut pages, piece.attempt);
    }

    /// True when the broker has all the kept output of an ended attempt; then its page is closed.
    pub(super) fn finish(&self, attempt: AttemptId) -> bool {
        let mut pages = self.lock();
        let done = |page: &Page| {
            page.streams
                .iter()
                .all(|progress| progress.is_done(self.cap_bytes))
        };
        if pages.attempts.get(&attempt).is_some_and(done) {
            pages.attempts.remove(&attempt);
            return true;
        }
        false
    }

    /// Completes when there may be something to send. For one waiter.
    pub(super) async fn something_to_send(&self) {
        self.something_to_send.notified().await;
    }

    fn queue(&self, pages: &mut Pages, attempt: AttemptId) {
        let Some(page) = pages.attempts.get_mut(&attempt) else {
            return;
        };
        for (stream, progress) in page.streams.iter_mut().enumerate() {
            if !progress.queued
                && progress.under_way.is_none()
                && progress.piece(self.cap_bytes).is_some()
            {
                progress.queued = true;
                pages.ready.push_back((attempt, stream));
                self.something_to_send.notify_one();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        // A panic in here would be a defect; sending again is harmless.
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TASK: TaskId = TaskId(1);

    fn to_send(attempt: AttemptId, length: u64, cap: u64, from: Option<u64>) -> OutputToSend {
        let none = (StreamEnd::default(), Some(0));
        OutputToSend {
            attempt,
            task: TASK,
            stdout: (StreamEnd::of(length, cap), from),
            stderr: none,
        }
    }

    /// Takes and confirms pieces until there are none; the ranges taken.
    fn drain(book: &Book) -> Vec<(u64, u64)> {
        let pieces = std::iter::from_fn(|| {
            let piece = book.next_piece()?;
            book.settle(&piece, true);
            Some((piece.offset, piece.offset + piece.bytes))
        });
        pieces.collect()
    }

    #[test]
    fn running_tasks_send_their_head_and_ended_ones_their_tail() {
        let book = Book::new(1000);
        let attempt = AttemptId::generate();
        book.grown(attempt, [5, 0]);
        assert_eq!(book.next_piece(), None, "not followed");
        book.follow(attempt, TASK);
        book.grown(attempt, [100, 0]);
        assert_eq!(drain(&book), [(0, 100)]);
        book.grown(attempt, [10_000, 0]);
        assert_eq!(drain(&book), [(100, 1000)]);
        assert_eq!(book.close(attempt, [20_000, 0]), [20_000, 0]);
        assert!(!book.finish(attempt));
        let _ = book.send(&to_send(attempt, 20_000, 1000, None));
        assert_eq!(drain(&book), [(19_875, 20_000)]);
        assert!(book.finish(attempt) && book.lock().attempts.is_empty());
    }

    #[test]
    fn refused_pieces_are_sent_again_and_a_stream_stays_in_order() {
        let book = Book::new(u64::MAX);
        let attempt = AttemptId::generate();
        let _ = book.send(&to_send(attempt, 600_000, u64::MAX, None));
        let first = book.next_piece().unwrap();
        assert_eq!((first.offset, first.bytes), (0, 262_144));
        assert_eq!(book.next_piece(), None, "one at a time");
        book.settle(&first, false);
        assert_eq!(
            drain(&book),
            [(0, 262_144), (262_144, 524_288), (524_288, 600_000)]
        );
        // Asked for again while nothing is under way, and while something is.
        let _ = book.send(&to_send(attempt, 600_000, u64::MAX, Some(590_000)));
        let again = book.next_piece().unwrap();
        let _ = book.send(&to_send(attempt, 600_000, u64::MAX, Some(580_000)));
        book.settle(&again, true);
        assert_eq!(drain(&book), [(580_000, 600_000)]);
        assert!(book.finish(attempt));
    }

    #[test]
    fn a_file_that_shrank_does_not_end_before_what_was_sent() {
        let book = Book::new(u64::MAX);
        let attempt = AttemptId::generate();
        book.follow(attempt, TASK);
        book.grown(attempt, [100, 7]);
        let piece = book.next_piece().unwrap();
        assert_eq!(book.close(attempt, [10, 9]), [100, 9]);
        book.grown(attempt, [1000, 1000]);
        book.settle(&piece, true);
        assert_eq!(drain(&book), [(0, 9)]);
    }

    #[test]
    fn what_is_under_way_is_bounded() {
        let book = Book::new(u64::MAX);
        for _ in 0..50 {
            let _ = book.send(&to_send(AttemptId::generate(), 1 << 30, u64::MAX, None));
        }
        let taken: Vec<Piece> = std::iter::from_fn(|| book.next_piece()).collect();
        assert_eq!(
            taken.iter().map(|piece| piece.bytes).sum::<u64>(),
            MOST_BYTES
        );
        book.settle(&taken[0], true);
        assert!(book.next_piece().is_some());
    }

    proptest! {
        #[test]
        fn every_kept_byte_is_sent_once_whatever_is_refused(
            length in 0u64..3_000_000, cap in 0u64..2_000_000, grown in 0u64..3_000_000, refused in any::<u64>()
        ) {
            let book = Book::new(cap);
            let attempt = AttemptId::generate();
            book.follow(attempt, TASK);
            book.grown(attempt, [grown.min(length), 0]);
            let mut stored = Vec::new();
            let mut rounds = 0u32;
            let mut step = |book: &Book| {
                while let Some(piece) = book.next_piece() {
                    rounds += 1;
                    let ok = rounds > 64 || refused >> (rounds % 64) & 1 == 0;
                    if ok { stored.push((piece.offset, piece.offset + piece.bytes)); }
                    book.settle(&piece, ok);
                }
            };
            step(&book);
            book.close(attempt, [length, 0]);
            let done = book.send(&to_send(attempt, length, cap, None));
            step(&book);
            prop_assert!(done != book.finish(attempt), "done once");
            let end = StreamEnd::of(length, cap);
            prop_assert_eq!(stored.iter().map(|(from, to)| to - from).sum::<u64>(), end.kept());
            prop_assert!(stored.windows(2).all(|pair| pair[0].1 <= pair[1].0), "in order");
        }
    }
}
