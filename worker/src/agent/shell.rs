//! The shell around the core: tells it what happens and performs what it decides. Never waits for broker or processes.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use scitq_shared::execution::Outcome;
use scitq_shared::ids::{AttemptId, Epoch};
use scitq_shared::protocol::Heartbeat;
use scitq_shared::worker::DesiredState;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::core::{AttemptEnd, Core, Effect, Input, Now};
use super::link::{Command, What};
use crate::error::WorkerError;
use crate::options::OwnProgram;
use crate::runner::Site;
use crate::runner::execute::{Adopted, KillOrder, adopt, execute};
use crate::state_directory::{self, StateDirectory};

/// Commands that may wait for the connection; the core asks for a handful per delivery it holds.
pub(crate) const MOST_COMMANDS: usize = 16 * 1024;
/// How long the end of a worker waits for directories to be removed.
const REMOVALS: Duration = Duration::from_secs(5);
/// Orders to kill one attempt that may wait.
const MOST_KILLS: usize = 4;
/// How long a program may take to tell its version before this one becomes it.
const TRIAL: Duration = Duration::from_secs(10);
/// What may wait to be told; whoever tells waits beyond.
pub(crate) const MOST_TOLD: usize = 1024;

/// What the parts around the core tell it.
#[derive(Debug)]
pub(crate) enum Told {
    /// For the core.
    Core(Input),
    /// A session with the broker begins; commands carry its number from now on.
    Up {
        /// Its number.
        session: u64,
    },
}

impl From<Input> for Told {
    fn from(input: Input) -> Self {
        Self::Core(input)
    }
}

/// What the owner of the worker asks for; only ever goes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Request {
    /// Work.
    Work,
    /// End when what runs has ended.
    Drain,
    /// End now.
    Stop,
}

/// Drives the core.
pub(crate) struct Shell {
    pub(crate) core: Core,
    pub(crate) site: Arc<Site>,
    pub(crate) state: StateDirectory,
    pub(crate) told: mpsc::Receiver<Told>,
    pub(crate) tell: mpsc::Sender<Told>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) reset: Arc<Notify>,
    pub(crate) heartbeats: mpsc::Sender<Box<Heartbeat>>,
    pub(crate) epoch: watch::Sender<Epoch>,
    pub(crate) requests: watch::Receiver<Request>,
    pub(crate) link: JoinHandle<Result<(), WorkerError>>,
    pub(crate) session: u64,
    pub(crate) kills: HashMap<AttemptId, mpsc::Sender<KillOrder>>,
    /// What was found running, until the core says that it is to be seen through.
    pub(crate) running: HashMap<AttemptId, Adopted>,
    /// What sees attempts through; it ends with the agent, the processes do not.
    pub(crate) executions: JoinSet<()>,
    pub(crate) restart: Option<OwnProgram>,
    pub(crate) started: Instant,
}

impl Shell {
    /// Runs until the worker has ended as asked, or cannot go on.
    pub(crate) async fn run(mut self) -> Result<(), WorkerError> {
        let mut request = Request::Work;
        let mut alone = false;
        if self.core.awaits_welcome() {
            tracing::info!("waits for the server to say what this worker is to be");
        }
        let mut inputs = VecDeque::from([Input::Tick]);
        loop {
            while let Some(input) = inputs.pop_front() {
                let effects = self.core.handle(self.now(), input);
                if self.perform(effects, &mut inputs).await {
                    self.clear_up().await;
                    return Ok(());
                }
            }
            let deadline = self.core.next_deadline();
            tokio::select! {
                Some(told) = self.told.recv() => match told {
                    Told::Up { session } => {
                        self.session = session;
                        inputs.push_back(Input::LinkUp);
                    }
                    Told::Core(input) => {
                        if let Input::ProcessEnded { attempt, .. } = &input {
                            self.kills.remove(attempt);
                        }
                        inputs.push_back(input);
                    }
                },
                asked = asked(&mut self.requests, request), if !alone => match asked {
                    Some(asked) => {
                        request = asked;
                        inputs.push_back(if request == Request::Stop { Input::Stop } else { Input::Drain });
                    }
                    // Whoever dropped the handle lets the worker run.
                    None => alone = true,
                },
                Some(ended) = self.executions.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        tracing::error!(%error, "an attempt is not seen through, by a defect; the next start of the worker does it");
                    }
                }
                () = sleep_until(deadline.map(|deadline| self.started + deadline)) => inputs.push_back(Input::Tick),
                ended = &mut self.link => {
                    return ended.unwrap_or_else(|error| Err(WorkerError::Defect(error.to_string())));
                }
            }
        }
    }

    /// Leaves no directory behind that nobody needs; what takes long is left for the next start.
    async fn clear_up(&mut self) {
        // What still runs goes on without. First, so that nobody takes what is no more listened to for unknown.
        let site = Arc::clone(&self.site);
        let _ = tokio::task::spawn_blocking(move || site.keepers.leave()).await;
        self.executions.shutdown().await;
        self.site.removals.close();
        if tokio::time::timeout(REMOVALS, self.site.removals.wait())
            .await
            .is_err()
        {
            tracing::warn!("the removal of work directories takes long and is not waited for");
        }
        let site = Arc::clone(&self.site);
        // Few empty directories; a failure has been logged.
        let _ = tokio::task::spawn_blocking(move || remove_spares(&site)).await;
    }

    fn now(&self) -> Now {
        Now {
            elapsed: self.started.elapsed(),
            wall: scitq_shared::now(),
        }
    }

    /// True when the worker has ended.
    async fn perform(&mut self, effects: Vec<Effect>, inputs: &mut VecDeque<Input>) -> bool {
        let mut discarded = Vec::new();
        let mut over = false;
        for effect in effects {
            match effect {
                Effect::Publish {
                    publication,
                    on,
                    message,
                } => {
                    self.epoch.send_if_modified(|epoch| {
                        std::mem::replace(epoch, message.epoch) != message.epoch
                    });
                    self.command(What::Publish {
                        publication,
                        on,
                        message,
                    });
                }
                Effect::Ack(place) => self.command(What::Ack(place)),
                Effect::Reject(place) => self.command(What::Reject(place)),
                Effect::Consume {
                    consumer,
                    batch,
                    qos,
                } => self.command(What::Consume {
                    consumer,
                    batch,
                    qos,
                }),
                Effect::CancelConsumer { consumer } => self.command(What::Cancel { consumer }),
                Effect::CloseChannel { channel } => self.command(What::CloseChannel { channel }),
                Effect::Reconnect { reason } => self.command(What::Reconnect { reason }),
                // One that finds the last ones still waiting is not worth keeping.
                Effect::Beat(heartbeat) => drop(self.heartbeats.try_send(heartbeat)),
                Effect::Execute(execution) => {
                    let attempt = execution.report.attempt;
                    let (site, kills) = (Arc::clone(&self.site), self.killed_by(attempt));
                    self.see_through(attempt, execute(site, *execution, kills));
                }
                Effect::Adopt { attempt } => {
                    if let Some(adopted) = self.running.remove(&attempt) {
                        let (site, kills) = (Arc::clone(&self.site), self.killed_by(attempt));
                        self.see_through(attempt, adopt(site, adopted, kills));
                    }
                }
                Effect::Terminate { attempt, outcome } => {
                    self.kill(attempt, Signal::TERM, outcome);
                }
                Effect::Kill { attempt, outcome } => self.kill(attempt, Signal::KILL, outcome),
                Effect::Restart => {
                    self.restart().await;
                    inputs.push_back(Input::RestartFailed);
                }
                Effect::SendOutput(output) => {
                    if self.site.output.send(&output) {
                        inputs.push_back(Input::OutputSent {
                            attempt: output.attempt,
                        });
                    }
                }
                Effect::Discard { attempt } => {
                    self.site.output.forget(attempt);
                    discarded.push(attempt);
                }
                Effect::Persist(desired) => self.persist(desired).await,
                Effect::Forget => self.forget().await,
                Effect::End => over = true,
            }
        }
        if !discarded.is_empty() {
            let site = Arc::clone(&self.site);
            self.site
                .removals
                .spawn_blocking(move || site.discard(&discarded));
        }
        over
    }

    fn command(&mut self, what: What) {
        let command = Command {
            session: self.session,
            what,
        };
        if self.commands.try_send(command).is_err() {
            // The broker takes nothing, for long: a new connection finds everything that is to be said.
            self.reset.notify_one();
        }
    }

    /// By what an attempt is told that it is to be killed.
    fn killed_by(&mut self, attempt: AttemptId) -> mpsc::Receiver<KillOrder> {
        let (kill, killed) = mpsc::channel(MOST_KILLS);
        self.kills.insert(attempt, kill);
        killed
    }

    fn kill(&self, attempt: AttemptId, signal: Signal, outcome: Outcome) {
        if let Some(kill) = self.kills.get(&attempt) {
            // Too late is as good, and more than a few say nothing new.
            let _ = kill.try_send(KillOrder { signal, outcome });
        }
    }

    fn see_through(
        &mut self,
        attempt: AttemptId,
        end: impl Future<Output = AttemptEnd> + Send + 'static,
    ) {
        let tell = self.tell.clone();
        self.executions.spawn(async move {
            let end = end.await;
            // The agent is gone only when everything ends; the journal has it.
            let _ = tell.send(Input::ProcessEnded { attempt, end }.into()).await;
        });
    }

    /// Becomes the program that stands in the agent's file now. Comes back only if that is not possible.
    async fn restart(&self) {
        let Some(OwnProgram { file, words }) = &self.restart else {
            return;
        };
        let shown = file.display();
        let tried = trial(file).await.and(self.state.trial());
        let error = match tried {
            Ok(()) => {
                tracing::info!(program = %shown, "becomes the program that stands in its file now");
                let mut command = std::process::Command::new(file);
                let (name, arguments) = words.split_first().unzip();
                command.args(arguments.unwrap_or_default());
                command.arg0(name.map_or(file.as_os_str(), OsString::as_os_str));
                command.exec()
            }
            Err(error) => error,
        };
        tracing::error!(
            program = %shown,
            %error,
            "cannot start anew, goes on as before: remove the cause and ask again"
        );
    }

    async fn persist(&self, desired: DesiredState) {
        tracing::info!(
            version = desired.version,
            batch = %desired.batch,
            concurrency = desired.concurrency,
            prefetch = desired.prefetch,
            paused = desired.paused,
            "follows the server's word"
        );
        let file = self.state.desired_file();
        let written =
            tokio::task::spawn_blocking(move || state_directory::replace(&file, &desired)).await;
        if let Ok(Err(error)) = written {
            // It is followed all the same; after a restart the server says it again.
            tracing::warn!(%error, "the desired state could not be kept");
        }
    }

    async fn forget(&self) {
        let file = self.state.desired_file();
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_file(file)).await;
        if let Ok(Err(error)) = removed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "the desired state could not be forgotten");
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.link.abort();
    }
}

/// Makes sure that a program is there and can be run at all: what one becomes cannot be left again.
async fn trial(program: &Path) -> std::io::Result<()> {
    let mut command = tokio::process::Command::new(program);
    command
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let status = tokio::time::timeout(TRIAL, command.status()).await;
    let status = status.map_err(|_| std::io::Error::other("it does not tell its version"))??;
    if status.success() {
        Ok(())
    } else {
        let detail = format!("asked for its version it ends with {status}");
        Err(std::io::Error::other(detail))
    }
}

fn remove_spares(site: &Site) {
    site.work.remove_spares();
    site.attempts.remove_spares();
}

/// Waits for more than was asked already; none when nobody can ask any more.
async fn asked(requests: &mut watch::Receiver<Request>, so_far: Request) -> Option<Request> {
    requests
        .wait_for(|asked| *asked > so_far)
        .await
        .ok()
        .map(|asked| *asked)
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
