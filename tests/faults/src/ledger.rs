//! The files that tasks append their ids to: what really happened, whatever scitq believes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::{Instant, sleep};

/// How long nothing may happen in a file that is waited for.
const PATIENCE: Duration = Duration::from_mins(2);
/// Tasks write it, and tell nobody.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// One file of ids, a line each.
#[derive(Clone, Debug)]
pub(crate) struct Ledger(PathBuf);

impl Ledger {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.0
    }

    /// The ids so far, in the order in which they came.
    pub(crate) fn ids(&self) -> anyhow::Result<Vec<i64>> {
        // Before the first task there is no file.
        let text = std::fs::read(&self.0).unwrap_or_default();
        let lines = text
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        lines
            .map(|line| {
                let line = std::str::from_utf8(line).ok();
                let id = line.and_then(|line| line.parse().ok());
                id.with_context(|| format!("{line:?} in {} is no id", self.0.display()))
            })
            .collect()
    }

    /// How many ids there are.
    pub(crate) fn len(&self) -> usize {
        let text = std::fs::read(&self.0).unwrap_or_default();
        text.split(|byte| *byte == b'\n').count().saturating_sub(1)
    }

    /// Waits until there are so many. An error when nothing comes for long.
    pub(crate) async fn wait_for(&self, ids: usize) -> anyhow::Result<()> {
        let mut seen = self.len();
        let mut since = Instant::now();
        while seen < ids {
            sleep(LOOK_EVERY).await;
            let now = self.len();
            if now > seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() > PATIENCE {
                bail!(
                    "after {seen} of {ids} tasks nothing starts for {} s",
                    PATIENCE.as_secs()
                );
            }
        }
        Ok(())
    }
}
