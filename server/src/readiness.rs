//! What this server can reach, for `/health/ready`.

use std::sync::Arc;

use tokio::sync::watch;

/// The parts that a server needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The database.
    Database,
    /// The message broker.
    Broker,
}

/// What is missing of each part, in words.
type Missing = [Option<String>; 2];

/// Shared, cheap to clone.
#[derive(Clone, Debug)]
pub struct Readiness {
    missing: Arc<watch::Sender<Missing>>,
}

impl Default for Readiness {
    fn default() -> Self {
        let not_yet = |what: &str| Some(format!("{what} is not connected yet"));
        Self {
            missing: Arc::new(watch::Sender::new([
                not_yet("the database"),
                not_yet("the broker"),
            ])),
        }
    }
}

impl Readiness {
    /// A part is there.
    pub fn reached(&self, part: Part) {
        self.set(part, None);
    }

    /// A part cannot be reached; the reason names its address, without secrets.
    pub fn lost(&self, part: Part, reason: String) {
        self.set(part, Some(reason));
    }

    /// What is missing, in words; empty when the server is ready.
    pub fn missing(&self) -> Vec<String> {
        self.missing.borrow().iter().flatten().cloned().collect()
    }

    /// Waits until nothing is missing.
    pub async fn ready(&self) {
        let mut watched = self.missing.subscribe();
        // The sender lives as long as this value, so the wait cannot fail.
        let _ = watched
            .wait_for(|missing| missing.iter().all(Option::is_none))
            .await;
    }

    fn set(&self, part: Part, reason: Option<String>) {
        self.missing.send_if_modified(|missing| {
            let changed = missing[part as usize] != reason;
            missing[part as usize] = reason;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_when_both_parts_are_there() {
        let readiness = Readiness::default();
        assert_eq!(readiness.missing().len(), 2);
        readiness.reached(Part::Database);
        readiness.lost(Part::Broker, "the broker at host:1 is away".into());
        assert_eq!(readiness.missing(), ["the broker at host:1 is away"]);
        let waiting = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.ready().await }
        });
        readiness.reached(Part::Broker);
        waiting.await.unwrap();
        assert!(readiness.missing().is_empty());
    }
}
