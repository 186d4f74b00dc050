//! Workers that cannot run what they are given (D13).

use std::time::Duration;

use scitq_server::db::{Fault, FaultHistory, RecentEnd};
use scitq_shared::execution::FailureReason;
use scitq_shared::ids::Epoch;
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::transition::AttemptState;
use scitq_shared::worker::DesiredState;

use super::{Database, Refused};

const HOUR: Duration = Duration::from_hours(1);

impl Database {
    /// See the real one.
    pub fn fault_history(
        &self,
        name: &WorkerName,
        batch: &BatchName,
        most: u32,
        now: Duration,
    ) -> FaultHistory {
        let now = self.clock(now);
        let Some(worker) = self.workers.get(name) else {
            return FaultHistory::default();
        };
        let mut ended: Vec<_> = self
            .attempts
            .values()
            .filter(|it| it.worker == *name && it.number > worker.faults_counted_after)
            .filter(|it| matches!(it.state, AttemptState::Succeeded | AttemptState::Failed))
            .collect();
        ended.sort_unstable_by_key(|it| std::cmp::Reverse(it.number));
        let recent = ended.into_iter().take(most as usize).map(|it| {
            let failed = it.state == AttemptState::Failed;
            let failure = it.failure.clone();
            let failure = failure.unwrap_or((FailureReason::ExitCode, String::new()));
            RecentEnd {
                task: it.task,
                reason: failed.then_some(failure.0),
                detail: failure.1,
            }
        });
        let others = self.workers.iter().filter_map(|(other, worker)| {
            let (fault, of, at) = worker.fault.as_ref()?;
            let speaks = other != name && of == batch && *at + HOUR > now;
            speaks.then(|| (other.as_str().to_owned(), fault.clone()))
        });
        FaultHistory {
            paused: worker.desired.paused,
            batch_paused: self.paused.contains(batch),
            counted_after: i64::try_from(worker.faults_counted_after).unwrap_or(i64::MAX),
            recent: recent.collect(),
            others: others.collect(),
        }
    }

    /// See the real one.
    pub fn pause_faulty_worker(
        &mut self,
        epoch: Epoch,
        name: &WorkerName,
        batch: &BatchName,
        fault: Fault,
        now: Duration,
    ) -> Result<Option<DesiredState>, Refused> {
        self.fence(epoch)?;
        let now = self.clock(now);
        let Some(worker) = self.workers.get_mut(name) else {
            return Ok(None);
        };
        if !worker.desired.paused {
            worker.desired.paused = true;
            worker.desired.version += 1;
            worker.fault = Some((fault, batch.clone(), now));
            worker.faults_counted_after = self.last_attempt;
        }
        Ok(Some(worker.desired.clone()))
    }

    /// See the real one.
    pub fn pause_faulty_batch(&mut self, epoch: Epoch, batch: &BatchName) -> Result<(), Refused> {
        self.fence(epoch)?;
        self.paused.insert(batch.clone());
        Ok(())
    }
}
