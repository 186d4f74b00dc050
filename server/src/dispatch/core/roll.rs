//! The roll call (D12): finding the dispatches that nobody has.
//!
//! A dispatch can vanish: a publication was on its way when the connection broke, or the broker lost its data. Then its
//! task stays `assigned` for ever. So the number of dispatches is compared with the depth of the queue now and then; those
//! in excess, oldest first, are suspects, and if one of them is still not accepted a moment later, the queue is withdrawn
//! and every worker asked. What each worker says not to have is missing, and is dispatched anew. A worker that cannot be
//! asked is waited for, until it is lost or has departed: it may have started the dispatch, and a broker that lost its
//! data has lost the word of that, too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use scitq_shared::ids::{DispatchId, TaskId};
use scitq_shared::names::{BatchName, WorkerName};

use super::{Core, Effect, Question, Why, Withdrawal, Work};

/// How soon after the beginning of a term the first count is made: workers that came back with it have said by then
/// what they hold.
const FIRST_COUNT: Duration = Duration::from_secs(2);
/// How often the dispatches of a batch are counted, and the age from which they count.
const COUNT_EVERY: Duration = Duration::from_secs(30);
/// How long suspects have to prove that they were only on their way.
const SUSPICION: Duration = Duration::from_secs(3);
/// How long a batch stays barred for the answers of its workers (D8).
const BARRED: Duration = Duration::from_secs(2);
/// First and longest wait before workers are asked again.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(1));
/// How soon the database is looked at again after something was accepted.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Dispatches that may be missing.
#[derive(Debug)]
pub(super) struct Suspects {
    pub(super) look_at: Duration,
    dispatches: Vec<DispatchId>,
}

/// Dispatches that are not in the queue, and what workers have said about them.
#[derive(Debug)]
pub(super) struct Roll {
    /// Who said not to have it, by dispatch.
    asked: BTreeMap<DispatchId, BTreeSet<WorkerName>>,
    workers: BTreeSet<WorkerName>,
    barred_until: Duration,
    again_at: Duration,
    again_after: Duration,
    look_at: Option<Duration>,
    looking: bool,
}

impl Roll {
    /// True while nothing of the batch is dispatched for its sake.
    pub(super) fn bars(&self, now: Duration) -> bool {
        now < self.barred_until
    }

    #[cfg(test)]
    pub(super) fn unaccounted(&self) -> usize {
        self.asked.len()
    }

    pub(super) fn deadline(&self, now: Duration) -> Option<Duration> {
        let barred = Some(self.barred_until).filter(|until| now < *until);
        if self.looking {
            return barred;
        }
        [Some(self.again_at), self.look_at, barred]
            .into_iter()
            .flatten()
            .min()
    }

    fn is_missing(&self, dispatch: DispatchId) -> bool {
        self.asked
            .get(&dispatch)
            .is_some_and(|absent| self.workers.is_subset(absent))
    }

    fn any_missing(&self) -> bool {
        self.asked.keys().any(|dispatch| self.is_missing(*dispatch))
    }

    /// Asks every worker about the dispatches that it has not denied yet.
    fn ask(&self, effects: &mut Vec<Effect>) {
        for worker in &self.workers {
            self.ask_one(worker, effects);
        }
    }

    fn ask_one(&self, worker: &WorkerName, effects: &mut Vec<Effect>) {
        let dispatches: Vec<DispatchId> = self
            .asked
            .iter()
            .filter(|(_, absent)| !absent.contains(worker))
            .map(|(dispatch, _)| *dispatch)
            .collect();
        if !dispatches.is_empty() {
            let worker = worker.clone();
            effects.push(Effect::Revoke { worker, dispatches });
        }
    }
}

impl Work {
    pub(super) fn count_later(&mut self, now: Duration) {
        self.count_at
            .get_or_insert((now + COUNT_EVERY, COUNT_EVERY));
    }

    pub(super) fn tend_suspicion(
        &mut self,
        now: Duration,
        batch: &BatchName,
        effects: &mut Vec<Effect>,
    ) {
        if self.withdrawal.is_some() {
            return;
        }
        if let Some((_, age)) = self.count_at.take_if(|(at, _)| *at <= now) {
            let batch = batch.clone();
            effects.push(Effect::Count { batch, age });
        }
        if let Some(suspects) = self.suspects.take_if(|suspects| suspects.look_at <= now) {
            effects.push(Effect::List {
                batch: batch.clone(),
                question: Question::Suspects(suspects.dispatches),
            });
        }
    }

    pub(super) fn tend_roll(
        &mut self,
        now: Duration,
        batch: &BatchName,
        effects: &mut Vec<Effect>,
    ) {
        let Some(roll) = self.roll.as_mut().filter(|roll| !roll.looking) else {
            return;
        };
        if roll.again_at <= now || roll.look_at.is_some_and(|at| at <= now) {
            roll.looking = true;
            roll.look_at = None;
            effects.push(Effect::List {
                batch: batch.clone(),
                question: Question::Asked(roll.asked.keys().copied().collect()),
            });
        }
    }
}

impl Core {
    /// Everything said before the term is applied: what is still not accepted should be in the queues.
    pub(super) fn count_everything(&mut self, now: Duration) {
        for batch in self.windows.with_dispatches() {
            let work = self.work.entry(batch).or_default();
            work.count_at = Some((now + FIRST_COUNT, FIRST_COUNT));
        }
    }

    /// What the database says of a batch. It is what counts: the window's own figure may be too low when a claim and what was
    /// accepted before it are told in the other order, and whoever stops to count on that never finds what is missing.
    pub(super) fn counted(
        &mut self,
        now: Duration,
        batch: &BatchName,
        surplus: Vec<DispatchId>,
        assigned: usize,
    ) {
        self.windows.recounted(batch, assigned);
        let has_dispatches = assigned > 0;
        let Some(work) = self.work.get_mut(batch) else {
            return;
        };
        if has_dispatches {
            work.count_later(now);
        }
        let known = |dispatch: &DispatchId| {
            let roll = work.roll.as_ref();
            roll.is_some_and(|roll| roll.asked.contains_key(dispatch))
        };
        let dispatches: Vec<DispatchId> = surplus
            .into_iter()
            .filter(|dispatch| !known(dispatch))
            .collect();
        if !dispatches.is_empty() && work.suspects.is_none() {
            let look_at = now + SUSPICION;
            work.suspects = Some(Suspects {
                look_at,
                dispatches,
            });
        }
    }

    pub(super) fn listed(
        &mut self,
        now: Duration,
        batch: &BatchName,
        question: &Question,
        unstarted: &[(TaskId, DispatchId)],
        workers: BTreeSet<WorkerName>,
    ) {
        let Some(work) = self.work.get_mut(batch) else {
            return;
        };
        match question {
            Question::Suspects(_) => {
                if !unstarted.is_empty() && work.withdrawal.is_none() {
                    tracing::info!(%batch, suspects = unstarted.len(), "dispatches are neither in the queue nor accepted: calling the roll");
                    work.withdrawal = Some(Withdrawal::Waiting(Why::Roll));
                }
            }
            Question::All => self.call(now, batch, unstarted, workers),
            Question::Asked(_) => self.look(now, batch, unstarted, workers),
        }
    }

    /// The queue is empty and nothing is outstanding: what is not accepted is with a worker, or missing.
    fn call(
        &mut self,
        now: Duration,
        batch: &BatchName,
        unstarted: &[(TaskId, DispatchId)],
        workers: BTreeSet<WorkerName>,
    ) {
        let Some(work) = self.work.get_mut(batch) else {
            return;
        };
        work.withdrawal = None;
        // What a worker once denied cannot come to it any more.
        let mut before = work.roll.take().map(|roll| roll.asked).unwrap_or_default();
        let asked: BTreeMap<DispatchId, BTreeSet<WorkerName>> = unstarted
            .iter()
            .map(|(_, dispatch)| (*dispatch, before.remove(dispatch).unwrap_or_default()))
            .collect();
        if asked.is_empty() {
            self.windows.outside(batch, 0);
            return;
        }
        let roll = Roll {
            asked,
            workers,
            barred_until: now + BARRED,
            again_at: now + ASK_AGAIN.0,
            again_after: ASK_AGAIN.0,
            look_at: None,
            looking: false,
        };
        roll.ask(&mut self.effects);
        self.windows.outside(batch, roll.asked.len());
        work.roll = Some(roll);
        // Without workers everything is missing at once.
        self.look_if_missing(now, batch);
    }

    /// What the database says about the dispatches that workers were asked for.
    fn look(
        &mut self,
        now: Duration,
        batch: &BatchName,
        unstarted: &[(TaskId, DispatchId)],
        workers: BTreeSet<WorkerName>,
    ) {
        let Some(work) = self.work.get_mut(batch) else {
            return;
        };
        let Some(roll) = &mut work.roll else { return };
        roll.looking = false;
        roll.workers = workers;
        let still: BTreeMap<DispatchId, TaskId> = unstarted
            .iter()
            .map(|(task, dispatch)| (*dispatch, *task))
            .collect();
        roll.asked
            .retain(|dispatch, _| still.contains_key(dispatch));
        let missing: Vec<(TaskId, DispatchId)> = still
            .iter()
            .filter(|(dispatch, _)| roll.is_missing(**dispatch))
            .map(|(dispatch, task)| (*task, *dispatch))
            .collect();
        for (_, dispatch) in &missing {
            roll.asked.remove(dispatch);
        }
        if roll.again_at <= now {
            roll.ask(&mut self.effects);
            roll.again_at = now + roll.again_after;
            roll.again_after = (roll.again_after * 2).min(ASK_AGAIN.1);
        }
        let unaccounted = roll.asked.len();
        if unaccounted == 0 {
            work.roll = None;
        }
        self.windows.outside(batch, unaccounted);
        if !missing.is_empty() {
            tracing::warn!(%batch, missing = missing.len(), unaccounted, "dispatches are missing: nobody has them, their tasks are dispatched anew");
            self.effects.push(Effect::Return {
                batch: batch.clone(),
                dispatches: missing,
            });
        }
    }

    pub(super) fn absent(&mut self, now: Duration, worker: &WorkerName, dispatches: &[DispatchId]) {
        let batches: Vec<BatchName> = self.work.keys().cloned().collect();
        for batch in batches {
            let roll = self
                .work
                .get_mut(&batch)
                .and_then(|work| work.roll.as_mut());
            let Some(roll) = roll else { continue };
            for dispatch in dispatches {
                if let Some(absent) = roll.asked.get_mut(dispatch) {
                    absent.insert(worker.clone());
                }
            }
            self.look_if_missing(now, &batch);
        }
    }

    /// A worker has come back: it may not have heard what it was asked.
    pub(super) fn ask_again(&mut self, worker: &WorkerName) {
        for work in self.work.values() {
            if let Some(roll) = work
                .roll
                .as_ref()
                .filter(|roll| roll.workers.contains(worker))
            {
                roll.ask_one(worker, &mut self.effects);
            }
        }
    }

    fn look_if_missing(&mut self, now: Duration, batch: &BatchName) {
        if let Some(roll) = self.work.get_mut(batch).and_then(|work| work.roll.as_mut())
            && roll.any_missing()
        {
            roll.look_at = Some(now);
        }
    }

    /// Something of the batch was accepted or came back: the roll may be complete.
    pub(super) fn look_again(&mut self, now: Duration, batch: &BatchName) {
        if let Some(roll) = self.work.get_mut(batch).and_then(|work| work.roll.as_mut()) {
            roll.look_at.get_or_insert(now + LOOK_AGAIN);
        }
    }
}
