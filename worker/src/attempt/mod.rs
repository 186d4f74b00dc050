//! What is kept of an attempt until the server has all of it (D9): one directory, named by the attempt.
//!
//! ```text
//! journal.jsonl   one line per step: accepted (with the definition), starting, process, ended
//! stdout stderr   what the task wrote, byte for byte, written by the task itself
//! ```
//!
//! Steps are appended, so a reader finds every step that was completed and at most one torn line at the end. An attempt
//! whose journal does not say `starting` has not run.
//!
//! Nothing is synced to disk per attempt. A killed agent loses nothing, because the kernel has every completed write; a
//! power cut may lose the last seconds, which the server then finds as attempts that their worker does not know, or as
//! attempts without a recorded end. Syncing would cost each task more than its execution.

pub(crate) mod directory;
pub(crate) mod journal;
pub(crate) mod recovery;
