use std::error::Error;

use diesel_async::sync_connection_wrapper::SpawnBlocking;
use futures::future::{BoxFuture, ready};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::db::DbError;

/// Runs each statement where it is: calls run on threads that may block ([`Threads`]), and a way to yet another thread
/// and back would cost more than most statements.
pub(in crate::db) struct Inline;

impl SpawnBlocking for Inline {
    fn spawn_blocking<'a, R>(
        &mut self,
        task: impl FnOnce() -> R + Send + 'static,
    ) -> BoxFuture<'a, Result<R, Box<dyn Error + Send + Sync + 'static>>>
    where
        R: Send + 'static,
    {
        Box::pin(ready(Ok(task())))
    }

    fn get_runtime() -> Self {
        Self
    }
}

/// The threads that calls run on: a runtime of their own, so that a statement that takes long holds up nothing else.
/// They end with this value; calls that run then are broken off between two statements and rolled back.
#[derive(Debug)]
pub(in crate::db) struct Threads(Option<Runtime>);

impl Threads {
    /// Starts so many threads.
    pub(in crate::db) fn start(count: usize, address: &str) -> Result<Self, DbError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(count)
            .thread_name("sqlite")
            .enable_time()
            .build();
        match runtime {
            Ok(runtime) => Ok(Self(Some(runtime))),
            Err(error) => Err(DbError::Unreachable {
                address: address.to_owned(),
                reason: format!("no thread could be started for it: {error}"),
            }),
        }
    }

    /// Where calls are spawned.
    pub(in crate::db) fn handle(&self) -> Handle {
        self.0
            .as_ref()
            .map_or_else(Handle::current, |runtime| runtime.handle().clone())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Waiting here would block whoever drops the last clone of the database.
            runtime.shutdown_background();
        }
    }
}
