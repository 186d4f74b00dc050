//! The end of the worker: drained, or at once.

use std::time::Duration;

use scitq_shared::execution::{FailureReason, Outcome};
use scitq_shared::ids::AttemptId;
use scitq_shared::protocol::ReleaseReason;

use super::Core;
use super::held::Phase;
use super::input::{Effect, Now};

/// Whether the worker is ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Takes work.
    Working,
    /// Takes no work; ends when the rest has ended. `since` is when nothing ran any more.
    Draining { since: Option<Duration> },
    /// Kills what runs; `since` is when that began.
    Stopping { since: Duration },
    /// Said goodbye, at that time.
    Leaving { since: Duration },
    /// Nothing is left to do.
    Over,
    /// The shell was told so.
    Ended,
}

impl Core {
    pub(super) fn drain(&mut self, now: Now) {
        if self.mode == Mode::Working {
            self.mode = Mode::Draining { since: None };
            self.release_what_has_no_room(now);
        }
    }

    pub(super) fn stop(&mut self, now: Now) {
        if matches!(self.mode, Mode::Leaving { .. }) {
            self.mode = Mode::Over;
        }
        if !matches!(self.mode, Mode::Working | Mode::Draining { .. }) {
            return;
        }
        self.mode = Mode::Stopping { since: now.elapsed };
        let active: Vec<(AttemptId, Phase)> = self
            .active
            .iter()
            .map(|(attempt, active)| (*attempt, active.phase))
            .collect();
        for (attempt, phase) in active {
            if phase == Phase::Running {
                let detail = "the worker was stopped while the task ran".to_owned();
                let outcome = Outcome::Failed {
                    reason: FailureReason::AgentRestarted,
                    detail,
                };
                self.effects.push(Effect::Kill { attempt, outcome });
            } else {
                self.release(now, attempt, ReleaseReason::LessRoom);
            }
        }
    }

    /// Moves on towards the end when what was waited for has come, or is not worth waiting for: whatever is not
    /// confirmed is kept in the state directory and reported by the next start.
    pub(super) fn tend_ending(&mut self, now: Now) {
        let quiet = self.active.is_empty();
        if let Mode::Draining { since } = &mut self.mode
            && quiet
            && since.is_none()
        {
            *since = Some(now.elapsed);
        }
        let late = self
            .ending_deadline()
            .is_some_and(|deadline| deadline <= now.elapsed);
        match self.mode {
            Mode::Draining { .. } | Mode::Stopping { .. }
                if quiet && (self.all_is_applied() || late) =>
            {
                self.mode = Mode::Leaving { since: now.elapsed };
                self.publish_goodbye(now);
                if !self.link_up {
                    self.mode = Mode::Over;
                }
            }
            // A process that cannot be killed (in uninterruptible sleep) does not hold the worker.
            Mode::Stopping { .. } | Mode::Leaving { .. } if late => self.mode = Mode::Over,
            _ => {}
        }
        if self.mode == Mode::Over {
            self.mode = Mode::Ended;
            self.effects.push(Effect::End);
        }
    }

    pub(super) fn ending_deadline(&self) -> Option<Duration> {
        match self.mode {
            Mode::Draining { since } => since.map(|since| since + self.rules.farewell),
            // Whoever stops a worker does not want to wait.
            Mode::Stopping { since } | Mode::Leaving { since } => {
                Some(since + self.rules.farewell / 4)
            }
            _ => None,
        }
    }

    /// True when nothing is kept that the server may lack.
    fn all_is_applied(&self) -> bool {
        self.released.is_empty() && self.ended.is_empty()
    }
}
