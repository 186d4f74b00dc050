//! The end of the worker: drained, left or at once; and its restart.

use std::time::Duration;

use scitq_shared::execution::{FailureReason, Outcome};
use scitq_shared::ids::AttemptId;
use scitq_shared::protocol::ReleaseReason;
use scitq_shared::settings::OnDrainTimeout;

use super::Core;
use super::held::Phase;
use super::input::{Effect, Now};

/// A restart that failed is not tried again for so long, however often it is asked for.
const BETWEEN_RESTARTS: Duration = Duration::from_mins(1);

/// Whether the worker is ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Takes work.
    Working,
    /// Takes no work; ends when the rest has ended. `since` is when nothing ran any more.
    Draining {
        began: Duration,
        since: Option<Duration>,
    },
    /// Has asked what runs to end; `since` is when.
    Terminating { since: Duration },
    /// Kills what runs; `since` is when that began.
    Stopping { since: Duration },
    /// Gives back what has not started and leaves what runs: for its end, or for a restart.
    Departing { since: Duration, restart: bool },
    /// The shell was told to start the agent anew.
    Restarting,
    /// Said goodbye, at that time.
    Leaving { since: Duration },
    /// Nothing is left to do.
    Over,
    /// The shell was told so.
    Ended,
}

impl Core {
    pub(super) fn drain(&mut self, now: Now) {
        let restarting = matches!(
            self.mode,
            Mode::Departing { restart: true, .. } | Mode::Restarting
        );
        if self.mode == Mode::Working || restarting {
            self.mode = Mode::Draining {
                began: now.elapsed,
                since: None,
            };
            self.release_what_has_no_room(now);
        }
    }

    pub(super) fn stop(&mut self, now: Now) {
        match self.mode {
            Mode::Leaving { .. } => self.mode = Mode::Over,
            Mode::Working
            | Mode::Draining { .. }
            | Mode::Terminating { .. }
            | Mode::Departing { .. }
            | Mode::Restarting => {
                self.mode = Mode::Stopping { since: now.elapsed };
                self.release_unstarted(now);
                for attempt in self.running() {
                    let outcome = stopped();
                    self.effects.push(Effect::Kill { attempt, outcome });
                }
            }
            Mode::Stopping { .. } | Mode::Over | Mode::Ended => {}
        }
    }

    /// The server asks for a restart of the agent's start of this number.
    pub(super) fn restart(&mut self, now: Now, boots: u32) {
        let asked = boots == self.identity.boots && self.mode == Mode::Working;
        if !asked || now.elapsed < self.no_restart_before {
            return;
        }
        if self.rules.can_restart {
            tracing::info!("starts itself anew as asked; what runs goes on");
            self.depart(now, true);
        } else {
            self.no_restart_before = now.elapsed + BETWEEN_RESTARTS;
            tracing::warn!(
                "asked to start anew, but this worker is a part of another program: stop and start `scitq-ctl up` \
                 instead (kill -9 leaves its tasks running for the next one)"
            );
        }
    }

    pub(super) fn restart_failed(&mut self, now: Now) {
        self.no_restart_before = now.elapsed + BETWEEN_RESTARTS;
        if self.mode == Mode::Restarting {
            self.mode = Mode::Working;
        }
    }

    fn depart(&mut self, now: Now, restart: bool) {
        self.mode = Mode::Departing {
            since: now.elapsed,
            restart,
        };
        self.release_unstarted(now);
    }

    fn terminate(&mut self, now: Now) {
        self.mode = Mode::Terminating { since: now.elapsed };
        self.release_unstarted(now);
        for attempt in self.running() {
            let outcome = stopped();
            self.effects.push(Effect::Terminate { attempt, outcome });
        }
    }

    fn running(&self) -> Vec<AttemptId> {
        let running = |(attempt, active): (&AttemptId, &super::Active)| {
            (active.phase == Phase::Running).then_some(*attempt)
        };
        self.active.iter().filter_map(running).collect()
    }

    /// Gives back also what was announced as started and has not come to be executed.
    fn release_unstarted(&mut self, now: Now) {
        let unstarted: Vec<AttemptId> = self
            .active
            .iter()
            .filter(|(_, active)| active.phase != Phase::Running)
            .map(|(attempt, _)| *attempt)
            .collect();
        for attempt in unstarted {
            self.release(now, attempt, ReleaseReason::LessRoom);
        }
    }

    /// Moves on towards the end when what was waited for has come, or is not worth waiting for: whatever is not
    /// confirmed is kept in the state directory and reported by the next start.
    pub(super) fn tend_ending(&mut self, now: Now) {
        let quiet = self.active.is_empty();
        let departs = matches!(self.mode, Mode::Departing { restart: false, .. });
        if quiet && departs {
            // All has ended meanwhile: a proper end after all.
            self.mode = Mode::Draining {
                began: now.elapsed,
                since: None,
            };
        }
        if let Mode::Draining { since, .. } = &mut self.mode
            && quiet
            && since.is_none()
        {
            *since = Some(now.elapsed);
        }
        if let Mode::Draining { began, since: None } = self.mode
            && self
                .rules
                .drain_timeout
                .is_some_and(|timeout| began + timeout <= now.elapsed)
        {
            match self.rules.on_drain_timeout {
                OnDrainTimeout::Leave => {
                    tracing::info!("leaves the running tasks to the next start");
                    self.depart(now, false);
                }
                OnDrainTimeout::Stop => {
                    tracing::warn!("asks the running tasks to end");
                    self.terminate(now);
                }
            }
        }
        let late = self
            .ending_deadline()
            .is_some_and(|deadline| deadline <= now.elapsed);
        match self.mode {
            Mode::Draining { .. } | Mode::Stopping { .. } | Mode::Terminating { .. }
                if quiet && (self.all_is_applied() || late) =>
            {
                self.mode = Mode::Leaving { since: now.elapsed };
                self.publish_goodbye(now);
                if !self.link_up {
                    self.mode = Mode::Over;
                }
            }
            Mode::Terminating { .. } if late => self.stop(now),
            Mode::Departing { restart, .. }
                if self.released.is_empty() || late || !self.link_up =>
            {
                if restart {
                    self.mode = Mode::Restarting;
                    self.effects.push(Effect::Restart);
                } else {
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
            Mode::Draining {
                since: Some(since), ..
            } => Some(since + self.rules.farewell),
            Mode::Draining { began, since: None } => {
                self.rules.drain_timeout.map(|timeout| began + timeout)
            }
            Mode::Terminating { since } if self.active.is_empty() => {
                Some(since + self.rules.stop_grace.max(self.rules.farewell))
            }
            Mode::Terminating { since } => Some(since + self.rules.stop_grace),
            // Whoever stops a worker does not want to wait.
            Mode::Stopping { since } | Mode::Leaving { since } | Mode::Departing { since, .. } => {
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

fn stopped() -> Outcome {
    Outcome::Failed {
        reason: FailureReason::AgentRestarted,
        detail: "the worker was stopped while the task ran".to_owned(),
    }
}
