//! How long a process may run: its run timeout, then the grace that a process has which was asked to end.

use std::time::Duration;

use scitq_shared::execution::{FailureReason, Outcome};
use scitq_shared::ids::AttemptId;

use super::Core;
use super::held::{Active, Timer};
use super::input::{Effect, Now};

/// A moment at which a process is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    at: Duration,
    /// True when it was asked to end: then it is killed.
    asked: bool,
}

impl Limit {
    fn timer(self, attempt: AttemptId) -> (Duration, Timer) {
        (self.at, Timer::Limit(attempt))
    }
}

impl Active {
    pub(super) fn limit_timer(&self) -> Option<(Duration, Timer)> {
        Some(self.limit?.timer(self.report.attempt))
    }
}

impl Core {
    /// An attempt runs, and has for so long.
    pub(super) fn limit_run(
        &mut self,
        since_start: Duration,
        attempt: AttemptId,
        ran_for: Duration,
    ) {
        let Some(active) = self.active.get_mut(&attempt) else {
            return;
        };
        let Some(seconds) = active.message.definition.run_timeout_seconds else {
            return;
        };
        let left = Duration::from_secs(seconds.into()).saturating_sub(ran_for);
        let limit = Limit {
            at: since_start + left,
            asked: false,
        };
        active.limit = Some(limit);
        self.timers.insert(limit.timer(attempt));
    }

    /// It has run for too long: it is asked to end, and killed if it does not.
    pub(super) fn limit_reached(&mut self, now: Now, attempt: AttemptId) {
        let grace = self.rules.stop_grace;
        let Some(active) = self.active.get_mut(&attempt) else {
            return;
        };
        let seconds = active.message.definition.run_timeout_seconds.unwrap_or(0);
        let outcome = Outcome::Failed {
            reason: FailureReason::Timeout,
            detail: format!("it ran for longer than its run timeout of {seconds} s"),
        };
        match active.limit.take() {
            Some(Limit { asked: true, .. }) => {
                self.effects.push(Effect::Kill { attempt, outcome });
            }
            Some(Limit { asked: false, .. }) => {
                let limit = Limit {
                    at: now.elapsed + grace,
                    asked: true,
                };
                active.limit = Some(limit);
                self.timers.insert(limit.timer(attempt));
                self.effects.push(Effect::Terminate { attempt, outcome });
            }
            None => {}
        }
    }
}
