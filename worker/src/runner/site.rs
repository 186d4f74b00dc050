//! Where attempts are executed: what all of them share.

use scitq_shared::ids::AttemptId;
use scitq_shared::names::WorkerName;
use tokio_util::task::TaskTracker;

use super::Clearing;
use super::environment::Base;
use super::leftovers::Leftovers;
use super::work_directory::WorkDirectories;
use crate::attempt::directory::AttemptDirectories;
use crate::keeper::Keepers;
use crate::output::Output;

/// What every execution on this worker needs.
pub(crate) struct Site {
    pub(crate) worker: WorkerName,
    /// Where attempts are kept.
    pub(crate) attempts: AttemptDirectories,
    pub(crate) work: WorkDirectories,
    /// What the processes run under.
    pub(crate) keepers: Keepers,
    pub(crate) output: Output,
    pub(crate) base: Base,
    pub(crate) cores: u32,
    pub(crate) boot_id: String,
    pub(crate) clearing: Clearing,
    /// Ends what keepers that were killed have left.
    pub(crate) leftovers: Leftovers,
    /// Removals of directories under way: done beside everything else, and waited for at the end.
    pub(crate) removals: TaskTracker,
}

impl Site {
    /// Removes the directories of attempts of which nothing is needed any more. Blocking.
    pub(crate) fn discard(&self, attempts: &[AttemptId]) {
        for attempt in attempts {
            if self.clearing.discard(*attempt) {
                self.forget(*attempt);
            }
        }
    }

    /// Removes the work directory of an attempt that is over, or keeps it for another one. Blocking.
    pub(crate) fn clear(&self, attempt: AttemptId, reusable: bool) {
        self.put_away(attempt, reusable);
        if self.clearing.done(attempt) {
            self.forget(attempt);
        }
    }

    /// The same for one that never was with a keeper.
    pub(crate) fn put_away(&self, attempt: AttemptId, reusable: bool) {
        let work = self.work.path(attempt);
        if reusable {
            self.work.give_back(&work);
        } else {
            WorkDirectories::remove(&work);
        }
    }

    fn forget(&self, attempt: AttemptId) {
        if let Err(error) = self.attempts.remove(attempt) {
            tracing::warn!(%attempt, %error, "the directory of an attempt could not be removed");
        }
    }
}
