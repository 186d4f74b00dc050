//! An execution from its start, or from its adoption by this agent, to its end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use scitq_shared::execution::{FailureReason, Outcome};
use scitq_shared::ids::{AttemptId, TaskId};
use tokio::sync::mpsc;

use super::launch::{Launched, fault, launch, launch_again, never_executed};
use super::{Site, StartFailure};
use crate::agent::core::{AttemptEnd, Execution};
use crate::attempt::journal::{self, Claim, Journal, Killing, NotExecuted, ProcessEnd, Step};
use crate::attempt::recovery;
use crate::keeper::{Kept, NotStarted, StartOrder, Told};

/// Output of a task that runs for longer is sent while it runs; short tasks are spared the watching.
const FOLLOW_AFTER: Duration = Duration::from_millis(150);
/// How often an attempt is handed to another keeper when one is gone before it has claimed it.
const MOST_HANDOVERS: u32 = 3;
/// How often and how long apart a journal is read again that cannot be read for want of memory or descriptors.
const READ_AGAIN: (u32, Duration) = (50, Duration::from_millis(200));

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
    /// When it was being ended on purpose.
    pub(crate) killing: Option<Killing>,
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
    /// When it is ended on purpose.
    killed: Option<Killing>,
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
                    Told::Ended(end) => return self.ended(end).await,
                    Told::NotStarted(NotStarted::Execute(error)) if let Some(order) = &self.order => {
                        let (file, at) = (order.file.clone(), scitq_shared::now());
                        return self.over(never_executed(&NotExecuted { file, error, at })).await;
                    }
                    Told::NotStarted(NotStarted::Claim(error)) if error != libc::ENOENT => {
                        let error = std::io::Error::from_raw_os_error(error);
                        let directory = self.site.attempts.of(self.attempt);
                        return self.over(never_ran(fault("claim the attempt in", &directory, &error).into())).await;
                    }
                    Told::NotStarted(_) | Told::Absent => {
                        handovers += 1;
                        match self.fate(handovers <= MOST_HANDOVERS).await {
                            Fate::Over(end) => return self.over(end).await,
                            Fate::Ended(end) => return self.ended(end).await,
                            Fate::AnotherKeeper(kept) => self.kept = kept,
                        }
                    }
                },
                order = kills.recv(), if killable => match order {
                    Some(order) => self.kill(order).await,
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
    async fn kill(&mut self, KillOrder { signal, outcome }: KillOrder) {
        let forced = signal == Signal::KILL;
        let killing = Killing { outcome, forced };
        let (directory, step) = (
            self.site.attempts.of(self.attempt),
            Step::Killing(killing.clone()),
        );
        let written =
            tokio::task::spawn_blocking(move || journal::append_apart(&directory, &step)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(attempt = %self.attempt, %error, "that an attempt is ended on purpose could not be recorded");
        }
        self.killed = Some(killing.after(self.killed.take()));
        self.kept.signal(signal);
    }

    /// Finds out what became of an attempt whose keeper does not have it, or is gone.
    async fn fate(&self, again: bool) -> Fate {
        let (site, attempt) = (Arc::clone(&self.site), self.attempt);
        // What is to be killed is not started any more.
        let again = again && self.killed.is_none();
        let order = self.order.clone().filter(|_| again);
        let found = tokio::task::spawn_blocking(move || find_fate(&site, attempt, order)).await;
        found.unwrap_or_else(|error| Fate::Over(never_ran(defect(&error).into())))
    }

    async fn ended(self, end: ProcessEnd) -> AttemptEnd {
        let written = [end.stdout_bytes, end.stderr_bytes];
        let plain = self.killed.is_none();
        let mut end = end.attempt_end(self.killed.clone());
        [end.stdout_bytes, end.stderr_bytes] = self.site.output.close(self.attempt, written);
        // Where the keeper's own word says the same, nothing has to be added to it.
        if !plain || [end.stdout_bytes, end.stderr_bytes] != written {
            self.record(&end).await;
        }
        self.clear_up();
        end
    }

    async fn over(self, mut end: AttemptEnd) -> AttemptEnd {
        if let Some(killed) = &self.killed {
            end.outcome = killed.outcome.clone();
        }
        let written = [end.stdout_bytes, end.stderr_bytes];
        [end.stdout_bytes, end.stderr_bytes] = self.site.output.close(self.attempt, written);
        self.record(&end).await;
        self.clear_up();
        end
    }

    async fn record(&self, end: &AttemptEnd) {
        let (site, attempt, end) = (Arc::clone(&self.site), self.attempt, end.clone());
        // A defect in there has been told by then.
        let _ = tokio::task::spawn_blocking(move || {
            record(&site.attempts.of(attempt), attempt, &end);
        })
        .await;
    }

    fn clear_up(self) {
        let (site, attempt, same_user) = (Arc::clone(&self.site), self.attempt, self.same_user);
        site.clearing.begin(attempt);
        // Beside: a large tree takes long to remove, and the slot is free already.
        self.site.removals.spawn_blocking(move || {
            // What left its group and lives on may still work in the directory.
            let reusable = same_user && site.attempts.is_quiet(attempt);
            site.clear(attempt, reusable);
        });
    }
}

fn find_fate(site: &Arc<Site>, attempt: AttemptId, order: Option<StartOrder>) -> Fate {
    let directory = site.attempts.of(attempt);
    let journal = match read_patiently(&directory) {
        Ok(Some(journal)) => journal,
        unreadable => {
            let error = unreadable
                .err()
                .unwrap_or_else(|| std::io::ErrorKind::NotFound.into());
            let failure = fault("read the journal of the attempt in", &directory, &error);
            site.leftovers.kill(attempt, None, &site.boot_id);
            return Fate::Over(never_ran(failure.into()));
        }
    };
    if let Some(end) = journal.exited {
        return Fate::Ended(end);
    }
    if let Some(end) = journal.end() {
        return Fate::Over(end);
    }
    if journal.claim == Claim::Open {
        if let Some(order) = order {
            return match launch_again(site, &order) {
                Ok(kept) => Fate::AnotherKeeper(kept),
                Err(failure) => given_up(site, attempt, failure.into()),
            };
        }
        let detail = "no keeper of tasks starts it: each one went before it could".to_owned();
        let reason = FailureReason::WorkerFault;
        return given_up(site, attempt, Outcome::Failed { reason, detail });
    }
    interrupted(site, attempt, &journal)
}

/// The end of one that nobody has claimed and nobody shall any more.
fn given_up(site: &Arc<Site>, attempt: AttemptId, outcome: Outcome) -> Fate {
    let directory = site.attempts.of(attempt);
    match journal::release(&directory) {
        // A keeper was quicker. Whether it is still there is found out like this.
        Ok(false) => match read_patiently(&directory) {
            Ok(Some(journal)) => match journal.end() {
                Some(end) => Fate::Over(end),
                None => interrupted(site, attempt, &journal),
            },
            _ => Fate::Over(never_ran(outcome)),
        },
        // With an error nobody else can claim it either: it is the same rename.
        Ok(true) | Err(_) => Fate::Over(never_ran(outcome)),
    }
}

fn interrupted(site: &Arc<Site>, attempt: AttemptId, journal: &Journal) -> Fate {
    tracing::warn!(%attempt, "the keeper of a task is gone without a word about it; what is left of the task is killed");
    site.leftovers
        .kill(attempt, journal.process.clone(), &site.boot_id);
    Fate::Over(recovery::interrupted_end(&site.attempts.of(attempt)))
}

/// Reads a journal, again and again where only memory or descriptors are wanting.
fn read_patiently(directory: &Path) -> std::io::Result<Option<Journal>> {
    let (times, pause) = READ_AGAIN;
    let mut tried = 0;
    loop {
        tried += 1;
        match journal::read(directory) {
            Err(error) if tried < times && is_scarcity(&error) => std::thread::sleep(pause),
            read => return read,
        }
    }
}

fn is_scarcity(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)
    )
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
