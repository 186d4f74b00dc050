//! Idempotency keys, so that a submission that is repeated creates nothing twice.

use scitq_shared::submit::SubmitTask;
use uuid::Uuid;

/// Gives each task of a submission a key: the user's, or one of a random UUID.
#[derive(Clone, Debug)]
pub struct Keys {
    base: String,
    by_user: bool,
    many: bool,
    given: usize,
}

impl Keys {
    /// Keys derived from the user's key, where there is one. A single task gets that very key, each of many gets it
    /// with its number behind.
    pub fn new(user: Option<String>, many: bool) -> Self {
        let by_user = user.is_some();
        let base = user.unwrap_or_else(|| Uuid::new_v4().to_string());
        Self {
            base,
            by_user,
            many,
            given: 0,
        }
    }

    /// Gives the next task its key, unless it has one.
    pub fn give(&mut self, mut task: SubmitTask) -> SubmitTask {
        let number = self.given;
        self.given += 1;
        if task.idempotency_key.is_none() {
            task.idempotency_key = Some(if self.many {
                format!("{}-{number}", self.base)
            } else {
                self.base.clone()
            });
        }
        task
    }

    /// The key to give as `--idempotency-key` to repeat this submission.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// True when the user chose it: then tasks may be there from an earlier submission.
    pub fn by_user(&self) -> bool {
        self.by_user
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(keys: &mut Keys, own: Option<&str>) -> String {
        let task = SubmitTask {
            idempotency_key: own.map(str::to_owned),
            ..Default::default()
        };
        keys.give(task).idempotency_key.unwrap()
    }

    #[test]
    fn each_task_has_its_own_key_and_a_repetition_has_the_same() {
        let mut keys = Keys::new(Some("k".to_owned()), true);
        assert_eq!(
            [
                key(&mut keys, None),
                key(&mut keys, Some("own")),
                key(&mut keys, None)
            ],
            ["k-0", "own", "k-2"]
        );
        assert_eq!(key(&mut Keys::new(Some("k".to_owned()), false), None), "k");
        let mut first = Keys::new(None, false);
        let mut again = Keys::new(Some(first.base().to_owned()), false);
        assert_eq!(key(&mut first, None), key(&mut again, None));
        assert_ne!(Keys::new(None, false).base(), Keys::new(None, false).base());
    }
}
