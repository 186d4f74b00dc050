//! Work that no event asks for, because it is about the absence of events.

mod leases;
mod losing;

pub use leases::{Count, LeaseCheck};
pub use losing::{Loser, Loss, Told, lose};

use std::convert::Infallible;
use std::time::Duration;

use scitq_shared::ids::Epoch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::db::Database;
use crate::dispatch::{DispatchInput, DispatchSender};
use crate::events::{Consumed, Present};

/// A write or a round trip that takes longer than this says that others have been waiting.
const PROMPT: Duration = Duration::from_secs(1);

/// Shows workers offline that have been silent for long. Silence has no event, hence the clock (the database's).
pub struct SilenceCheck {
    /// Where it is noted.
    pub database: Database,
    /// The leader's epoch.
    pub epoch: Epoch,
    /// How long a worker may be silent.
    pub offline_after: Duration,
    /// The workers heard of.
    pub present: Present,
    /// Told when workers have gone.
    pub dispatcher: DispatchSender,
    /// Ends the work between two checks.
    pub stop: CancellationToken,
}

impl SilenceCheck {
    /// Works until something ends.
    ///
    /// The first check comes a whole `offline_after` after the leader began: silence counts only while a server listens.
    pub async fn run(self) -> Result<Infallible, Consumed> {
        let every = (self.offline_after / 4).max(Duration::from_millis(500));
        let mut ticks =
            tokio::time::interval_at(tokio::time::Instant::now() + self.offline_after, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Consumed::Stopped),
                _ = ticks.tick() => {}
            }
            // Heartbeats that could not be noted are no silence: while writes wait (behind a large submission, say) nobody
            // is judged, and afterwards everyone has the whole time again.
            let asked = tokio::time::Instant::now();
            let writable = self.database.heard_from(self.epoch, &[]).await;
            if writable.as_ref().is_ok_and(|_| asked.elapsed() > PROMPT)
                || writable.is_err_and(|error| error.is_transient())
            {
                tracing::debug!(waited = ?asked.elapsed(), "the database was too busy to judge who is silent");
                ticks.reset_after(self.offline_after);
                continue;
            }
            match self
                .database
                .set_offline(self.epoch, self.offline_after)
                .await
            {
                Ok(gone) if gone.is_empty() => {}
                Ok(gone) => {
                    for worker in &gone {
                        self.present.remove(worker);
                        tracing::warn!(%worker, silent_for = ?self.offline_after, "a worker is silent and shown offline");
                    }
                    self.dispatcher.send(DispatchInput::WorkersChanged).await;
                }
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, "silent workers cannot be checked now");
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
