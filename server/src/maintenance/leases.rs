use std::convert::Infallible;
use std::time::Duration;

use scitq_broker::Channel;
use scitq_shared::ids::Epoch;
use scitq_shared::names::WorkerName;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::PROMPT;
use super::losing::{Loss, Told, lose};
use crate::db::{Database, Silent};
use crate::dispatch::{DispatchInput, DispatchSender};
use crate::events::{Consumed, Markers, Present};
use crate::notices::{Notice, Notices};

/// Most time between two checks.
const EVERY: Duration = Duration::from_secs(5);

/// Gives up workers that were silent for longer than their lease (D7): their attempts are lost, and their tasks are
/// dispatched anew.
///
/// Silence counts only from the moment at which this leader has read back its own marker from the state queue: until then
/// it has not heard what is said. It must have lasted by the database's clock and by the leader's own, which never jumps.
pub struct LeaseCheck {
    /// Where it is looked up and noted.
    pub database: Database,
    /// The leader's epoch.
    pub epoch: Epoch,
    /// The lease of workers without one of their own.
    pub lost_after: Duration,
    /// How long a worker may be silent before it is shown offline: no lease is shorter.
    pub offline_after: Duration,
    /// The workers heard of.
    pub present: Present,
    /// Tells when everything said has been read.
    pub markers: Markers,
    /// Publishes markers.
    pub channel: Channel,
    /// Told of pending tasks and workers that have gone.
    pub dispatcher: DispatchSender,
    /// Tells waiting requests.
    pub notices: Notices,
    /// Ends the work between two checks.
    pub stop: CancellationToken,
}

/// Those whose silence counts in full, and for at least `least`: `listening` is how long this leader has been able to hear,
/// `silent_for` what it remembers of a worker. Pure.
pub fn expired(
    silent: Vec<Silent>,
    least: Duration,
    listening: Duration,
    silent_for: impl Fn(&WorkerName) -> Option<Duration>,
) -> Vec<Silent> {
    let counts = |silent: &Silent| {
        let lease = silent.lease.max(least);
        // A sign of life of the present life says nothing about an earlier one.
        let heard = silent_for(&silent.worker).filter(|_| !silent.former);
        listening >= lease && heard.is_none_or(|heard| heard >= lease)
    };
    silent.into_iter().filter(counts).collect()
}

impl LeaseCheck {
    /// Works until something ends.
    pub async fn run(self) -> Result<Infallible, Consumed> {
        self.hear_everything().await?;
        let listening_since = Instant::now();
        let every = (self.lost_after / 4).clamp(Duration::from_millis(500), EVERY);
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Consumed::Stopped),
                _ = ticks.tick() => {}
            }
            match self.check(listening_since).await {
                Ok(()) => {}
                Err(Consumed::Database(error)) if error.is_transient() => {
                    tracing::warn!(%error, "the leases of workers cannot be checked now");
                }
                Err(other) => return Err(other),
            }
        }
    }

    /// Waits until everything said before has been applied.
    async fn hear_everything(&self) -> Result<(), Consumed> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Consumed::Stopped),
            heard = self.markers.round_trip(&self.channel, self.epoch) => heard,
        }
    }

    async fn expired(&self, listening_since: Instant) -> Result<Vec<Silent>, Consumed> {
        let silent = self.database.silent_beyond_lease(self.lost_after).await?;
        let listening = listening_since.elapsed();
        Ok(expired(silent, self.offline_after, listening, |worker| {
            self.present.silent_for(worker)
        }))
    }

    async fn check(&self, listening_since: Instant) -> Result<(), Consumed> {
        if self.expired(listening_since).await?.is_empty() {
            return Ok(());
        }
        let asked = Instant::now();
        self.hear_everything().await?;
        if asked.elapsed() > PROMPT {
            // What waited may have kept signs of life waiting, too: they are heard before anybody is judged.
            tracing::debug!(waited = ?asked.elapsed(), "too busy to judge whose lease has ended");
            return Ok(());
        }
        for silent in self.expired(listening_since).await? {
            self.give_up(&silent).await?;
        }
        Ok(())
    }

    async fn give_up(&self, silent: &Silent) -> Result<(), Consumed> {
        let Silent {
            worker,
            incarnation,
            lease,
            since,
            former,
        } = silent;
        let detail = format!(
            "worker {worker} has been silent since {}, longer than its lease of {} s",
            since.format("%Y-%m-%d %H:%M:%S UTC"),
            lease.as_secs()
        );
        let told = Told::Dispatcher(self.dispatcher.clone());
        let mut loss = Loss::default();
        let lost = lose(
            &self.database,
            self.epoch,
            worker,
            Some(*incarnation),
            &detail,
            &told,
            &mut loss,
        )
        .await;
        if loss.attempts > 0 {
            self.notices.tell(Notice::Tasks);
        }
        lost?;
        tracing::warn!(%worker, %incarnation, former, attempts = loss.attempts, %since, ?lease, "a worker's lease has ended: it is lost");
        if !former {
            self.present.remove(worker);
            self.dispatcher.send(DispatchInput::WorkersChanged).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use scitq_shared::ids::IncarnationId;

    use super::*;

    #[test]
    fn silence_counts_by_both_clocks() {
        let seconds = Duration::from_secs;
        let silent = |former| Silent {
            worker: WorkerName::new("w").unwrap(),
            incarnation: IncarnationId::generate(),
            lease: seconds(100),
            since: scitq_shared::now(),
            former,
        };
        // Listening for, heard before, of an earlier life; lost?
        let table = [
            (100, None, false, true),
            (99, None, false, false),
            (1000, Some(100), false, true),
            // The database's clock jumped: the leader heard it a moment ago.
            (1000, Some(99), false, false),
            (100, Some(1), true, true),
            (99, Some(1000), true, false),
        ];
        for (listening, heard, former, lost) in table {
            let left = |least| {
                let (silent, listening) = (vec![silent(former)], seconds(listening));
                expired(silent, seconds(least), listening, |_| heard.map(seconds)).len()
            };
            assert_eq!(
                left(15),
                usize::from(lost),
                "{listening} {heard:?} {former}"
            );
            assert_eq!(left(2000), 0, "no lease is shorter than that");
        }
    }
}
