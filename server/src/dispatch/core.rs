//! The dispatcher's decisions, without clock, database or broker.
//!
//! [`Core::handle`] is told one thing that has happened and answers what is to be done about it, in that order; the shell
//! around it (or a simulation) does that and tells the results. Rules that hold throughout:
//!
//! - A claim is committed before it is published, and published once (D3).
//! - A batch that is barred claims nothing: while its queue is withdrawn, while it is asked what is more urgent, and from a
//!   recall of some of its tasks until these are changed (D4).
//! - A dispatch counts as missing only when it is neither in the queue nor with any worker that may have got it, nor can
//!   still come to one (D12): the queue was withdrawn with no publication outstanding, what was said until then is applied,
//!   and each worker that is known then has said so, is lost, or has departed.
//! - After the database was restored, nothing is claimed before the workers were heard (D12).

mod hearing;
mod input;
mod recall;
mod roll;
#[cfg(test)]
mod tests;
mod windows;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::worker::DesiredState;

pub use self::hearing::ListeningTimes;
use self::hearing::{Hearing, Recounts};
pub use self::input::{Effect, Input, MarkerNumber, Out, Question, RecallNumber};
use self::recall::Recall;
use self::roll::{Roll, Suspects};
pub use self::windows::{MIN_WINDOW, Windows, window_of};

/// How long the window of a batch is left alone after a withdrawal.
const BETWEEN_WITHDRAWALS: Duration = Duration::from_secs(1);
/// A marker that is not read back after so long has been lost with its queue, and is published again.
const MARKER_LOST_AFTER: Duration = Duration::from_mins(1);
/// A queue that does not take messages now does not take them in the next millisecond either.
const AFTER_REFUSAL: Duration = Duration::from_millis(200);

/// Why a queue is withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// More urgent tasks have come: dispatched anew in their order.
    Order,
    /// Dispatches seem to be missing, or the batch is paused: what is not in the queue is asked for.
    Roll,
    /// Tasks are to be changed.
    Recall,
    /// The database was restored, and may not know what is in it.
    Restored,
}

/// How far a withdrawal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Withdrawal {
    /// Waits for the answers about what is published: a message may not be in the queue yet.
    Waiting(Why),
    /// The queue is being emptied.
    Emptying(Why),
    /// It is empty. Everything that was said until then is being read, up to this marker, which is taken for lost at that
    /// time: a worker that has come back may have got something from the queue before its hello is applied.
    Reading(Why, MarkerNumber, Duration),
    /// All is read; what is dispatched all the same is being listed.
    Listing,
}

/// What goes on with one batch.
#[derive(Debug, Default)]
struct Work {
    /// True once its queue is known to be there.
    declared: bool,
    /// Publications whose outcome is not known yet.
    outstanding: usize,
    /// True while a claim is on its way.
    claiming: bool,
    /// True while the database is asked whether a pending task is more urgent than those in the queue.
    comparing: bool,
    /// When to ask that.
    compare_at: Option<Duration>,
    /// Nothing is claimed before.
    rest_until: Option<Duration>,
    withdrawal: Option<Withdrawal>,
    /// Why the queue is to be withdrawn as soon as no other withdrawal goes on.
    withdrawal_due: Option<Why>,
    /// When to compare the number of dispatches with the depth of the queue, and the age from which they count.
    count_at: Option<(Duration, Duration)>,
    suspects: Option<Suspects>,
    roll: Option<Roll>,
    /// Tasks that are to be changed, one change after the other.
    recalls: VecDeque<Recall>,
}

impl Work {
    fn is_barred(&self, now: Duration) -> bool {
        self.withdrawal.is_some()
            || !self.recalls.is_empty()
            || self.claiming
            || self.comparing
            || self.rest_until.is_some_and(|until| now < until)
            || self.roll.as_ref().is_some_and(|roll| roll.bars(now))
    }

    fn is_idle(&self) -> bool {
        self.withdrawal.is_none()
            && self.withdrawal_due.is_none()
            && !self.claiming
            && !self.comparing
            && self.outstanding == 0
            && self.roll.is_none()
            && self.recalls.is_empty()
    }
}

/// All state of a dispatcher. See the module's description.
#[derive(Debug, Default)]
pub struct Core {
    windows: Windows,
    work: BTreeMap<BatchName, Work>,
    /// While workers are listened to after a restoration, nothing is dispatched.
    hearing: Option<Hearing>,
    recounts: Recounts,
    /// The marker of the beginning of the term, until it is read back, and when it is taken for lost.
    beginning: Option<(MarkerNumber, Duration)>,
    last_marker: u64,
    effects: Vec<Effect>,
}

impl Core {
    /// Takes in what has happened and answers what is to be done. `now` is the time since the dispatcher began.
    pub fn handle(&mut self, now: Duration, input: Input) -> Vec<Effect> {
        // Until the workers of a greeted batch are loaded it looks as if it had none.
        let tidy = !matches!(input, Input::Loaded { .. } | Input::Greeted { .. });
        match input {
            Input::Loaded { loads } => {
                self.windows.load(loads);
                self.effects.push(Effect::LoadWorkers);
                self.mark(now);
            }
            Input::Restored { times } => self.listen(now, times),
            Input::Around(whereabouts) => self.expect(now, whereabouts),
            Input::Seen { worker, lacking } => self.seen(now, worker, lacking),
            Input::Heard { worker, batch } => self.heard(worker, batch.as_ref()),
            Input::Workers { capacities } => self.workers(capacities),
            Input::WorkersChanged => self.effects.push(Effect::LoadWorkers),
            Input::Greeted { worker, desired } => self.greeted(worker, desired),
            Input::Pending { batches } => self.pending(now, batches),
            Input::Looked { loads } => {
                let batches = self.windows.overlooked(loads);
                if !batches.is_empty() {
                    tracing::debug!(?batches, "pending tasks that nobody told of");
                    self.pending(now, batches);
                }
            }
            Input::Paused { batch } => {
                self.declare(&batch);
                if let Some(work) = self.work.get_mut(&batch) {
                    // Like a roll call: what is not in the queue is asked for at the workers.
                    work.withdrawal_due = Some(Why::Roll);
                }
            }
            Input::Room { room } => {
                for (batch, dispatches) in room {
                    self.windows.room(&batch, dispatches);
                    self.look_again(now, &batch);
                    if let Some(work) = self.work.get_mut(&batch) {
                        work.look_for_recalled(now);
                    }
                }
            }
            Input::Claimed {
                batch,
                dispatches,
                assigned,
                pending_left,
            } => {
                self.windows.claimed(&batch, assigned, pending_left);
                let work = self.work.entry(batch).or_default();
                work.claiming = false;
                work.outstanding += dispatches;
                if assigned > 0 {
                    work.count_later(now);
                }
            }
            Input::Confirmed { batch } => self.answered(&batch),
            Input::Refused {
                batch,
                task,
                dispatch,
            } => {
                self.answered(&batch);
                let work = self.work.entry(batch.clone()).or_default();
                work.declared = false;
                work.rest_until = Some(now + AFTER_REFUSAL);
                let dispatches = vec![(task, dispatch)];
                self.effects.push(Effect::Return { batch, dispatches });
            }
            Input::Returned { batch, dispatches } => {
                self.windows.room(&batch, dispatches);
                if let Some(work) = self.work.get_mut(&batch) {
                    work.look_for_recalled(now);
                }
                self.windows.pending([batch]);
            }
            Input::Compared { batch, overtaken } => {
                if let Some(work) = self.work.get_mut(&batch) {
                    work.comparing = false;
                    if overtaken && work.withdrawal.is_none() {
                        work.withdrawal = Some(Withdrawal::Waiting(Why::Order));
                    }
                }
            }
            Input::Withdrawn { batch, dispatches } => self.withdrawn(now, &batch, dispatches),
            Input::Counted {
                batch,
                surplus,
                assigned,
            } => self.counted(now, &batch, surplus, assigned),
            Input::Listed {
                batch,
                question,
                unstarted,
                workers,
            } => self.listed(now, &batch, &question, &unstarted, workers),
            Input::Absent { worker, dispatches } => {
                self.absent(now, &worker, &dispatches);
                self.absent_from_recalls(now, &worker, &dispatches);
            }
            Input::Recall {
                recall,
                batch,
                tasks,
            } => self.recall(recall, &batch, tasks),
            Input::Unstarted {
                batch,
                recall,
                unstarted,
                workers,
            } => self.unstarted(now, &batch, recall, unstarted, workers),
            Input::Changed {
                batch,
                recall,
                pending,
            } => self.changed(now, &batch, recall, pending),
            Input::MarkerRead { marker } => {
                let read = self.beginning.take_if(|(ours, _)| *ours == marker);
                if read.is_some() {
                    self.count_everything(now);
                }
                self.read_after_withdrawal(now, marker);
            }
            Input::Tick => {}
        }
        self.tend(now);
        if tidy && self.hearing.is_none() {
            self.tidy();
        }
        std::mem::take(&mut self.effects)
    }

    /// When the core wants to be told [`Input::Tick`], unless something else happens before.
    pub fn next_deadline(&self, now: Duration) -> Option<Duration> {
        let marker = self.beginning.map(|(_, until)| until);
        if let Some(hearing) = &self.hearing {
            return hearing.deadline().into_iter().chain(marker).min();
        }
        let deadlines = self.work.values().flat_map(|work| {
            let rolling = work.roll.as_ref().and_then(|roll| roll.deadline(now));
            let resting = work.rest_until.filter(|until| now < *until);
            let comparing = work.compare_at.filter(|_| !work.is_barred(now));
            // A withdrawal waits for answers, not for the time, and all else waits for it.
            let counting = work.count_at.map(|(at, _)| at);
            let suspecting = work.suspects.as_ref().map(|suspects| suspects.look_at);
            let open = work.withdrawal.is_none();
            let reading = match work.withdrawal {
                Some(Withdrawal::Reading(_, _, until)) => Some(until),
                _ => None,
            };
            let recalling = work.recalls.front().and_then(Recall::deadline);
            [
                reading,
                recalling,
                rolling,
                resting,
                comparing,
                counting.filter(|_| open),
                suspecting.filter(|_| open),
            ]
        });
        deadlines.flatten().chain(marker).min()
    }

    /// The batches of which nothing is dispatched at present although there may be something to dispatch, for tests.
    pub fn barred(&self, now: Duration) -> Vec<BatchName> {
        let barred = self.work.iter().filter(|(_, work)| work.is_barred(now));
        barred.map(|(batch, _)| batch.clone()).collect()
    }

    /// Dispatches of a batch whose whereabouts are not known, by the last roll call.
    #[cfg(test)]
    fn unaccounted(&self, batch: &BatchName) -> usize {
        let roll = self.work.get(batch).and_then(|work| work.roll.as_ref());
        roll.map_or(0, Roll::unaccounted)
    }

    /// Asks to be told when everything said until now is applied.
    fn mark(&mut self, now: Duration) {
        self.last_marker += 1;
        let marker = MarkerNumber(self.last_marker);
        self.beginning = Some((marker, now + MARKER_LOST_AFTER));
        self.effects.push(Effect::Marker { marker });
    }

    fn pending(&mut self, now: Duration, batches: BTreeSet<BatchName>) {
        for batch in &batches {
            let work = self.work.entry(batch.clone()).or_default();
            work.compare_at.get_or_insert(now);
            work.look_for_recalled(now);
        }
        self.windows.pending(batches);
    }

    fn workers(&mut self, capacities: impl IntoIterator<Item = (BatchName, crate::db::Capacity)>) {
        self.windows.capacities(capacities);
        for batch in self.windows.with_workers() {
            self.declare(&batch);
        }
    }

    fn greeted(&mut self, worker: WorkerName, desired: DesiredState) {
        self.effects.push(Effect::LoadWorkers);
        // First the queue, so that the worker finds it.
        self.declare(&desired.batch);
        self.ask_again(&worker);
        self.ask_again_for_recalled(&worker);
        self.effects.push(Effect::Welcome { worker, desired });
    }

    fn declare(&mut self, batch: &BatchName) {
        let work = self.work.entry(batch.clone()).or_default();
        if !std::mem::replace(&mut work.declared, true) {
            let batch = batch.clone();
            self.effects.push(Effect::Declare { batch });
        }
    }

    fn answered(&mut self, batch: &BatchName) {
        if let Some(work) = self.work.get_mut(batch) {
            work.outstanding = work.outstanding.saturating_sub(1);
        }
    }

    fn withdrawn(&mut self, now: Duration, batch: &BatchName, dispatches: usize) {
        self.windows.room(batch, dispatches);
        self.windows.pending([batch.clone()]);
        self.queue_is_empty(batch);
        let Some(work) = self.work.get_mut(batch) else {
            return;
        };
        work.compare_at = Some(now + BETWEEN_WITHDRAWALS);
        match work.withdrawal {
            Some(Withdrawal::Emptying(why @ (Why::Roll | Why::Recall))) => {
                work.read(now, why, &mut self.last_marker, &mut self.effects);
            }
            _ => work.withdrawal = None,
        }
    }

    /// Everything that was said before a queue was empty is applied: who may have got something from it is known.
    fn read_after_withdrawal(&mut self, now: Duration, read: MarkerNumber) {
        let waiting = self
            .work
            .iter()
            .find_map(|(batch, work)| match work.withdrawal {
                Some(Withdrawal::Reading(why, marker, _)) if marker == read => {
                    Some((batch.clone(), why))
                }
                _ => None,
            });
        let Some((batch, why)) = waiting else { return };
        let Some(work) = self.work.get_mut(&batch) else {
            return;
        };
        if why == Why::Recall {
            work.withdrawal = None;
            self.withdrawn_for_recall(now, &batch);
        } else {
            work.withdrawal = Some(Withdrawal::Listing);
            let question = Question::All;
            self.effects.push(Effect::List { batch, question });
        }
    }

    /// Everything that waits for nothing but the time or for the end of something else.
    fn tend(&mut self, now: Duration) {
        if self.beginning.is_some_and(|(_, until)| until <= now) {
            self.mark(now);
        }
        if self.hearing.is_some() {
            for (batch, work) in &mut self.work {
                work.tend_withdrawal(batch, &mut self.effects);
            }
            self.tend_hearing(now);
            return;
        }
        for (batch, work) in &mut self.work {
            work.tend_recall(now, batch, &mut self.effects);
            if let Some(Withdrawal::Reading(why, _, until)) = work.withdrawal
                && until <= now
            {
                work.read(now, why, &mut self.last_marker, &mut self.effects);
            }
            work.tend_withdrawal(batch, &mut self.effects);
            work.tend_suspicion(now, batch, &mut self.effects);
            work.tend_roll(now, batch, &mut self.effects);
            // Urgent tasks first: a refill would put them behind what is in the queue.
            if work.compare_at.is_some_and(|at| at <= now) && !work.is_barred(now) {
                work.compare_at = None;
                if work.declared && self.windows.is_contended(batch) {
                    work.comparing = true;
                    let batch = batch.clone();
                    self.effects.push(Effect::Compare { batch });
                }
            }
        }
        for (batch, window) in self.windows.due() {
            let work = self.work.entry(batch.clone()).or_default();
            if work.is_barred(now) {
                continue;
            }
            work.claiming = true;
            self.declare(&batch);
            self.effects.push(Effect::Claim { batch, window });
        }
    }

    /// Deletes the queues of batches that have neither work nor workers.
    fn tidy(&mut self) {
        let windows = &self.windows;
        let effects = &mut self.effects;
        self.work.retain(|batch, work| {
            if windows.is_over(batch) && work.is_idle() {
                if work.declared {
                    let batch = batch.clone();
                    effects.push(Effect::DeleteQueue { batch });
                }
                return false;
            }
            true
        });
    }
}

impl Work {
    /// Asks to be told when everything that was said until now is applied.
    fn read(&mut self, now: Duration, why: Why, last_marker: &mut u64, effects: &mut Vec<Effect>) {
        *last_marker += 1;
        let marker = MarkerNumber(*last_marker);
        self.withdrawal = Some(Withdrawal::Reading(why, marker, now + MARKER_LOST_AFTER));
        effects.push(Effect::Marker { marker });
    }

    fn tend_withdrawal(&mut self, batch: &BatchName, effects: &mut Vec<Effect>) {
        if self.withdrawal.is_none() {
            self.withdrawal = self.withdrawal_due.take().map(Withdrawal::Waiting);
        }
        if let Some(Withdrawal::Waiting(why)) = self.withdrawal
            && self.outstanding == 0
            && !self.claiming
        {
            self.withdrawal = Some(Withdrawal::Emptying(why));
            let batch = batch.clone();
            effects.push(Effect::Withdraw { batch });
        }
    }
}
