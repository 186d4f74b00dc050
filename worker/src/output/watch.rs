//! Noticing that running tasks have written something, without asking them again and again.
//!
//! A watch on the attempt's directory fires once; what was written within [`COALESCE`] after that is looked at together,
//! and the watch is set again before looking, so nothing is missed. A silent task costs nothing, a task that writes all
//! the time a few system calls per [`COALESCE`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use scitq_shared::ids::AttemptId;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Output, STREAMS, holes};
use crate::attempt::directory;

/// How long after the first byte the rest is waited for.
const COALESCE: Duration = Duration::from_millis(100);
/// How often attempts are looked at that the system does not let us watch.
const UNWATCHED: Duration = Duration::from_millis(500);

/// The watches that are set.
#[derive(Debug)]
pub(super) struct Watches {
    inotify: Mutex<inotify::Watches>,
    set: Mutex<Set>,
    unwatched: Notify,
}

#[derive(Debug, Default)]
struct Set {
    by_descriptor: HashMap<i32, AttemptId>,
    by_attempt: BTreeMap<AttemptId, Watch>,
}

#[derive(Debug, Default)]
struct Watch {
    /// None when it has fired, or could not be set.
    descriptor: Option<WatchDescriptor>,
    unwatched: bool,
    /// Up to where space was given back.
    holes: [u64; 2],
}

impl Watches {
    pub(super) fn new() -> std::io::Result<(Self, Inotify)> {
        let inotify = Inotify::init()?;
        let watches = Self {
            inotify: Mutex::new(inotify.watches()),
            set: Mutex::default(),
            unwatched: Notify::new(),
        };
        Ok((watches, inotify))
    }

    /// Watches an attempt's directory for the next write into one of its files.
    pub(super) fn add(&self, attempt: AttemptId, directory: &Path) {
        let mut set = lock(&self.set);
        set.by_attempt.entry(attempt).or_default();
        self.arm(&mut set, attempt, directory);
    }

    /// Sets the watch again, if the attempt is still to be watched.
    fn again(&self, attempt: AttemptId, directory: &Path) -> bool {
        let mut set = lock(&self.set);
        let known = set.by_attempt.contains_key(&attempt);
        if known {
            self.arm(&mut set, attempt, directory);
        }
        known
    }

    fn arm(&self, set: &mut Set, attempt: AttemptId, directory: &Path) {
        let Some(watch) = set.by_attempt.get_mut(&attempt) else {
            return;
        };
        match lock(&self.inotify).add(
            directory,
            WatchMask::MODIFY | WatchMask::ONESHOT | WatchMask::ONLYDIR,
        ) {
            Ok(descriptor) => {
                set.by_descriptor
                    .insert(descriptor.get_watch_descriptor_id(), attempt);
                watch.descriptor = Some(descriptor);
                watch.unwatched = false;
            }
            Err(error) => {
                if !watch.unwatched {
                    tracing::warn!(%attempt, %error, "cannot watch a directory, looks at it twice a second instead; \
                         see fs.inotify.max_user_watches");
                }
                watch.unwatched = true;
                self.unwatched.notify_one();
            }
        }
    }

    pub(super) fn remove(&self, attempt: AttemptId) {
        let mut set = lock(&self.set);
        if let Some(descriptor) = set
            .by_attempt
            .remove(&attempt)
            .and_then(|watch| watch.descriptor)
        {
            set.by_descriptor
                .remove(&descriptor.get_watch_descriptor_id());
            // It may have fired in this moment.
            let _ = lock(&self.inotify).remove(descriptor);
        }
    }

    /// The attempt whose watch has fired.
    fn fired(&self, descriptor: &WatchDescriptor) -> Option<AttemptId> {
        let mut set = lock(&self.set);
        let attempt = set
            .by_descriptor
            .remove(&descriptor.get_watch_descriptor_id())?;
        if let Some(watch) = set.by_attempt.get_mut(&attempt) {
            watch.descriptor = None;
        }
        Some(attempt)
    }

    fn all(&self) -> Vec<AttemptId> {
        lock(&self.set).by_attempt.keys().copied().collect()
    }

    fn without_watch(&self) -> Vec<AttemptId> {
        lock(&self.set)
            .by_attempt
            .iter()
            .filter(|(_, watch)| watch.unwatched)
            .map(|(attempt, _)| *attempt)
            .collect()
    }

    /// What to give back of streams of these lengths; counted as done.
    fn holes(
        &self,
        attempt: AttemptId,
        written: [u64; 2],
        cap_bytes: u64,
    ) -> [Option<(u64, u64)>; 2] {
        let mut set = lock(&self.set);
        let Some(watch) = set.by_attempt.get_mut(&attempt) else {
            return [None; 2];
        };
        let mut found = [None; 2];
        for (stream, hole) in found.iter_mut().enumerate() {
            *hole = holes::hole(written[stream], cap_bytes, watch.holes[stream]);
            if let Some((_, to)) = hole {
                watch.holes[stream] = *to;
            }
        }
        found
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is never left half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs beside the agent and looks at attempts whose watch has fired.
pub(crate) struct Watcher {
    output: Output,
    inotify: Inotify,
}

impl Watcher {
    pub(super) fn new(output: Output, inotify: Inotify) -> Self {
        Self { output, inotify }
    }

    /// Runs until it is dropped. An error means that nothing is noticed any more until tasks end.
    pub(crate) async fn run(self) -> std::io::Result<()> {
        let Self { output, inotify } = self;
        #[expect(unsafe_code, reason = "tokio asks for a promise about the descriptor")]
        // SAFETY: Inotify keeps one descriptor open for as long as it lives.
        let mut inotify =
            unsafe { AsyncFd::register_with_interest(inotify, tokio::io::Interest::READABLE) }?;
        let mut buffer = vec![0; 16 * 1024];
        let mut due: BTreeSet<AttemptId> = BTreeSet::new();
        let mut look_at: Option<Instant> = None;
        loop {
            tokio::select! {
                ready = inotify.readable_mut() => {
                    let mut ready = ready?;
                    match ready.try_io(|inotify| inotify.get_mut().read_events(&mut buffer).map(|events| {
                        take_in(&output.watches, events, &mut due);
                    })) {
                        Ok(read) => read?,
                        Err(_would_block) => continue,
                    }
                    if !due.is_empty() {
                        look_at.get_or_insert_with(|| Instant::now() + COALESCE);
                    }
                }
                () = output.watches.unwatched.notified() => {
                    due.extend(output.watches.without_watch());
                    look_at.get_or_insert_with(|| Instant::now() + UNWATCHED);
                }
                () = async { tokio::time::sleep_until(look_at.unwrap_or_else(Instant::now)).await }, if look_at.is_some() => {
                    look_at = None;
                    for attempt in std::mem::take(&mut due) {
                        look(&output, attempt).await;
                    }
                }
            }
        }
    }
}

fn take_in(watches: &Watches, events: inotify::Events<'_>, due: &mut BTreeSet<AttemptId>) {
    for event in events {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            due.extend(watches.all());
        } else if event.mask.contains(EventMask::MODIFY) {
            due.extend(watches.fired(&event.wd));
        }
    }
}

async fn look(output: &Output, attempt: AttemptId) {
    let directory = directory::of(&output.attempts, attempt);
    if !output.watches.again(attempt, &directory) {
        return;
    }
    let written = output.look(attempt);
    let holes = output.watches.holes(attempt, written, output.cap_bytes);
    for (stream, hole) in STREAMS.into_iter().zip(holes) {
        let Some(hole) = hole else { continue };
        let file = directory::stream_file(&directory, stream);
        let punched = tokio::task::spawn_blocking(move || holes::punch(&file, hole)).await;
        // Where the file system cannot do it, the space is used until the attempt is applied.
        if let Ok(Err(error)) = punched {
            tracing::debug!(%attempt, %error, "the space of cut output could not be given back");
        }
    }
}
