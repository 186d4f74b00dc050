//! The database: what remains, what ran and how it ended (D1). The only module that names diesel.
//!
//! [`Database`] stands before two backends, PostgreSQL and SQLite (D2). The queries under `queries/` are written once and
//! compiled once for each; what a dialect lacks lies in `postgres/` and `sqlite/`. Every write of the leader names its
//! epoch and is refused with [`DbError::Fenced`] once another server leads (D12).

mod claim;
mod created;
mod error;
mod filter;
mod known_worker;
mod projection;
mod stored_output;

use std::time::Duration;

pub use claim::{BatchLoad, Claim};
pub use created::Created;
pub use error::{DbError, SubmitError};
pub use filter::{ExecutionFilter, PageRequest, TaskFilter};
pub use known_worker::{Capacity, Greeted, HeldAttempts, ListedAttempt, LiveAttempt, WorkerChange};
pub use projection::{
    AttemptChange, Loaded, LoadedAttempt, LoadedTask, Needs, NewChunk, Projected, Projection, TaskChange,
};
use scitq_shared::api::{BatchView, CounterMismatch, ExecutionView, Progress, TaskView, WorkerView};
use scitq_shared::ids::{AttemptId, Epoch, ExecutionId, IncarnationId, TaskId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::output::Stream;
use scitq_shared::protocol::Hello;
use scitq_shared::secret::SecretUrl;
use scitq_shared::submit::ValidTask;
use scitq_shared::worker::DesiredState;
pub use stored_output::{OutputState, StoredChunk, StreamState};

/// The database, shared: clones use the same connections.
#[derive(Clone, Debug)]
pub struct Database {}

impl Database {
    /// Connects, and brings the schema up to date. One attempt of at most ten seconds.
    ///
    /// `url` is `postgres://…`, `postgresql://…` or `sqlite:PATH`; `pool_size` is the most connections kept.
    pub async fn connect(url: &SecretUrl, pool_size: usize) -> Result<Self, DbError> {
        todo!("{url} {pool_size}")
    }

    /// Where the database is, password masked.
    pub fn address(&self) -> String {
        todo!()
    }

    /// Asks the database for a sign of life.
    pub async fn ping(&self) -> Result<(), DbError> {
        todo!()
    }

    /// Stores new tasks, all or none, and creates their batches. Answers in the order of submission, in which the ids
    /// ascend; an idempotency key seen before (also earlier in the same request) answers the task that has it.
    pub async fn submit(&self, tasks: Vec<ValidTask>) -> Result<Vec<Created>, SubmitError> {
        todo!("{tasks:?}")
    }

    /// One task.
    pub async fn task(&self, id: TaskId) -> Result<Option<TaskView>, DbError> {
        todo!("{id}")
    }

    /// A page of tasks, by id.
    pub async fn tasks(&self, filter: &TaskFilter, page: &PageRequest) -> Result<Vec<TaskView>, DbError> {
        todo!("{filter:?} {page:?}")
    }

    /// One execution.
    pub async fn execution(&self, id: ExecutionId) -> Result<Option<ExecutionView>, DbError> {
        todo!("{id}")
    }

    /// A page of executions, by id.
    pub async fn executions(&self, filter: &ExecutionFilter, page: &PageRequest) -> Result<Vec<ExecutionView>, DbError> {
        todo!("{filter:?} {page:?}")
    }

    /// All batches with their counters, by name.
    pub async fn batches(&self) -> Result<Vec<BatchView>, DbError> {
        todo!()
    }

    /// One batch.
    pub async fn batch(&self, name: &str) -> Result<Option<BatchView>, DbError> {
        todo!("{name}")
    }

    /// How far these tasks are. Unknown ids are not counted.
    pub async fn progress_of_tasks(&self, ids: &[i64]) -> Result<Progress, DbError> {
        todo!("{ids:?}")
    }

    /// All workers, by id.
    pub async fn workers(&self) -> Result<Vec<WorkerView>, DbError> {
        todo!()
    }

    /// One worker.
    pub async fn worker(&self, name: &str) -> Result<Option<WorkerView>, DbError> {
        todo!("{name}")
    }

    /// How much of an execution's output is stored.
    pub async fn output_state(&self, execution: ExecutionId) -> Result<Option<OutputState>, DbError> {
        todo!("{execution}")
    }

    /// The chunks of a stream that contain or follow `offset`, in order, at most `max_chunks`.
    pub async fn output_chunks(
        &self,
        attempt: AttemptId,
        stream: Stream,
        offset: u64,
        max_chunks: usize,
    ) -> Result<Vec<StoredChunk>, DbError> {
        todo!("{attempt} {stream} {offset} {max_chunks}")
    }

    /// Takes the leadership: every write under an earlier epoch is refused from now on.
    pub async fn take_leadership(&self, leader: &str) -> Result<Epoch, DbError> {
        todo!("{leader}")
    }

    /// Fills a batch's dispatch window: takes pending tasks, highest priority and then lowest id first, until `window`
    /// dispatches are not yet accepted, and gives each a new dispatch (D3).
    pub async fn claim(&self, epoch: Epoch, batch: &BatchName, window: usize) -> Result<Claim, DbError> {
        todo!("{epoch} {batch} {window}")
    }

    /// The batches that have anything pending or assigned, by name.
    pub async fn dispatchable(&self) -> Result<Vec<(BatchName, BatchLoad)>, DbError> {
        todo!()
    }

    /// Takes back every dispatch that is not accepted, for a broker that died with its process. Answers how many.
    pub async fn return_all_dispatches(&self, epoch: Epoch) -> Result<u64, DbError> {
        todo!("{epoch}")
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
        decide(&Loaded::default());
        todo!("{epoch} {needs:?} {chunks:?}")
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
        todo!("{epoch} {worker} {incarnation} {hello:?}")
    }

    /// Notes signs of life, at the database's time; offline workers are running or paused again. Answers those that are
    /// unknown, or known under another incarnation.
    pub async fn heard_from(
        &self,
        epoch: Epoch,
        workers: &[(WorkerName, IncarnationId)],
    ) -> Result<Vec<WorkerName>, DbError> {
        todo!("{epoch} {workers:?}")
    }

    /// Sets workers offline that were silent for longer than `silent_for` by the database's clock. Answers them.
    pub async fn set_offline(&self, epoch: Epoch, silent_for: Duration) -> Result<Vec<WorkerName>, DbError> {
        todo!("{epoch} {silent_for:?}")
    }

    /// A worker ends on purpose: it is offline. Nothing happens when another incarnation has the name now.
    pub async fn farewell(
        &self,
        epoch: Epoch,
        worker: &WorkerName,
        incarnation: IncarnationId,
    ) -> Result<(), DbError> {
        todo!("{epoch} {worker} {incarnation}")
    }

    /// Changes what a worker is to be, under a new version. `None` when there is no such worker.
    pub async fn change_worker(&self, name: &str, change: &WorkerChange) -> Result<Option<DesiredState>, DbError> {
        todo!("{name} {change:?}")
    }

    /// What the database holds against a worker's inventory.
    pub async fn held_attempts(
        &self,
        worker: &WorkerName,
        incarnation: IncarnationId,
        attempts: &[AttemptId],
    ) -> Result<HeldAttempts, DbError> {
        todo!("{worker} {incarnation} {attempts:?}")
    }

    /// What the running workers of each batch can take, by batch.
    pub async fn batch_capacity(&self) -> Result<Vec<(BatchName, Capacity)>, DbError> {
        todo!()
    }

    /// Compares the counters with the tasks. Answers where they differ.
    pub async fn check_counters(&self) -> Result<Vec<CounterMismatch>, DbError> {
        todo!()
    }

    /// Sets the counters to what the tasks say. Answers what was wrong.
    pub async fn repair_counters(&self) -> Result<Vec<CounterMismatch>, DbError> {
        todo!()
    }
}
