//! The database: what remains, what ran and how it ended (D1). The only module that names diesel.
//!
//! [`Database`] stands before two backends, PostgreSQL and SQLite (D2). The queries under `queries/` are written once and
//! compiled once for each; what a dialect lacks lies in `postgres/` and `sqlite/`. Every write of the leader names its
//! epoch and is refused with [`DbError::Fenced`] once another server leads (D12).

mod address;
mod chunk_plan;
mod claim;
mod connections;
mod created;
mod decider;
mod error;
mod execution_row;
mod failure;
mod filter;
mod known_worker;
mod lacking;
mod migrate_versions;
mod postgres;
mod projection;
mod projection_plan;
mod restoration;
mod revision;
mod rows;
mod schema;
mod sqlite;
mod stored_output;
mod tally;
mod task_row;
mod task_state;
mod value;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use address::Address;

pub use claim::{BatchLoad, Claim, Surplus, Unaccepted, Unstarted};
pub use created::Created;
use decider::Decider;
pub use error::{DbError, SubmitError};
pub use filter::{ExecutionFilter, PageRequest, TaskFilter};
pub use known_worker::{
    Capacity, Fault, FaultHistory, Greeted, HeldAttempts, Judged, ListedAttempt, LiveAttempt,
    RecentEnd, Restart, SignOfLife, Silent, Wish, WorkerChange,
};
pub use projection::{
    AttemptChange, Loaded, LoadedAttempt, LoadedTask, Needs, NewChunk, Projected, Projection,
    TaskChange,
};
pub use restoration::{LEAP, Restoration, Restorations, Whereabouts};
pub use revision::{NewRevision, Revised, revise};
use scitq_shared::api::{
    BatchView, CounterMismatch, ExecutionView, Progress, TaskView, WorkerView,
};
use scitq_shared::ids::{AttemptId, DispatchId, Epoch, ExecutionId, IncarnationId, TaskId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::output::Stream;
use scitq_shared::protocol::{Hello, TaskMessage};
use scitq_shared::secret::SecretUrl;
use scitq_shared::submit::ValidTask;
use scitq_shared::worker::DesiredState;
pub use stored_output::{OutputState, StoredChunk, StreamState};
use tokio::runtime::Handle;

/// How long a sign of life may take.
const PING_LIMIT: Duration = Duration::from_secs(5);

/// The database, shared: clones use the same connections.
///
/// Each call runs as a task of its own: on the runtime that connected, or for SQLite, whose statements block, on threads
/// of its own. So a call that is dropped (a client that hangs up, a timeout) is still carried to its end, and no
/// connection is left in the middle of a transaction.
#[derive(Clone)]
pub struct Database {
    backend: Backend,
}

#[derive(Clone)]
enum Backend {
    Postgres(postgres::Pool, Handle),
    Sqlite(sqlite::Pool, Arc<sqlite::Threads>),
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Database").field(&self.address()).finish()
    }
}

/// Calls a query of the backend in use, as a task of its own. The arguments are moved into it.
macro_rules! call {
    ($database:expr, $query:ident($($argument:expr),*)) => {
        match &$database.backend {
            Backend::Postgres(pool, runtime) => {
                let pool = pool.clone();
                run(runtime, async move { postgres::queries::$query(&pool, $($argument),*).await }).await
            }
            Backend::Sqlite(pool, threads) => {
                let pool = pool.clone();
                run(&threads.handle(), async move { sqlite::queries::$query(&pool, $($argument),*).await }).await
            }
        }
    };
}

/// Runs a call to its end, whether or not its caller waits for it. What the caller holds meanwhile is small: the call
/// itself is moved into its task before anything is awaited.
fn run<T, E>(
    runtime: &Handle,
    call: impl Future<Output = Result<T, E>> + Send + 'static,
) -> impl Future<Output = Result<T, E>> + Send
where
    T: Send + 'static,
    E: From<DbError> + Send + 'static,
{
    let running = runtime.spawn(call);
    async move { finished(running.await) }
}

/// The outcome of a call that ran as a task; a panic in it goes on in the caller.
fn finished<T, E: From<DbError>>(
    outcome: Result<Result<T, E>, tokio::task::JoinError>,
) -> Result<T, E> {
    match outcome {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(DbError::Connection {
                reason: "the program is shutting down".to_owned(),
            }
            .into()),
        },
    }
}

impl Database {
    /// Connects, and brings the schema up to date. One attempt of at most ten seconds.
    ///
    /// `url` is `postgres://…`, `postgresql://…` or `sqlite:PATH`; `pool_size` is the most connections kept.
    pub async fn connect(url: &SecretUrl, pool_size: usize) -> Result<Self, DbError> {
        let address = url.masked();
        match address::parse(url)? {
            Address::Postgres(text) => {
                let pool = postgres::Pool::connect(&text, address, pool_size).await?;
                Ok(Self {
                    backend: Backend::Postgres(pool, Handle::current()),
                })
            }
            Address::Sqlite(path) => {
                let readers = pool_size.clamp(1, sqlite::MAX_READERS);
                let threads = sqlite::Threads::start(readers + 1, &address)?;
                let connect = async move { sqlite::Pool::connect(&path, address, readers) };
                let pool = run(&threads.handle(), connect).await?;
                Ok(Self {
                    backend: Backend::Sqlite(pool, Arc::new(threads)),
                })
            }
        }
    }

    /// Where the database is, password masked.
    pub fn address(&self) -> String {
        match &self.backend {
            Backend::Postgres(pool, _) => pool.address().to_owned(),
            Backend::Sqlite(pool, _) => pool.address().to_owned(),
        }
    }

    /// Asks the database for a sign of life, which must come within five seconds.
    pub async fn ping(&self) -> Result<(), DbError> {
        let answer = async { call!(self, ping()) };
        tokio::time::timeout(PING_LIMIT, answer)
            .await
            .unwrap_or_else(|_| {
                let reason = format!("no answer within {PING_LIMIT:?}");
                Err(DbError::Connection { reason })
            })
    }

    /// Stores new tasks, all or none, and creates their batches. Answers in the order of submission, in which the ids
    /// ascend; an idempotency key seen before (also earlier in the same request) answers the task that has it.
    pub async fn submit(&self, tasks: Vec<ValidTask>) -> Result<Vec<Created>, SubmitError> {
        call!(self, submit(&tasks))
    }

    /// One task.
    pub async fn task(&self, id: TaskId) -> Result<Option<TaskView>, DbError> {
        call!(self, task(id))
    }

    /// A page of tasks, by id.
    pub async fn tasks(
        &self,
        filter: &TaskFilter,
        page: &PageRequest,
    ) -> Result<Vec<TaskView>, DbError> {
        let (filter, page) = (filter.clone(), page.clone());
        call!(self, tasks(&filter, &page))
    }

    /// One execution.
    pub async fn execution(&self, id: ExecutionId) -> Result<Option<ExecutionView>, DbError> {
        call!(self, execution(id))
    }

    /// A page of executions, by id.
    pub async fn executions(
        &self,
        filter: &ExecutionFilter,
        page: &PageRequest,
    ) -> Result<Vec<ExecutionView>, DbError> {
        let (filter, page) = (filter.clone(), page.clone());
        call!(self, executions(&filter, &page))
    }

    /// All batches with their counters, by name.
    pub async fn batches(&self) -> Result<Vec<BatchView>, DbError> {
        call!(self, batches())
    }

    /// One batch.
    pub async fn batch(&self, name: &str) -> Result<Option<BatchView>, DbError> {
        let name = name.to_owned();
        call!(self, batch(&name))
    }

    /// How far these tasks are. Unknown ids are not counted.
    pub async fn progress_of_tasks(&self, ids: &[i64]) -> Result<Progress, DbError> {
        let ids = ids.to_vec();
        call!(self, progress_of_tasks(&ids))
    }

    /// All workers, by id.
    pub async fn workers(&self) -> Result<Vec<WorkerView>, DbError> {
        call!(self, workers())
    }

    /// One worker.
    pub async fn worker(&self, name: &str) -> Result<Option<WorkerView>, DbError> {
        let name = name.to_owned();
        call!(self, worker(&name))
    }

    /// How much of an execution's output is stored.
    pub async fn output_state(
        &self,
        execution: ExecutionId,
    ) -> Result<Option<OutputState>, DbError> {
        call!(self, output_state(execution))
    }

    /// The chunks of a stream that contain or follow `offset`, in order, at most `max_chunks`.
    pub async fn output_chunks(
        &self,
        attempt: AttemptId,
        stream: Stream,
        offset: u64,
        max_chunks: usize,
    ) -> Result<Vec<StoredChunk>, DbError> {
        call!(self, output_chunks(attempt, stream, offset, max_chunks))
    }

    /// Takes the leadership: every write under an earlier epoch is refused from now on. The new epoch comes after all
    /// that the database has known, and after `later_than`: what others have heard of may be later than a database that
    /// was restored.
    pub async fn take_leadership(&self, leader: &str, later_than: Epoch) -> Result<Epoch, DbError> {
        let leader = leader.to_owned();
        call!(self, take_leadership(&leader, later_than))
    }

    /// The database was restored from a backup: leaves the ids, epochs and versions free that may have been given after it,
    /// and overtakes whoever leads (D12). Nothing is dispatched until [`Self::restoration_heard`].
    pub async fn restore(&self) -> Result<Restoration, DbError> {
        call!(self, restore())
    }

    /// All restorations, from the first to the latest.
    pub async fn restorations(&self) -> Result<Restorations, DbError> {
        call!(self, restorations())
    }

    /// The workers have been heard after a restoration: what they hold is known.
    pub async fn restoration_heard(&self, epoch: Epoch) -> Result<(), DbError> {
        call!(self, restoration_heard(epoch))
    }

    /// Who may hold what the database does not know, and where it may wait.
    pub async fn whereabouts(&self) -> Result<Whereabouts, DbError> {
        call!(self, whereabouts())
    }

    /// Takes in tasks that are not known, under the ids that they have, as dispatched by these messages; creates their
    /// batches. Known ones are left alone. Answers which are new, by id. The caller knows that their ids were left free.
    pub async fn import(
        &self,
        epoch: Epoch,
        messages: Vec<TaskMessage>,
    ) -> Result<Vec<TaskId>, DbError> {
        call!(self, import(epoch, &messages))
    }

    /// Fills a batch's dispatch window: takes pending tasks, highest priority and then lowest id first, until `window`
    /// dispatches are not yet accepted, and gives each a new dispatch (D3).
    pub async fn claim(
        &self,
        epoch: Epoch,
        batch: &BatchName,
        window: usize,
    ) -> Result<Claim, DbError> {
        let batch = batch.clone();
        call!(self, claim(epoch, &batch, window))
    }

    /// The batches that have anything pending or assigned, by name.
    pub async fn dispatchable(&self) -> Result<Vec<(BatchName, BatchLoad)>, DbError> {
        call!(self, dispatchable())
    }

    /// How many pending tasks of a batch are dispatched before one of this priority and id, counted up to `most`.
    pub async fn tasks_ahead(
        &self,
        batch: &str,
        priority: i32,
        task: TaskId,
        most: u64,
    ) -> Result<u64, DbError> {
        let batch = batch.to_owned();
        call!(self, tasks_ahead(&batch, priority, task, most))
    }

    /// True when a pending task of the batch has a higher priority than one that waits in the batch's queue.
    pub async fn is_overtaken(&self, batch: &BatchName) -> Result<bool, DbError> {
        let batch = batch.clone();
        call!(self, is_overtaken(&batch))
    }

    /// The oldest dispatches of a batch that are not accepted and at least this old, as many as there are more of them
    /// than `depth`: those cannot all be in a queue that holds so many messages. And how many are not accepted at all.
    pub async fn dispatches_beyond(
        &self,
        batch: &BatchName,
        age: Duration,
        depth: u64,
    ) -> Result<Surplus, DbError> {
        let batch = batch.clone();
        call!(self, dispatches_beyond(&batch, age, depth))
    }

    /// The dispatches of a batch that are not accepted, all or those of `among`, and the workers that may have got them.
    pub async fn unaccepted(
        &self,
        batch: &BatchName,
        among: Option<Vec<DispatchId>>,
    ) -> Result<Unaccepted, DbError> {
        let batch = batch.clone();
        call!(self, unaccepted(&batch, among.as_deref()))
    }

    /// The dispatches of a batch that have not started, with the workers that have accepted them, and all workers that may
    /// have got the others.
    pub async fn unstarted(
        &self,
        batch: &BatchName,
    ) -> Result<(Vec<Unstarted>, BTreeSet<WorkerName>), DbError> {
        let unstarted = {
            let batch = batch.clone();
            call!(self, unstarted(&batch))?
        };
        // After the dispatches: a worker that came between the two cannot have got what is not in the queue.
        let workers = self.unaccepted(batch, Some(Vec::new())).await?.workers;
        Ok((unstarted, workers))
    }

    /// Changes tasks of a batch that have not started, and raises their revisions (D8). The caller has barred the batch and
    /// taken back what it could. Answers for each task, by id; a task that may not be changed is left as it is.
    pub async fn revise(
        &self,
        epoch: Epoch,
        batch: &BatchName,
        wanted: &[NewRevision],
    ) -> Result<Vec<(TaskId, Revised)>, DbError> {
        let (batch, wanted) = (batch.clone(), wanted.to_vec());
        call!(self, revise(epoch, &batch, &wanted))
    }

    /// Takes back every dispatch that is not accepted, for a broker that died with its process. Answers how many.
    pub async fn return_all_dispatches(&self, epoch: Epoch) -> Result<u64, DbError> {
        call!(self, return_all_dispatches(epoch))
    }

    /// Applies a batch of events in one transaction (D9, D11): locks and loads what `needs` names, asks `decide` what
    /// is to be written, writes it, stores the chunks and updates the counters.
    ///
    /// `decide` must be pure: it is asked again when the transaction has to be repeated.
    pub async fn project<F>(
        &self,
        epoch: Epoch,
        needs: &Needs,
        chunks: Vec<NewChunk>,
        mut decide: F,
    ) -> Result<Projected, DbError>
    where
        F: FnMut(&Loaded) -> Projection + Send,
    {
        let (decider, mut questions) = Decider::new();
        let needs = needs.clone();
        let mut running = match &self.backend {
            Backend::Postgres(pool, runtime) => {
                let pool = pool.clone();
                runtime.spawn(async move {
                    postgres::queries::project(&pool, epoch, &needs, &chunks, &decider).await
                })
            }
            Backend::Sqlite(pool, threads) => {
                let pool = pool.clone();
                threads.handle().spawn(async move {
                    sqlite::queries::project(&pool, epoch, &needs, &chunks, &decider).await
                })
            }
        };
        loop {
            tokio::select! {
                Some((loaded, answer)) = questions.recv() => {
                    let projection = decide(&loaded);
                    // Nobody listens when the transaction has been given up meanwhile: its outcome says why.
                    let _ = answer.send((projection, loaded));
                }
                outcome = &mut running => return finished(outcome),
            }
        }
    }

    /// Registers a worker that says hello. A known one keeps what the server holds for it; it is running or paused
    /// from now on.
    pub async fn greet(
        &self,
        epoch: Epoch,
        worker: &WorkerName,
        incarnation: IncarnationId,
        hello: &Hello,
    ) -> Result<Greeted, DbError> {
        let (worker, hello) = (worker.clone(), hello.clone());
        call!(self, greet(epoch, &worker, incarnation, &hello))
    }

    /// Notes signs of life, at the database's time; offline workers are running or paused again. Answers those that are
    /// unknown, or known under another incarnation.
    pub async fn heard_from(
        &self,
        epoch: Epoch,
        signs: &[SignOfLife],
    ) -> Result<Vec<WorkerName>, DbError> {
        let signs = signs.to_vec();
        call!(self, heard_from(epoch, &signs))
    }

    /// Sets workers offline that were silent for longer than `silent_for` by the database's clock. Answers them.
    pub async fn set_offline(
        &self,
        epoch: Epoch,
        silent_for: Duration,
    ) -> Result<Vec<WorkerName>, DbError> {
        call!(self, set_offline(epoch, silent_for))
    }

    /// A worker ends on purpose: it is offline, and `departed` if it keeps nothing. Nothing happens when another
    /// incarnation has the name now.
    pub async fn farewell(
        &self,
        epoch: Epoch,
        worker: &WorkerName,
        incarnation: IncarnationId,
        departed: bool,
    ) -> Result<(), DbError> {
        let worker = worker.clone();
        call!(self, farewell(epoch, &worker, incarnation, departed))
    }

    /// Changes what a worker is to be, under a new version. `None` when there is no such worker.
    pub async fn change_worker(
        &self,
        name: &str,
        change: &WorkerChange,
    ) -> Result<Option<DesiredState>, DbError> {
        let (name, change) = (name.to_owned(), change.clone());
        call!(self, change_worker(&name, &change))
    }

    /// What is wanted of a worker. `None` when there is no such worker.
    pub async fn wish(&self, worker: &WorkerName) -> Result<Option<Wish>, DbError> {
        let worker = worker.clone();
        call!(self, wish(worker.as_str()))
    }

    /// Asks for a restart of a worker's agent: of the start `of` as its hello counted them, or of the present one. `None`
    /// when there is no such worker.
    pub async fn request_restart(
        &self,
        worker: &WorkerName,
        of: Option<u32>,
    ) -> Result<Option<Restart>, DbError> {
        let worker = worker.clone();
        call!(self, request_restart(worker.as_str(), of))
    }

    /// Takes a request for a restart back. False when there is no such worker.
    pub async fn cancel_restart(&self, worker: &WorkerName) -> Result<bool, DbError> {
        let worker = worker.clone();
        call!(self, cancel_restart(worker.as_str()))
    }

    /// Pauses or resumes a batch: of a paused one nothing is dispatched. False when there is no such batch.
    pub async fn pause_batch(&self, batch: &BatchName, paused: bool) -> Result<bool, DbError> {
        let batch = batch.clone();
        call!(self, pause_batch(batch.as_str(), paused))
    }

    /// The paused batches of which something is dispatched, or held and not started.
    pub async fn paused_with_dispatches(&self) -> Result<Vec<BatchName>, DbError> {
        call!(self, paused_with_dispatches())
    }

    /// Of a paused batch: the dispatches that workers have accepted and not started, and who holds them.
    pub async fn held_of_paused(
        &self,
        batch: &BatchName,
    ) -> Result<Vec<(WorkerName, DispatchId)>, DbError> {
        let batch = batch.clone();
        call!(self, held_of_paused(&batch))
    }

    /// The epoch of whichever server leads; 0 before the first.
    pub async fn epoch(&self) -> Result<Epoch, DbError> {
        call!(self, epoch())
    }

    /// The workers, and earlier lives of their directories, that were silent for longer than their lease by the database's
    /// clock and have not been declared lost (D7). `lease` is that of workers without one of their own.
    pub async fn silent_beyond_lease(&self, lease: Duration) -> Result<Vec<Silent>, DbError> {
        call!(self, silent_beyond_lease(lease))
    }

    /// The attempts of a worker, or of one life of its directory, that are not over.
    pub async fn live_attempts(
        &self,
        worker: &WorkerName,
        incarnation: Option<IncarnationId>,
    ) -> Result<Vec<LiveAttempt>, DbError> {
        let worker = worker.clone();
        call!(self, live_attempts(&worker, incarnation))
    }

    /// A worker, or one life of its directory, is lost: it has no lease any more. Nothing happens when `silent_for` is given
    /// and it has not been silent for longer, by the database's clock.
    pub async fn set_lost(
        &self,
        epoch: Epoch,
        worker: &WorkerName,
        incarnation: Option<IncarnationId>,
        silent_for: Option<Duration>,
    ) -> Result<(), DbError> {
        let worker = worker.clone();
        call!(self, set_lost(epoch, &worker, incarnation, silent_for))
    }

    /// What is needed to judge a worker that could not run an attempt of a batch: its `most` newest ends, and what paused
    /// others (D13).
    pub async fn fault_history(
        &self,
        worker: &WorkerName,
        batch: &BatchName,
        most: u32,
    ) -> Result<FaultHistory, DbError> {
        let (worker, batch) = (worker.clone(), batch.clone());
        call!(self, fault_history(&worker, &batch, most))
    }

    /// Pauses a worker that only fails, under a new version of its desired state. Answers that state.
    pub async fn pause_faulty_worker(
        &self,
        epoch: Epoch,
        judged: &Judged,
    ) -> Result<Option<DesiredState>, DbError> {
        let judged = judged.clone();
        call!(self, pause_faulty_worker(epoch, &judged))
    }

    /// Pauses a batch that more than one worker cannot run. False when it was paused already.
    pub async fn pause_faulty_batch(&self, epoch: Epoch, judged: &Judged) -> Result<bool, DbError> {
        let judged = judged.clone();
        call!(self, pause_faulty_batch(epoch, &judged))
    }

    /// What the database holds against a worker's inventory.
    pub async fn held_attempts(
        &self,
        worker: &WorkerName,
        incarnation: IncarnationId,
        attempts: &[AttemptId],
    ) -> Result<HeldAttempts, DbError> {
        let (worker, attempts) = (worker.clone(), attempts.to_vec());
        call!(self, held_attempts(&worker, incarnation, &attempts))
    }

    /// What the running workers of each batch can take, by batch.
    pub async fn batch_capacity(&self) -> Result<Vec<(BatchName, Capacity)>, DbError> {
        call!(self, batch_capacity())
    }

    /// Compares the counters with the tasks. Answers where they differ.
    pub async fn check_counters(&self) -> Result<Vec<CounterMismatch>, DbError> {
        call!(self, check_counters())
    }

    /// Sets the counters to what the tasks say. Answers what was wrong.
    pub async fn repair_counters(&self) -> Result<Vec<CounterMismatch>, DbError> {
        call!(self, repair_counters())
    }
}
