//! A system seen from outside: where it lives, and how a user reaches it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::ctl::Ctl;
use crate::program::binary;
use crate::rest::Rest;
use crate::setup::Setup;
use crate::{Gate, eventually, leftovers};

/// A temporary directory and a port, and what users do there.
#[derive(Debug)]
pub struct Site {
    directory: TempDir,
    port: u16,
    /// The REST interface.
    pub rest: Rest,
}

impl Site {
    pub(crate) fn new() -> Self {
        // Named so that the testkit of a later run removes it when this process is killed; open to all, because tasks
        // may run as other users.
        let directory = tempfile::Builder::new()
            .prefix(&format!("scitq-test-{}-e2e-", std::process::id()))
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .expect("a temporary directory");
        fs::write(directory.path().join("scitq.toml"), "").expect("a settings file");
        let port = scitq_testkit::free_port();
        Self {
            directory,
            port,
            rest: Rest::new(port),
        }
    }

    /// The temporary directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// An empty settings file, so that those of this machine play no role.
    pub fn settings_file(&self) -> PathBuf {
        self.directory().join("scitq.toml")
    }

    /// Where the server listens.
    pub fn listen(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A program with a clean environment and the settings of a setup.
    pub(crate) fn command(&self, program: &str, setup: &Setup) -> Command {
        self.command_of(&binary(program), setup)
    }

    /// The same for the program in this file.
    pub(crate) fn command_of(&self, file: &Path, setup: &Setup) -> Command {
        let mut command = Command::new(file);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.directory())
            .current_dir(self.directory())
            .env("RUST_BACKTRACE", "1")
            .env("SCITQ_WORKER_CONCURRENCY", setup.concurrency.to_string())
            .env("SCITQ_WORKER_PREFETCH", setup.prefetch.to_string())
            .env("SCITQ_WORKER_HEARTBEAT_SECONDS", "1")
            .envs(setup.settings.iter().map(|(name, value)| (*name, value)));
        command
    }

    /// `scitq-ctl` for this server.
    pub fn ctl<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Ctl {
        Ctl::new(words).variable("SCITQ_SERVER", self.rest.url())
    }

    /// Launches one task by `scitq-ctl launch` with these words; returns its id.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn launch<W: Into<OsString>>(&self, words: impl IntoIterator<Item = W>) -> i64 {
        let mut all: Vec<OsString> = ["-o", "json", "launch"].map(OsString::from).into();
        all.extend(words.into_iter().map(Into::into));
        let created = self.ctl(all).run().await.code(0).json();
        let created = created.as_array().expect("an array");
        assert_eq!(created.len(), 1, "{created:?}");
        created[0]["task_id"].as_i64().expect("a task id")
    }

    /// Submits tasks by REST; returns their ids in order.
    ///
    /// # Panics
    /// If they are refused.
    pub async fn submit(&self, tasks: &Value) -> Vec<i64> {
        let created = self.rest.post("/api/v1/tasks", tasks).await.expect(201);
        let created = created.as_array().expect("an array");
        let id = |task: &Value| task["task_id"].as_i64().expect("a task id");
        created.iter().map(id).collect()
    }

    /// Waits until all these tasks are over; returns their number by status.
    ///
    /// # Panics
    /// If they are not within the deadline.
    pub async fn over(&self, tasks: &[i64]) -> Value {
        let progress = self.progress(tasks, tasks.len()).await;
        progress["tasks"].clone()
    }

    /// Waits until so many of these tasks are over.
    ///
    /// # Panics
    /// If they are not within the deadline.
    pub async fn progress(&self, tasks: &[i64], wanted: usize) -> Value {
        let seen = wanted.saturating_sub(1);
        let path = format!("/api/v1/progress?wait=60&seen_over={seen}");
        let body = json!({ "task_ids": tasks });
        let progress = self.rest.post(&path, &body).await.expect(200);
        assert_eq!(progress["total"], tasks.len(), "{progress}");
        let over = progress["over"].as_u64().expect("a number");
        assert!(over >= wanted as u64, "not over in time: {progress}");
        progress
    }

    /// Waits until all these tasks have succeeded.
    ///
    /// # Panics
    /// If they do not within the deadline.
    pub async fn succeeded(&self, tasks: &[i64]) {
        let by_status = self.over(tasks).await;
        if by_status != json!({ "succeeded": tasks.len() }) {
            let mut told = Vec::new();
            for task in tasks {
                let executions = self.executions(*task).await;
                told.extend(
                    executions
                        .into_iter()
                        .filter(|e| e["status"] != "succeeded"),
                );
            }
            told.truncate(5);
            panic!("not all succeeded: {by_status}; {told:#?}");
        }
    }

    /// Waits until a task has this status.
    ///
    /// # Panics
    /// If it has not within the deadline.
    pub async fn status(&self, task: i64, status: &str) -> Value {
        eventually(&format!("task {task} is {status}"), || async {
            let found = self.task(task).await;
            (found["status"] == status).then_some(found)
        })
        .await
    }

    /// Waits until so many of these tasks run.
    ///
    /// # Panics
    /// If they do not within the deadline.
    pub async fn running(&self, tasks: &[i64], wanted: usize) {
        let body = json!({ "task_ids": tasks });
        eventually(&format!("{wanted} of the tasks {tasks:?} run"), || async {
            let progress = self.rest.post("/api/v1/progress", &body).await.expect(200);
            (progress["tasks"]["running"] == wanted).then_some(())
        })
        .await;
    }

    /// A task.
    ///
    /// # Panics
    /// If there is none.
    pub async fn task(&self, task: i64) -> Value {
        let path = format!("/api/v1/tasks/{task}");
        self.rest.get(&path).await.expect(200)
    }

    /// All executions of a task, the oldest first.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn executions(&self, task: i64) -> Vec<Value> {
        let path = format!("/api/v1/executions?task={task}&limit=1000");
        let page = self.rest.get(&path).await.expect(200);
        page["items"].as_array().expect("an array").clone()
    }

    /// The only execution of a task.
    ///
    /// # Panics
    /// If there is another number of them.
    pub async fn execution(&self, task: i64) -> Value {
        let mut executions = self.executions(task).await;
        assert_eq!(executions.len(), 1, "{executions:#?}");
        executions.remove(0)
    }

    /// What a task's newest execution wrote to a stream, waiting until all is there.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn output(&self, task: i64, stream: &str) -> Vec<u8> {
        let path = format!("/api/v1/tasks/{task}/output/{stream}?follow=true");
        let answer = self.rest.get(&path).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.body
    }

    /// Waits until the server answers that it is ready.
    ///
    /// # Panics
    /// If it does not within the deadline.
    pub async fn ready(&self) {
        eventually("the server is ready", || async {
            let answer = self.rest.try_get("/health/ready").await?;
            (answer.status == 200).then_some(())
        })
        .await;
    }

    /// Waits until a worker has this status.
    ///
    /// # Panics
    /// If it has not within the deadline.
    pub async fn worker(&self, name: &str, status: &str) -> Value {
        eventually(&format!("worker {name} is {status}"), || async {
            let answer = self.rest.get(&format!("/api/v1/workers/{name}")).await;
            (answer.status == 200 && answer.json()["status"] == status).then(|| answer.json())
        })
        .await
    }

    /// Changes a worker.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn change_worker(&self, name: &str, change: &Value) -> Value {
        let path = format!("/api/v1/workers/{name}");
        self.rest.patch(&path, change).await.expect(200)
    }

    /// A closed gate.
    pub fn gate(&self, name: &str) -> Gate {
        Gate::closed(self.directory(), name)
    }

    /// Makes sure that the counters agree with the tasks.
    ///
    /// # Panics
    /// If they do not.
    pub async fn counters_agree(&self) {
        let checked = self.ctl(["maintenance", "check"]).run().await.code(0);
        assert!(checked.text().contains("agree"), "{}", checked.text());
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        leftovers::end(self.directory());
    }
}
