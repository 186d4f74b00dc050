//! What a program says, over its restarts.

use std::fs::File;
use std::io::{BufRead as _, BufReader, PipeReader, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::time::timeout;

/// Lines of a program's log, in a file and in memory. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Journal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: Mutex<File>,
    lines: Mutex<Vec<String>>,
    /// How many there are.
    count: watch::Sender<usize>,
}

impl Journal {
    pub(crate) fn new(path: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(Arc::new(Inner {
            file: Mutex::new(file),
            lines: Mutex::default(),
            count: watch::Sender::new(0),
        })))
    }

    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads until all who write have closed it.
    pub(crate) fn read(&self, reader: PipeReader) {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let mut file = self.0.file.lock().unwrap_or_else(PoisonError::into_inner);
            // A log that cannot be written must not hold up the program.
            let _ = writeln!(file, "{line}");
            drop(file);
            self.lines().push(line);
            self.0.count.send_modify(|count| *count += 1);
        }
    }

    /// How many lines there are.
    pub(crate) fn len(&self) -> usize {
        *self.0.count.borrow()
    }

    /// The newest number that stands behind a text.
    pub(crate) fn newest_number(&self, before: &str) -> Option<u64> {
        self.lines().iter().rev().find_map(|line| {
            let (_, rest) = line.split_once(before)?;
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        })
    }

    /// Waits for a line that contains all these texts, not looking at the first `seen` ones.
    pub(crate) async fn wait_for(
        &self,
        seen: usize,
        texts: &[&str],
        patience: Duration,
    ) -> anyhow::Result<String> {
        let mut count = self.0.count.subscribe();
        let find = || {
            let lines = self.lines();
            let unseen = lines.get(seen..).unwrap_or_default();
            let mut found = unseen
                .iter()
                .filter(|line| texts.iter().all(|text| line.contains(text)));
            found.next().cloned()
        };
        let waited = timeout(patience, count.wait_for(|_| find().is_some())).await;
        // The sender lives as long as this value.
        let _ = waited.with_context(|| {
            format!(
                "the log never says {texts:?} within {} s",
                patience.as_secs()
            )
        })?;
        find().context("a line that was found is gone")
    }
}
