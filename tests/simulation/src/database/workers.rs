//! Workers: what is wanted of them, what they hold, and how long they have been silent.

use std::collections::BTreeMap;
use std::time::Duration;

use scitq_server::db::{Capacity, HeldAttempts, ListedAttempt, LiveAttempt};
use scitq_server::events::Happening;
use scitq_shared::ids::{AttemptId, Epoch, IncarnationId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::worker::DesiredState;

use super::{Attempt, Database, Refused, Worker};

impl Database {
    /// A worker says hello.
    pub fn greet(
        &mut self,
        epoch: Epoch,
        name: &WorkerName,
        incarnation: IncarnationId,
        initial: &DesiredState,
        now: Duration,
    ) -> Result<DesiredState, Refused> {
        self.fence(epoch)?;
        let worker = self.workers.entry(name.clone()).or_insert_with(|| Worker {
            desired: DesiredState {
                version: 1,
                ..initial.clone()
            },
            incarnation,
            heard: now,
            online: true,
            lost: false,
            departed: false,
            earlier_from: None,
        });
        if worker.incarnation != incarnation {
            worker.earlier_from = Some(now);
        }
        worker.incarnation = incarnation;
        worker.heard = now;
        worker.online = true;
        worker.lost = false;
        worker.departed = false;
        Ok(worker.desired.clone())
    }

    /// A worker ends on purpose.
    pub fn farewell(
        &mut self,
        epoch: Epoch,
        name: &WorkerName,
        incarnation: IncarnationId,
        departed: bool,
    ) -> Result<(), Refused> {
        self.fence(epoch)?;
        if let Some(worker) = self.workers.get_mut(name)
            && worker.incarnation == incarnation
        {
            worker.online = false;
            worker.departed = departed;
        }
        Ok(())
    }

    /// A sign of life; true when the worker was offline.
    pub fn heard(
        &mut self,
        epoch: Epoch,
        name: &WorkerName,
        incarnation: IncarnationId,
        now: Duration,
    ) -> Result<bool, Refused> {
        self.fence(epoch)?;
        let Some(worker) = self.workers.get_mut(name) else {
            return Ok(false);
        };
        if worker.incarnation != incarnation {
            return Ok(false);
        }
        worker.heard = now;
        worker.lost = false;
        Ok(!std::mem::replace(&mut worker.online, true))
    }

    /// A new leader gives everyone the whole time again.
    pub fn forgive_silence(&mut self, now: Duration) {
        for worker in self.workers.values_mut() {
            worker.heard = now;
        }
    }

    /// Workers that were silent for this long go offline; true when some did.
    pub fn set_offline(
        &mut self,
        epoch: Epoch,
        silent_for: Duration,
        now: Duration,
    ) -> Result<bool, Refused> {
        self.fence(epoch)?;
        let mut some = false;
        for worker in self.workers.values_mut() {
            if worker.online && worker.heard + silent_for < now {
                worker.online = false;
                some = true;
            }
        }
        Ok(some)
    }

    /// Live attempts whose lease has expired, to be declared lost: of workers that are silent, and of earlier
    /// incarnations.
    pub fn expired(
        &mut self,
        epoch: Epoch,
        silent_for: Duration,
        now: Duration,
    ) -> Result<Vec<Happening>, Refused> {
        self.fence(epoch)?;
        for worker in self.workers.values_mut() {
            worker.lost |= worker.heard + silent_for < now;
        }
        let expired = self.attempts.iter().filter(|(_, attempt)| {
            let worker = self.workers.get(&attempt.worker);
            !attempt.state.is_over()
                && worker.is_some_and(|worker| {
                    let earlier = worker.incarnation != attempt.incarnation
                        && worker
                            .earlier_from
                            .is_some_and(|from| from + silent_for < now);
                    worker.lost || earlier
                })
        });
        Ok(expired.map(|(id, attempt)| lost_of(*id, attempt)).collect())
    }

    /// Changes what a worker is to be.
    pub fn change(&mut self, name: &WorkerName, change: impl FnOnce(&mut DesiredState)) {
        if let Some(worker) = self.workers.get_mut(name) {
            change(&mut worker.desired);
            worker.desired.version += 1;
        }
    }

    /// See the real one.
    pub fn capacity(&self) -> Vec<(BatchName, Capacity)> {
        let mut capacity: BTreeMap<BatchName, Capacity> = BTreeMap::new();
        for worker in self.workers.values() {
            if worker.online && !worker.desired.paused {
                let of = capacity.entry(worker.desired.batch.clone()).or_default();
                of.workers += 1;
                of.slots_and_prefetch +=
                    i64::from(worker.desired.concurrency) + i64::from(worker.desired.prefetch);
            }
        }
        capacity.into_iter().collect()
    }

    /// See the real one.
    pub fn held(
        &self,
        name: &WorkerName,
        incarnation: IncarnationId,
        listed: &[AttemptId],
    ) -> HeldAttempts {
        let live = self.attempts.iter().filter(|(_, it)| {
            it.worker == *name && it.incarnation == incarnation && !it.state.is_over()
        });
        let live = live.map(|(id, it)| LiveAttempt {
            attempt: *id,
            task: it.task,
            dispatch: it.dispatch,
            state: it.state,
            announced_sequence: it.announced_sequence,
        });
        let known = listed
            .iter()
            .filter_map(|id| self.attempts.get(id).map(|attempt| (*id, attempt)));
        let listed = known.map(|(id, it)| ListedAttempt {
            attempt: id,
            task: it.task,
            state: it.state,
            complete: it.complete,
            stdout_from: (!self.outputs.contains(&id)).then_some(0),
            stderr_from: None,
        });
        HeldAttempts {
            live: live.collect(),
            listed: listed.collect(),
        }
    }
}

fn lost_of(id: AttemptId, attempt: &Attempt) -> Happening {
    Happening::Lost {
        attempt: id,
        dispatch: attempt.dispatch,
        task: attempt.task,
        detail: "silent past its lease".to_owned(),
    }
}
