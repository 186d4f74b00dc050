//! Waiting for what no event tells a client.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::DEADLINE;

const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Looks again and again until there is an answer.
///
/// # Panics
/// If there is none within the deadline; `what` says what was waited for.
pub async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let until = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = look().await {
            return answer;
        }
        assert!(
            Instant::now() < until,
            "not within {} s: {what}",
            DEADLINE.as_secs()
        );
        sleep(BETWEEN_LOOKS).await;
    }
}
