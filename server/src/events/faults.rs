//! A worker that only fails is paused; what two workers cannot run pauses its batch instead (D13).

use scitq_shared::execution::FailureReason;
use scitq_shared::names::{BatchName, WorkerName};

use super::consume::{Consumed, EventsConsumer};
use crate::db::{FaultHistory, RecentEnd};
use crate::dispatch::DispatchInput;
use crate::notices::Notice;
use crate::patience::patiently;

/// How much of a failure's words two failures must have in common to be the same.
const SAME_CHARACTERS: usize = 80;

/// What follows from a worker's failures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet, or nothing more.
    Nothing,
    /// The worker is paused, for this.
    PauseWorker(RecentEnd),
    /// The batch is paused, for this, because the same has paused another worker.
    PauseBatch(RecentEnd, String),
}

/// Judges a worker after a failure of its own. Pure. `limit` is how many such failures in a row are too many.
pub fn judge(history: &FaultHistory, limit: u32) -> Verdict {
    let is_fault = |end: &RecentEnd| end.reason.is_some_and(FailureReason::is_infrastructure);
    let in_a_row = history.recent.iter().take_while(|end| is_fault(end));
    let limit = usize::try_from(limit.max(1)).unwrap_or(usize::MAX);
    let Some(newest) = history.recent.first() else {
        return Verdict::Nothing;
    };
    if history.paused || in_a_row.take(limit).count() < limit {
        return Verdict::Nothing;
    }
    let fault = RecentEnd {
        reason: newest.reason,
        detail: beginning(&newest.detail),
    };
    let same = |other: &RecentEnd| {
        other.reason == fault.reason && beginning(&other.detail) == fault.detail
    };
    match history.others.iter().find(|(_, other)| same(other)) {
        None => Verdict::PauseWorker(fault),
        Some(_) if history.batch_paused => Verdict::Nothing,
        Some((other, _)) => Verdict::PauseBatch(fault, other.clone()),
    }
}

fn beginning(detail: &str) -> String {
    detail.chars().take(SAME_CHARACTERS).collect()
}

impl EventsConsumer {
    /// Pauses a worker, or the batch, where its failures are too many.
    pub(super) async fn judge_worker(
        &self,
        worker: &WorkerName,
        batch: &BatchName,
    ) -> Result<(), Consumed> {
        let limit = self.pause_worker_after;
        let history = patiently!(
            &self.stop,
            "the judge of workers",
            self.database.fault_history(worker, batch, limit).await
        )?;
        let words = |fault: &RecentEnd| {
            let reason = fault.reason.map_or("", FailureReason::as_str);
            format!("{reason}: {}", fault.detail)
        };
        match judge(&history, limit) {
            Verdict::Nothing => {}
            Verdict::PauseWorker(fault) => {
                let why = format!(
                    "{limit} attempts in a row could not be run here, the last with {}",
                    words(&fault)
                );
                let desired = patiently!(
                    &self.stop,
                    "the judge of workers",
                    self.database
                        .pause_faulty_worker(self.epoch, worker, batch, &fault, &why)
                        .await
                )?;
                tracing::warn!(%worker, why, "a worker only fails and is paused");
                if let Some(desired) = desired {
                    let worker = worker.clone();
                    self.dispatcher
                        .send(DispatchInput::Greeted { worker, desired })
                        .await;
                }
            }
            Verdict::PauseBatch(fault, other) => {
                let why = format!(
                    "{limit} attempts in a row could not be run by worker {worker}, and before by worker {other}, the last \
                     with {}",
                    words(&fault)
                );
                let paused = patiently!(
                    &self.stop,
                    "the judge of workers",
                    self.database
                        .pause_faulty_batch(self.epoch, batch, &why)
                        .await
                )?;
                if paused {
                    tracing::warn!(%batch, why, "no worker can run a batch, and it is paused");
                    self.notices.tell(Notice::Tasks);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(reason: Option<FailureReason>, detail: &str) -> RecentEnd {
        RecentEnd {
            reason,
            detail: detail.to_owned(),
        }
    }

    fn history(recent: &[RecentEnd]) -> FaultHistory {
        FaultHistory {
            recent: recent.to_vec(),
            ..FaultHistory::default()
        }
    }

    #[test]
    fn only_failures_of_its_own_in_a_row_pause_a_worker() {
        let full = end(Some(FailureReason::DiskFull), "no space");
        let fault = end(Some(FailureReason::WorkerFault), "no directory");
        let start = end(Some(FailureReason::StartFailed), "no process");
        let exit = end(Some(FailureReason::ExitCode), "ended with 1");
        let missing = end(Some(FailureReason::CommandNotFound), "no such command");
        let good = end(None, "");
        let pause = |fault: &RecentEnd| Verdict::PauseWorker(fault.clone());
        // The newest first.
        let table: Vec<(Vec<&RecentEnd>, Verdict)> = vec![
            (vec![], Verdict::Nothing),
            (vec![&full, &full], Verdict::Nothing),
            (vec![&full, &fault, &start], pause(&full)),
            (vec![&start, &full, &full, &good], pause(&start)),
            (vec![&full, &good, &full, &full], Verdict::Nothing),
            (vec![&full, &exit, &full, &full], Verdict::Nothing),
            (vec![&full, &full, &missing, &full], Verdict::Nothing),
            (vec![&good, &full, &full, &full], Verdict::Nothing),
            (vec![&missing, &missing, &missing], Verdict::Nothing),
        ];
        for (recent, verdict) in table {
            let recent: Vec<RecentEnd> = recent.into_iter().cloned().collect();
            assert_eq!(judge(&history(&recent), 3), verdict, "{recent:?}");
        }
    }

    #[test]
    fn the_same_failure_of_another_worker_pauses_the_batch() {
        let fault = |detail: &str| end(Some(FailureReason::WorkerFault), detail);
        let long = "x".repeat(SAME_CHARACTERS);
        let here = fault(&format!("{long} here"));
        let with = |other: RecentEnd| FaultHistory {
            recent: vec![here.clone(); 2],
            others: vec![
                ("w1".to_owned(), fault("something else")),
                ("w2".to_owned(), other),
            ],
            ..FaultHistory::default()
        };
        let same = with(fault(&format!("{long} there")));
        assert_eq!(
            judge(&same, 2),
            Verdict::PauseBatch(fault(&long), "w2".to_owned())
        );
        let other_words = with(fault("no space"));
        assert_eq!(judge(&other_words, 2), Verdict::PauseWorker(fault(&long)));
        let other_reason = with(end(Some(FailureReason::DiskFull), &long));
        assert_eq!(judge(&other_reason, 2), Verdict::PauseWorker(fault(&long)));
        let told = FaultHistory {
            batch_paused: true,
            ..same.clone()
        };
        assert_eq!(judge(&told, 2), Verdict::Nothing);
        let paused = FaultHistory {
            paused: true,
            ..same
        };
        assert_eq!(judge(&paused, 2), Verdict::Nothing);
    }
}
