//! Bodies of the REST interface under `/api/v1`, as the server writes and the command line reads them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::output::Cut;

/// One page of a list. Pages follow each other by key, so rows that come or go meanwhile neither repeat nor hide others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Give this as `after` to get the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<i64>,
}

/// A created task, in the order of submission.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CreatedTask {
    /// The task's id.
    pub task_id: i64,
    /// Its batch.
    pub batch: String,
    /// Its status at creation.
    pub status: String,
    /// False when a task with the same idempotency key was there already: that one is shown.
    pub created: bool,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskView {
    /// Id.
    pub task_id: i64,
    /// Name for people.
    pub name: Option<String>,
    /// Batch.
    pub batch: String,
    /// waiting, pending, assigned, accepted, running, succeeded, failed, cancelled, paused or debug.
    pub status: String,
    /// True while the process of a running task has ended and its output is being stored.
    pub uploading: bool,
    /// The command as one line of text.
    pub command: String,
    /// The shell that reads the command.
    pub shell: Option<String>,
    /// Image.
    pub container: Option<String>,
    /// Options of the container.
    pub container_options: Option<String>,
    /// Input URIs.
    pub input: Vec<String>,
    /// Output URI.
    pub output: Option<String>,
    /// Resource URIs.
    pub resource: Vec<String>,
    /// Tasks that must succeed first.
    pub required_task_ids: Vec<i64>,
    /// How many of those have not succeeded yet.
    pub missing_requirements: i64,
    /// How often a failed attempt is repeated.
    pub retry: i32,
    /// Repetitions left.
    pub retries_left: i32,
    /// Seconds that fetching input may take.
    pub download_timeout: Option<i64>,
    /// Seconds that the process may run.
    pub run_timeout: Option<i64>,
    /// True when an earlier identical task's output may stand in.
    pub use_cache: bool,
    /// Higher first.
    pub priority: i32,
    /// Slots it takes.
    pub weight: i32,
    /// The submitter's key.
    pub idempotency_key: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// User id it runs as.
    pub uid: Option<i64>,
    /// Group id it runs as.
    pub gid: Option<i64>,
    /// Revision of the definition.
    pub revision: i64,
    /// Its newest execution.
    pub execution_id: Option<i64>,
    /// When it was submitted.
    pub created_at: DateTime<Utc>,
    /// When its row last changed.
    pub modified_at: DateTime<Utc>,
}

/// Why a task is where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskExplanation {
    /// Task.
    pub task_id: i64,
    /// Its status.
    pub status: String,
    /// The reasons, the most important one first; at least one.
    pub reasons: Vec<Reason>,
}

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reason {
    /// A word for programs: `waits_for_tasks`, `requirement_failed`, `batch_paused`, `no_worker`, `workers_away`, `slots_taken`,
    /// `others_first`, `tried_before`, `next`, `in_queue`, `held_by_worker`, `runs`, `uploads`, `held`, `no_retries`,
    /// `server_not_ready`, or the status of a task that is over.
    pub code: String,
    /// Words for people.
    pub text: String,
    /// A command or an act that changes it, where there is one.
    pub remedy: Option<String>,
}

/// An execution: one attempt of a task by one worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExecutionView {
    /// Id.
    pub execution_id: i64,
    /// The attempt's UUID.
    pub attempt_id: String,
    /// Task.
    pub task_id: i64,
    /// Batch at the time of the dispatch.
    pub batch: String,
    /// Worker.
    pub worker: String,
    /// Life of the worker's state directory.
    pub incarnation: String,
    /// The dispatch that was accepted.
    pub dispatch_id: String,
    /// Epoch of that dispatch.
    pub epoch: i64,
    /// Revision that was run.
    pub revision: i64,
    /// accepted, running, succeeded, failed, released, lost or cancelled.
    pub status: String,
    /// True while the process has ended and its output is being stored.
    pub uploading: bool,
    /// True for the task's newest execution.
    pub latest: bool,
    /// The command that really ran.
    pub command: String,
    /// The shell that read it.
    pub shell: Option<String>,
    /// Image.
    pub container: Option<String>,
    /// Options of the container.
    pub container_options: Option<String>,
    /// Input URIs.
    pub input: Vec<String>,
    /// Output URI.
    pub output: Option<String>,
    /// Resource URIs.
    pub resource: Vec<String>,
    /// When the dispatch was committed.
    pub queued_at: DateTime<Utc>,
    /// When the worker took it (the worker's clock, as the next two).
    pub accepted_at: DateTime<Utc>,
    /// When the process was executed.
    pub started_at: Option<DateTime<Utc>>,
    /// When the process ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Exit code.
    pub exit_code: Option<i32>,
    /// Signal that ended the process.
    pub signal: Option<i32>,
    /// Why it did not succeed, as a word.
    pub failure_reason: Option<String>,
    /// Why it did not succeed, in words.
    pub failure_detail: Option<String>,
    /// CPU time in user mode, milliseconds.
    pub user_cpu_ms: Option<i64>,
    /// CPU time in kernel mode, milliseconds.
    pub system_cpu_ms: Option<i64>,
    /// Peak memory in bytes.
    pub peak_memory_bytes: Option<i64>,
    /// What the peak counts: `largest_process` or `cgroup`.
    pub memory_source: Option<String>,
    /// Bytes written to standard output; while it runs, those stored so far.
    pub stdout_bytes: i64,
    /// Bytes written to standard error.
    pub stderr_bytes: i64,
    /// The part of standard output that was not kept.
    pub stdout_cut: Option<CutView>,
    /// The part of standard error that was not kept.
    pub stderr_cut: Option<CutView>,
    /// True when the end and all output that is kept are in the database.
    pub output_complete: bool,
}

/// The part of a stream that was not kept: bytes `from` up to but not including `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CutView {
    /// First byte that is missing.
    pub from: u64,
    /// First byte that is there again.
    pub to: u64,
}

impl From<Cut> for CutView {
    fn from(cut: Cut) -> Self {
        Self {
            from: cut.from,
            to: cut.to,
        }
    }
}

/// A batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BatchView {
    /// Name.
    pub batch: String,
    /// When its first task came.
    pub created_at: DateTime<Utc>,
    /// Number of tasks by status; statuses without tasks are left out.
    pub tasks: BTreeMap<String, i64>,
    /// Number of all tasks.
    pub total: i64,
    /// Workers that listen to it and are not offline.
    pub workers: i64,
    /// True while none of its tasks is dispatched.
    #[serde(default)]
    pub paused: bool,
    /// Why the server paused it; none where a person did.
    #[serde(default)]
    pub pause_reason: Option<String>,
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkerView {
    /// Id.
    pub worker_id: i64,
    /// Name.
    pub name: String,
    /// Host name of its machine.
    pub hostname: String,
    /// The batch it works for.
    pub batch: String,
    /// running, paused, draining, offline, failed or evicted.
    pub status: String,
    /// Slots.
    pub concurrency: i32,
    /// Tasks kept ready beyond those running.
    pub prefetch: i32,
    /// Executions it holds unstarted.
    pub accepted: i64,
    /// Executions it runs.
    pub running: i64,
    /// Version of its program.
    pub program_version: String,
    /// Processor cores.
    pub cores: i32,
    /// Main memory in bytes.
    pub memory_bytes: i64,
    /// When the server last heard from it.
    pub last_contact_at: DateTime<Utc>,
    /// When it first said hello.
    pub created_at: DateTime<Utc>,
    /// Why the server paused it; none where a person did.
    #[serde(default)]
    pub pause_reason: Option<String>,
    /// Seconds that it may be silent before its attempts are lost; none: as the server's settings say.
    #[serde(default)]
    pub lost_after_seconds: Option<i64>,
    /// When it was declared lost; none once it is heard of again. Its status is offline then.
    #[serde(default)]
    pub lost_at: Option<DateTime<Utc>>,
    /// How many times its agent was started on its directory, as its last hello said.
    #[serde(default)]
    pub boots: i64,
    /// True from the request for a restart of its agent until the agent has been started anew.
    #[serde(default)]
    pub restart_requested: bool,
}

/// What was lost with a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LossView {
    /// The worker.
    pub worker: String,
    /// How many of its executions are lost by this.
    pub executions: u64,
    /// The tasks that are dispatched anew, by id.
    pub task_ids: Vec<i64>,
}

/// How far a set of tasks is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// Number of tasks by status; statuses without tasks are left out.
    pub tasks: BTreeMap<String, i64>,
    /// Number of all tasks.
    pub total: i64,
    /// Tasks that are succeeded, failed or cancelled.
    pub over: i64,
    /// Tasks that succeeded.
    pub succeeded: i64,
}

impl Progress {
    /// Sums up counts by status.
    pub fn of(tasks: BTreeMap<String, i64>) -> Self {
        let count = |status: &str| tasks.get(status).copied().unwrap_or(0);
        let succeeded = count("succeeded");
        Self {
            total: tasks.values().sum(),
            over: succeeded + count("failed") + count("cancelled"),
            succeeded,
            tasks,
        }
    }
}

/// A counter of a batch that does not agree with its tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CounterMismatch {
    /// Batch.
    pub batch: String,
    /// Status.
    pub status: String,
    /// What the counter says.
    pub counter: i64,
    /// How many tasks there are.
    pub tasks: i64,
}

/// An error, as RFC 9457 problem details (`application/problem+json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Kind of the problem, a relative reference such as `/problems/invalid-field`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What happened here and what to do.
    pub detail: String,
    /// The field that breaks a rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Which task of a bulk submission, counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
}
