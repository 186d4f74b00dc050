//! Slots: which waiting attempt starts, and which goes back.

use scitq_shared::ids::AttemptId;
use scitq_shared::protocol::ReleaseReason;

use super::Core;
use super::ending::Mode;
use super::held::{Announced, Phase, Released};
use super::input::Now;

impl Core {
    /// Slots that the present desired state offers; 0 when no task may start.
    pub(super) fn slots(&self) -> u16 {
        match (&self.desired, self.mode) {
            (Some(desired), Mode::Working) if !desired.paused => desired.concurrency,
            _ => 0,
        }
    }

    /// How many deliveries may be held that are not over: `concurrency + prefetch`.
    pub(super) fn room(&self) -> usize {
        match (self.slots(), &self.desired) {
            (0, _) | (_, None) => 0,
            (slots, Some(desired)) => usize::from(slots) + usize::from(desired.prefetch),
        }
    }

    /// Slots taken by what has started.
    pub(super) fn occupied(&self, concurrency: u16) -> u32 {
        self.active
            .values()
            .filter(|active| active.is_started())
            .map(|active| active.weight(concurrency))
            .sum()
    }

    /// Starts waiting attempts in the order of their arrival, as long as the first one fits.
    pub(super) fn admit(&mut self, now: Now) {
        let slots = self.slots();
        while let Some(attempt) = self.waiting.front().copied() {
            let Some(active) = self.active.get(&attempt) else {
                self.waiting.pop_front();
                continue;
            };
            if slots == 0 || self.occupied(slots) + active.weight(slots) > u32::from(slots) {
                break;
            }
            self.waiting.pop_front();
            self.publish_started(now, attempt);
        }
    }

    /// Gives back what came last, until what is held fits; all that waits when no task may start.
    pub(super) fn release_what_has_no_room(&mut self, now: Now) {
        let room = self.room();
        let batch = self.desired.as_ref().map(|desired| desired.batch.clone());
        let other_batch: Vec<AttemptId> = self
            .waiting
            .iter()
            .filter(|attempt| {
                self.active
                    .get(attempt)
                    .is_some_and(|active| Some(&active.report.batch) != batch.as_ref())
            })
            .copied()
            .collect();
        for attempt in other_batch {
            self.release(now, attempt, ReleaseReason::LessRoom);
        }
        while self.active.len() > room {
            let Some(attempt) = self.waiting.back().copied() else {
                break;
            };
            self.release(now, attempt, ReleaseReason::LessRoom);
        }
    }

    /// Gives one unstarted attempt back.
    pub(super) fn release(&mut self, now: Now, attempt: AttemptId, reason: ReleaseReason) {
        self.waiting.retain(|waiting| *waiting != attempt);
        let Some(active) = self.active.remove(&attempt) else {
            return;
        };
        self.forget_timers(&active);
        let mut report = active.report;
        // It was announced, but it did not happen.
        report.started_at = None;
        let unacked = active.unacked.then_some(active.origin);
        self.released.insert(
            attempt,
            Released {
                report,
                reason,
                unacked,
                kept: false,
            },
        );
        self.publish_released(now, attempt);
    }

    /// What was brought by something that is gone is void. With the channel gone too, the broker has what was not
    /// acknowledged, and what nobody was told about needs no word.
    pub(super) fn void(
        &mut self,
        now: Now,
        channel_gone: bool,
        brought: impl Fn(&super::Place) -> bool,
    ) {
        if channel_gone {
            for active in self
                .active
                .values_mut()
                .filter(|active| brought(&active.origin))
            {
                active.unacked = false;
            }
            for ended in self.ended.values_mut() {
                ended.unacked = ended.unacked.filter(|place| !brought(place));
            }
            for released in self.released.values_mut() {
                released.unacked = released.unacked.filter(|place| !brought(place));
            }
        }
        let void: Vec<(AttemptId, Phase)> = self
            .active
            .iter()
            .filter(|(_, active)| active.phase != Phase::Running && brought(&active.origin))
            .map(|(attempt, active)| (*attempt, active.phase))
            .collect();
        for (attempt, phase) in void {
            if channel_gone && phase == Phase::Waiting(Announced::No) {
                self.waiting.retain(|waiting| *waiting != attempt);
                if let Some(active) = self.active.remove(&attempt) {
                    self.forget_timers(&active);
                }
            } else {
                self.release(now, attempt, ReleaseReason::ChannelLost);
            }
        }
    }
}
