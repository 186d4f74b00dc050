//! Where attempts are executed: what all of them share.

use scitq_shared::names::WorkerName;
use tokio_util::task::TaskTracker;

use super::environment::Base;
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
    /// Removals of directories under way: done beside everything else, and waited for at the end.
    pub(crate) removals: TaskTracker,
}
