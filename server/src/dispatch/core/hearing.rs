//! Listening, after the database was restored from a backup (D12).
//!
//! Such a database takes tasks for pending that have been started since, and does not know those that came since. So
//! nothing is dispatched until what is under way has been heard of:
//!
//! 1. The queues of all batches are withdrawn: what nobody has is pending again, and tasks that were unknown are taken in.
//! 2. Then every worker is asked for a recount: it gives back what has not started, so that nothing starts behind the
//!    server's back, and says what it runs and what has ended. Its hello comes last.
//! 3. It is over when every worker has answered that the database knows or that was heard of, but not before some time has
//!    passed, for those that the backup does not know; and without those that have not answered after a longer time.
//!
//! A worker that comes later and speaks of attempts that nobody knows is asked for a recount, too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use scitq_shared::names::{BatchName, WorkerName};

use super::{Core, Effect, Why, Withdrawal};
use crate::db::Whereabouts;

/// How often the database is asked whom to expect, and who has not answered is asked again.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// First and longest time between two recounts of a worker that speaks of what nobody knows.
const RECOUNT_AGAIN: (Duration, Duration) = (Duration::from_secs(15), Duration::from_hours(1));

/// How long is listened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListeningTimes {
    /// At least so long, for workers that the backup does not know.
    pub least: Duration,
    /// At most so long, for workers that do not answer.
    pub most: Duration,
}

/// Which look into the database is outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looking {
    No,
    /// One of those that are made now and then.
    Once,
    /// The last one: for batches that came to be known by what was heard.
    Last,
}

/// What is known while listening.
#[derive(Debug)]
pub(super) struct Hearing {
    least_until: Duration,
    most_until: Duration,
    look_at: Duration,
    looking: Looking,
    /// True once the database has said whom to expect.
    knows_whom: bool,
    /// True when all has been heard and the last look was made.
    closed: bool,
    /// Whom to ask next.
    ask: BTreeSet<WorkerName>,
    /// Whom to wait for.
    expected: BTreeSet<WorkerName>,
    /// Who gave a sign of life, whether or not the database knows it.
    seen: BTreeSet<WorkerName>,
    heard: BTreeSet<WorkerName>,
    withdrawing: BTreeSet<BatchName>,
    withdrawn: BTreeSet<BatchName>,
}

impl Hearing {
    pub(super) fn deadline(&self) -> Option<Duration> {
        if self.looking != Looking::No || !self.withdrawing.is_empty() {
            // It goes on with the answer.
            return None;
        }
        Some(self.look_at.min(self.complete_at()))
    }

    fn silent(&self) -> impl Iterator<Item = &WorkerName> {
        self.expected.difference(&self.heard)
    }

    /// When it is over, if nothing more is heard.
    fn complete_at(&self) -> Duration {
        if self.knows_whom && self.silent().next().is_none() {
            self.least_until.min(self.most_until)
        } else {
            self.most_until
        }
    }
}

/// Workers that are asked for a recount after the listening is over.
#[derive(Debug, Default)]
pub(super) struct Recounts(BTreeMap<WorkerName, (Duration, Duration)>);

impl Recounts {
    /// True when a worker may be asked now. Each time it takes longer: a recount costs it its unstarted work.
    fn take(&mut self, now: Duration, worker: &WorkerName) -> bool {
        let (first, longest) = RECOUNT_AGAIN;
        match self.0.get_mut(worker) {
            None => {
                self.0.insert(worker.clone(), (now + first, first * 2));
                true
            }
            Some((at, wait)) if *at <= now => {
                *at = now + *wait;
                *wait = (*wait * 2).min(longest);
                true
            }
            Some(_) => false,
        }
    }
}

impl Core {
    /// The database was restored, and nobody has listened yet.
    pub(super) fn listen(&mut self, now: Duration, times: ListeningTimes) {
        self.hearing = Some(Hearing {
            least_until: now + times.least,
            most_until: now + times.most,
            look_at: now,
            looking: Looking::No,
            knows_whom: false,
            closed: false,
            ask: BTreeSet::new(),
            expected: BTreeSet::new(),
            seen: BTreeSet::new(),
            heard: BTreeSet::new(),
            withdrawing: BTreeSet::new(),
            withdrawn: BTreeSet::new(),
        });
    }

    /// Whom to expect, and which queues to withdraw.
    pub(super) fn expect(&mut self, now: Duration, whereabouts: Whereabouts) {
        let Some(hearing) = &mut self.hearing else {
            return;
        };
        hearing.closed = hearing.looking == Looking::Last;
        hearing.looking = Looking::No;
        hearing.look_at = now + LOOK_EVERY;
        hearing.knows_whom = true;
        // Who has departed is not waited for.
        hearing.expected = &hearing.seen | &whereabouts.workers;
        hearing.ask = hearing.silent().cloned().collect();
        for batch in whereabouts.batches {
            self.withdraw_once(&batch);
        }
    }

    /// A sign of life. `lacking` says that the worker speaks of what the database does not know.
    pub(super) fn seen(&mut self, now: Duration, worker: WorkerName, lacking: bool) {
        match &mut self.hearing {
            Some(hearing) => {
                hearing.seen.insert(worker.clone());
                if !hearing.heard.contains(&worker) && hearing.expected.insert(worker.clone()) {
                    hearing.ask.insert(worker);
                }
            }
            None if lacking && self.recounts.take(now, &worker) => {
                self.effects.push(Effect::Recount { worker });
            }
            None => {}
        }
    }

    /// A worker has recounted; what it said is applied. Its batch may be one that the backup does not know: then its queue is
    /// withdrawn, too, and the worker asked once more.
    pub(super) fn heard(&mut self, worker: WorkerName, batch: Option<&BatchName>) {
        if let Some(hearing) = &mut self.hearing {
            if batch.is_none_or(|batch| hearing.withdrawn.contains(batch)) {
                hearing.heard.insert(worker);
            } else {
                // The queue was not empty for certain: it may have got something again.
                hearing.seen.insert(worker.clone());
                hearing.expected.insert(worker.clone());
                hearing.ask.insert(worker);
            }
        }
        if let Some(batch) = batch {
            self.withdraw_once(batch);
        }
    }

    /// Empties the queue of a batch, which may hold dispatches that nobody knows. While listening: once.
    fn withdraw_once(&mut self, batch: &BatchName) {
        if let Some(hearing) = &mut self.hearing
            && (hearing.withdrawn.contains(batch) || !hearing.withdrawing.insert(batch.clone()))
        {
            return;
        }
        self.declare(batch);
        if let Some(work) = self.work.get_mut(batch)
            && work.withdrawal.is_none()
        {
            work.withdrawal = Some(Withdrawal::Waiting(Why::Restored));
        }
    }

    pub(super) fn queue_is_empty(&mut self, batch: &BatchName) {
        if let Some(hearing) = &mut self.hearing
            && hearing.withdrawing.remove(batch)
        {
            hearing.withdrawn.insert(batch.clone());
        }
    }

    pub(super) fn tend_hearing(&mut self, now: Duration) {
        let Some(hearing) = &mut self.hearing else {
            return;
        };
        // Queues first: what is in them could be delivered again to who has just given it back.
        if hearing.looking != Looking::No || !hearing.withdrawing.is_empty() {
            return;
        }
        let complete = hearing.complete_at() <= now;
        if hearing.closed && complete {
            let silent: Vec<WorkerName> = hearing.silent().cloned().collect();
            self.hearing = None;
            self.effects.push(Effect::EndListening { silent });
            return;
        }
        hearing.closed = false;
        for worker in std::mem::take(&mut hearing.ask) {
            if !hearing.heard.contains(&worker) {
                self.effects.push(Effect::Recount { worker });
            }
        }
        if complete || hearing.look_at <= now {
            hearing.looking = if complete {
                Looking::Last
            } else {
                Looking::Once
            };
            self.effects.push(Effect::LookAround);
        }
    }
}

#[cfg(test)]
mod tests {
    use scitq_shared::names::BatchName;

    use super::super::Input;
    use super::*;
    use crate::db::{BatchLoad, Capacity};

    fn worker(name: &str) -> WorkerName {
        WorkerName::new(name).unwrap()
    }

    fn batch(name: &str) -> BatchName {
        BatchName::new(name).unwrap()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A core that listens, with a pending task and a worker with room for it.
    fn listening() -> Core {
        let mut core = Core::default();
        let times = ListeningTimes {
            least: seconds(15),
            most: seconds(60),
        };
        let effects = core.handle(Duration::ZERO, Input::Restored { times });
        assert_eq!(effects, [Effect::LookAround]);
        let load = BatchLoad {
            pending: 1,
            assigned: 0,
        };
        let loads = vec![(batch("b"), load)];
        core.handle(Duration::ZERO, Input::Loaded { loads });
        let capacity = Capacity {
            workers: 1,
            slots_and_prefetch: 2,
        };
        let capacities = vec![(batch("b"), capacity)];
        let effects = core.handle(Duration::ZERO, Input::Workers { capacities });
        assert_eq!(effects, [Effect::Declare { batch: batch("b") }]);
        core
    }

    fn around(workers: &[&str], batches: &[&str]) -> Input {
        Input::Around(Whereabouts {
            workers: workers.iter().map(|name| worker(name)).collect(),
            batches: batches.iter().map(|name| batch(name)).collect(),
        })
    }

    fn withdrawn(name: &str) -> Input {
        Input::Withdrawn {
            batch: batch(name),
            dispatches: 0,
        }
    }

    fn heard(name: &str, from: &str) -> Input {
        Input::Heard {
            worker: worker(name),
            batch: Some(batch(from)),
        }
    }

    fn recount(name: &str) -> Effect {
        let worker = worker(name);
        Effect::Recount { worker }
    }

    fn withdraw(name: &str) -> Effect {
        let batch = batch(name);
        Effect::Withdraw { batch }
    }

    #[test]
    fn nothing_is_dispatched_before_every_worker_was_heard() {
        let mut core = listening();
        let effects = core.handle(seconds(1), around(&["v", "w"], &["b"]));
        assert_eq!(effects, [withdraw("b")], "queues first");
        let effects = core.handle(seconds(1), withdrawn("b"));
        assert_eq!(effects, [recount("v"), recount("w")]);
        let pending = Input::Pending {
            batches: [batch("b")].into(),
        };
        assert_eq!(core.handle(seconds(2), pending), []);
        assert_eq!(core.handle(seconds(2), heard("v", "b")), []);
        // One that the backup does not know, working for a batch that it does not know.
        let seen = |name| Input::Seen {
            worker: worker(name),
            lacking: false,
        };
        assert_eq!(core.handle(seconds(3), seen("x")), [recount("x")]);
        assert_eq!(core.handle(seconds(3), seen("x")), []);
        let declare = Effect::Declare {
            batch: batch("new"),
        };
        let effects = core.handle(seconds(4), heard("x", "new"));
        assert_eq!(effects, [declare, withdraw("new")]);
        assert_eq!(core.handle(seconds(4), withdrawn("new")), [recount("x")]);
        assert_eq!(core.handle(seconds(4), heard("x", "new")), []);
        assert_eq!(core.next_deadline(seconds(4)), Some(seconds(6)));
        assert_eq!(core.handle(seconds(6), Input::Tick), [Effect::LookAround]);
        let effects = core.handle(seconds(6), around(&["v", "w"], &["b", "new"]));
        assert_eq!(
            effects,
            [recount("w")],
            "who has not answered is asked again"
        );
        assert_eq!(core.handle(seconds(7), heard("w", "b")), []);
        // All are heard, but not for long enough.
        assert_eq!(core.handle(seconds(11), Input::Tick), [Effect::LookAround]);
        core.handle(seconds(11), around(&["v", "w", "x"], &["b", "new"]));
        assert_eq!(core.next_deadline(seconds(11)), Some(seconds(15)));
        assert_eq!(core.handle(seconds(15), Input::Tick), [Effect::LookAround]);
        // A last look finds a batch of what was heard.
        let effects = core.handle(seconds(15), around(&["v", "w", "x"], &["b", "late", "new"]));
        assert!(effects.contains(&withdraw("late")), "{effects:?}");
        let effects = core.handle(seconds(16), withdrawn("late"));
        assert_eq!(effects, [Effect::EndListening { silent: vec![] }]);
        // From now on it works as always.
        let load = BatchLoad {
            pending: 1,
            assigned: 0,
        };
        let loads = vec![(batch("b"), load)];
        let effects = core.handle(seconds(16), Input::Loaded { loads });
        assert!(
            effects.contains(&Effect::Claim {
                batch: batch("b"),
                window: 256
            }),
            "{effects:?}"
        );
    }

    #[test]
    fn who_does_not_answer_is_not_waited_for_for_ever() {
        let mut core = listening();
        core.handle(seconds(1), around(&["v", "w"], &["b"]));
        core.handle(seconds(2), withdrawn("b"));
        core.handle(seconds(2), heard("v", "b"));
        let mut now = seconds(2);
        let silent = loop {
            let deadline = core.next_deadline(now);
            now = deadline.unwrap().max(now);
            let mut effects = core.handle(now, Input::Tick);
            while effects.contains(&Effect::LookAround) {
                assert!(now <= seconds(60));
                effects = core.handle(now, around(&["v", "w"], &[]));
            }
            if let Some(Effect::EndListening { silent }) = effects.first() {
                break silent.clone();
            }
            assert!(effects.iter().all(|effect| *effect == recount("w")));
        };
        assert_eq!((now, silent), (seconds(60), vec![worker("w")]));
        // It comes later, with what nobody knows: asked again, less and less often.
        let lacking = |core: &mut Core, at| {
            let worker = worker("w");
            let lacking = true;
            core.handle(seconds(at), Input::Seen { worker, lacking })
                .contains(&recount("w"))
        };
        let asked: Vec<u64> = (100..=300).filter(|at| lacking(&mut core, *at)).collect();
        assert_eq!(asked, [100, 115, 145, 205]);
    }

    #[test]
    fn who_departs_meanwhile_is_not_waited_for() {
        let mut core = listening();
        core.handle(seconds(1), around(&["v", "w"], &["b"]));
        core.handle(seconds(2), withdrawn("b"));
        core.handle(seconds(2), heard("v", "b"));
        core.handle(seconds(6), Input::Tick);
        core.handle(seconds(6), around(&["v"], &[]));
        assert_eq!(core.next_deadline(seconds(6)), Some(seconds(11)));
        core.handle(seconds(11), Input::Tick);
        core.handle(seconds(11), around(&["v"], &[]));
        assert_eq!(core.handle(seconds(15), Input::Tick), [Effect::LookAround]);
        let effects = core.handle(seconds(15), around(&["v"], &[]));
        assert_eq!(effects, [Effect::EndListening { silent: vec![] }]);
    }
}
