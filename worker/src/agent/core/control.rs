//! What the leader says, and what follows from it.

use std::collections::BTreeSet;
use std::sync::Arc;

use scitq_shared::execution::{FailureReason, Outcome};
use scitq_shared::ids::{AttemptId, DispatchId, Epoch};
use scitq_shared::protocol::{ControlCommand, ControlMessage, ReleaseReason};
use scitq_shared::worker::DesiredState;

use super::held::Phase;
use super::input::{Effect, Now};
use super::{Core, MOST_TOMBSTONES};

impl Core {
    pub(super) fn control(&mut self, now: Now, message: ControlMessage) {
        if message.epoch < self.control_epoch {
            tracing::info!(
                epoch = message.epoch.0,
                newest = self.control_epoch.0,
                "ignored a leader of the past"
            );
            return;
        }
        self.control_epoch = message.epoch;
        self.epoch = self.epoch.max(message.epoch);
        match message.command {
            ControlCommand::Welcome { desired, .. } | ControlCommand::Desired { desired } => {
                self.follow(now, &desired);
            }
            ControlCommand::QueueReady { batch } => self.queue_ready(&batch),
            ControlCommand::Applied { attempts } => self.applied(&attempts),
            ControlCommand::Resend {
                attempt,
                end,
                stdout_from,
                stderr_from,
            } => {
                self.resend(now, attempt, end, stdout_from, stderr_from);
            }
            ControlCommand::Revoke { dispatches } => self.revoke(now, dispatches),
            ControlCommand::Stop { attempts } => self.stop_attempts(now, &attempts),
            ControlCommand::Restart { boots } => self.restart(now, boots),
            ControlCommand::Recount => self.recount(now, message.epoch),
        }
    }

    /// Follows a desired state that is not older than the one followed now.
    fn follow(&mut self, now: Now, desired: &DesiredState) {
        if self
            .desired
            .as_ref()
            .is_some_and(|known| known.version > desired.version)
        {
            return;
        }
        if self.desired.as_ref() == Some(desired) {
            return;
        }
        let another_batch = self
            .desired
            .as_ref()
            .is_none_or(|known| known.batch != desired.batch);
        self.desired = Some(desired.clone());
        self.effects.push(Effect::Persist(desired.clone()));
        if another_batch {
            // A wait for the other batch's queue says nothing about this one's.
            self.queue_ready(&desired.batch);
        }
        self.release_what_has_no_room(now);
    }

    /// The server has all of these: nothing is kept of them any more.
    fn applied(&mut self, attempts: &[AttemptId]) {
        for attempt in attempts {
            if let Some(ended) = self.ended.remove(attempt) {
                self.effects.extend(ended.unacked.map(Effect::Ack));
                self.effects.push(Effect::Discard { attempt: *attempt });
            } else if self.active.contains_key(attempt) {
                tracing::warn!(%attempt, "the server has applied the end of an attempt that is not over here");
            }
        }
    }

    fn resend(
        &mut self,
        now: Now,
        attempt: AttemptId,
        end: bool,
        stdout_from: Option<u64>,
        stderr_from: Option<u64>,
    ) {
        let Some(ended) = self.ended.get_mut(&attempt) else {
            return;
        };
        // What is on its way already comes without being asked for.
        let (end, output) = (end && ended.reported, ended.output_sent);
        if end {
            self.repeat(now, attempt);
        }
        let Some(ended) = self.ended.get_mut(&attempt).filter(|_| output) else {
            return;
        };
        if stdout_from.is_none() && stderr_from.is_none() {
            return;
        }
        ended.output_sent = false;
        let rest = |from: Option<u64>, length: u64| Some(from.unwrap_or(length).min(length));
        let output = ended.output(
            rest(stdout_from, ended.stdout.length),
            rest(stderr_from, ended.stderr.length),
        );
        self.effects.push(Effect::SendOutput(output));
    }

    /// Gives back what has not started of these, says again that the rest has, and says and remembers what is not here.
    fn revoke(&mut self, now: Now, dispatches: Vec<DispatchId>) {
        let mut revoked: BTreeSet<DispatchId> = dispatches.into_iter().collect();
        let active = self.active.values().map(|active| &active.report);
        let ended = self.ended.values().map(|ended| &ended.report);
        let mut known = Vec::new();
        for report in active.chain(ended) {
            if revoked.remove(&report.dispatch) {
                known.push(report.attempt);
            }
        }
        for released in self.released.values() {
            revoked.remove(&released.report.dispatch);
        }
        for attempt in known {
            match self.active.get(&attempt).map(|active| active.phase) {
                Some(Phase::Waiting(_)) => self.release(now, attempt, ReleaseReason::Revoked),
                _ => self.repeat(now, attempt),
            }
        }
        if revoked.is_empty() {
            return;
        }
        self.publish_absent(now, revoked.iter().copied().collect());
        // Without a channel nothing can be on its way here.
        let Some(channel) = self.channel else { return };
        self.tombstones.extend(revoked);
        if self.tombstones.len() > MOST_TOMBSTONES {
            self.tombstones.clear();
            self.effects.push(Effect::CloseChannel { channel });
            self.channel_closed(now, channel);
        }
    }

    /// Says everything anew, for a server whose database may know nothing of it.
    ///
    /// Closing the channel makes void whatever has not started, also what is still on its way here: nothing starts behind the
    /// server's back. All is said by other channels then, in this order, so the hello comes last.
    fn recount(&mut self, now: Now, epoch: Epoch) {
        let active = self.active.values().map(|active| &active.message);
        let ended = self.ended.values().map(|ended| &ended.message);
        let messages: Vec<_> = active.chain(ended).map(Arc::clone).collect();
        if let Some(channel) = self.channel {
            self.effects.push(Effect::CloseChannel { channel });
        }
        for message in messages {
            self.publish_described(now, message);
        }
        if let Some(channel) = self.channel {
            self.channel_closed(now, channel);
        }
        let held: Vec<AttemptId> = self
            .active
            .keys()
            .chain(self.ended.keys())
            .copied()
            .collect();
        for attempt in held {
            self.repeat(now, attempt);
        }
        self.say_hello(now, Some(epoch));
    }

    fn stop_attempts(&mut self, now: Now, attempts: &[AttemptId]) {
        for attempt in attempts {
            match self.active.get(attempt).map(|active| active.phase) {
                Some(Phase::Running) => {
                    let detail =
                        "stopped: the server does not count this attempt any more".to_owned();
                    let outcome = Outcome::Failed {
                        reason: FailureReason::Cancelled,
                        detail,
                    };
                    self.effects.push(Effect::Kill {
                        attempt: *attempt,
                        outcome,
                    });
                }
                Some(Phase::Starting | Phase::Waiting(_)) => {
                    self.release(now, *attempt, ReleaseReason::Revoked);
                }
                None => {}
            }
        }
    }
}
