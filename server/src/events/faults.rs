//! A worker that only fails is paused; what two workers cannot run pauses its batch instead (D13).

use scitq_shared::execution::FailureReason;
use scitq_shared::fault;
use scitq_shared::names::{BatchName, WorkerName};

use super::consume::{Consumed, EventsConsumer};
use crate::db::{Fault, FaultHistory, Judged, RecentEnd};
use crate::dispatch::DispatchInput;
use crate::notices::Notice;
use crate::patience::patiently;

/// How much of a failure's words is shown as the reason of a pause, in characters.
const SHOWN_CHARACTERS: usize = 500;

/// What follows from a worker's failures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet, or nothing more.
    Nothing,
    /// The worker is paused, for this.
    PauseWorker(Fault),
    /// The batch is paused, for this, because the same has paused another worker.
    PauseBatch(Fault, String),
}

/// Judges a worker after a failure of its own. Pure. `limit` is how many such failures in a row are too many.
///
/// One bad task is to pause no fleet: where all that failed is one task, what the task itself may have brought about pauses
/// nothing, and the batch is not paused (that task's retries come to an end). A failure in which it has no part, like a full
/// disk, pauses the worker all the same: the last task of a series is not to fail for it.
pub fn judge(history: &FaultHistory, limit: u32) -> Verdict {
    let limit = usize::try_from(limit.max(1)).unwrap_or(usize::MAX);
    let in_a_row: Vec<(&RecentEnd, FailureReason)> = history
        .recent
        .iter()
        .map_while(|end| Some((end, end.reason.filter(|reason| reason.is_infrastructure())?)))
        .take(limit)
        .collect();
    let Some(&(newest, reason)) = in_a_row.first() else {
        return Verdict::Nothing;
    };
    if history.paused || in_a_row.len() < limit {
        return Verdict::Nothing;
    }
    let one_task = limit > 1 && in_a_row.iter().all(|(end, _)| end.task == newest.task);
    if one_task && !reason.spares_task() {
        return Verdict::Nothing;
    }
    let key = fault::key(&newest.detail);
    let fault = Fault { reason, key };
    match history.others.iter().find(|(_, other)| *other == fault) {
        None => Verdict::PauseWorker(fault),
        Some(_) if history.batch_paused || one_task => Verdict::Nothing,
        Some((other, _)) => Verdict::PauseBatch(fault, other.clone()),
    }
}

/// The last failure, for people.
fn words(history: &FaultHistory) -> String {
    let newest = history.recent.first();
    let reason = newest.and_then(|end| end.reason);
    let reason = reason.map_or("", FailureReason::as_str);
    let detail = newest.map_or("", |end| end.detail.as_str());
    let detail: String = detail.chars().take(SHOWN_CHARACTERS).collect();
    format!("{reason}: {detail}")
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
        let judged = |fault: Fault, why: String| Judged {
            worker: worker.clone(),
            batch: batch.clone(),
            counted_after: history.counted_after,
            fault,
            why,
        };
        match judge(&history, limit) {
            Verdict::Nothing => {}
            Verdict::PauseWorker(fault) => {
                let why = format!(
                    "{limit} attempts in a row could not be run here, the last with {}",
                    words(&history)
                );
                let judged = judged(fault, why);
                let desired = patiently!(
                    &self.stop,
                    "the judge of workers",
                    self.database.pause_faulty_worker(self.epoch, &judged).await
                )?;
                if let Some(desired) = desired.filter(|desired| desired.paused) {
                    tracing::warn!(%worker, why = judged.why, "a worker only fails and is paused");
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
                    words(&history)
                );
                let judged = judged(fault, why);
                let paused = patiently!(
                    &self.stop,
                    "the judge of workers",
                    self.database.pause_faulty_batch(self.epoch, &judged).await
                )?;
                if paused {
                    tracing::warn!(%batch, why = judged.why, "no worker can run a batch, and it is paused");
                    let batch = batch.clone();
                    self.dispatcher.send(DispatchInput::Paused(batch)).await;
                    self.notices.tell(Notice::Tasks);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use scitq_shared::ids::{AttemptId, TaskId};

    use super::*;

    fn end(reason: Option<FailureReason>, detail: &str) -> RecentEnd {
        RecentEnd {
            task: TaskId(1),
            reason,
            detail: detail.to_owned(),
        }
    }

    /// The failures of as many tasks.
    fn history(recent: &[RecentEnd]) -> FaultHistory {
        let recent = (1..).zip(recent).map(|(task, end)| RecentEnd {
            task: TaskId(task),
            ..end.clone()
        });
        FaultHistory {
            recent: recent.collect(),
            ..FaultHistory::default()
        }
    }

    fn fault(end: &RecentEnd) -> Fault {
        Fault {
            reason: end.reason.unwrap(),
            key: fault::key(&end.detail),
        }
    }

    #[test]
    fn only_failures_of_its_own_in_a_row_pause_a_worker() {
        let full = end(Some(FailureReason::DiskFull), "no space");
        let broken = end(Some(FailureReason::WorkerFault), "no directory");
        let start = end(Some(FailureReason::StartFailed), "no process");
        let exit = end(Some(FailureReason::ExitCode), "ended with 1");
        let missing = end(Some(FailureReason::CommandNotFound), "no such command");
        let good = end(None, "");
        let pause = |end: &RecentEnd| Verdict::PauseWorker(fault(end));
        // The newest first.
        let table: Vec<(Vec<&RecentEnd>, Verdict)> = vec![
            (vec![], Verdict::Nothing),
            (vec![&full, &full], Verdict::Nothing),
            (vec![&full, &broken, &start], pause(&full)),
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
    fn one_bad_task_pauses_no_fleet() {
        let full = end(Some(FailureReason::DiskFull), "no space");
        let start = end(Some(FailureReason::StartFailed), "no process");
        let of_one_task = |end: &RecentEnd| FaultHistory {
            recent: vec![end.clone(); 5],
            ..FaultHistory::default()
        };
        // It may be the task's doing.
        assert_eq!(judge(&of_one_task(&start), 3), Verdict::Nothing);
        assert_eq!(
            judge(&of_one_task(&start), 1),
            Verdict::PauseWorker(fault(&start))
        );
        // It is certainly not: this worker is paused, but the batch is not, for one task.
        let alone = of_one_task(&full);
        assert_eq!(judge(&alone, 3), Verdict::PauseWorker(fault(&full)));
        let with_another = |history: FaultHistory| FaultHistory {
            others: vec![("w2".to_owned(), fault(&full))],
            ..history
        };
        assert_eq!(judge(&with_another(alone), 3), Verdict::Nothing);
        let many = history(&vec![full.clone(); 3]);
        assert_eq!(
            judge(&with_another(many), 3),
            Verdict::PauseBatch(fault(&full), "w2".to_owned())
        );
    }

    /// What a worker says that cannot make the directory of an attempt.
    fn said(directory: &str) -> RecentEnd {
        let path = Path::new(directory).join(AttemptId::generate().to_string());
        let error = io::Error::from_raw_os_error(1);
        let (reason, detail) = fault::of_worker("make the work directory", &path, &error);
        end(Some(reason), &detail)
    }

    #[test]
    fn the_same_failure_of_another_worker_pauses_the_batch() {
        let here = history(&[said("/data/work"), said("/data/work")]);
        let with = |other: &RecentEnd| FaultHistory {
            others: vec![
                ("w1".to_owned(), fault(&end(here.recent[0].reason, "other"))),
                ("w2".to_owned(), fault(other)),
            ],
            ..here.clone()
        };
        let what = fault(&here.recent[0]);
        let same = with(&said("/scratch/work"));
        assert_eq!(
            judge(&same, 2),
            Verdict::PauseBatch(what.clone(), "w2".to_owned())
        );
        let other_words = with(&end(Some(FailureReason::WorkerFault), "no space"));
        assert_eq!(judge(&other_words, 2), Verdict::PauseWorker(what.clone()));
        let other_reason = with(&end(Some(FailureReason::DiskFull), &here.recent[0].detail));
        assert_eq!(judge(&other_reason, 2), Verdict::PauseWorker(what));
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
