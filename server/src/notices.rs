//! Word inside one server that something was committed, so that waiting requests look again at once.
//!
//! A notice carries no data: the database is the truth. A waiter that misses notices (it lags, or another server leads)
//! looks again by itself after [`RECHECK_AFTER`].

use std::time::Duration;

use scitq_shared::ids::AttemptId;
use tokio::sync::broadcast;

/// How long a waiter waits for a notice before it looks again by itself.
pub const RECHECK_AFTER: Duration = Duration::from_secs(2);

/// Notices that a slow waiter may be behind before it is told that it missed some.
const CAPACITY: usize = 256;

/// What was committed.
#[derive(Clone, Debug)]
pub enum Notice {
    /// Tasks changed their statuses.
    Tasks,
    /// These attempts wrote output, or ended.
    Output(std::sync::Arc<[AttemptId]>),
}

/// Where notices are given and waited for.
#[derive(Clone, Debug)]
pub struct Notices {
    sender: broadcast::Sender<Notice>,
}

impl Default for Notices {
    fn default() -> Self {
        Self {
            sender: broadcast::Sender::new(CAPACITY),
        }
    }
}

impl Notices {
    /// Tells everyone who waits. Cheap when nobody does.
    pub fn tell(&self, notice: Notice) {
        // An error only says that nobody waits.
        let _ = self.sender.send(notice);
    }

    /// Begins to listen. Listen first and look at the database then, so that nothing falls between.
    pub fn listen(&self) -> Listener {
        Listener {
            receiver: self.sender.subscribe(),
        }
    }
}

/// One waiter.
#[derive(Debug)]
pub struct Listener {
    receiver: broadcast::Receiver<Notice>,
}

impl Listener {
    /// Waits until tasks may have changed, at most [`RECHECK_AFTER`].
    pub async fn tasks(&mut self) {
        self.wait(|notice| matches!(notice, Notice::Tasks)).await;
    }

    /// Waits until the attempt may have written or ended, at most [`RECHECK_AFTER`].
    pub async fn output_of(&mut self, attempt: AttemptId) {
        self.wait(
            |notice| matches!(notice, Notice::Output(attempts) if attempts.contains(&attempt)),
        )
        .await;
    }

    async fn wait(&mut self, wanted: impl Fn(&Notice) -> bool) {
        let heard = async {
            loop {
                match self.receiver.recv().await {
                    Ok(notice) if wanted(&notice) => return,
                    Ok(_) => {}
                    // Missed some: any of them may have been the one.
                    Err(broadcast::error::RecvError::Lagged(_)) => return,
                    // The server stops; the time limit below ends the wait.
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        let _ = tokio::time::timeout(RECHECK_AFTER, heard).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_notice_given_after_listening_is_not_missed() {
        let notices = Notices::default();
        let mut listener = notices.listen();
        let attempt = AttemptId::generate();
        notices.tell(Notice::Tasks);
        notices.tell(Notice::Output([attempt].into()));
        let started = tokio::time::Instant::now();
        listener.output_of(attempt).await;
        assert!(started.elapsed() < RECHECK_AFTER);
    }
}
