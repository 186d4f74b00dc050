use scitq_shared::execution::ExecutionStatus;
use scitq_shared::ids::TaskId;
use scitq_shared::task::TaskStatus;

/// Which tasks a list shows: those that fit every given part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// Of this batch.
    pub batch: Option<String>,
    /// In one of these statuses; any when empty.
    pub statuses: Vec<TaskStatus>,
    /// Of exactly this name.
    pub name: Option<String>,
    /// With one of these ids; any when empty.
    pub ids: Vec<i64>,
    /// With this label: key and value.
    pub label: Option<(String, String)>,
}

/// Which executions a list shows: those that fit every given part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecutionFilter {
    /// Of this task.
    pub task: Option<TaskId>,
    /// Of this batch.
    pub batch: Option<String>,
    /// In one of these statuses; any when empty.
    pub statuses: Vec<ExecutionStatus>,
    /// Of this worker.
    pub worker: Option<String>,
    /// Only the newest execution of each task.
    pub latest: bool,
}

/// Which page of a list, by key: rows that come or go meanwhile neither repeat nor hide others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// The last id of the page before.
    pub after: Option<i64>,
    /// Most rows of the page.
    pub limit: usize,
    /// True for newest first: `after` is then followed by smaller ids.
    pub descending: bool,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self {
            after: None,
            limit: 100,
            descending: false,
        }
    }
}
