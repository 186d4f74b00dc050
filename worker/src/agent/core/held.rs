//! What is kept of an attempt in each of its states: exactly the data of that state.

use std::sync::Arc;
use std::time::Duration;

use scitq_shared::ids::AttemptId;
use scitq_shared::output::StreamEnd;
use scitq_shared::protocol::{
    AttemptPhase, AttemptReport, InventoryItem, ReleaseReason, TaskMessage,
};

use super::Rules;
use super::input::{AttemptEnd, OutputToSend, Place};
use super::limit::Limit;

/// How far the announcement of an acceptance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Announced {
    /// Not worth a message yet.
    No,
    /// Published.
    Sent,
    /// With the broker.
    Confirmed,
}

/// How far an attempt that is not over is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waits for a slot.
    Waiting(Announced),
    /// Has its slot; its start is published and not yet confirmed.
    Starting,
    /// Was executed.
    Running,
}

/// An attempt that is not over.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) report: AttemptReport,
    pub(super) message: Arc<TaskMessage>,
    /// Where the delivery came from: what an unstarted attempt lives and dies with, acknowledged or not.
    pub(super) origin: Place,
    /// True while the delivery can and must be acknowledged.
    pub(super) unacked: bool,
    /// True when it is to be acknowledged before its end, as soon as its subscription allows.
    pub(super) ack_early: bool,
    pub(super) delivered_at: Duration,
    /// When it is to be acknowledged although it is not over.
    pub(super) ack_at: Duration,
    pub(super) phase: Phase,
    /// When its process is ended, if it runs and has a limit.
    pub(super) limit: Option<Limit>,
}

impl Active {
    pub(super) fn accept_timer(&self, rules: &Rules) -> (Duration, Timer) {
        (
            self.delivered_at + rules.accept_after,
            Timer::Accept(self.report.attempt),
        )
    }

    pub(super) fn ack_timer(&self) -> (Duration, Timer) {
        (self.ack_at, Timer::Ack(self.report.attempt))
    }

    pub(super) fn is_started(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Running)
    }

    /// Slots that it takes of so many.
    pub(super) fn weight(&self, concurrency: u16) -> u32 {
        u32::from(self.message.definition.weight.max(1).min(concurrency))
    }

    /// True when the server will learn of it, so that the broker need not keep the delivery (D5).
    pub(super) fn is_announced_for_certain(&self) -> bool {
        matches!(
            self.phase,
            Phase::Waiting(Announced::Confirmed) | Phase::Running
        )
    }

    /// How it is listed in inventories; what was never announced is not.
    pub(super) fn inventory_item(&self) -> Option<InventoryItem> {
        let phase = match self.phase {
            Phase::Waiting(Announced::No) => return None,
            Phase::Waiting(_) => AttemptPhase::Accepted,
            Phase::Starting | Phase::Running => AttemptPhase::Running,
        };
        Some(InventoryItem {
            attempt: self.report.attempt,
            task: self.report.task,
            phase,
        })
    }
}

/// An attempt that is over and kept until the server has applied its end and its output (D9).
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) report: AttemptReport,
    pub(super) message: Arc<TaskMessage>,
    pub(super) stdout: StreamEnd,
    pub(super) stderr: StreamEnd,
    /// The delivery, while it is to be acknowledged.
    pub(super) unacked: Option<Place>,
    /// True when the broker has its end.
    pub(super) reported: bool,
    /// True when the broker has its output.
    pub(super) output_sent: bool,
}

impl Ended {
    pub(super) fn new(
        mut report: AttemptReport,
        message: Arc<TaskMessage>,
        unacked: Option<Place>,
        end: AttemptEnd,
        cap_bytes: u64,
    ) -> Self {
        let stdout = StreamEnd::of(end.stdout_bytes, cap_bytes);
        let stderr = StreamEnd::of(end.stderr_bytes, cap_bytes);
        report.ended_at = Some(end.ended_at);
        report.exit = end.exit;
        report.outcome = Some(end.outcome);
        report.usage = end.usage;
        report.stdout = Some(stdout);
        report.stderr = Some(stderr);
        Self {
            report,
            message,
            stdout,
            stderr,
            unacked,
            reported: false,
            output_sent: stdout.kept() + stderr.kept() == 0,
        }
    }

    pub(super) fn output(
        &self,
        stdout_from: Option<u64>,
        stderr_from: Option<u64>,
    ) -> OutputToSend {
        OutputToSend {
            attempt: self.report.attempt,
            task: self.report.task,
            stdout: (self.stdout, stdout_from),
            stderr: (self.stderr, stderr_from),
        }
    }
}

/// An attempt that is given back, kept until the broker has that.
#[derive(Debug)]
pub(super) struct Released {
    pub(super) report: AttemptReport,
    pub(super) reason: ReleaseReason,
    /// The delivery, while it is to be acknowledged.
    pub(super) unacked: Option<Place>,
    /// True when it has a directory, which is kept until the broker has this.
    pub(super) kept: bool,
}

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Announce an acceptance.
    Accept(AttemptId),
    /// Acknowledge before the end.
    Ack(AttemptId),
    /// End its process.
    Limit(AttemptId),
}
