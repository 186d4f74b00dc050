use std::convert::Infallible;
use std::time::Duration;

use scitq_broker::Channel;
use scitq_shared::ids::Epoch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::losing::{Loser, Loss, Told, lose};
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

/// How silence is counted.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    /// How long this leader has been able to hear.
    pub listening: Duration,
    /// No lease is shorter.
    pub least: Duration,
    /// How long what was said had to wait until this leader read it: so much is added to every lease, for signs of life may
    /// have had to wait, too.
    pub waited: Duration,
}

impl Count {
    /// True when the silence of a worker has lasted in full: `heard` is how long ago this leader heard of it, if it did.
    /// Pure.
    pub fn is_over(self, silent: &Silent, heard: Option<Duration>) -> bool {
        let lease = silent.lease.max(self.least) + self.waited;
        // A sign of life of the present life says nothing about an earlier one.
        let heard = heard.filter(|_| !silent.former);
        self.listening >= lease && heard.is_none_or(|heard| heard >= lease)
    }
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
                // Nothing else of the leader's work depends on it: it is tried again.
                Err(Consumed::Database(error)) => {
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

    fn is_over(&self, silent: &Silent, listening_since: Instant, waited: Duration) -> bool {
        let count = Count {
            listening: listening_since.elapsed(),
            least: self.offline_after,
            waited,
        };
        count.is_over(silent, self.present.silent_for(&silent.worker))
    }

    async fn expired(
        &self,
        listening_since: Instant,
        waited: Duration,
    ) -> Result<Vec<Silent>, Consumed> {
        let mut silent = self.database.silent_beyond_lease(self.lost_after).await?;
        silent.retain(|silent| self.is_over(silent, listening_since, waited));
        Ok(silent)
    }

    async fn check(&self, listening_since: Instant) -> Result<(), Consumed> {
        if self
            .expired(listening_since, Duration::ZERO)
            .await?
            .is_empty()
        {
            return Ok(());
        }
        let asked = Instant::now();
        self.hear_everything().await?;
        // What waited so long may have kept signs of life waiting, too.
        let waited = asked.elapsed();
        for silent in self.expired(listening_since, waited).await? {
            // Giving up the ones before took its time: who was heard meanwhile is not given up.
            if !self.is_over(&silent, listening_since, waited) {
                continue;
            }
            match self.give_up(&silent).await {
                Err(Consumed::Database(error)) if !error.is_transient() => {
                    let worker = &silent.worker;
                    tracing::error!(%worker, %error, "a worker whose lease has ended cannot be given up");
                }
                outcome => outcome?,
            }
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
        let loser = Loser {
            worker: worker.clone(),
            incarnation: Some(*incarnation),
            silent_for: Some(*lease),
            detail,
        };
        let told = Told::Dispatcher(self.dispatcher.clone());
        let mut loss = Loss::default();
        let outcome = lose(&self.database, self.epoch, &loser, &told, &mut loss).await;
        if loss.attempts > 0 {
            self.notices.tell(Notice::Tasks);
        }
        outcome?;
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
    use scitq_shared::names::WorkerName;

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
        let table: [(u64, Option<u64>, bool, bool); 6] = [
            (100, None, false, true),
            (99, None, false, false),
            (1000, Some(100), false, true),
            // The database's clock jumped: the leader heard it a moment ago.
            (1000, Some(99), false, false),
            (100, Some(1), true, true),
            (99, Some(1000), true, false),
        ];
        for (listening, heard, former, lost) in table {
            let over = |least, waited, more: u64| {
                let count = Count {
                    listening: seconds(listening + more),
                    least: seconds(least),
                    waited: seconds(waited),
                };
                let heard = heard.map(|heard| seconds(heard + more));
                count.is_over(&silent(former), heard)
            };
            let shown = format!("{listening} {heard:?} {former}");
            assert_eq!(over(15, 0, 0), lost, "{shown}");
            assert!(!over(2000, 0, 0), "no lease is shorter than that: {shown}");
            // What had to wait makes the lease longer, and does not keep it from ending.
            assert_eq!(over(15, 30, 30), lost, "{shown}");
        }
        let (count, lease) = (
            |listening| Count {
                listening: seconds(listening),
                least: seconds(15),
                waited: seconds(30),
            },
            silent(false),
        );
        assert!(!count(129).is_over(&lease, None));
        assert!(count(130).is_over(&lease, None));
        assert!(!count(1000).is_over(&lease, Some(seconds(129))));
    }
}
