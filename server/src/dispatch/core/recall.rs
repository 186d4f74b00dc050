//! Recalls (D4, D8): taking the dispatches of some tasks back, so that the tasks can be changed.
//!
//! The batch is barred, its queue withdrawn, and what is not in it is asked back from whoever holds it, or may hold it. A
//! dispatch is accounted for when the database says that it is out no more (withdrawn, returned, released, started, over)
//! or when everybody who may have got it has denied it: then it is void, and is returned. When all are accounted for, or
//! after two seconds, the change is made; it names those that are still out, for they may start as they are. Only then is
//! anything of the batch dispatched again, so that nothing else starts with what the tasks were before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use scitq_shared::ids::{DispatchId, TaskId};
use scitq_shared::names::{BatchName, WorkerName};

use super::input::{Out, RecallNumber};
use super::{Core, Effect, Why, Withdrawal, Work};
use crate::db::Unstarted;

/// How long workers have to answer (D8).
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);
/// How soon the database is looked at again after something of the batch happened.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Tasks that are to be changed.
#[derive(Debug)]
pub(super) struct Recall {
    number: RecallNumber,
    tasks: BTreeSet<TaskId>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Waits for its turn.
    Queued,
    /// The queue is being withdrawn for it.
    Withdrawing,
    /// What is out is asked back.
    Asking(Asking),
    /// The change is being made.
    Changing,
}

#[derive(Debug, Default)]
struct Asking {
    /// What is still out, and who has denied it.
    out: BTreeMap<DispatchId, Missing>,
    workers: BTreeSet<WorkerName>,
    until: Duration,
    look_at: Option<Duration>,
    /// True while the database is asked.
    looking: bool,
}

#[derive(Debug)]
struct Missing {
    task: TaskId,
    holder: Option<WorkerName>,
    absent: BTreeSet<WorkerName>,
}

impl Missing {
    /// True when nobody can have it any more. What somebody has accepted is for that one to give back.
    fn is_void(&self, workers: &BTreeSet<WorkerName>) -> bool {
        self.holder.is_none() && workers.is_subset(&self.absent)
    }

    fn holders(&self, workers: &BTreeSet<WorkerName>) -> BTreeSet<WorkerName> {
        match &self.holder {
            Some(holder) => BTreeSet::from([holder.clone()]),
            None => workers.difference(&self.absent).cloned().collect(),
        }
    }
}

impl Asking {
    /// Takes in what the database says, and answers whom to ask for what that is new.
    fn take(
        &mut self,
        unstarted: Vec<Unstarted>,
        workers: BTreeSet<WorkerName>,
    ) -> BTreeMap<WorkerName, Vec<DispatchId>> {
        self.looking = false;
        self.workers = workers;
        let mut before = std::mem::take(&mut self.out);
        let mut ask: BTreeMap<WorkerName, Vec<DispatchId>> = BTreeMap::new();
        for Unstarted {
            task,
            dispatch,
            holder,
        } in unstarted
        {
            let known = before.remove(&dispatch);
            let new = known.is_none();
            let absent = known.map(|known| known.absent).unwrap_or_default();
            let missing = Missing {
                task,
                holder,
                absent,
            };
            if new {
                for worker in missing.holders(&self.workers) {
                    ask.entry(worker).or_default().push(dispatch);
                }
            }
            self.out.insert(dispatch, missing);
        }
        ask
    }

    fn void(&self) -> Vec<(TaskId, DispatchId)> {
        let void = self
            .out
            .iter()
            .filter(|(_, missing)| missing.is_void(&self.workers));
        void.map(|(dispatch, missing)| (missing.task, *dispatch))
            .collect()
    }
}

impl Recall {
    pub(super) fn deadline(&self) -> Option<Duration> {
        match &self.stage {
            Stage::Asking(asking) if !asking.looking => Some(
                asking
                    .look_at
                    .map_or(asking.until, |at| at.min(asking.until)),
            ),
            _ => None,
        }
    }

    fn asking(&mut self) -> Option<&mut Asking> {
        match &mut self.stage {
            Stage::Asking(asking) => Some(asking),
            _ => None,
        }
    }
}

impl Work {
    /// The recall whose turn it is.
    fn asking(&mut self) -> Option<&mut Asking> {
        self.recalls.front_mut().and_then(Recall::asking)
    }

    pub(super) fn tend_recall(
        &mut self,
        now: Duration,
        batch: &BatchName,
        effects: &mut Vec<Effect>,
    ) {
        let Some(recall) = self.recalls.front_mut() else {
            return;
        };
        let number = recall.number;
        match &mut recall.stage {
            Stage::Queued if self.withdrawal.is_none() => {
                self.withdrawal = Some(Withdrawal::Waiting(Why::Recall));
                recall.stage = Stage::Withdrawing;
            }
            Stage::Asking(asking) if !asking.looking => {
                if asking.out.is_empty() || asking.until <= now {
                    let workers = &asking.workers;
                    let out = asking.out.iter().map(|(dispatch, missing)| Out {
                        task: missing.task,
                        dispatch: *dispatch,
                        holders: missing.holders(workers),
                    });
                    effects.push(Effect::Change {
                        batch: batch.clone(),
                        recall: number,
                        out: out.collect(),
                    });
                    recall.stage = Stage::Changing;
                } else if asking.look_at.take_if(|at| *at <= now).is_some() {
                    asking.looking = true;
                    effects.push(Effect::ListUnstarted {
                        batch: batch.clone(),
                        recall: number,
                    });
                }
            }
            _ => {}
        }
    }

    /// Something of the batch was accepted, has started or came back: the recall may be complete.
    pub(super) fn look_for_recalled(&mut self, now: Duration) {
        if let Some(asking) = self.asking() {
            asking.look_at.get_or_insert(now + LOOK_AGAIN);
        }
    }
}

impl Core {
    pub(super) fn recall(
        &mut self,
        recall: RecallNumber,
        batch: &BatchName,
        tasks: BTreeSet<TaskId>,
    ) {
        // Also a queue that was not used in this term may hold what an earlier one published.
        self.declare(batch);
        let work = self.work.entry(batch.clone()).or_default();
        work.recalls.push_back(Recall {
            number: recall,
            tasks,
            stage: Stage::Queued,
        });
    }

    /// The queue is empty and nothing is outstanding: what is not accounted for is with a worker, or nowhere.
    pub(super) fn withdrawn_for_recall(&mut self, now: Duration, batch: &BatchName) {
        let Some(recall) = self
            .work
            .get_mut(batch)
            .and_then(|work| work.recalls.front_mut())
        else {
            return;
        };
        recall.stage = Stage::Asking(Asking {
            until: now + ANSWERED_WITHIN,
            looking: true,
            ..Asking::default()
        });
        self.effects.push(Effect::ListUnstarted {
            batch: batch.clone(),
            recall: recall.number,
        });
    }

    pub(super) fn unstarted(
        &mut self,
        now: Duration,
        batch: &BatchName,
        number: RecallNumber,
        mut unstarted: Vec<Unstarted>,
        workers: BTreeSet<WorkerName>,
    ) {
        let Some(recall) = self
            .work
            .get_mut(batch)
            .and_then(|work| work.recalls.front_mut())
            .filter(|recall| recall.number == number)
        else {
            return;
        };
        unstarted.retain(|out| recall.tasks.contains(&out.task));
        let Some(asking) = recall.asking() else {
            return;
        };
        for (worker, dispatches) in asking.take(unstarted, workers) {
            self.effects.push(Effect::Revoke { worker, dispatches });
        }
        let dispatches = asking.void();
        if !dispatches.is_empty() {
            asking.look_at = Some(now + LOOK_AGAIN);
            let batch = batch.clone();
            self.effects.push(Effect::Return { batch, dispatches });
        }
    }

    /// A worker has none of these, and will not start any of them.
    pub(super) fn absent_from_recalls(
        &mut self,
        now: Duration,
        worker: &WorkerName,
        dispatches: &[DispatchId],
    ) {
        for work in self.work.values_mut() {
            let Some(asking) = work.asking() else {
                continue;
            };
            for dispatch in dispatches {
                if let Some(missing) = asking.out.get_mut(dispatch) {
                    missing.absent.insert(worker.clone());
                }
            }
            if !asking.void().is_empty() {
                asking.look_at = Some(now);
            }
        }
    }

    /// A worker has come back: it may not have heard what it was asked.
    pub(super) fn ask_again_for_recalled(&mut self, worker: &WorkerName) {
        for work in self.work.values_mut() {
            let Some(asking) = work.asking() else {
                continue;
            };
            let out = asking.out.iter();
            let dispatches: Vec<DispatchId> = out
                .filter(|(_, missing)| missing.holders(&asking.workers).contains(worker))
                .map(|(dispatch, _)| *dispatch)
                .collect();
            if !dispatches.is_empty() {
                let worker = worker.clone();
                self.effects.push(Effect::Revoke { worker, dispatches });
            }
        }
    }

    /// The change is made and answered, or could not be made.
    pub(super) fn changed(
        &mut self,
        now: Duration,
        batch: &BatchName,
        number: RecallNumber,
        pending: BTreeSet<BatchName>,
    ) {
        let Some(work) = self.work.get_mut(batch) else {
            return;
        };
        work.recalls.pop_front_if(|recall| recall.number == number);
        for batch in pending.iter().chain([batch]) {
            let work = self.work.entry(batch.clone()).or_default();
            // Priorities may have changed; and what is still out is looked for should nobody ever speak of it.
            work.compare_at.get_or_insert(now);
            work.count_later(now);
        }
        self.windows.pending(pending);
        self.windows.pending([batch.clone()]);
    }
}
