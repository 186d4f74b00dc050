use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::ApiError;
use crate::db::Database;
use crate::notices::Notices;
use crate::nudge::Nudger;
use crate::readiness::Readiness;

/// What every request may use. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    database: Arc<OnceLock<Database>>,
    /// Tells waiting requests that something was committed.
    pub notices: Notices,
    /// Tells the leader.
    pub nudger: Nudger,
    /// What can be reached.
    pub readiness: Readiness,
    /// Longest request body in bytes.
    pub max_body_bytes: usize,
    /// How long a worker may be silent before it is shown offline.
    pub offline_after: Duration,
    /// The server stops: waiting requests answer what they have.
    pub stop: CancellationToken,
}

impl Context {
    /// A context without a database yet.
    pub fn new(
        notices: Notices,
        nudger: Nudger,
        readiness: Readiness,
        max_body_bytes: usize,
        offline_after: Duration,
        stop: CancellationToken,
    ) -> Self {
        Self {
            database: Arc::default(),
            notices,
            nudger,
            readiness,
            max_body_bytes,
            offline_after,
            stop,
        }
    }

    /// The database has been reached for the first time.
    pub fn set_database(&self, database: Database) {
        // A second one is never made.
        let _ = self.database.set(database);
    }

    /// The database; an error as long as it has not been reached.
    pub fn database(&self) -> Result<&Database, ApiError> {
        self.database.get().ok_or_else(|| {
            let missing = self.readiness.missing();
            ApiError::Unavailable(if missing.is_empty() {
                "the server is starting".to_owned()
            } else {
                missing.join("; ")
            })
        })
    }
}
