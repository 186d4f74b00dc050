//! The core: everything a worker decides, without clock, broker, files or processes.
//!
//! [`Core::handle`] is told one thing that has happened and answers what is to be done about it. The shell around it
//! (or a simulation) performs that, in order, and reports back. Rules that hold throughout:
//!
//! - An attempt is executed only after its `started` was confirmed on the channel that brought the delivery, and only
//!   while that channel and its subscription live (D7).
//! - At most `concurrency + prefetch` deliveries are held unended, whatever is consumed, acknowledged early or changed
//!   meanwhile (D5): every subscription is sized by that.
//! - What must reach the server is kept as a state (`reported: false`) rather than in an outbox: whenever a connection
//!   comes up, what is not confirmed is published again (D9).
//! - Lowering, pausing, draining and another batch give unstarted deliveries back; they never end what runs.
//! - What runs outlives the agent: the next one is told of it ([`Found::Running`]) and goes on as if it had started it
//!   itself (D10).
//!
//! ```
//! # use std::time::Duration;
//! # use scitq_shared::{ids::IncarnationId, names::{BatchName, WorkerName}, settings::OnDrainTimeout, worker::DesiredState};
//! use scitq_worker::agent::core::{Core, Effect, Identity, Input, Now, Rules};
//!
//! # fn identity() -> Identity {
//! #     Identity {
//! #         worker: WorkerName::new("w").unwrap(), incarnation: IncarnationId::generate(), boots: 1, hostname: String::new(),
//! #         program_version: String::new(), cores: 2, memory_bytes: 1 << 30,
//! #     }
//! # }
//! # let desired = DesiredState { version: 1, batch: BatchName::default(), concurrency: 2, prefetch: 1, paused: false };
//! # let rules = Rules {
//! #     initial: desired.clone(), stream_cap_bytes: 1 << 20, heartbeat_every: Duration::from_secs(5),
//! #     ack_after: Duration::from_secs(20), accept_after: Duration::from_millis(500),
//! #     queue_retry: (Duration::from_secs(1), Duration::from_secs(30)), farewell: Duration::from_secs(8),
//! #     drain_timeout: None, on_drain_timeout: OnDrainTimeout::Leave, stop_grace: Duration::from_secs(10), can_restart: true,
//! # };
//! let mut core = Core::new(identity(), rules, Some(desired), Vec::new());
//! let now = Now { elapsed: Duration::ZERO, wall: scitq_shared::now() };
//! // Connected: it introduces itself, asks for deliveries, and gives a sign of life.
//! let effects = core.handle(now, Input::LinkUp);
//! assert!(matches!(effects[..], [Effect::Publish { .. }, Effect::Consume { .. }, Effect::Beat(_)]));
//! ```

mod admission;
mod consumer;
mod control;
mod ending;
mod held;
mod input;
mod limit;
mod publishing;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use scitq_shared::definition::TaskDefinition;
use scitq_shared::ids::{AttemptId, DispatchId, Epoch, IncarnationId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::protocol::{AttemptReport, ReleaseReason, TaskMessage};
use scitq_shared::settings::OnDrainTimeout;
use scitq_shared::worker::DesiredState;

use self::consumer::Consumer;
use self::ending::Mode;
use self::held::{Active, Announced, Ended, Phase, Released, Timer};
pub use self::input::{
    AttemptEnd, ChannelNumber, ConsumerNumber, DeliveryNumber, Effect, Execution, Input, Now,
    OutputToSend, Place, PublicationNumber,
};
use self::publishing::Sent;

/// Who the worker is, for its messages.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name.
    pub worker: WorkerName,
    /// The life of its state directory.
    pub incarnation: IncarnationId,
    /// How many times the agent was started on that directory: the upper half of sequence numbers.
    pub boots: u32,
    /// Host name of its machine.
    pub hostname: String,
    /// Version of its program.
    pub program_version: String,
    /// Processor cores.
    pub cores: u32,
    /// Main memory in bytes.
    pub memory_bytes: u64,
}

/// The figures that the core's decisions depend on.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What is asked for while the server does not know the worker yet.
    pub initial: DesiredState,
    /// How much of each output stream is kept, in bytes.
    pub stream_cap_bytes: u64,
    /// How often a sign of life is given.
    pub heartbeat_every: Duration,
    /// A delivery held for longer is acknowledged before its end (D5).
    pub ack_after: Duration,
    /// A delivery that waits for longer is announced as accepted.
    pub accept_after: Duration,
    /// First and longest wait before a missing queue is looked for again.
    pub queue_retry: (Duration, Duration),
    /// How long an ending worker waits for a server or broker that does not answer; nothing is lost by not waiting.
    pub farewell: Duration,
    /// How long a draining worker waits for running tasks; none for as long as it takes.
    pub drain_timeout: Option<Duration>,
    /// What becomes of tasks that run for longer.
    pub on_drain_timeout: OnDrainTimeout,
    /// How long tasks that are asked to end may take before they are killed.
    pub stop_grace: Duration,
    /// True when the agent can start itself anew when it is asked to.
    pub can_restart: bool,
}

/// An attempt found in the state directory at start.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// All that was known of it.
    pub report: AttemptReport,
    /// What it runs, or ran.
    pub definition: TaskDefinition,
    /// What was found of it.
    pub found: Found,
}

impl Recovered {
    /// The message that brought it, as far as it is still known.
    fn message(&self) -> TaskMessage {
        let report = &self.report;
        TaskMessage::new(
            report.dispatch_epoch,
            report.dispatch,
            report.task,
            report.batch.clone(),
            report.queued_at,
            self.definition.clone(),
        )
    }
}

/// What an agent found of an attempt of an agent before it.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// Nothing of it has run, and nothing will.
    Unstarted,
    /// It runs on, or has ended in the meantime: its end will be told.
    Running {
        /// For how long it has run.
        ran_for: Duration,
    },
    /// It is over.
    Ended(AttemptEnd),
}

/// All state of a worker. See the module's description.
#[derive(Debug)]
pub struct Core {
    identity: Identity,
    rules: Rules,
    counter: u64,
    last_number: u64,
    epoch: Epoch,
    control_epoch: Epoch,
    queue_epochs: BTreeMap<BatchName, Epoch>,
    desired: Option<DesiredState>,
    mode: Mode,
    link_up: bool,
    consumer: Consumer,
    /// The channel that deliveries come by, while it is open.
    channel: Option<ChannelNumber>,
    active: BTreeMap<AttemptId, Active>,
    waiting: VecDeque<AttemptId>,
    ended: BTreeMap<AttemptId, Ended>,
    released: BTreeMap<AttemptId, Released>,
    tombstones: BTreeSet<DispatchId>,
    sent: BTreeMap<PublicationNumber, Sent>,
    timers: BTreeSet<(Duration, Timer)>,
    next_beat: Duration,
    /// A restart that has failed is not tried again before.
    no_restart_before: Duration,
    effects: Vec<Effect>,
}

/// Tombstones beyond this many are replaced by closing the channel, which voids whatever they were for.
const MOST_TOMBSTONES: usize = 65_536;

impl Core {
    /// A worker that has just started. `desired` is what it was last told, if it ever was.
    pub fn new(
        identity: Identity,
        rules: Rules,
        desired: Option<DesiredState>,
        recovered: Vec<Recovered>,
    ) -> Self {
        let mut core = Self {
            identity,
            rules,
            counter: 0,
            last_number: 0,
            epoch: Epoch(0),
            control_epoch: Epoch(0),
            queue_epochs: BTreeMap::new(),
            desired,
            mode: Mode::Working,
            link_up: false,
            consumer: Consumer::closed(),
            channel: None,
            active: BTreeMap::new(),
            waiting: VecDeque::new(),
            ended: BTreeMap::new(),
            released: BTreeMap::new(),
            tombstones: BTreeSet::new(),
            sent: BTreeMap::new(),
            timers: BTreeSet::new(),
            next_beat: Duration::ZERO,
            no_restart_before: Duration::ZERO,
            effects: Vec::new(),
        };
        for recovered in recovered {
            let message = recovered.message();
            let Recovered { report, found, .. } = recovered;
            match found {
                Found::Unstarted => core.recover_unstarted(report),
                Found::Running { ran_for } => core.recover_running(report, message, ran_for),
                Found::Ended(end) => core.recover_ended(report, message, end),
            }
        }
        core
    }

    /// Takes in what has happened and answers what is to be done, in that order.
    pub fn handle(&mut self, now: Now, input: Input) -> Vec<Effect> {
        match input {
            Input::LinkUp => self.link_up(now),
            Input::LinkDown => self.link_down(now),
            Input::Consuming { consumer, channel } => self.consuming(consumer, channel),
            Input::ConsumeFailed { consumer } => self.consume_failed(now, consumer),
            Input::Delivered {
                place,
                redelivered,
                content,
                attempt,
            } => {
                self.delivered(now, place, redelivered, content, attempt);
            }
            Input::Cancelled { consumer } => self.consumer.cancelled(consumer),
            Input::ConsumerEnded { consumer } => self.consumer_ended(now, consumer),
            Input::ChannelClosed { channel } => self.channel_closed(now, channel),
            Input::Confirmed {
                publication,
                stored,
            } => self.confirmed(now, publication, stored),
            Input::Control(message) => self.control(now, message),
            Input::ProcessEnded { attempt, end } => self.process_ended(now, attempt, end),
            Input::OutputSent { attempt } => {
                if let Some(ended) = self.ended.get_mut(&attempt) {
                    ended.output_sent = true;
                }
            }
            Input::Drain => self.drain(now),
            Input::RestartFailed => self.restart_failed(now),
            Input::Stop => self.stop(now),
            Input::Tick => {}
        }
        self.fire_timers(now);
        self.admit(now);
        self.acknowledge_early();
        self.tend_consumer(now);
        self.beat(now);
        self.tend_ending(now);
        std::mem::take(&mut self.effects)
    }

    /// When the core wants to be told [`Input::Tick`], unless something else happens before.
    pub fn next_deadline(&self) -> Option<Duration> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let beat = self.link_up.then_some(self.next_beat);
        let consumer = if self.wanted_subscription().is_some() {
            self.consumer.retry_at()
        } else {
            None
        };
        [timer, beat, consumer, self.ending_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// True until the desired state is known, from the server or from an earlier run.
    pub fn awaits_welcome(&self) -> bool {
        self.desired.is_none()
    }

    /// How many attempts it holds that are not over.
    pub fn held(&self) -> usize {
        self.active.len()
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn delivered(
        &mut self,
        now: Now,
        place: Place,
        redelivered: bool,
        content: Result<Arc<TaskMessage>, String>,
        attempt: AttemptId,
    ) {
        if self.channel != Some(place.channel) {
            // Its channel is closed: the broker has it again.
            return;
        }
        let Ok(message) = content else {
            self.effects.push(Effect::Reject(place));
            return;
        };
        self.epoch = self.epoch.max(message.epoch);
        let newest = self
            .queue_epochs
            .entry(message.batch.clone())
            .or_insert(message.epoch);
        let old = message.epoch < *newest;
        *newest = message.epoch.max(*newest);
        if redelivered || old {
            self.publish_returned(now, place, message);
        } else if self.tombstones.contains(&message.dispatch) {
            self.effects.push(Effect::Ack(place));
        } else {
            self.accept(now, place, &message, attempt);
        }
    }

    fn accept(&mut self, now: Now, place: Place, message: &Arc<TaskMessage>, attempt: AttemptId) {
        let report = AttemptReport {
            attempt,
            dispatch: message.dispatch,
            dispatch_epoch: message.epoch,
            task: message.task,
            batch: message.batch.clone(),
            revision: message.definition.revision,
            queued_at: message.queued_at,
            accepted_at: now.wall,
            started_at: None,
            ended_at: None,
            exit: None,
            outcome: None,
            usage: None,
            stdout: None,
            stderr: None,
        };
        if let Some(outcome) = crate::runner::unsupported(&message.definition) {
            let end = AttemptEnd {
                ended_at: now.wall,
                exit: None,
                outcome,
                usage: None,
                stdout_bytes: 0,
                stderr_bytes: 0,
            };
            self.end_attempt(now, report, Arc::clone(message), Some(place), end);
            return;
        }
        let active = Active {
            report,
            message: Arc::clone(message),
            origin: place,
            unacked: true,
            ack_early: false,
            delivered_at: now.elapsed,
            ack_at: now.elapsed + self.rules.ack_after,
            phase: Phase::Waiting(Announced::No),
            limit: None,
        };
        self.timers.insert(active.accept_timer(&self.rules));
        self.timers.insert(active.ack_timer());
        self.active.insert(attempt, active);
        self.waiting.push_back(attempt);
        self.release_what_has_no_room(now);
    }

    fn process_ended(&mut self, now: Now, attempt: AttemptId, end: AttemptEnd) {
        let Some(active) = self.active.remove(&attempt) else {
            return;
        };
        self.forget_timers(&active);
        let place = active.unacked.then_some(active.origin);
        self.end_attempt(now, active.report, active.message, place, end);
    }

    /// Keeps an attempt that is over, and reports it.
    fn end_attempt(
        &mut self,
        now: Now,
        report: AttemptReport,
        message: Arc<TaskMessage>,
        unacked: Option<Place>,
        end: AttemptEnd,
    ) {
        let attempt = report.attempt;
        let ended = Ended::new(report, message, unacked, end, self.rules.stream_cap_bytes);
        if !ended.output_sent {
            self.effects
                .push(Effect::SendOutput(ended.output(None, None)));
        }
        self.ended.insert(attempt, ended);
        self.publish_ended(now, attempt);
    }

    fn recover_ended(&mut self, report: AttemptReport, message: TaskMessage, end: AttemptEnd) {
        let attempt = report.attempt;
        let cap_bytes = self.rules.stream_cap_bytes;
        let ended = Ended::new(report, Arc::new(message), None, end, cap_bytes);
        if !ended.output_sent {
            self.effects
                .push(Effect::SendOutput(ended.output(Some(0), Some(0))));
        }
        self.ended.insert(attempt, ended);
    }

    fn recover_unstarted(&mut self, mut report: AttemptReport) {
        let attempt = report.attempt;
        // It was announced, but it did not happen.
        report.started_at = None;
        let released = Released {
            report,
            reason: ReleaseReason::AgentRestarted,
            unacked: None,
            kept: true,
        };
        self.released.insert(attempt, released);
    }

    /// It takes its slots as before. Its delivery went with the connection of the agent before.
    fn recover_running(&mut self, report: AttemptReport, message: TaskMessage, ran_for: Duration) {
        let attempt = report.attempt;
        self.effects.push(Effect::Adopt { attempt });
        let active = Active {
            report,
            message: Arc::new(message),
            origin: Place::NOWHERE,
            unacked: false,
            ack_early: false,
            delivered_at: Duration::ZERO,
            ack_at: Duration::ZERO,
            phase: Phase::Running,
            limit: None,
        };
        self.active.insert(attempt, active);
        self.limit_run(Duration::ZERO, attempt, ran_for);
    }

    fn forget_timers(&mut self, active: &Active) {
        self.timers.remove(&active.accept_timer(&self.rules));
        self.timers.remove(&active.ack_timer());
        if let Some(timer) = active.limit_timer() {
            self.timers.remove(&timer);
        }
    }

    fn fire_timers(&mut self, now: Now) {
        while let Some((_, timer)) = self.timers.pop_first_if(now.elapsed) {
            match timer {
                Timer::Accept(attempt) => self.publish_accepted(now, attempt),
                Timer::Ack(attempt) => self.mark_for_early_ack(now, attempt),
                Timer::Limit(attempt) => self.limit_reached(now, attempt),
            }
        }
    }
}

/// Takes what is due out of an ordered set of deadlines.
trait PopDue {
    fn pop_first_if(&mut self, now: Duration) -> Option<(Duration, Timer)>;
}

impl PopDue for BTreeSet<(Duration, Timer)> {
    fn pop_first_if(&mut self, now: Duration) -> Option<(Duration, Timer)> {
        if self.first()?.0 <= now {
            self.pop_first()
        } else {
            None
        }
    }
}
