//! Tables of what follows from what.

use std::num::NonZeroU16;

use scitq_shared::definition::TaskDefinition;
use scitq_shared::execution::{Exit, FailureReason, Outcome};
use scitq_shared::ids::{DispatchId, TaskId};
use scitq_shared::protocol::{AttemptPhase, ControlCommand, ControlMessage, WorkerEvent};

use super::*;

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn task(number: i64, weight: u16) -> TaskMessage {
    let definition = TaskDefinition {
        weight,
        ..TaskDefinition::bare("true")
    };
    let batch = BatchName::default();
    TaskMessage::new(
        Epoch(5),
        DispatchId::generate(),
        TaskId(number),
        batch,
        scitq_shared::now(),
        definition,
    )
}

pub(super) fn desired(version: i64, concurrency: u16, prefetch: u16) -> DesiredState {
    DesiredState {
        version,
        batch: BatchName::default(),
        concurrency,
        prefetch,
        paused: false,
    }
}

pub(super) fn new_core(desired_state: Option<DesiredState>, recovered: Vec<Recovered>) -> Core {
    let identity = Identity {
        worker: WorkerName::new("w").unwrap(),
        incarnation: IncarnationId::generate(),
        boots: 3,
        hostname: "host".to_owned(),
        program_version: "1".to_owned(),
        cores: 4,
        memory_bytes: 1,
    };
    let rules = Rules {
        initial: desired(0, 1, 0),
        stream_cap_bytes: 1000,
        heartbeat_every: SECOND * 5,
        ack_after: SECOND * 20,
        accept_after: SECOND / 2,
        queue_retry: (SECOND, SECOND * 30),
        farewell: SECOND * 8,
        drain_timeout: None,
        on_drain_timeout: OnDrainTimeout::Leave,
        stop_grace: SECOND * 10,
        can_restart: true,
    };
    Core::new(identity, rules, desired_state, recovered)
}

pub(super) fn succeeded(stdout_bytes: u64) -> AttemptEnd {
    AttemptEnd {
        ended_at: scitq_shared::now(),
        exit: Some(Exit::Code(0)),
        outcome: Outcome::Succeeded,
        usage: None,
        stdout_bytes,
        stderr_bytes: 0,
    }
}

/// Drives a core by hand.
struct Drive {
    core: Core,
    elapsed: Duration,
    numbers: u64,
    channel: ChannelNumber,
    consumer: ConsumerNumber,
}

impl Drive {
    /// A worker that consumes; with what it did until then left out.
    fn consuming(concurrency: u16, prefetch: u16) -> Self {
        let mut drive = Self::new(Some(desired(1, concurrency, prefetch)));
        let effects = drive.tell(Input::LinkUp);
        assert_eq!(consume_of(&effects), Some(concurrency + prefetch));
        drive.answer_consume(&effects);
        drive
    }

    fn new(desired_state: Option<DesiredState>) -> Self {
        Self::with(new_core(desired_state, Vec::new()))
    }

    fn with(core: Core) -> Self {
        let (channel, consumer) = (ChannelNumber(1), ConsumerNumber(0));
        Self {
            core,
            elapsed: Duration::ZERO,
            numbers: 100,
            channel,
            consumer,
        }
    }

    fn tell(&mut self, input: Input) -> Vec<Effect> {
        self.core.handle(
            Now {
                elapsed: self.elapsed,
                wall: scitq_shared::now(),
            },
            input,
        )
    }

    fn command(&mut self, command: ControlCommand) -> Vec<Effect> {
        self.tell(Input::Control(ControlMessage::new(Epoch(5), command)))
    }

    fn later(&mut self, by: Duration) -> Vec<Effect> {
        self.elapsed += by;
        self.tell(Input::Tick)
    }

    fn answer_consume(&mut self, effects: &[Effect]) -> Vec<Effect> {
        let asked = effects.iter().find_map(|effect| match effect {
            Effect::Consume { consumer, .. } => Some(*consumer),
            _ => None,
        });
        self.consumer = asked.expect("a subscription is asked for");
        self.tell(Input::Consuming {
            consumer: self.consumer,
            channel: self.channel,
        })
    }

    fn deliver(&mut self, message: TaskMessage) -> (AttemptId, Place, Vec<Effect>) {
        self.deliver_as(message, false)
    }

    fn deliver_as(
        &mut self,
        message: TaskMessage,
        redelivered: bool,
    ) -> (AttemptId, Place, Vec<Effect>) {
        self.numbers += 1;
        let attempt = AttemptId::generate();
        let place = Place {
            channel: self.channel,
            consumer: self.consumer,
            delivery: DeliveryNumber(self.numbers),
        };
        let content = Ok(Arc::new(message));
        let effects = self.tell(Input::Delivered {
            place,
            redelivered,
            content,
            attempt,
        });
        (attempt, place, effects)
    }

    fn confirm(&mut self, effects: &[Effect]) -> Vec<Effect> {
        self.outcome(effects, true)
    }

    fn outcome(&mut self, effects: &[Effect], stored: bool) -> Vec<Effect> {
        let mut followed = Vec::new();
        for effect in effects {
            if let Effect::Publish { publication, .. } = effect {
                followed.extend(self.tell(Input::Confirmed {
                    publication: *publication,
                    stored,
                }));
            }
        }
        followed
    }

    /// Delivers a task that gets its slot at once and runs.
    fn run(&mut self, message: TaskMessage) -> (AttemptId, Place) {
        let (attempt, place, effects) = self.deliver(message);
        assert_eq!(kinds(&effects), ["started"]);
        let effects = self.confirm(&effects);
        assert!(
            matches!(&effects[..], [Effect::Execute(execution)] if execution.report.attempt == attempt)
        );
        (attempt, place)
    }
}

fn kinds(effects: &[Effect]) -> Vec<&'static str> {
    let kind = |effect: &Effect| match effect {
        Effect::Publish { message, .. } => Some(message.event.kind()),
        _ => None,
    };
    effects.iter().filter_map(kind).collect()
}

fn acks(effects: &[Effect]) -> Vec<Place> {
    let ack = |effect: &Effect| match effect {
        Effect::Ack(place) => Some(*place),
        _ => None,
    };
    effects.iter().filter_map(ack).collect()
}

fn consume_of(effects: &[Effect]) -> Option<u16> {
    effects.iter().find_map(|effect| match effect {
        Effect::Consume { qos, .. } => Some(NonZeroU16::get(*qos)),
        _ => None,
    })
}

fn executes(effects: &[Effect]) -> usize {
    effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Execute(_)))
        .count()
}

fn releases(effects: &[Effect]) -> Vec<(AttemptId, ReleaseReason)> {
    let release = |effect: &Effect| match effect {
        Effect::Publish { message, .. } => match &message.event {
            WorkerEvent::Released { report, reason } => Some((report.attempt, *reason)),
            _ => None,
        },
        _ => None,
    };
    effects.iter().filter_map(release).collect()
}

#[test]
fn a_task_goes_through_announced_executed_reported_acknowledged_applied() {
    let mut drive = Drive::consuming(1, 0);
    let (attempt, place) = drive.run(task(1, 1));
    let effects = drive.tell(Input::ProcessEnded {
        attempt,
        end: succeeded(10),
    });
    assert_eq!(kinds(&effects), ["ended"]);
    assert!(effects.iter().any(
        |effect| matches!(effect, Effect::SendOutput(output) if output.stdout.0.length == 10)
    ));
    assert!(acks(&effects).is_empty(), "not before its end is confirmed");
    let effects = drive.confirm(&effects);
    assert_eq!(acks(&effects), [place]);
    let effects = drive.command(ControlCommand::Applied {
        attempts: vec![attempt],
    });
    assert!(matches!(effects[..], [Effect::Discard { .. }]));
    assert!(drive.core.inventory().is_empty());
}

#[test]
fn a_start_counts_only_on_the_channel_that_brought_it() {
    for end in [
        Input::LinkDown,
        Input::ChannelClosed {
            channel: ChannelNumber(1),
        },
    ] {
        let mut drive = Drive::consuming(1, 0);
        let (attempt, _, started) = drive.deliver(task(1, 1));
        let mut effects = drive.tell(end.clone());
        assert_eq!(executes(&drive.confirm(&started)), 0, "confirmed too late");
        if matches!(end, Input::LinkDown) {
            effects = drive.tell(Input::LinkUp);
        }
        assert_eq!(releases(&effects), [(attempt, ReleaseReason::ChannelLost)]);
        let effects = drive.confirm(&effects);
        assert!(
            acks(&effects).is_empty(),
            "its delivery went with the channel"
        );
        assert!(drive.core.inventory().is_empty());
    }
}

#[test]
fn a_start_that_the_broker_refuses_closes_the_channel_instead_of_being_executed() {
    let mut drive = Drive::consuming(1, 0);
    let (_, _, started) = drive.deliver(task(1, 1));
    let effects = drive.outcome(&started, false);
    assert!(matches!(
        effects[..],
        [Effect::CloseChannel {
            channel: ChannelNumber(1)
        }]
    ));
}

#[test]
fn what_nobody_was_told_of_is_forgotten_with_its_channel() {
    let mut drive = Drive::consuming(1, 1);
    drive.run(task(1, 1));
    let (_, _, effects) = drive.deliver(task(2, 1));
    assert!(kinds(&effects).is_empty(), "waits");
    let effects = drive.tell(Input::ChannelClosed {
        channel: drive.channel,
    });
    assert!(kinds(&effects).is_empty());
    // Told of after half a second, it is released.
    let mut drive = Drive::consuming(1, 1);
    drive.run(task(1, 1));
    let (waiting, _, _) = drive.deliver(task(2, 1));
    assert_eq!(kinds(&drive.later(SECOND / 2)), ["accepted"]);
    let effects = drive.tell(Input::ChannelClosed {
        channel: drive.channel,
    });
    assert_eq!(releases(&effects), [(waiting, ReleaseReason::ChannelLost)]);
}

#[test]
fn a_consumer_that_the_broker_ends_voids_what_has_not_started() {
    let mut drive = Drive::consuming(2, 1);
    let (running, _) = drive.run(task(1, 1));
    let (announced, _, started) = drive.deliver(task(2, 1));
    let (waiting, _, _) = drive.deliver(task(3, 1));
    let effects = drive.tell(Input::ConsumerEnded {
        consumer: drive.consumer,
    });
    let mut void = releases(&effects);
    void.sort_unstable_by_key(|(attempt, _)| *attempt);
    assert_eq!(
        void,
        [
            (announced, ReleaseReason::ChannelLost),
            (waiting, ReleaseReason::ChannelLost)
        ]
    );
    assert_eq!(executes(&drive.confirm(&started)), 0);
    assert_eq!(acks(&drive.confirm(&effects)).len(), 2, "the channel lives");
    let inventory = drive.core.inventory();
    assert!(
        matches!(inventory[..], [item] if item.attempt == running && item.phase == AttemptPhase::Running)
    );
    assert_eq!(
        consume_of(&drive.later(SECOND)),
        Some(2),
        "again, beside the one that runs"
    );
}

#[test]
fn redelivered_and_outdated_messages_are_returned_and_never_run() {
    let mut drive = Drive::consuming(2, 0);
    let (_, place, effects) = drive.deliver_as(task(1, 1), true);
    assert_eq!(kinds(&effects), ["returned"]);
    assert_eq!(acks(&drive.confirm(&effects)), [place]);
    drive.run(task(2, 1));
    let (_, _, effects) = drive.deliver(TaskMessage {
        epoch: Epoch(4),
        ..task(3, 1)
    });
    assert_eq!(
        kinds(&effects),
        ["returned"],
        "of an epoch below one seen in this queue"
    );
    // Its confirmation fails: the delivery must not stay, so the channel goes.
    let effects = drive.outcome(&effects, false);
    assert!(matches!(effects[..], [Effect::CloseChannel { .. }]));
}

/// The task of a description, or of any other event the task of its report.
fn told(effects: &[Effect]) -> Vec<(&'static str, i64)> {
    let messages = effects.iter().filter_map(|effect| match effect {
        Effect::Publish { message, .. } => Some(&message.event),
        _ => None,
    });
    let about = messages.map(|event| {
        let task = match event {
            WorkerEvent::Described { message } => message.task,
            WorkerEvent::Started(report)
            | WorkerEvent::Ended(report)
            | WorkerEvent::Accepted(report)
            | WorkerEvent::Released { report, .. } => report.task,
            _ => TaskId(0),
        };
        (event.kind(), task.0)
    });
    about.collect()
}

#[test]
fn a_recount_gives_back_what_has_not_started_and_tells_the_rest() {
    let mut drive = Drive::consuming(3, 3);
    let (over, _) = drive.run(task(1, 1));
    let ended = drive.tell(Input::ProcessEnded {
        attempt: over,
        end: succeeded(0),
    });
    drive.confirm(&ended);
    drive.run(task(2, 3));
    // Announced, and one that nobody was told about yet.
    drive.deliver(task(3, 1));
    let effects = drive.later(SECOND);
    drive.confirm(&effects);
    drive.deliver(task(4, 1));
    let effects = drive.command(ControlCommand::Recount);
    assert!(
        effects.iter().any(
            |effect| matches!(effect, Effect::CloseChannel { channel } if *channel == drive.channel)
        ),
        "what is on its way here is void, too"
    );
    let expected = [
        ("described", 2),
        ("described", 3),
        ("described", 4),
        ("described", 1),
        ("released", 3),
        ("started", 2),
        ("ended", 1),
        ("hello", 0),
    ];
    assert_eq!(told(&effects), expected);
    let by_any_channel = |effect: &Effect| !matches!(effect, Effect::Publish { on: Some(_), .. });
    assert!(effects.iter().all(by_any_channel), "in this order");
    let hello = effects.iter().find_map(|effect| match effect {
        Effect::Publish { message, .. } => match &message.event {
            WorkerEvent::Hello(hello) => Some(hello.clone()),
            _ => None,
        },
        _ => None,
    });
    let hello = hello.unwrap();
    assert_eq!(hello.recounted, Some(drive.core.control_epoch));
    assert!(hello.batch.is_some());
    // The next one is an introduction as always.
    drive.tell(Input::LinkDown);
    let effects = drive.tell(Input::LinkUp);
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Publish { message, .. }
        if matches!(&message.event, WorkerEvent::Hello(hello) if hello.recounted.is_none())))
    );
}

#[test]
fn unreadable_messages_are_dead_lettered() {
    let mut drive = Drive::consuming(1, 0);
    let place = Place {
        channel: drive.channel,
        consumer: drive.consumer,
        delivery: DeliveryNumber(1),
    };
    let content = Err("no task".to_owned());
    let effects = drive.tell(Input::Delivered {
        place,
        redelivered: false,
        content,
        attempt: AttemptId::generate(),
    });
    assert!(matches!(effects[..], [Effect::Reject(rejected)] if rejected == place));
}

#[test]
fn a_heavy_task_is_not_overtaken() {
    let mut drive = Drive::consuming(2, 2);
    let (small, _) = drive.run(task(1, 1));
    let (heavy, _, effects) = drive.deliver(task(2, 100));
    assert!(kinds(&effects).is_empty());
    let (_, _, effects) = drive.deliver(task(3, 1));
    assert!(
        kinds(&effects).is_empty(),
        "a slot is free, but the heavy one is first"
    );
    let effects = drive.tell(Input::ProcessEnded {
        attempt: small,
        end: succeeded(0),
    });
    assert_eq!(kinds(&effects), ["ended", "started"]);
    let effects = drive.confirm(&effects);
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Execute(it) if it.report.attempt == heavy))
    );
    let effects = drive.tell(Input::ProcessEnded {
        attempt: heavy,
        end: succeeded(0),
    });
    assert_eq!(kinds(&effects), ["ended", "started"]);
}

#[test]
fn what_is_held_for_long_is_acknowledged_and_the_subscription_made_smaller() {
    let mut drive = Drive::consuming(2, 1);
    let (first, first_place) = drive.run(task(1, 1));
    let (_, _) = drive.run(task(2, 1));
    drive.elapsed += SECOND * 15;
    let (_, waiting_place, _) = drive.deliver(task(3, 1));
    let effects = drive.later(SECOND * 5);
    let cancelled = effects
        .iter()
        .any(|effect| matches!(effect, Effect::CancelConsumer { .. }));
    assert!(
        cancelled && acks(&effects).is_empty(),
        "nothing is acknowledged while that would bring more: {effects:?}"
    );
    drive.confirm(&effects);
    let effects = drive.tell(Input::Cancelled {
        consumer: drive.consumer,
    });
    assert_eq!(acks(&effects).len(), 2);
    assert_eq!(acks(&effects)[0], first_place);
    assert_eq!(consume_of(&effects), None, "three are held already");
    // As room appears, for what there is room for.
    let effects = drive.tell(Input::ProcessEnded {
        attempt: first,
        end: succeeded(0),
    });
    assert_eq!(
        (kinds(&effects), consume_of(&effects)),
        (vec!["ended", "started"], Some(1))
    );
    assert!(
        acks(&drive.confirm(&effects[..1])).is_empty(),
        "acknowledged before"
    );
    // The one that waited is acknowledged in its turn, without a subscription of its own to close.
    drive.confirm(&effects);
    drive.answer_consume(&effects);
    assert_eq!(acks(&drive.later(SECOND * 20)), [waiting_place]);
}

#[test]
fn a_missing_queue_is_looked_for_less_and_less_often_and_at_once_when_it_is_announced() {
    let mut drive = Drive::new(Some(desired(1, 1, 0)));
    let mut effects = drive.tell(Input::LinkUp);
    for wait in [1, 2, 4, 8, 16, 30, 30] {
        let Some(Effect::Consume { consumer, .. }) = effects
            .iter()
            .find(|it| matches!(it, Effect::Consume { .. }))
        else {
            panic!("{effects:?}");
        };
        let consumer = *consumer;
        assert_eq!(
            consume_of(&drive.tell(Input::ConsumeFailed { consumer })),
            None
        );
        assert_eq!(
            consume_of(&drive.later(SECOND * (wait - 1) + SECOND * 9 / 10)),
            None
        );
        effects = drive.later(SECOND / 10);
    }
    let Some(Effect::Consume { consumer, .. }) = effects.last() else {
        panic!("{effects:?}")
    };
    let consumer = *consumer;
    drive.tell(Input::ConsumeFailed { consumer });
    let effects = drive.command(ControlCommand::QueueReady {
        batch: BatchName::new("other").unwrap(),
    });
    assert_eq!(consume_of(&effects), None);
    assert_eq!(
        consume_of(&drive.command(ControlCommand::QueueReady {
            batch: BatchName::default()
        })),
        Some(1)
    );
}

#[test]
fn nothing_is_consumed_before_the_server_said_what_to_be() {
    let mut drive = Drive::new(None);
    assert_eq!(kinds(&drive.tell(Input::LinkUp)), ["hello"]);
    let wanted = desired(7, 3, 1);
    let effects = drive.command(ControlCommand::Welcome {
        desired: wanted.clone(),
        program_version: "2".to_owned(),
    });
    assert!(
        matches!(&effects[..], [Effect::Persist(kept), Effect::Consume { .. }] if *kept == wanted)
    );
    assert_eq!(consume_of(&effects), Some(4));
    // An older word, and the same again, change nothing.
    assert!(
        drive
            .command(ControlCommand::Desired {
                desired: desired(6, 9, 9)
            })
            .is_empty()
    );
    assert!(
        drive
            .command(ControlCommand::Desired { desired: wanted })
            .is_empty()
    );
    // So does the word of a leader of the past.
    let message = ControlMessage::new(
        Epoch(4),
        ControlCommand::Desired {
            desired: desired(8, 9, 9),
        },
    );
    assert!(drive.tell(Input::Control(message)).is_empty());
}

#[test]
fn less_room_gives_back_what_has_not_started_and_ends_nothing() {
    type Change = fn(&mut DesiredState);
    let other: Change = |it| it.batch = BatchName::new("other").unwrap();
    // What changes; how many of the two that wait go back; how large the next subscription is.
    let table: [(&str, Change, usize, Option<u16>); 6] = [
        ("paused", |it| it.paused = true, 2, None),
        ("no slots", |it| it.concurrency = 0, 2, None),
        ("less prefetch", |it| it.prefetch = 1, 1, None),
        ("fewer slots", |it| it.concurrency = 1, 1, None),
        ("another batch", other, 2, Some(2)),
        ("more prefetch", |it| it.prefetch = 4, 0, Some(2)),
    ];
    for (name, change, given_back, next) in table {
        let mut drive = Drive::consuming(2, 2);
        let running = [drive.run(task(1, 1)).0, drive.run(task(2, 1)).0];
        let waiting = [drive.deliver(task(3, 1)).0, drive.deliver(task(4, 1)).0];
        let mut wanted = desired(2, 2, 2);
        change(&mut wanted);
        let effects = drive.command(ControlCommand::Desired { desired: wanted });
        let released: Vec<AttemptId> = releases(&effects)
            .into_iter()
            .map(|(attempt, _)| attempt)
            .rev()
            .collect();
        assert!(
            given_back == 2 && released.len() == 2 || released == waiting[2 - given_back..],
            "{name}"
        );
        assert!(
            !effects
                .iter()
                .any(|effect| matches!(effect, Effect::Kill { .. })),
            "{name}"
        );
        assert_eq!(acks(&drive.confirm(&effects)).len(), given_back, "{name}");
        let effects = drive.tell(Input::Cancelled {
            consumer: drive.consumer,
        });
        assert_eq!(consume_of(&effects), next, "{name}");
        for attempt in running {
            let effects = drive.tell(Input::ProcessEnded {
                attempt,
                end: succeeded(0),
            });
            assert_eq!(kinds(&effects)[0], "ended", "{name}");
        }
    }
}

#[test]
fn revoked_dispatches_go_back_or_are_said_to_have_started_or_die_on_arrival() {
    let mut drive = Drive::consuming(1, 3);
    let (running, waiting, ended, absent) = (task(1, 1), task(2, 1), task(3, 1), task(4, 1));
    let dispatches: Vec<DispatchId> = [&running, &waiting, &ended, &absent]
        .iter()
        .map(|message| message.dispatch)
        .collect();
    let (attempt, _) = drive.run(ended);
    drive.tell(Input::ProcessEnded {
        attempt,
        end: succeeded(0),
    });
    drive.run(running);
    let (waiting, waiting_place, _) = drive.deliver(waiting);
    let effects = drive.command(ControlCommand::Revoke { dispatches });
    let mut said = kinds(&effects);
    said.sort_unstable();
    assert_eq!(said, ["absent", "ended", "released", "started"]);
    assert_eq!(releases(&effects), [(waiting, ReleaseReason::Revoked)]);
    assert_eq!(acks(&drive.confirm(&effects)), [waiting_place]);
    let (_, place, effects) = drive.deliver(absent.clone());
    assert!(acks(&effects) == [place] && kinds(&effects).is_empty());
    // The tombstone goes with the channel: what comes by another one was requeued and is flagged, or is new.
    drive.tell(Input::ChannelClosed {
        channel: drive.channel,
    });
    let effects = drive.later(SECOND);
    drive.channel = ChannelNumber(2);
    drive.answer_consume(&effects);
    let (_, _, effects) = drive.deliver_as(absent, true);
    assert_eq!(kinds(&effects), ["returned"]);
}

#[test]
fn stopped_attempts_are_killed_or_given_back() {
    let mut drive = Drive::consuming(1, 1);
    let (running, _) = drive.run(task(1, 1));
    let (waiting, _, _) = drive.deliver(task(2, 1));
    let effects = drive.command(ControlCommand::Stop {
        attempts: vec![running, waiting, AttemptId::generate()],
    });
    let killed = effects.iter().any(|effect| {
        matches!(effect, Effect::Kill { attempt, outcome: Outcome::Failed { reason: FailureReason::Cancelled, .. } }
            if *attempt == running)
    });
    assert!(killed);
    assert_eq!(releases(&effects), [(waiting, ReleaseReason::Revoked)]);
}

#[test]
fn what_was_not_confirmed_is_said_again_by_the_next_connection() {
    let mut drive = Drive::consuming(1, 0);
    let (attempt, _) = drive.run(task(1, 1));
    let ended = drive.tell(Input::ProcessEnded {
        attempt,
        end: succeeded(0),
    });
    drive.tell(Input::LinkDown);
    assert!(
        drive.confirm(&ended).is_empty(),
        "an answer of the old connection"
    );
    let effects = drive.tell(Input::LinkUp);
    assert_eq!(kinds(&effects), ["hello", "ended"]);
    let effects = drive.confirm(&effects);
    assert!(
        acks(&effects).is_empty(),
        "its delivery went with the old channel"
    );
    drive.tell(Input::LinkDown);
    assert_eq!(
        kinds(&drive.tell(Input::LinkUp)),
        ["hello"],
        "confirmed by now"
    );
    // It is listed until it is applied.
    let inventory = drive.core.inventory();
    assert!(
        matches!(inventory[..], [item] if item.attempt == attempt && item.phase == AttemptPhase::Ended)
    );
}

#[test]
fn an_end_whose_channel_failed_goes_by_another() {
    let mut drive = Drive::consuming(1, 0);
    let (attempt, _) = drive.run(task(1, 1));
    let ended = drive.tell(Input::ProcessEnded {
        attempt,
        end: succeeded(0),
    });
    drive.tell(Input::ChannelClosed {
        channel: drive.channel,
    });
    let effects = drive.outcome(&ended, false);
    assert!(
        matches!(effects[..], [Effect::Publish { on: None, .. }]),
        "{effects:?}"
    );
    let refused = drive.outcome(&effects, false);
    assert!(matches!(refused[..], [Effect::Reconnect { .. }]));
}

#[test]
fn resends_are_answered_with_what_is_asked_for() {
    let mut drive = Drive::consuming(1, 0);
    let (attempt, _) = drive.run(task(1, 1));
    let effects = drive.tell(Input::ProcessEnded {
        attempt,
        end: succeeded(100),
    });
    let ask = |stdout_from| ControlCommand::Resend {
        attempt,
        end: true,
        stdout_from,
        stderr_from: None,
    };
    assert!(
        drive.command(ask(Some(30))).is_empty(),
        "both are on their way"
    );
    drive.confirm(&effects);
    drive.tell(Input::OutputSent { attempt });
    let effects = drive.command(ask(Some(30)));
    assert_eq!(kinds(&effects), ["ended"]);
    let Some(Effect::SendOutput(output)) = effects.last() else {
        panic!("{effects:?}")
    };
    assert_eq!((output.stdout.1, output.stderr.1), (Some(30), Some(0)));
    drive.tell(Input::OutputSent { attempt });
    assert_eq!(kinds(&drive.command(ask(None))), ["ended"]);
}

#[test]
fn attempts_of_an_earlier_run_are_reported_again() {
    let mut drive = Drive::consuming(1, 0);
    let (attempt, _) = drive.run(task(1, 1));
    let report = drive.core.active[&attempt].report.clone();
    let definition = drive.core.active[&attempt].message.definition.clone();
    let (over, nothing_ran) = (
        report.clone(),
        AttemptReport {
            attempt: AttemptId::generate(),
            ..report
        },
    );
    let recovered = vec![
        Recovered {
            report: over,
            definition: definition.clone(),
            found: Found::Ended(succeeded(10)),
        },
        Recovered {
            report: nothing_ran.clone(),
            definition,
            found: Found::Unstarted,
        },
    ];
    let mut drive = Drive::with(new_core(None, recovered));
    let discarded = |effects: &[Effect]| {
        effects.iter().any(
            |effect| matches!(effect, Effect::Discard { attempt } if *attempt == nothing_ran.attempt),
        )
    };
    let effects = drive.tell(Input::Tick);
    assert!(!discarded(&effects), "the broker does not have its return");
    assert!(
        effects.iter().any(
            |effect| matches!(effect, Effect::SendOutput(output) if output.stdout.1 == Some(0))
        )
    );
    let effects = drive.tell(Input::LinkUp);
    assert_eq!(kinds(&effects), ["hello", "released", "ended"]);
    let Effect::Publish { message, .. } = &effects[0] else {
        panic!("{effects:?}")
    };
    assert_eq!(message.sequence >> 32, 3, "beyond all of earlier runs");
    let WorkerEvent::Hello(hello) = &message.event else {
        panic!("{message:?}")
    };
    let held: Vec<_> = hello
        .inventory
        .iter()
        .map(|item| (item.attempt, item.phase))
        .collect();
    let expected = [
        (attempt, AttemptPhase::Ended),
        (nothing_ran.attempt, AttemptPhase::Accepted),
    ];
    assert_eq!(
        held, expected,
        "what is given back is held until the broker has that"
    );
    let confirmed = drive.confirm(&effects);
    assert!(discarded(&confirmed));
}

#[test]
fn draining_ends_when_everything_is_with_the_server() {
    let mut drive = Drive::consuming(1, 1);
    let (attempt, _) = drive.run(task(1, 1));
    let (waiting, _, _) = drive.deliver(task(2, 1));
    let effects = drive.tell(Input::Drain);
    assert_eq!(releases(&effects), [(waiting, ReleaseReason::LessRoom)]);
    drive.confirm(&effects);
    assert_eq!(
        consume_of(&drive.tell(Input::Cancelled {
            consumer: drive.consumer
        })),
        None
    );
    let effects = drive.later(SECOND * 3600);
    assert!(
        !effects.iter().any(|effect| matches!(effect, Effect::End)),
        "the task still runs"
    );
    let effects = drive.tell(Input::ProcessEnded {
        attempt,
        end: succeeded(0),
    });
    drive.confirm(&effects);
    let effects = drive.command(ControlCommand::Applied {
        attempts: vec![attempt],
    });
    // With nothing left it is not expected to come back: what was wanted of it is forgotten before anybody hears that.
    let order: Vec<bool> = effects
        .iter()
        .filter(|it| matches!(it, Effect::Forget | Effect::Publish { .. }))
        .map(|it| matches!(it, Effect::Forget))
        .collect();
    assert_eq!(order, [true, false]);
    assert_eq!(kinds(&effects), ["goodbye"]);
    assert!(matches!(drive.confirm(&effects)[..], [Effect::End]));
}

#[test]
fn draining_does_not_wait_for_ever_for_a_server_or_broker_that_is_away() {
    let mut drive = Drive::consuming(1, 0);
    let (attempt, _) = drive.run(task(1, 1));
    drive.tell(Input::LinkDown);
    drive.tell(Input::Drain);
    drive.tell(Input::ProcessEnded {
        attempt,
        end: succeeded(0),
    });
    assert_eq!(drive.core.next_deadline(), Some(drive.elapsed + SECOND * 8));
    assert!(matches!(drive.later(SECOND * 8)[..], [Effect::End]));
}

#[test]
fn stopping_kills_reports_and_ends() {
    let mut drive = Drive::consuming(2, 0);
    let (running, _) = drive.run(task(1, 1));
    let (_, _, started) = drive.deliver(task(2, 1));
    let effects = drive.tell(Input::Stop);
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Kill { attempt, .. } if *attempt == running))
    );
    drive.confirm(&effects);
    assert_eq!(
        executes(&drive.confirm(&started)),
        0,
        "a start confirmed now is not executed"
    );
    let effects = drive.tell(Input::ProcessEnded {
        attempt: running,
        end: succeeded(0),
    });
    assert_eq!(kinds(&effects), ["ended"]);
    drive.confirm(&effects);
    let effects = drive.later(SECOND * 2);
    // Something is kept: the next start goes on as this one would.
    let forgets = effects.iter().any(|it| matches!(it, Effect::Forget));
    assert!(!forgets, "{effects:?}");
    assert_eq!(kinds(&effects), ["goodbye"]);
    assert!(
        matches!(drive.tell(Input::Stop)[..], [Effect::End]),
        "asked again, it ends at once"
    );
}

#[test]
fn a_sign_of_life_comes_at_once_and_then_regularly() {
    let mut drive = Drive::consuming(1, 0);
    let beats = |effects: &[Effect]| {
        effects
            .iter()
            .filter(|effect| matches!(effect, Effect::Beat(_)))
            .count()
    };
    assert_eq!(drive.core.next_deadline(), Some(SECOND * 5));
    assert_eq!(beats(&drive.later(SECOND * 4)), 0);
    assert_eq!(beats(&drive.later(SECOND)), 1);
    drive.tell(Input::LinkDown);
    assert_eq!(beats(&drive.later(SECOND * 60)), 0);
    assert_eq!(drive.core.next_deadline(), None);
    assert_eq!(beats(&drive.tell(Input::LinkUp)), 1);
}

#[test]
fn too_many_tombstones_close_the_channel() {
    let mut drive = Drive::consuming(1, 0);
    let many = || {
        (0..MOST_TOMBSTONES)
            .map(|_| DispatchId::generate())
            .collect()
    };
    let effects = drive.command(ControlCommand::Revoke { dispatches: many() });
    assert!(kinds(&effects) == ["absent"] && effects.len() == 1);
    let effects = drive.command(ControlCommand::Revoke { dispatches: many() });
    assert_eq!(kinds(&effects), ["absent"]);
    assert!(matches!(effects[1..], [Effect::CloseChannel { .. }]));
    assert!(drive.core.tombstones.is_empty());
}

/// A worker that runs one task and holds another, told so by this rule.
fn holding(rules: impl FnOnce(&mut Rules)) -> (Drive, AttemptId, AttemptId) {
    let mut drive = Drive::consuming(1, 1);
    rules(&mut drive.core.rules);
    let (running, _) = drive.run(task(1, 1));
    let (waiting, _, _) = drive.deliver(task(2, 1));
    (drive, running, waiting)
}

fn ends(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::End))
}

/// A task that may run for so many seconds.
fn limited(seconds: u32) -> TaskMessage {
    let mut message = task(1, 1);
    message.definition.run_timeout_seconds = Some(seconds);
    message
}

/// What is done to end an attempt because of its run timeout.
fn timed_out(effects: &[Effect]) -> Vec<&'static str> {
    let by_timeout = |outcome: &Outcome| matches!(outcome, Outcome::Failed { reason: FailureReason::Timeout, detail } if detail.contains("10 s"));
    let done = |effect: &Effect| match effect {
        Effect::Terminate { outcome, .. } if by_timeout(outcome) => Some("terminate"),
        Effect::Kill { outcome, .. } if by_timeout(outcome) => Some("kill"),
        _ => None,
    };
    effects.iter().filter_map(done).collect()
}

#[test]
fn what_runs_for_too_long_is_asked_to_end_and_then_killed() {
    let mut drive = Drive::consuming(1, 0);
    let (attempt, _) = drive.run(limited(10));
    assert!(timed_out(&drive.later(SECOND * 9)).is_empty());
    assert_eq!(timed_out(&drive.later(SECOND)), ["terminate"]);
    assert!(timed_out(&drive.later(SECOND * 9)).is_empty());
    assert_eq!(timed_out(&drive.later(SECOND)), ["kill"]);
    assert!(timed_out(&drive.later(SECOND * 99)).is_empty(), "once");
    let end = succeeded(0);
    drive.tell(Input::ProcessEnded { attempt, end });
    // One that ends in time leaves no timer behind.
    let mut drive = Drive::consuming(1, 0);
    let (attempt, _) = drive.run(limited(10));
    let end = succeeded(0);
    let effects = drive.tell(Input::ProcessEnded { attempt, end });
    drive.confirm(&effects);
    assert!(timed_out(&drive.later(SECOND * 99)).is_empty());
    assert!(drive.core.timers.is_empty());
}

#[test]
fn a_run_timeout_counts_over_adoptions() {
    let mut drive = Drive::consuming(1, 0);
    let (attempt, _) = drive.run(limited(10));
    let active = drive.core.active.remove(&attempt).unwrap();
    let found = |ran_for| Recovered {
        report: active.report.clone(),
        definition: active.message.definition.clone(),
        found: Found::Running { ran_for },
    };
    let mut drive = Drive::with(new_core(None, vec![found(SECOND * 4)]));
    assert!(timed_out(&drive.later(SECOND * 5)).is_empty());
    assert_eq!(timed_out(&drive.later(SECOND)), ["terminate"]);
    let mut drive = Drive::with(new_core(None, vec![found(SECOND * 99)]));
    assert_eq!(timed_out(&drive.later(Duration::ZERO)), ["terminate"]);
}

#[test]
fn what_runs_on_is_adopted_with_its_slots() {
    let mut drive = Drive::consuming(2, 0);
    let (attempt, _) = drive.run(task(1, 2));
    let active = &drive.core.active[&attempt];
    let recovered = vec![Recovered {
        report: active.report.clone(),
        definition: active.message.definition.clone(),
        found: Found::Running {
            ran_for: Duration::ZERO,
        },
    }];
    let mut drive = Drive::with(new_core(Some(desired(1, 3, 0)), recovered));
    let effects = drive.tell(Input::Tick);
    assert!(matches!(effects[..], [Effect::Adopt { attempt: adopted }] if adopted == attempt));
    let effects = drive.tell(Input::LinkUp);
    assert_eq!(kinds(&effects), ["hello"], "its start was announced before");
    // Its delivery came by another connection: it takes room beside the subscription.
    assert_eq!(consume_of(&effects), Some(2));
    let inventory = drive.core.inventory();
    assert!(
        matches!(inventory[..], [item] if item.attempt == attempt && item.phase == AttemptPhase::Running)
    );
    drive.answer_consume(&effects);
    let (_, _, effects) = drive.deliver(task(2, 2));
    assert!(kinds(&effects).is_empty(), "one slot is left, of three");
    drive.tell(Input::LinkDown);
    assert_eq!(drive.core.occupied(3), 2, "no connection takes it away");
    let effects = drive.tell(Input::LinkUp);
    drive.confirm(&effects);
    let effects = drive.tell(Input::ProcessEnded {
        attempt,
        end: succeeded(0),
    });
    assert!(kinds(&effects).contains(&"ended") && acks(&effects).is_empty());
}

#[test]
fn a_drain_that_takes_too_long_leaves_what_runs() {
    for (timeout, wait) in [(Duration::ZERO, Duration::ZERO), (SECOND * 30, SECOND * 30)] {
        let (mut drive, _, waiting) = holding(|rules| rules.drain_timeout = Some(timeout));
        let mut effects = drive.tell(Input::Drain);
        assert_eq!(releases(&effects), [(waiting, ReleaseReason::LessRoom)]);
        assert!(!ends(&effects), "what is given back is not confirmed");
        if wait > Duration::ZERO {
            assert!(!ends(&drive.confirm(&effects)));
            assert_eq!(
                drive
                    .core
                    .next_deadline()
                    .map(|at| at <= drive.elapsed + wait),
                Some(true)
            );
            effects = drive.later(wait);
        } else {
            effects = drive.confirm(&effects);
        }
        assert!(ends(&effects));
        let said =
            |effect: &Effect| matches!(effect, Effect::Kill { .. } | Effect::Terminate { .. });
        assert!(
            !effects.iter().any(said) && kinds(&effects).is_empty(),
            "no goodbye: {effects:?}"
        );
    }
    // Nobody answers: it is not waited for.
    let (mut drive, _, _) = holding(|rules| rules.drain_timeout = Some(Duration::ZERO));
    assert!(!ends(&drive.tell(Input::Drain)));
    assert!(ends(&drive.later(SECOND * 2)));
}

#[test]
fn a_drain_that_takes_too_long_asks_what_runs_to_end_and_then_kills_it() {
    let (mut drive, running, _) = holding(|rules| {
        rules.drain_timeout = Some(SECOND * 5);
        rules.on_drain_timeout = OnDrainTimeout::Stop;
    });
    let effects = drive.tell(Input::Drain);
    drive.confirm(&effects);
    let effects = drive.later(SECOND * 5);
    assert!(effects.iter().any(
        |effect| matches!(effect, Effect::Terminate { attempt, outcome: Outcome::Failed { reason: FailureReason::AgentRestarted, .. } }
            if *attempt == running)
    ));
    assert!(
        !drive
            .later(SECOND * 9)
            .iter()
            .any(|effect| matches!(effect, Effect::Kill { .. }))
    );
    let effects = drive.later(SECOND);
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Kill { attempt, .. } if *attempt == running))
    );
    let effects = drive.tell(Input::ProcessEnded {
        attempt: running,
        end: succeeded(0),
    });
    assert_eq!(kinds(&effects), ["ended"]);
    drive.confirm(&effects);
    let applied = vec![running];
    let effects = drive.command(ControlCommand::Applied { attempts: applied });
    assert_eq!(kinds(&effects), ["goodbye"]);
    assert!(ends(&drive.confirm(&effects)));
}

#[test]
fn a_restart_gives_back_what_has_not_started_and_leaves_what_runs() {
    let (mut drive, _, waiting) = holding(|_| {});
    let other = drive.command(ControlCommand::Restart { boots: 2 });
    assert!(other.is_empty(), "it is for an earlier start: {other:?}");
    let effects = drive.command(ControlCommand::Restart { boots: 3 });
    assert_eq!(releases(&effects), [(waiting, ReleaseReason::LessRoom)]);
    let restarts = |effects: &[Effect]| {
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Restart))
    };
    assert!(!restarts(&effects));
    assert!(restarts(&drive.confirm(&effects)));
    assert!(
        drive
            .command(ControlCommand::Restart { boots: 3 })
            .is_empty(),
        "once"
    );
    // It cannot be done: it takes work again, and does not try again for a while.
    drive.tell(Input::Cancelled {
        consumer: drive.consumer,
    });
    let effects = drive.tell(Input::RestartFailed);
    assert_eq!(
        consume_of(&effects),
        Some(1),
        "one of two runs: {effects:?}"
    );
    assert!(!restarts(
        &drive.command(ControlCommand::Restart { boots: 3 })
    ));
    drive.later(SECOND * 61);
    assert!(restarts(
        &drive.command(ControlCommand::Restart { boots: 3 })
    ));
}

#[test]
fn a_restart_does_not_execute_what_was_only_announced() {
    let mut drive = Drive::consuming(1, 0);
    let (attempt, _, started) = drive.deliver(task(1, 1));
    assert_eq!(kinds(&started), ["started"]);
    let effects = drive.command(ControlCommand::Restart { boots: 3 });
    assert_eq!(releases(&effects), [(attempt, ReleaseReason::LessRoom)]);
    let late = drive.confirm(&started);
    assert!(
        !late
            .iter()
            .any(|effect| matches!(effect, Effect::Execute(_))),
        "{late:?}"
    );
}

#[test]
fn a_part_of_another_program_does_not_restart() {
    let (mut drive, _, _) = holding(|rules| rules.can_restart = false);
    assert!(
        drive
            .command(ControlCommand::Restart { boots: 3 })
            .is_empty()
    );
}

#[test]
fn a_second_request_to_end_kills_whatever_was_waited_for() {
    type Begin = fn(&mut Drive);
    let table: [Begin; 3] = [
        |drive| drop(drive.tell(Input::Drain)),
        |drive| {
            drive.core.rules.drain_timeout = Some(Duration::ZERO);
            drop(drive.tell(Input::Drain));
        },
        |drive| drop(drive.command(ControlCommand::Restart { boots: 3 })),
    ];
    for begin in table {
        let (mut drive, running, _) = holding(|_| {});
        begin(&mut drive);
        let effects = drive.tell(Input::Stop);
        assert!(
            effects.iter().any(
                |effect| matches!(effect, Effect::Kill { attempt, .. } if *attempt == running)
            )
        );
    }
}
