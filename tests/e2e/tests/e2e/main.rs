//! End-to-end tests: the real programs, used as a user uses them.
//!
//! Tests of what both pairs offer are written once and run on each (`on_both_pairs!`). All are in one program, so that
//! they share one RabbitMQ and one PostgreSQL.
#![expect(
    clippy::panic,
    clippy::expect_used,
    reason = "a test that finds something else than it must has failed"
)]

/// Runs tests, functions of a [`Pair`](scitq_e2e::Pair), on both pairs.
macro_rules! on_both_pairs {
    ($($test:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $test() {
                super::$test(scitq_e2e::Pair::Embedded).await;
            })+
        }
        mod separate {
            $(#[tokio::test]
            async fn $test() {
                super::$test(scitq_e2e::Pair::Separate).await;
            })+
        }
    };
}

mod adoption;
mod bad_input;
mod environment;
mod examples;
mod failures;
mod launch;
mod malformed;
mod outage;
mod output;
mod requirements;
mod restart;
mod restored;
mod series;
mod settings;
mod steering;
mod workers;
