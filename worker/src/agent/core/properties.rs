//! What holds whatever happens: a random world of broker, processes and orders around one core.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use scitq_shared::ids::{AttemptId, Epoch};
use scitq_shared::names::BatchName;
use scitq_shared::protocol::{ControlCommand, ControlMessage, WorkerEvent};

use super::tests::{SECOND, desired, new_core, succeeded, task};
use super::*;

/// One thing that may happen.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The connection works on the next thing that the core asked of it.
    Link,
    /// The broker delivers, if the subscription allows.
    Deliver { weight: u16, redelivered: bool },
    /// The broker answers about one of the publications.
    Confirm { which: usize, stored: bool },
    /// A process ends.
    Exit { which: usize, bytes: u64 },
    /// Time passes.
    Wait { seconds: u64 },
    /// The channel closes.
    CloseChannel,
    /// The broker ends the subscription.
    EndConsumer,
    /// The connection is lost, and comes back with the next `Link`.
    Cut,
    /// The server wants something else.
    Want {
        concurrency: u16,
        prefetch: u16,
        paused: bool,
        other_batch: bool,
    },
    /// The server revokes what is held or not.
    Revoke { which: usize },
    /// The server has applied an end.
    Apply { which: usize },
    /// The server stops an attempt.
    Stop { which: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => Just(Step::Link),
        8 => (1u16..5, prop::bool::weighted(0.1)).prop_map(|(weight, redelivered)| Step::Deliver { weight, redelivered }),
        10 => (0usize..16, prop::bool::weighted(0.97)).prop_map(|(which, stored)| Step::Confirm { which, stored }),
        5 => (0usize..16, 0u64..3000).prop_map(|(which, bytes)| Step::Exit { which, bytes }),
        3 => (0u64..30).prop_map(|seconds| Step::Wait { seconds }),
        1 => Just(Step::CloseChannel),
        1 => Just(Step::EndConsumer),
        1 => Just(Step::Cut),
        2 => (0u16..5, 0u16..4, prop::bool::weighted(0.2), prop::bool::weighted(0.2))
            .prop_map(|(concurrency, prefetch, paused, other_batch)| Step::Want { concurrency, prefetch, paused, other_batch }),
        1 => (0usize..16).prop_map(|which| Step::Revoke { which }),
        3 => (0usize..16).prop_map(|which| Step::Apply { which }),
        1 => (0usize..16).prop_map(|which| Step::Stop { which }),
    ];
    prop::collection::vec(step, 0..400)
}

/// What the broker knows of the subscription.
struct Subscription {
    number: ConsumerNumber,
    qos: usize,
    batch: BatchName,
    /// What it delivered and is not acknowledged.
    out: BTreeSet<Place>,
}

struct World {
    core: Core,
    elapsed: Duration,
    numbers: u64,
    connected: bool,
    commands: VecDeque<Effect>,
    channel: Option<ChannelNumber>,
    subscription: Option<Subscription>,
    /// How often the server changed its wish, and for which wish each subscription was sized.
    wishes: u64,
    sized_for: BTreeMap<ConsumerNumber, u64>,
    /// Publications without an answer, with the channel they went by and what they said.
    unanswered: BTreeMap<PublicationNumber, (Option<ChannelNumber>, WorkerEvent)>,
    delivered: BTreeMap<AttemptId, (Place, TaskMessage)>,
    settled: BTreeSet<Place>,
    void: BTreeSet<Place>,
    announced: BTreeSet<AttemptId>,
    start_confirmed: BTreeSet<AttemptId>,
    running: BTreeSet<AttemptId>,
    executed: BTreeSet<AttemptId>,
    ended: BTreeSet<AttemptId>,
    over: BTreeSet<AttemptId>,
}

impl World {
    fn new() -> Self {
        Self {
            core: new_core(Some(desired(1, 2, 1)), Vec::new()),
            elapsed: Duration::ZERO,
            numbers: 0,
            connected: false,
            commands: VecDeque::new(),
            channel: None,
            subscription: None,
            wishes: 0,
            sized_for: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            delivered: BTreeMap::new(),
            settled: BTreeSet::new(),
            void: BTreeSet::new(),
            announced: BTreeSet::new(),
            start_confirmed: BTreeSet::new(),
            running: BTreeSet::new(),
            executed: BTreeSet::new(),
            ended: BTreeSet::new(),
            over: BTreeSet::new(),
        }
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn tell(&mut self, input: Input) {
        self.tell_unchecked(input);
        self.check();
    }

    fn tell_unchecked(&mut self, input: Input) {
        let now = Now {
            elapsed: self.elapsed,
            wall: scitq_shared::now(),
        };
        for effect in self.core.handle(now, input) {
            self.note(effect);
        }
    }

    fn note(&mut self, effect: Effect) {
        match effect {
            Effect::Execute(execution) => {
                let attempt = execution.report.attempt;
                let place = self.delivered[&attempt].0;
                assert!(
                    self.start_confirmed.contains(&attempt),
                    "executed without a confirmed start"
                );
                assert!(
                    !self.void.contains(&place),
                    "executed after its channel or subscription was gone"
                );
                assert!(self.executed.insert(attempt), "executed twice");
                self.running.insert(attempt);
            }
            Effect::Consume { consumer, qos, .. } => {
                self.sized_for.insert(consumer, self.wishes);
                let held = self.core.active.len();
                assert!(
                    held + usize::from(qos.get()) <= self.core.room(),
                    "subscribed for more than there is room"
                );
                self.commands.push_back(effect);
            }
            Effect::Publish { ref message, .. } => {
                if let WorkerEvent::Started(report) = &message.event
                    && self.announced.insert(report.attempt)
                {
                    let slots = self.core.slots();
                    assert!(
                        self.core.occupied(slots) <= u32::from(slots),
                        "more started than there are slots"
                    );
                }
                self.commands.push_back(effect);
            }
            Effect::Ack(_)
            | Effect::Reject(_)
            | Effect::CancelConsumer { .. }
            | Effect::CloseChannel { .. }
            | Effect::Reconnect { .. } => self.commands.push_back(effect),
            Effect::Kill { .. }
            | Effect::Terminate { .. }
            | Effect::Adopt { .. }
            | Effect::Restart
            | Effect::Beat(_)
            | Effect::SendOutput(_)
            | Effect::Discard { .. }
            | Effect::Persist(_)
            | Effect::Forget
            | Effect::End => {}
        }
    }

    fn check(&self) {
        let core = &self.core;
        assert!(
            core.active.len() <= core.room() || core.waiting.is_empty(),
            "something waits that there is no room for"
        );
        for attempt in &core.waiting {
            assert!(matches!(core.active[attempt].phase, Phase::Waiting(_)));
        }
        let waiting = core
            .active
            .values()
            .filter(|active| matches!(active.phase, Phase::Waiting(_)))
            .count();
        assert_eq!(waiting, core.waiting.len());
        for (attempt, active) in &core.active {
            assert!(
                active.phase == Phase::Running || !self.void.contains(&active.origin),
                "{attempt} lives on, unstarted"
            );
            assert!(!active.unacked || !self.settled.contains(&active.origin));
        }
    }

    /// The connection works on one command, or comes up.
    fn link(&mut self) {
        if !self.connected {
            self.connected = true;
            self.commands.clear();
            self.tell(Input::LinkUp);
            return;
        }
        match self.commands.pop_front() {
            Some(Effect::Publish {
                publication,
                on,
                message,
            }) => {
                if on.is_some() && on != self.channel {
                    self.tell(Input::Confirmed {
                        publication,
                        stored: false,
                    });
                } else {
                    self.unanswered.insert(publication, (on, message.event));
                }
            }
            Some(Effect::Ack(place)) => self.settle(place),
            Some(Effect::Consume {
                consumer,
                batch,
                qos,
            }) => {
                let channel = match self.channel {
                    Some(channel) => channel,
                    None => ChannelNumber(self.number()),
                };
                self.channel = Some(channel);
                assert!(self.subscription.is_none(), "two subscriptions");
                let (qos, out) = (usize::from(qos.get()), BTreeSet::new());
                self.subscription = Some(Subscription {
                    number: consumer,
                    qos,
                    batch,
                    out,
                });
                self.tell(Input::Consuming { consumer, channel });
            }
            Some(Effect::CancelConsumer { consumer }) => {
                let current = self
                    .subscription
                    .take_if(|current| current.number == consumer);
                if current.is_some() {
                    self.tell(Input::Cancelled { consumer });
                }
            }
            Some(Effect::CloseChannel { channel }) => self.close_if(channel),
            Some(Effect::Reconnect { .. }) => self.cut(),
            Some(other) => panic!("{other:?}"),
            None => {}
        }
    }

    fn settle(&mut self, place: Place) {
        if self.channel != Some(place.channel) {
            return;
        }
        assert!(self.settled.insert(place), "acknowledged twice");
        if let Some(subscription) = &mut self.subscription {
            subscription.out.remove(&place);
        }
    }

    fn deliver(&mut self, weight: u16, redelivered: bool) {
        let delivery = DeliveryNumber(self.number());
        let (Some(channel), Some(subscription)) = (self.channel, &mut self.subscription) else {
            return;
        };
        if subscription.out.len() >= subscription.qos {
            return;
        }
        let outdated = self.sized_for[&subscription.number] != self.wishes;
        assert!(
            outdated || self.core.active.len() < self.core.room(),
            "delivered more than there is room for"
        );
        let place = Place {
            channel,
            consumer: subscription.number,
            delivery,
        };
        let message = TaskMessage {
            batch: subscription.batch.clone(),
            ..task(1, weight)
        };
        subscription.out.insert(place);
        let attempt = AttemptId::generate();
        if !redelivered {
            self.delivered.insert(attempt, (place, message.clone()));
        }
        self.tell(Input::Delivered {
            place,
            redelivered,
            content: Ok(Arc::new(message)),
            attempt,
        });
    }

    fn confirm(&mut self, which: usize, stored: bool) {
        let Some(publication) = self
            .unanswered
            .keys()
            .nth(which % self.unanswered.len().max(1))
            .copied()
        else {
            return;
        };
        let Some((on, event)) = self.unanswered.remove(&publication) else {
            return;
        };
        match &event {
            // What runs may be said again by any channel.
            WorkerEvent::Started(report) if stored && !self.executed.contains(&report.attempt) => {
                assert_eq!(
                    on,
                    Some(self.delivered[&report.attempt].0.channel),
                    "announced on another channel"
                );
                self.start_confirmed.insert(report.attempt);
            }
            WorkerEvent::Ended(report) if stored => {
                self.over.insert(report.attempt);
            }
            WorkerEvent::Released { report, .. } => {
                assert!(
                    !self.executed.contains(&report.attempt),
                    "given back although it ran"
                );
                if stored {
                    self.over.insert(report.attempt);
                }
            }
            _ => {}
        }
        self.tell(Input::Confirmed {
            publication,
            stored,
        });
    }

    fn close_channel(&mut self) {
        let Some(channel) = self.channel.take() else {
            return;
        };
        self.subscription = None;
        self.void.extend(
            self.delivered
                .values()
                .map(|(place, _)| *place)
                .filter(|place| place.channel == channel),
        );
        let lost: Vec<PublicationNumber> = self
            .unanswered
            .iter()
            .filter(|(_, (on, _))| *on == Some(channel))
            .map(|(number, _)| *number)
            .collect();
        // In this order or the other: the core must not mind.
        let first = channel.0.is_multiple_of(2);
        if first {
            self.tell(Input::ChannelClosed { channel });
        }
        for publication in lost {
            self.unanswered.remove(&publication);
            let answer = Input::Confirmed {
                publication,
                stored: false,
            };
            if first {
                self.tell(answer);
            } else {
                // The core has not heard of the channel's end yet: what it held there may count as alive for a moment.
                self.tell_unchecked(answer);
            }
        }
        if !first {
            self.tell(Input::ChannelClosed { channel });
        }
    }

    fn close_if(&mut self, channel: ChannelNumber) {
        if self.channel == Some(channel) {
            self.close_channel();
        }
    }

    fn end_consumer(&mut self) {
        let Some(subscription) = self.subscription.take() else {
            return;
        };
        let consumer = subscription.number;
        self.void.extend(
            self.delivered
                .values()
                .map(|(place, _)| *place)
                .filter(|place| place.consumer == consumer),
        );
        self.tell(Input::ConsumerEnded { consumer });
    }

    fn cut(&mut self) {
        if !self.connected {
            return;
        }
        self.connected = false;
        self.channel = None;
        self.subscription = None;
        self.commands.clear();
        self.unanswered.clear();
        self.void
            .extend(self.delivered.values().map(|(place, _)| *place));
        self.tell(Input::LinkDown);
        self.commands.clear();
    }

    fn exit(&mut self, which: usize, bytes: u64) {
        let Some(attempt) = self
            .running
            .iter()
            .nth(which % self.running.len().max(1))
            .copied()
        else {
            return;
        };
        self.running.remove(&attempt);
        self.ended.insert(attempt);
        self.tell(Input::ProcessEnded {
            attempt,
            end: succeeded(bytes),
        });
    }

    fn command(&mut self, command: ControlCommand) {
        if self.connected {
            self.tell(Input::Control(ControlMessage::new(Epoch(5), command)));
        }
    }

    fn step(&mut self, step: Step, version: i64) {
        match step {
            Step::Link => self.link(),
            Step::Deliver {
                weight,
                redelivered,
            } => self.deliver(weight, redelivered),
            Step::Confirm { which, stored } => self.confirm(which, stored),
            Step::Exit { which, bytes } => self.exit(which, bytes),
            Step::Wait { seconds } => {
                self.elapsed += SECOND * u32::try_from(seconds).unwrap();
                self.tell(Input::Tick);
            }
            Step::CloseChannel => self.close_channel(),
            Step::EndConsumer => self.end_consumer(),
            Step::Cut => self.cut(),
            Step::Want {
                concurrency,
                prefetch,
                paused,
                other_batch,
            } => {
                let batch = if other_batch {
                    BatchName::new("other").unwrap()
                } else {
                    BatchName::default()
                };
                let desired = DesiredState {
                    version,
                    batch,
                    concurrency,
                    prefetch,
                    paused,
                };
                self.wishes += 1;
                self.command(ControlCommand::Desired { desired });
            }
            Step::Revoke { which } => {
                let held = self
                    .delivered
                    .values()
                    .nth(which)
                    .map(|(_, message)| message.dispatch);
                let dispatches = vec![held.unwrap_or_else(DispatchId::generate)];
                self.command(ControlCommand::Revoke { dispatches });
            }
            Step::Apply { which } => {
                let attempts: Vec<AttemptId> =
                    self.ended.iter().nth(which).copied().into_iter().collect();
                self.command(ControlCommand::Applied { attempts });
            }
            Step::Stop { which } => {
                let attempts: Vec<AttemptId> = self
                    .running
                    .iter()
                    .nth(which)
                    .copied()
                    .into_iter()
                    .collect();
                self.command(ControlCommand::Stop { attempts });
            }
        }
    }

    /// Lets everything come to rest: answers all, ends all, without new work.
    fn come_to_rest(&mut self) {
        let desired = DesiredState {
            version: i64::MAX,
            paused: true,
            ..desired(0, 1, 0)
        };
        if !self.connected {
            self.link();
        }
        self.command(ControlCommand::Desired { desired });
        for round in 0.. {
            assert!(round < 10_000, "it never comes to rest");
            if !self.connected || !self.commands.is_empty() {
                self.link();
            } else if !self.unanswered.is_empty() {
                self.confirm(0, true);
            } else if !self.running.is_empty() {
                self.exit(0, 0);
            } else {
                return;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens(steps in steps()) {
        let mut world = World::new();
        for (version, step) in (2..).zip(steps) {
            world.step(step, version);
        }
        world.come_to_rest();
        for (attempt, (place, _)) in &world.delivered {
            let dead = Some(place.channel) != world.channel;
            let settled = world.settled.contains(place);
            prop_assert!(dead || settled, "{} is neither acknowledged nor gone with its channel", attempt);
            if world.executed.contains(attempt) {
                let applied = world.ended.contains(attempt) && !world.core.ended.contains_key(attempt);
                prop_assert!(applied || world.over.contains(attempt), "{} ran and nobody was told of its end", attempt);
            }
        }
        prop_assert!(world.core.active.is_empty() && world.core.released.is_empty());
        prop_assert!(world.core.sent.is_empty());
        prop_assert!(world.core.timers.is_empty(), "timers of what is gone are left");
    }
}
