use std::future::Future;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::{Connection, SqliteConnection};
use diesel_async::{AsyncConnection, AsyncPgConnection, SimpleAsyncConnection};
use scitq_server::db::{Claim, Created, Database};
use scitq_shared::ids::{Epoch, TaskId};
use scitq_shared::names::BatchName;
use scitq_shared::secret::SecretUrl;
use scitq_shared::submit::{SubmitTask, ValidTask};

/// How long anything may take on a loaded machine.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// A fresh database.
pub struct Fixture {
    pub db: Database,
    pub url: String,
    _directory: Option<tempfile::TempDir>,
}

impl Fixture {
    pub async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("scitq.db").display());
        Self {
            db: connect(&url).await,
            url,
            _directory: Some(directory),
        }
    }

    pub async fn postgres() -> Self {
        let url = scitq_testkit::Postgres::shared().await.database().await;
        Self {
            db: connect(&url).await,
            url,
            _directory: None,
        }
    }

    pub fn is_sqlite(&self) -> bool {
        self.url.starts_with("sqlite:")
    }

    /// Does something to the database that no server does.
    pub async fn execute(&self, sql: &str) {
        if let Some(path) = self.url.strip_prefix("sqlite:") {
            let mut conn = SqliteConnection::establish(path).unwrap();
            conn.batch_execute("PRAGMA busy_timeout = 10000;").unwrap();
            conn.batch_execute(sql).unwrap();
        } else {
            let mut conn = AsyncPgConnection::establish(&self.url).await.unwrap();
            conn.batch_execute(sql).await.unwrap();
        }
    }

    /// Takes the leadership.
    pub async fn lead(&self) -> Epoch {
        self.db.take_leadership("test", Epoch(0)).await.unwrap()
    }

    /// Submits tasks of the default batch with these commands.
    pub async fn submit(&self, commands: &[&str]) -> Vec<TaskId> {
        let tasks = commands.iter().map(|command| task(command)).collect();
        ids(&self.db.submit(tasks).await.unwrap())
    }

    /// Fills the window of the default batch.
    pub async fn claim(&self, epoch: Epoch, window: usize) -> Claim {
        self.db
            .claim(epoch, &BatchName::default(), window)
            .await
            .unwrap()
    }

    /// The status of a task.
    pub async fn status(&self, id: TaskId) -> String {
        self.db.task(id).await.unwrap().unwrap().status
    }

    /// The counters agree with the tasks.
    pub async fn check(&self) {
        assert_eq!(self.db.check_counters().await.unwrap(), []);
    }
}

pub async fn connect(url: &str) -> Database {
    Database::connect(&SecretUrl::new(url), 8).await.unwrap()
}

/// A valid task with this command.
pub fn task(command: &str) -> ValidTask {
    SubmitTask {
        command: command.to_owned(),
        ..SubmitTask::default()
    }
    .validate()
    .unwrap()
}

/// A valid task that waits for others.
pub fn task_after(required: &[TaskId]) -> ValidTask {
    let required_task_ids = required.iter().map(|id| id.0).collect();
    SubmitTask {
        command: "true".to_owned(),
        required_task_ids,
        ..SubmitTask::default()
    }
    .validate()
    .unwrap()
}

pub fn ids(created: &[Created]) -> Vec<TaskId> {
    created.iter().map(|created| created.task).collect()
}

pub fn batch(name: &str) -> BatchName {
    BatchName::new(name).unwrap()
}

/// Fails when something takes longer than anything may.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("in time")
}
