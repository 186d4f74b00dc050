//! Starting and ending a worker.

use std::collections::HashMap;
use std::sync::Arc;

use scitq_shared::ids::Epoch;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::agent::core::{Core, Found, Identity, Rules};
use crate::agent::link::Link;
use crate::agent::shell::{MOST_COMMANDS, MOST_TOLD, Request, Shell};
use crate::attempt::directory::AttemptDirectories;
use crate::attempt::recovery;
use crate::error::WorkerError;
use crate::keeper::Keepers;
use crate::machine;
use crate::options::WorkerOptions;
use crate::output::{Output, Sender, Watcher};
use crate::runner::execute::Adopted;
use crate::runner::{Clearing, Site, environment, work_directory::WorkDirectories};
use crate::state_directory::StateDirectory;

/// A worker. It has no state of its own: see [`Worker::start`] and [`WorkerHandle`].
#[derive(Clone, Copy, Debug)]
pub struct Worker;

impl Worker {
    /// Prepares the directories, takes stock of what an earlier agent left in them, and works in the background from
    /// then on. Returns before the broker is reached: a worker waits for its broker for as long as it takes.
    pub async fn start(options: WorkerOptions) -> Result<WorkerHandle, WorkerError> {
        let (sender, requests) = watch::channel(Request::Work);
        let prepared = tokio::task::spawn_blocking(move || Prepared::new(options)).await;
        let prepared = prepared.map_err(|error| WorkerError::Defect(error.to_string()))??;
        let agent = tokio::spawn(prepared.run(requests));
        Ok(WorkerHandle {
            requests: sender,
            agent: Some(agent),
        })
    }
}

/// A running worker. Dropping the handle leaves it running.
#[derive(Debug)]
pub struct WorkerHandle {
    requests: watch::Sender<Request>,
    agent: Option<JoinHandle<Result<(), WorkerError>>>,
}

impl WorkerHandle {
    /// Takes no new work, gives back what has not started, and ends when the running tasks have ended and the server
    /// has all of them (or does not answer for a while: then the state directory keeps the rest for the next start).
    /// With a [`WorkerOptions::drain_timeout`] it waits for no longer than that.
    pub fn drain(&self) {
        self.ask(Request::Drain);
    }

    /// Kills the running tasks with all their processes, reports them as failed, and ends within seconds.
    pub fn stop_now(&self) {
        self.ask(Request::Stop);
    }

    /// Completes when the worker has ended, at once if it has before. Cancel-safe.
    pub async fn finished(&mut self) -> Result<(), WorkerError> {
        let Some(agent) = &mut self.agent else {
            return Ok(());
        };
        let ended = agent.await;
        self.agent = None;
        ended.unwrap_or_else(|error| Err(WorkerError::Defect(error.to_string())))
    }

    fn ask(&self, request: Request) {
        self.requests.send_if_modified(|current| {
            let more = request > *current;
            *current = request.max(*current);
            more
        });
    }
}

/// A worker whose directories are in order.
struct Prepared {
    options: WorkerOptions,
    state: StateDirectory,
    core: Core,
    site: Site,
    watcher: Watcher,
    running: Vec<Adopted>,
}

impl Prepared {
    fn new(options: WorkerOptions) -> Result<Self, WorkerError> {
        let state = StateDirectory::open(&options.state_directory, &options.name)?;
        let desired = state.desired()?;
        let boot_id = machine::boot_id();
        let attempts = std::path::absolute(state.attempts())
            .map_err(WorkerError::files("find", &options.state_directory))?;
        let directories = AttemptDirectories::open(&attempts)
            .map_err(WorkerError::files("prepare the directory", &attempts))?;
        let root = &options.state_directory;
        let keepers = Keepers::find(root, &options.keeper_program, state.boots)
            .map_err(WorkerError::files("look for keepers of tasks in", root))?;
        let recovery::Inheritance {
            attempts: recovered,
            running,
        } = recovery::recover(&attempts, &boot_id, Some(&keepers))?;
        keepers.listen();
        let work = WorkDirectories::open(&options.work_directory, state.incarnation).map_err(
            WorkerError::files("prepare the work directory", &options.work_directory),
        )?;
        let over = recovered.iter().filter(|it| it.found != Found::Running);
        for found in over {
            WorkDirectories::remove(&work.path(found.report.attempt));
        }
        if !recovered.is_empty() {
            tracing::info!(
                attempts = recovered.len(),
                running = running.len(),
                "found attempts of an earlier run: adopts what runs, reports the others again"
            );
        }
        keepers.ready().map_err(|source| WorkerError::Keeper {
            program: options.keeper_program.clone(),
            source,
        })?;
        let (output, watcher) = Output::new(attempts.clone(), options.stream_cap_bytes)
            .map_err(WorkerError::files("watch", &attempts))?;
        let identity = Identity {
            worker: options.name.clone(),
            incarnation: state.incarnation,
            boots: state.boots,
            hostname: machine::hostname(),
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            cores: machine::cores(),
            memory_bytes: machine::memory_bytes(),
        };
        let rules = Rules {
            initial: options.initial.clone(),
            stream_cap_bytes: options.stream_cap_bytes,
            heartbeat_every: options.heartbeat_every,
            ack_after: options.ack_after,
            accept_after: std::time::Duration::from_millis(500),
            queue_retry: (
                std::time::Duration::from_secs(1),
                std::time::Duration::from_secs(30),
            ),
            farewell: options.farewell,
            drain_timeout: options.drain_timeout,
            on_drain_timeout: options.on_drain_timeout,
            stop_grace: options.stop_grace,
            can_restart: options.restart.is_some(),
        };
        let site = Site {
            worker: options.name.clone(),
            attempts: directories,
            work,
            keepers,
            output,
            base: environment::Base::of_this_process(),
            cores: identity.cores,
            boot_id,
            clearing: Clearing::default(),
            removals: TaskTracker::new(),
        };
        let core = Core::new(identity, rules, desired, recovered);
        Ok(Self {
            options,
            state,
            core,
            site,
            watcher,
            running,
        })
    }

    async fn run(self, requests: watch::Receiver<Request>) -> Result<(), WorkerError> {
        let Self {
            options,
            state,
            core,
            site,
            watcher,
            running,
        } = self;
        let (tell, told) = mpsc::channel(MOST_TOLD);
        let (commands, to_link) = mpsc::channel(MOST_COMMANDS);
        let (heartbeats, to_sender) = mpsc::channel(4);
        let (epoch, seen_epoch) = watch::channel(Epoch(0));
        let reset = Arc::new(Notify::new());
        let link = Link::new(
            options.broker.clone(),
            options.name.clone(),
            options.double_after,
            tell.clone(),
            to_link,
            Arc::clone(&reset),
        );
        let sender = Sender {
            broker: options.broker,
            worker: options.name,
            incarnation: state.incarnation,
            output: site.output.clone(),
            heartbeats: to_sender,
            epoch: seen_epoch,
            tell: tell.clone(),
        };
        let _sender = Aborting(tokio::spawn(sender.run()).abort_handle());
        let watching = tokio::spawn(async move {
            if let Err(error) = watcher.run().await {
                tracing::error!(%error, "output of running tasks is not noticed any more; it comes when they end");
            }
        });
        let _watching = Aborting(watching.abort_handle());
        let shell = Shell {
            core,
            site: Arc::new(site),
            state,
            told,
            tell,
            commands,
            reset,
            heartbeats,
            epoch,
            requests,
            link: tokio::spawn(link.run()),
            session: 0,
            kills: HashMap::new(),
            running: running.into_iter().map(|it| (it.attempt, it)).collect(),
            executions: JoinSet::new(),
            restart: options.restart,
            started: Instant::now(),
        };
        shell.run().await
    }
}

/// Ends a task that runs beside when the worker ends.
struct Aborting(AbortHandle);

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}
