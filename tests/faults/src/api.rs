//! The REST interface, as a patient client uses it: servers come and go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::{Client, Method, StatusCode};
use scitq_shared::api::{CounterMismatch, ExecutionView, Page, Progress};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// How long one request may take: a stopped server takes connections and never answers.
const REQUEST: Duration = Duration::from_secs(5);
/// How long a request is repeated.
const PATIENCE: Duration = Duration::from_mins(2);
const PAUSE: Duration = Duration::from_millis(100);

/// A client of all servers of a system; it asks the next one when one does not answer. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    http: Client,
    servers: Arc<[String]>,
}

impl Api {
    pub(crate) fn new(ports: &[u16]) -> anyhow::Result<Self> {
        Ok(Self {
            http: Client::builder().timeout(REQUEST).build()?,
            servers: ports
                .iter()
                .map(|port| format!("http://127.0.0.1:{port}"))
                .collect(),
        })
    }

    /// The address of the first server.
    pub(crate) fn url(&self) -> &str {
        self.servers.first().map_or("", String::as_str)
    }

    /// Answers `/health/ready` of a server: `None` when it is ready, otherwise why not.
    pub(crate) async fn not_ready(&self, server: usize) -> Option<String> {
        let url = format!("{}/health/ready", self.servers.get(server)?);
        match self.http.get(url).send().await {
            Ok(answer) if answer.status() == StatusCode::OK => None,
            Ok(answer) => Some(answer.text().await.unwrap_or_default()),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Waits until a server is ready.
    pub(crate) async fn ready(&self, server: usize) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        while let Some(reason) = self.not_ready(server).await {
            if Instant::now() > until {
                bail!(
                    "the server is not ready within {} s: {reason}",
                    PATIENCE.as_secs()
                );
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Submits tasks, again and again until the answer is there: their keys make the same of it every time. Returns their
    /// ids in order.
    pub(crate) async fn submit(&self, tasks: &Value) -> anyhow::Result<Vec<i64>> {
        let created: Vec<Value> = self
            .json(Method::POST, "/api/v1/tasks", Some(tasks))
            .await?;
        let ids = created.iter().map(|task| task["task_id"].as_i64());
        ids.collect::<Option<_>>()
            .context("a created task without an id")
    }

    /// How far all these tasks are.
    pub(crate) async fn progress(&self, tasks: &[i64]) -> anyhow::Result<Progress> {
        let body = json!({ "task_ids": tasks });
        self.json(Method::POST, "/api/v1/progress", Some(&body))
            .await
    }

    /// All executions, the oldest first.
    pub(crate) async fn executions(&self) -> anyhow::Result<Vec<ExecutionView>> {
        let mut all = Vec::new();
        let mut after = Some(0);
        while let Some(key) = after {
            let path = format!("/api/v1/executions?limit=1000&after={key}");
            let page: Page<ExecutionView> = self.json(Method::GET, &path, None).await?;
            all.extend(page.items);
            after = page.next;
        }
        Ok(all)
    }

    /// What an execution wrote to a stream.
    pub(crate) async fn output(&self, execution: i64, stream: &str) -> anyhow::Result<Vec<u8>> {
        let path = format!("/api/v1/executions/{execution}/output/{stream}");
        self.request(Method::GET, &path, None).await
    }

    /// The counters that do not agree with the tasks.
    pub(crate) async fn mismatches(&self) -> anyhow::Result<Vec<CounterMismatch>> {
        self.json(Method::GET, "/api/v1/maintenance/counters", None)
            .await
    }

    /// The status of each worker by name.
    pub(crate) async fn workers(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let page: Page<Value> = self.json(Method::GET, "/api/v1/workers", None).await?;
        let text = |worker: &Value, field: &str| worker[field].as_str().map(str::to_owned);
        let workers = page.items.iter();
        let pairs = workers.map(|worker| Some((text(worker, "name")?, text(worker, "status")?)));
        pairs
            .collect::<Option<_>>()
            .context("a worker without a name")
    }

    /// Lets a paused worker work.
    pub(crate) async fn resume(&self, worker: &str) -> anyhow::Result<()> {
        let path = format!("/api/v1/workers/{worker}");
        let change = json!({ "paused": false });
        self.request(Method::PATCH, &path, Some(&change))
            .await
            .map(drop)
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<T> {
        let bytes = self.request(method, path, body).await?;
        serde_json::from_slice(&bytes).with_context(|| format!("the answer of {path}"))
    }

    /// Asks until an answer comes that is not the servers' trouble.
    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Vec<u8>> {
        let until = Instant::now() + PATIENCE;
        let mut trouble = String::new();
        for server in self.servers.iter().cycle() {
            if Instant::now() > until {
                break;
            }
            let mut request = self.http.request(method.clone(), format!("{server}{path}"));
            if let Some(body) = body {
                request = request.json(body);
            }
            let answer = async {
                let answer = request.send().await?;
                Ok::<_, reqwest::Error>((answer.status(), answer.bytes().await?))
            };
            match answer.await {
                Ok((status, bytes)) if status.is_success() => return Ok(bytes.to_vec()),
                Ok((status, bytes)) if status.is_client_error() => {
                    bail!(
                        "{method} {path}: {status}: {}",
                        String::from_utf8_lossy(&bytes)
                    )
                }
                Ok((status, bytes)) => {
                    trouble = format!("{status}: {}", String::from_utf8_lossy(&bytes));
                }
                Err(error) => trouble = error.to_string(),
            }
            sleep(PAUSE).await;
        }
        bail!(
            "{method} {path}: no good answer within {} s: {trouble}",
            PATIENCE.as_secs()
        )
    }
}
