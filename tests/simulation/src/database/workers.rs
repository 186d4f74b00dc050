//! Workers: what is wanted of them, what they hold, and how long they have been silent.

use std::collections::BTreeMap;
use std::time::Duration;

use scitq_server::db::{Capacity, HeldAttempts, ListedAttempt, LiveAttempt, Silent};
use scitq_shared::ids::{AttemptId, Epoch, IncarnationId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::protocol::Hello;
use scitq_shared::worker::DesiredState;

use super::{Database, Refused, Worker, wall};

impl Database {
    /// A worker says hello.
    pub fn greet(
        &mut self,
        epoch: Epoch,
        name: &WorkerName,
        incarnation: IncarnationId,
        hello: &Hello,
        now: Duration,
    ) -> Result<(DesiredState, Option<u32>), Refused> {
        self.fence(epoch)?;
        let now = self.clock(now);
        let worker = self.workers.entry(name.clone()).or_insert_with(|| Worker {
            desired: DesiredState {
                version: 1,
                ..hello.initial.clone()
            },
            incarnation,
            heard: now,
            online: true,
            lost: false,
            departed: false,
            boots: hello.boots,
            restart: None,
            fault: None,
            faults_counted_after: 0,
        });
        if worker.incarnation != incarnation {
            let former = (name.clone(), worker.incarnation);
            self.former.entry(former).or_insert(worker.heard);
        }
        self.former.remove(&(name.clone(), incarnation));
        let same = worker.incarnation == incarnation;
        worker.restart = worker.restart.filter(|of| same && hello.boots <= *of);
        worker.boots = hello.boots;
        worker.incarnation = incarnation;
        worker.heard = now;
        worker.online = true;
        worker.lost = false;
        worker.departed = false;
        Ok((worker.desired.clone(), worker.restart))
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
        let now = self.clock(now);
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

    /// Workers that were silent for this long go offline; true when some did.
    pub fn set_offline(
        &mut self,
        epoch: Epoch,
        silent_for: Duration,
        now: Duration,
    ) -> Result<bool, Refused> {
        self.fence(epoch)?;
        let now = self.clock(now);
        let mut some = false;
        for worker in self.workers.values_mut() {
            if worker.online && worker.heard + silent_for < now {
                worker.online = false;
                some = true;
            }
        }
        Ok(some)
    }

    /// See the real one.
    pub fn silent_beyond_lease(&self, lease: Duration, now: Duration) -> Vec<Silent> {
        let now = self.clock(now);
        let silent = |worker: &WorkerName, incarnation, heard: Duration, former| Silent {
            worker: worker.clone(),
            incarnation,
            lease,
            since: wall(heard),
            former,
        };
        let present = self.workers.iter().filter(|(name, worker)| {
            let holds = || !self.live_attempts(name, worker.incarnation).is_empty();
            !worker.lost && worker.heard + lease < now && (!worker.departed || holds())
        });
        let present =
            present.map(|(name, worker)| silent(name, worker.incarnation, worker.heard, false));
        let former = self
            .former
            .iter()
            .filter(|(_, heard)| **heard + lease < now);
        let former =
            former.map(|((name, incarnation), heard)| silent(name, *incarnation, *heard, true));
        present.chain(former).collect()
    }

    /// See the real one.
    pub fn live_attempts(&self, name: &WorkerName, incarnation: IncarnationId) -> Vec<LiveAttempt> {
        let live = self.attempts.iter().filter(|(_, it)| {
            it.worker == *name && it.incarnation == incarnation && !it.state.is_over()
        });
        live.map(|(id, it)| LiveAttempt {
            attempt: *id,
            task: it.task,
            dispatch: it.dispatch,
            state: it.state,
            announced_sequence: it.announced_sequence,
        })
        .collect()
    }

    /// See the real one.
    pub fn set_lost(
        &mut self,
        epoch: Epoch,
        name: &WorkerName,
        incarnation: IncarnationId,
    ) -> Result<(), Refused> {
        self.fence(epoch)?;
        self.former.remove(&(name.clone(), incarnation));
        if let Some(worker) = self.workers.get_mut(name)
            && worker.incarnation == incarnation
        {
            worker.lost = true;
            worker.online = false;
        }
        Ok(())
    }

    /// Changes what a worker is to be.
    pub fn change(&mut self, name: &WorkerName, change: impl FnOnce(&mut DesiredState)) {
        if let Some(worker) = self.workers.get_mut(name) {
            let paused = worker.desired.paused;
            change(&mut worker.desired);
            if paused && !worker.desired.paused {
                worker.fault = None;
                worker.faults_counted_after = self.last_attempt;
            }
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
            live: self.live_attempts(name, incarnation),
            listed: listed.collect(),
        }
    }
}
