//! Waiting for a database that is away, without giving up what is in hand.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::db::DbError;
use crate::events::Consumed;

/// Waits, unless the term of leadership ends first.
pub(crate) async fn pause(stop: &CancellationToken, delay: Duration) -> Result<(), Consumed> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(Consumed::Stopped),
        () = tokio::time::sleep(delay) => Ok(()),
    }
}

/// How long to wait before the next try.
pub(crate) struct Patience<'a> {
    stop: &'a CancellationToken,
    who: &'static str,
    delay: Duration,
}

impl<'a> Patience<'a> {
    /// Patience of a part of the leader, named for the log, until the term ends.
    pub(crate) fn new(stop: &'a CancellationToken, who: &'static str) -> Self {
        Self {
            stop,
            who,
            delay: Duration::from_millis(100),
        }
    }

    /// Waits after a failure that may pass, longer each time; other failures are answered at once.
    pub(crate) async fn after(&mut self, error: DbError) -> Result<(), Consumed> {
        if !error.is_transient() {
            return Err(error.into());
        }
        tracing::warn!(%error, retry_in = ?self.delay, "{} waits for the database", self.who);
        pause(self.stop, self.delay).await?;
        self.delay = (self.delay * 2).min(Duration::from_secs(5));
        Ok(())
    }
}

/// Evaluates an asynchronous expression again and again as long as the database is away, or until the term ends. A
/// transaction that has begun is never abandoned in the middle. (A macro, because a function taking an async closure
/// makes futures that the compiler cannot prove to be `Send`.)
macro_rules! patiently {
    ($stop:expr, $who:literal, $work:expr) => {{
        let mut patience = $crate::patience::Patience::new($stop, $who);
        loop {
            match $work {
                Ok(done) => break Ok(done),
                Err(error) => match patience.after(error).await {
                    Ok(()) => {}
                    Err(ended) => break Err(ended),
                },
            }
        }
    }};
}
pub(crate) use patiently;
