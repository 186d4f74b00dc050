//! What this server can reach, for `/health/ready`.

use std::sync::{Arc, RwLock};

/// The parts that a server needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The database.
    Database,
    /// The message broker.
    Broker,
}

/// Shared, cheap to clone.
#[derive(Clone, Debug)]
pub struct Readiness {
    missing: Arc<RwLock<[Option<String>; 2]>>,
}

impl Default for Readiness {
    fn default() -> Self {
        let not_yet = |what: &str| Some(format!("{what} is not connected yet"));
        Self {
            missing: Arc::new(RwLock::new([not_yet("the database"), not_yet("the broker")])),
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
        let missing = self
            .missing
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        missing.iter().flatten().cloned().collect()
    }

    fn set(&self, part: Part, reason: Option<String>) {
        let mut missing = self
            .missing
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        missing[part as usize] = reason;
    }
}
