//! The order in which what is kept of an attempt goes: its work directory first.
//!
//! An agent that is killed in between finds the attempt's directory, and by that knows which work directory is left; the
//! other way round nobody would know whose it is.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use scitq_shared::ids::AttemptId;

/// Attempts whose work directories are being removed.
#[derive(Debug, Default)]
pub(crate) struct Clearing {
    /// True when the attempt's own directory is to go afterwards.
    under_way: Mutex<HashMap<AttemptId, bool>>,
}

impl Clearing {
    /// The work directory of an attempt is about to be removed.
    pub(crate) fn begin(&self, attempt: AttemptId) {
        self.lock().insert(attempt, false);
    }

    /// It is removed. True when the attempt's own directory is to be removed now.
    #[must_use]
    pub(crate) fn done(&self, attempt: AttemptId) -> bool {
        self.lock().remove(&attempt).unwrap_or(false)
    }

    /// The attempt's own directory is not needed any more. True when it is to be removed now, false when that comes with
    /// [`Clearing::done`].
    #[must_use]
    pub(crate) fn discard(&self, attempt: AttemptId) -> bool {
        match self.lock().get_mut(&attempt) {
            Some(discard) => {
                *discard = true;
                false
            }
            None => true,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AttemptId, bool>> {
        // What is guarded is never left half changed.
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_directory_goes_first() {
        let clearing = Clearing::default();
        let attempt = AttemptId::generate();
        assert!(clearing.discard(attempt), "nothing is under way");
        clearing.begin(attempt);
        assert!(!clearing.discard(attempt));
        assert!(clearing.done(attempt));
        clearing.begin(attempt);
        assert!(!clearing.done(attempt), "not discarded yet");
        assert!(clearing.discard(attempt));
    }
}
