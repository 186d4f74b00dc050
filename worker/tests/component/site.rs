//! Everything a test needs: broker, server, worker, directories.

use std::path::PathBuf;
use std::time::Duration;

use scitq_broker::{Broker, LocalBroker};
use scitq_shared::names::WorkerName;
use scitq_worker::{Worker, WorkerHandle, WorkerOptions};

use super::server::Server;

pub const NAME: &str = "worker one";

pub struct Site {
    pub local: LocalBroker,
    pub broker: Broker,
    pub server: Server,
    pub directory: tempfile::TempDir,
    pub worker: Option<WorkerHandle>,
}

impl Site {
    /// A server and a worker that runs so many tasks side by side.
    pub async fn start(concurrency: u16, prefetch: u16) -> Self {
        let mut site = Self::without_worker(concurrency, prefetch).await;
        site.start_worker(|_| {}).await;
        site
    }

    pub async fn without_worker(concurrency: u16, prefetch: u16) -> Self {
        let local = LocalBroker::default();
        let broker = Broker::local(local.clone());
        let server = Server::start(&broker, NAME, concurrency, prefetch).await;
        Self {
            local,
            broker,
            server,
            directory: tempfile::tempdir().unwrap(),
            worker: None,
        }
    }

    pub async fn start_worker(&mut self, change: impl FnOnce(&mut WorkerOptions)) {
        let options = self.options(change);
        self.worker = Some(Worker::start(options).await.unwrap());
    }

    pub fn options(&self, change: impl FnOnce(&mut WorkerOptions)) -> WorkerOptions {
        let name = WorkerName::new(NAME).unwrap();
        let mut options = WorkerOptions::new(self.broker.clone(), name, self.state(), self.work());
        options.heartbeat_every = Duration::from_millis(200);
        options.keeper_program = env!("CARGO_BIN_EXE_scitq-worker").into();
        change(&mut options);
        options
    }

    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub fn work(&self) -> PathBuf {
        self.directory.path().join("work")
    }

    pub fn handle(&mut self) -> &mut WorkerHandle {
        self.worker.as_mut().unwrap()
    }

    /// Waits for the worker's end; a worker that does not end fails the test.
    pub async fn finished(&mut self) -> Result<(), scitq_worker::WorkerError> {
        let finished = self.handle().finished();
        tokio::time::timeout(Duration::from_mins(1), finished)
            .await
            .expect("the worker ends")
    }

    /// What is kept of attempts; read until it is as expected.
    pub async fn until_kept(&self, expected: usize) {
        let attempts = self.state().join("attempts");
        let kept = || {
            let names = std::fs::read_dir(&attempts)
                .unwrap()
                .map(|entry| entry.unwrap().file_name());
            names
                .filter(|name| !name.to_string_lossy().starts_with('.'))
                .count()
        };
        // Removal is not announced to anyone: this is the one thing to be looked at again and again.
        let gone = async {
            while kept() != expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_mins(1), gone).await;
        assert!(
            waited.is_ok(),
            "{} attempts are kept instead of {expected}",
            kept()
        );
    }
}
