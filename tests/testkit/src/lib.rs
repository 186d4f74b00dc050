//! Private RabbitMQ and PostgreSQL instances for tests, and a network to cut between them and the code under test.
//!
//! Every instance lives on free ports of 127.0.0.1 in a temporary directory. It is stopped and removed when dropped, at
//! the end of the test process, and (the directory by the next run) when the test process is killed. Failures panic,
//! with the tail of the service's log: there is nothing else a test could do.
#![expect(
    clippy::panic,
    reason = "a fixture that cannot be set up fails its test"
)]

mod cleanup;
mod port;
mod postgres;
mod proxy;
mod rabbitmq;
mod scratch;
mod service;

pub use port::free_port;
pub use postgres::Postgres;
pub use proxy::LocalTcpProxy;
pub use rabbitmq::{RabbitMq, RabbitOptions};

use std::time::Duration;

/// How long a service may take to start or stop; generous, because machines that run tests are loaded.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// Runs something that blocks without holding up the test's runtime.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failure) => match failure.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(failure) => panic!("fixture cancelled: {failure}"),
        },
    }
}
