//! The part of the REST interface that the measurements use, without retries: a failed request is a failed measurement.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use reqwest::{RequestBuilder, StatusCode};
use scitq_shared::api::{CreatedTask, ExecutionView, Page, Problem, Progress, WorkerView};
use scitq_shared::submit::SubmitTask;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

/// Longest time without an answer; bulk requests on a loaded machine are the slowest.
const ANSWER_WITHIN: Duration = Duration::from_mins(3);
/// Seconds that the server is asked to wait for news.
const WAIT_SECONDS: u64 = 10;

/// A client of one server.
#[derive(Clone, Debug)]
pub struct Api {
    http: reqwest::Client,
    base: String,
}

impl Api {
    /// A client of the server that listens on this port of 127.0.0.1.
    pub fn new(port: u16) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(ANSWER_WITHIN)
            .build()
            .context("cannot set up HTTP")?;
        let base = format!("http://127.0.0.1:{port}");
        Ok(Self { http, base })
    }

    /// Whether the server says that it is ready; false also if it does not answer.
    pub async fn is_ready(&self) -> bool {
        let answer = self
            .http
            .get(format!("{}/health/ready", self.base))
            .send()
            .await;
        answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
    }

    /// The workers that the server knows.
    pub async fn workers(&self) -> anyhow::Result<Vec<WorkerView>> {
        let page: Page<WorkerView> = self.json(self.get("workers")).await?;
        Ok(page.items)
    }

    /// Submits tasks, in a body made by [`body`].
    pub async fn submit(&self, body: Bytes) -> anyhow::Result<Vec<CreatedTask>> {
        let request = self
            .http
            .post(self.url("tasks"))
            .header("content-type", "application/json")
            .body(body);
        self.json(request).await
    }

    /// Submits one task and tells its id.
    pub async fn submit_one(&self, body: Bytes) -> anyhow::Result<i64> {
        let created = self.submit(body).await?;
        match created.as_slice() {
            [one] => Ok(one.task_id),
            other => bail!("one task was submitted, {} were created", other.len()),
        }
    }

    /// How far a batch is; all zero if it does not exist yet.
    pub async fn progress(&self, batch: &str) -> anyhow::Result<Progress> {
        let answer = self
            .get("progress")
            .query(&[("batch", batch)])
            .send()
            .await
            .context("no answer")?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(Progress::of(std::collections::BTreeMap::new()));
        }
        read(answer).await
    }

    /// Waits until this many tasks of a batch are over. An error if none ends for `patience`.
    pub async fn wait_over(
        &self,
        batch: &str,
        over: i64,
        patience: Duration,
    ) -> anyhow::Result<Progress> {
        let mut seen = -1;
        let mut moved = Instant::now();
        loop {
            let query = [
                ("batch", batch.to_owned()),
                ("wait", WAIT_SECONDS.to_string()),
                // Not told about each step, which would cost the server work that no measurement wants.
                ("seen_over", (over - 1).to_string()),
            ];
            let progress: Progress = self.json(self.get("progress").query(&query)).await?;
            if progress.over >= over {
                return Ok(progress);
            }
            ensure!(
                progress.over < progress.total,
                "batch {batch} is over with {} tasks, {over} were expected",
                progress.total
            );
            if progress.over > seen {
                (seen, moved) = (progress.over, Instant::now());
            }
            ensure!(
                moved.elapsed() < patience,
                "nothing moved for {} s: of {over} tasks of batch {batch}, {seen} are over; by status: {:?}",
                patience.as_secs(),
                progress.tasks
            );
        }
    }

    /// The newest execution of a task.
    pub async fn execution(&self, task: i64) -> anyhow::Result<Option<ExecutionView>> {
        let query = [("task", task.to_string()), ("latest", "true".to_owned())];
        let page: Page<ExecutionView> = self.json(self.get("executions").query(&query)).await?;
        Ok(page.items.into_iter().next())
    }

    /// Standard output of a task, to its end: waits for the start and the end of its execution.
    pub async fn follow_stdout(&self, task: i64) -> anyhow::Result<Bytes> {
        let path = format!("tasks/{task}/output/stdout?follow=true");
        let answer = succeeded(self.get(&path).send().await.context("no answer")?).await?;
        answer.bytes().await.context("the output broke off")
    }

    /// Reads back the stored standard output of a task and tells its length in bytes.
    pub async fn stdout_length(&self, task: i64) -> anyhow::Result<u64> {
        let path = format!("tasks/{task}/output/stdout");
        let mut answer = succeeded(self.get(&path).send().await.context("no answer")?).await?;
        let mut length = 0;
        while let Some(part) = answer.chunk().await.context("the output broke off")? {
            length += part.len() as u64;
        }
        Ok(length)
    }

    fn url(&self, path: &str) -> String {
        format!("{}/api/v1/{path}", self.base)
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(self.url(path))
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> anyhow::Result<T> {
        read(request.send().await.context("no answer")?).await
    }
}

/// The body of a submission.
pub fn body(tasks: &[SubmitTask]) -> anyhow::Result<Bytes> {
    Ok(serde_json::to_vec(tasks)
        .context("cannot write JSON")?
        .into())
}

async fn read<T: DeserializeOwned>(answer: reqwest::Response) -> anyhow::Result<T> {
    let url = answer.url().clone();
    let body = succeeded(answer)
        .await?
        .bytes()
        .await
        .with_context(|| format!("the answer to {url} broke off"))?;
    serde_json::from_slice(&body)
        .with_context(|| format!("the answer to {url} cannot be understood"))
}

async fn succeeded(answer: reqwest::Response) -> anyhow::Result<reqwest::Response> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let url = answer.url().clone();
    let body = answer.bytes().await.unwrap_or_default();
    let detail = serde_json::from_slice::<Problem>(&body)
        .map(|problem| problem.detail)
        .unwrap_or_default();
    bail!("{url} was answered with {status}: {detail}")
}
