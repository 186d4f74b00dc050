//! What is kept of an attempt until the server has all of it (D9): one directory, named by the attempt.
//!
//! ```text
//! journal…        one line per step: accepted (with the definition), process, killing, exited, ended; its name says who
//!                 has claimed the attempt, see journal
//! stdout stderr   what the task wrote, byte for byte, written by the task itself
//! ```
//!
//! Steps are appended, so a reader finds every step that was completed; a torn line, at the end or where the disk was
//! full, is passed over.
//!
//! Nothing is synced to disk per attempt. A killed agent loses nothing, because the kernel has every completed write; a
//! power cut may lose the last seconds, which the server then finds as attempts that their worker does not know, or as
//! attempts without a recorded end. Syncing would cost each task more than its execution.

pub(crate) mod directory;
pub(crate) mod journal;
pub(crate) mod recovery;
