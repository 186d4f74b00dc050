//! An execution from its start, or from its adoption by this agent, to its end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use scitq_shared::execution::{FailureReason, Outcome};
use scitq_shared::ids::{AttemptId, TaskId};
use tokio::sync::mpsc;

use super::launch::{Launched, fault, launch, launch_again, not_executed};
use super::{Site, StartFailure, leftovers};
use crate::agent::core::{AttemptEnd, Execution};
use crate::attempt::journal::{self, Claim, ProcessEnd, Step};
use crate::attempt::recovery;
use crate::keeper::{Kept, NotStarted, StartOrder, Told};

/// Output of a task that runs for longer is sent while it runs; short tasks are spared the watching.
const FOLLOW_AFTER: Duration = Duration::from_millis(150);
/// How often an attempt is handed to another keeper when one is gone before it has claimed it.
const MOST_HANDOVERS: u32 = 3;

/// What ends a running task early: a signal, and what the attempt comes to.
#[derive(Clone, Debug)]
pub(crate) struct KillOrder {
    pub(crate) signal: Signal,
    pub(crate) outcome: Outcome,
}

/// An attempt that runs under a keeper of an agent before this one.
#[derive(Debug)]
pub(crate) struct Adopted {
    pub(crate) attempt: AttemptId,
    pub(crate) task: TaskId,
    pub(crate) kept: Kept,
    /// What it comes to, when it was being ended on purpose.
    pub(crate) killing: Option<Outcome>,
    /// True when the work directory may be used for another attempt.
    pub(crate) same_user: bool,
}

/// Executes a task and answers how it ended, when that is in its journal. `kills` end it early.
///
/// If the future is dropped the process goes on; the next agent finds it.
pub(crate) async fn execute(
    site: Arc<Site>,
    execution: Execution,
    kills: mpsc::Receiver<KillOrder>,
) -> AttemptEnd {
    let (attempt, task) = (execution.report.attempt, execution.report.task);
    let launching = {
        let site = Arc::clone(&site);
        tokio::task::spawn_blocking(move || launch(&site, &execution)).await
    };
    let launched = match launching {
        Ok(launched) => launched,
        Err(error) => Err(defect(&error)),
    };
    match launched {
        Ok(Launched {
            kept,
            order,
            same_user,
        }) => {
            let run = Run {
                site,
                attempt,
                task,
                kept,
                order: Some(order),
                killed: None,
                same_user,
            };
            run.see_through(kills, FOLLOW_AFTER).await
        }
        Err(failure) => {
            let end = never_ran(failure.into());
            record(&site.attempts.of(attempt), attempt, &end);
            end
        }
    }
}

/// Sees an adopted attempt through to its end, and answers that; see [`execute`].
pub(crate) async fn adopt(
    site: Arc<Site>,
    adopted: Adopted,
    kills: mpsc::Receiver<KillOrder>,
) -> AttemptEnd {
    let Adopted {
        attempt,
        task,
        kept,
        killing,
        same_user,
    } = adopted;
    if killing.is_some() {
        // Whether the agent before came to send the signal is not known.
        kept.signal(Signal::KILL);
    }
    let run = Run {
        site,
        attempt,
        task,
        kept,
        order: None,
        killed: killing,
        same_user,
    };
    run.see_through(kills, Duration::ZERO).await
}

/// An attempt that is with a keeper.
struct Run {
    site: Arc<Site>,
    attempt: AttemptId,
    task: TaskId,
    kept: Kept,
    /// How it was started, when this agent did.
    order: Option<StartOrder>,
    /// What it comes to, when it is ended on purpose.
    killed: Option<Outcome>,
    same_user: bool,
}

/// What became of an attempt that its keeper does not have.
enum Fate {
    Over(AttemptEnd),
    Ended(ProcessEnd),
    AnotherKeeper(Kept),
}

impl Run {
    async fn see_through(
        mut self,
        mut kills: mpsc::Receiver<KillOrder>,
        follow_after: Duration,
    ) -> AttemptEnd {
        let follow = tokio::time::sleep(follow_after);
        tokio::pin!(follow);
        let (mut followed, mut killable) = (false, true);
        let mut handovers = 0;
        loop {
            tokio::select! {
                biased;
                told = self.kept.next() => match told {
                    Told::Started { pid } => tracing::trace!(attempt = %self.attempt, pid, "runs"),
                    Told::Ended(end) => return self.ended(end),
                    Told::NotStarted(NotStarted::Execute(error)) => {
                        let error = std::io::Error::from_raw_os_error(error);
                        let file = self.order.as_ref().map(|order| order.file.clone());
                        return self.over(never_ran(not_executed(&file.unwrap_or_default(), &error).into()));
                    }
                    Told::NotStarted(NotStarted::Claim(error)) if error != libc::ENOENT => {
                        let error = std::io::Error::from_raw_os_error(error);
                        let directory = self.site.attempts.of(self.attempt);
                        return self.over(never_ran(fault("claim the attempt in", &directory, &error).into()));
                    }
                    Told::NotStarted(NotStarted::Claim(_)) | Told::Absent => {
                        handovers += 1;
                        match self.fate(handovers <= MOST_HANDOVERS).await {
                            Fate::Over(end) => return self.over(end),
                            Fate::Ended(end) => return self.ended(end),
                            Fate::AnotherKeeper(kept) => self.kept = kept,
                        }
                    }
                },
                order = kills.recv(), if killable => match order {
                    Some(order) => self.kill(order),
                    None => killable = false,
                },
                () = &mut follow, if !followed => {
                    followed = true;
                    self.site.output.follow(self.attempt, self.task);
                }
            }
        }
    }

    /// First written down, so that the next agent knows that it did not end by itself.
    fn kill(&mut self, KillOrder { signal, outcome }: KillOrder) {
        let directory = self.site.attempts.of(self.attempt);
        let step = Step::Killing(outcome.clone());
        if let Err(error) = journal::append_apart(&directory, &step) {
            tracing::warn!(attempt = %self.attempt, %error, "that an attempt is ended on purpose could not be recorded");
        }
        self.killed = Some(outcome);
        self.kept.signal(signal);
    }

    /// Finds out what became of an attempt whose keeper does not have it, or is gone.
    async fn fate(&self, again: bool) -> Fate {
        let (site, attempt) = (Arc::clone(&self.site), self.attempt);
        let order = self.order.clone().filter(|_| again);
        let found = tokio::task::spawn_blocking(move || find_fate(&site, attempt, order)).await;
        found.unwrap_or_else(|error| Fate::Over(never_ran(defect(&error).into())))
    }

    fn ended(self, end: ProcessEnd) -> AttemptEnd {
        let written = [end.stdout_bytes, end.stderr_bytes];
        let plain = self.killed.is_none();
        let mut end = end.attempt_end(self.killed.clone());
        [end.stdout_bytes, end.stderr_bytes] = self.site.output.close(self.attempt, written);
        // Where the keeper's own word says the same, nothing has to be added to it.
        if !plain || [end.stdout_bytes, end.stderr_bytes] != written {
            record(&self.site.attempts.of(self.attempt), self.attempt, &end);
        }
        self.clear_up();
        end
    }

    fn over(self, mut end: AttemptEnd) -> AttemptEnd {
        if let Some(killed) = &self.killed {
            end.outcome = killed.clone();
        }
        let written = [end.stdout_bytes, end.stderr_bytes];
        [end.stdout_bytes, end.stderr_bytes] = self.site.output.close(self.attempt, written);
        record(&self.site.attempts.of(self.attempt), self.attempt, &end);
        self.clear_up();
        end
    }

    fn clear_up(self) {
        let (site, attempt) = (Arc::clone(&self.site), self.attempt);
        site.clearing.begin(attempt);
        // What left its group and lives on may still work in the directory.
        let reusable = self.same_user && site.attempts.is_quiet(self.attempt);
        // Beside: a large tree takes long to remove, and the slot is free already.
        self.site
            .removals
            .spawn_blocking(move || site.clear(attempt, reusable));
    }
}

fn find_fate(site: &Arc<Site>, attempt: AttemptId, order: Option<StartOrder>) -> Fate {
    let directory = site.attempts.of(attempt);
    let journal = match journal::read(&directory) {
        Ok(Some(journal)) => journal,
        unreadable => {
            let error = unreadable
                .err()
                .unwrap_or_else(|| std::io::ErrorKind::NotFound.into());
            let failure = fault("read the journal of the attempt in", &directory, &error);
            leftovers::kill(std::iter::empty(), &[attempt], &site.boot_id);
            return Fate::Over(never_ran(failure.into()));
        }
    };
    if let Some(end) = journal.exited {
        return Fate::Ended(end);
    }
    if journal.claim == Claim::Open
        && let Some(order) = order
    {
        return match launch_again(site, &order) {
            Ok(kept) => Fate::AnotherKeeper(kept),
            Err(failure) => Fate::Over(never_ran(failure.into())),
        };
    }
    tracing::warn!(%attempt, "the keeper of a task is gone without a word about it; what is left of the task is killed");
    leftovers::kill(journal.process.iter(), &[attempt], &site.boot_id);
    Fate::Over(recovery::interrupted_end(&directory))
}

fn never_ran(outcome: Outcome) -> AttemptEnd {
    AttemptEnd {
        ended_at: scitq_shared::now(),
        exit: None,
        outcome,
        usage: None,
        stdout_bytes: 0,
        stderr_bytes: 0,
    }
}

fn defect(error: &tokio::task::JoinError) -> StartFailure {
    StartFailure {
        reason: FailureReason::WorkerFault,
        detail: format!("the worker failed by a defect: {error}"),
    }
}

fn record(directory: &Path, attempt: AttemptId, end: &AttemptEnd) {
    if let Err(error) = journal::append_apart(directory, &Step::Ended(end.clone())) {
        // It is reported all the same; only a restart of the agent before that would report it as interrupted.
        tracing::warn!(%attempt, %error, "the end of an attempt could not be recorded");
    }
}
