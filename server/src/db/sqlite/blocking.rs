use std::error::Error;

use diesel_async::sync_connection_wrapper::SpawnBlocking;
use futures::future::BoxFuture;
use tokio::runtime::Handle;

/// Runs statements on the runtime's threads for blocking work.
///
/// The one that diesel-async brings blocks when a call is dropped, which panics on a runtime of one thread. Here nothing
/// happens then: calls of the database are never dropped half-way, because each runs as a task of its own (see
/// [`super::super::Database`]), but for the end of the runtime.
pub(in crate::db) struct Blocking(Handle);

impl SpawnBlocking for Blocking {
    fn spawn_blocking<'a, R>(
        &mut self,
        task: impl FnOnce() -> R + Send + 'static,
    ) -> BoxFuture<'a, Result<R, Box<dyn Error + Send + Sync + 'static>>>
    where
        R: Send + 'static,
    {
        let running = self.0.spawn_blocking(task);
        Box::pin(async move { running.await.map_err(Box::from) })
    }

    fn get_runtime() -> Self {
        Self(Handle::current())
    }
}
