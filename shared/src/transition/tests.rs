use std::collections::BTreeMap;
use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

fn dispatch(n: u128) -> DispatchId {
    DispatchId(uuid::Uuid::from_u128(n))
}

fn attempt(n: u128) -> AttemptId {
    AttemptId(uuid::Uuid::from_u128(n))
}

/// Every state of a task, with dispatch 1 and attempt 1 where it has them.
fn task_states() -> Vec<(&'static str, TaskState)> {
    let (d, a) = (dispatch(1), attempt(1));
    vec![
        ("waiting (1)", TaskState::Waiting { missing: 1 }),
        ("waiting (2)", TaskState::Waiting { missing: 2 }),
        ("pending", TaskState::Pending),
        ("assigned", TaskState::Assigned { dispatch: d }),
        (
            "accepted",
            TaskState::Accepted {
                dispatch: d,
                attempt: a,
            },
        ),
        (
            "running",
            TaskState::Running {
                dispatch: d,
                attempt: a,
                uploading: false,
            },
        ),
        (
            "uploading",
            TaskState::Running {
                dispatch: d,
                attempt: a,
                uploading: true,
            },
        ),
        ("succeeded", TaskState::Succeeded),
        ("failed", TaskState::Failed),
        ("cancelled", TaskState::Cancelled),
        ("paused", TaskState::Paused),
        ("debug", TaskState::Debug),
    ]
}

/// Where the current attempt stands when its task stands there.
fn attempt_of(task: TaskState) -> AttemptState {
    match task {
        TaskState::Accepted { .. } => AttemptState::Accepted,
        TaskState::Running {
            uploading: false, ..
        } => AttemptState::Running,
        TaskState::Running {
            uploading: true, ..
        } => AttemptState::Uploading,
        _ => AttemptState::Unknown,
    }
}

/// Every event about dispatch 1 and attempt 1.
fn events() -> Vec<(&'static str, u16, Event)> {
    let about = |event| Event::Attempt {
        dispatch: dispatch(1),
        attempt: attempt(1),
        event,
    };
    vec![
        ("requirement met", 0, Event::RequirementMet),
        (
            "dispatched",
            0,
            Event::Dispatched {
                dispatch: dispatch(1),
            },
        ),
        (
            "dispatch returned",
            0,
            Event::DispatchReturned {
                dispatch: dispatch(1),
            },
        ),
        ("accepted", 0, about(AttemptEvent::Accepted)),
        ("started", 0, about(AttemptEvent::Started)),
        ("exited", 0, about(AttemptEvent::Exited)),
        ("succeeded", 0, about(AttemptEvent::Succeeded)),
        ("failed, retries left", 1, about(AttemptEvent::Failed)),
        ("failed", 0, about(AttemptEvent::Failed)),
        ("released", 0, about(AttemptEvent::Released)),
        ("lost", 0, about(AttemptEvent::Lost)),
    ]
}

fn cell(task: TaskState, retries: u16, event: Event) -> String {
    match transition(task, retries, attempt_of(task), event) {
        Decision::Changed { task, .. } => match task {
            TaskState::Running {
                uploading: true, ..
            } => "**uploading**".to_owned(),
            TaskState::Waiting { missing } => format!("**waiting ({missing})**"),
            other => format!("**{}**", other.status()),
        },
        Decision::Duplicate => "duplicate".to_owned(),
        Decision::Stale { .. } => "stale".to_owned(),
        Decision::Refused(_) => "refused".to_owned(),
    }
}

/// The table of `docs/STATE_MACHINE.md`, made from the code.
fn table() -> String {
    let mut text = String::from("| task is |");
    for (name, _, _) in events() {
        let _ = write!(text, " {name} |");
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(events().len()));
    for (name, state) in task_states() {
        let _ = write!(text, "\n| {name} |");
        for (_, retries, event) in events() {
            let _ = write!(text, " {} |", cell(state, retries, event));
        }
    }
    text.push('\n');
    text
}

/// The arrows of the diagram in `docs/STATE_MACHINE.md`, made from the code: `from --> to: events`.
fn diagram() -> String {
    let plain = |name: &str| name.split(' ').next().unwrap_or_default().to_owned();
    let mut arrows: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
    for (from, state) in task_states() {
        for (name, retries, event) in events() {
            let to = cell(state, retries, event);
            if let Some(to) = to.strip_prefix("**") {
                let to = plain(to.trim_end_matches("**"));
                let names = arrows.entry((plain(from), to)).or_default();
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
    }
    let mut text = String::from(
        "stateDiagram-v2\n    [*] --> waiting: submitted with requirements\n    [*] --> pending: submitted\n",
    );
    for ((from, to), names) in arrows {
        let _ = writeln!(text, "    {from} --> {to}: {}", names.join(" / "));
    }
    text
}

#[test]
fn the_document_shows_what_the_code_does() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/STATE_MACHINE.md");
    let document = std::fs::read_to_string(path).unwrap();
    let (table, diagram) = (table(), diagram());
    assert!(
        document.contains(&table),
        "docs/STATE_MACHINE.md must contain this table:\n\n{table}"
    );
    assert!(
        document.contains(&diagram),
        "docs/STATE_MACHINE.md must contain this diagram:\n\n{diagram}"
    );
}

/// Every state × every event, with what must come out written down by hand.
#[test]
fn every_state_and_event() {
    // Columns as in `events()`. Capital letters: the task moves there. -: duplicate, s: stale, x: refused.
    let expected = [
        ("waiting (1)", "P x s s s s s s s s s"),
        ("waiting (2)", "W x s s s s s s s s s"),
        ("pending", "- A s s s s s s s s s"),
        ("assigned", "- - P C R U S P F P P"),
        ("accepted", "- - P - R U S P F P P"),
        ("running", "- - s - - U S P F P P"),
        ("uploading", "- - s - - - S P F P P"),
        ("succeeded", "- x s s s s s s s s s"),
        ("failed", "- x s s s s s s s s s"),
        ("cancelled", "- x s s s s s s s s s"),
        ("paused", "- x s s s s s s s s s"),
        ("debug", "- x s s s s s s s s s"),
    ];
    let letter = |decision: &Decision| match decision {
        Decision::Changed { task, .. } => match task {
            TaskState::Waiting { .. } => "W",
            TaskState::Pending => "P",
            TaskState::Assigned { .. } => "A",
            TaskState::Accepted { .. } => "C",
            TaskState::Running {
                uploading: false, ..
            } => "R",
            TaskState::Running {
                uploading: true, ..
            } => "U",
            TaskState::Succeeded => "S",
            TaskState::Failed => "F",
            _ => "?",
        },
        Decision::Duplicate => "-",
        Decision::Stale { .. } => "s",
        Decision::Refused(_) => "x",
    };
    for ((name, state), (row, columns)) in task_states().into_iter().zip(expected) {
        assert_eq!(name, row);
        let decisions: Vec<Decision> = events()
            .into_iter()
            .map(|(_, retries, event)| transition(state, retries, attempt_of(state), event))
            .collect();
        let letters: Vec<&str> = decisions.iter().map(letter).collect();
        assert_eq!(letters.join(" "), columns, "{name}");
    }
}

#[test]
fn another_attempt_or_dispatch_never_touches_the_task() {
    let strangers = [(dispatch(2), attempt(2)), (dispatch(1), attempt(2))];
    for (name, state) in task_states() {
        for (d, a) in strangers {
            // An attempt may take a dispatch that no other attempt has taken yet.
            if state.dispatch() == Some(d) && state.attempt().is_none() {
                continue;
            }
            for event in AttemptEvent::ALL {
                for stands in AttemptState::ALL {
                    let decision = transition(
                        state,
                        1,
                        stands,
                        Event::Attempt {
                            dispatch: d,
                            attempt: a,
                            event,
                        },
                    );
                    assert!(
                        matches!(decision, Decision::Duplicate | Decision::Stale { .. }),
                        "{name} {event:?} {stands:?}: {decision:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn effects_that_others_rely_on() {
    let (d, a) = (dispatch(1), attempt(1));
    let about = |event| Event::Attempt {
        dispatch: d,
        attempt: a,
        event,
    };
    let assigned = TaskState::Assigned { dispatch: d };
    let running = TaskState::Running {
        dispatch: d,
        attempt: a,
        uploading: false,
    };
    let effects = |task, retries, stands, event| match transition(task, retries, stands, event) {
        Decision::Changed { effects, .. } | Decision::Stale { effects, .. } => effects,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        effects(
            assigned,
            0,
            AttemptState::Unknown,
            about(AttemptEvent::Started)
        ),
        [Effect::RoomInWindow]
    );
    assert_eq!(
        effects(
            running,
            0,
            AttemptState::Running,
            about(AttemptEvent::Succeeded)
        ),
        [Effect::MeetRequirements, Effect::TaskOver]
    );
    assert_eq!(
        effects(
            running,
            2,
            AttemptState::Running,
            about(AttemptEvent::Failed)
        ),
        [Effect::UseRetry, Effect::Dispatch]
    );
    assert_eq!(
        effects(running, 2, AttemptState::Running, about(AttemptEvent::Lost)),
        [Effect::Dispatch]
    );
    assert_eq!(
        effects(
            TaskState::Pending,
            0,
            AttemptState::Unknown,
            about(AttemptEvent::Started)
        ),
        [Effect::StopAttempt]
    );
    assert_eq!(
        effects(
            TaskState::Pending,
            0,
            AttemptState::Lost,
            about(AttemptEvent::Started)
        ),
        [Effect::StopAttempt]
    );
    assert_eq!(
        effects(
            TaskState::Pending,
            0,
            AttemptState::Lost,
            about(AttemptEvent::Succeeded)
        ),
        []
    );
}

#[test]
fn the_worker_has_the_last_word_about_a_lost_attempt() {
    let event = |event| Event::Attempt {
        dispatch: dispatch(1),
        attempt: attempt(1),
        event,
    };
    let words = [
        (AttemptEvent::Succeeded, AttemptState::Succeeded),
        (AttemptEvent::Failed, AttemptState::Failed),
        (AttemptEvent::Released, AttemptState::Released),
    ];
    for (word, state) in words {
        let after_lost = transition(TaskState::Pending, 1, AttemptState::Lost, event(word));
        let expected = Decision::Stale {
            attempt: Some(state),
            effects: vec![],
        };
        assert_eq!(after_lost, expected);
        let lost_after = transition(TaskState::Pending, 1, state, event(AttemptEvent::Lost));
        assert_eq!(lost_after, Decision::Duplicate);
    }
}

/// What one worker can say about one attempt: a way through its life, each event at least once.
fn histories() -> impl Strategy<Value = Vec<AttemptEvent>> {
    use AttemptEvent::{Accepted, Exited, Failed, Released, Started, Succeeded};
    let ways = vec![
        vec![Accepted, Started, Exited, Succeeded],
        vec![Accepted, Started, Exited, Failed],
        vec![Started, Succeeded],
        vec![Started, Failed],
        vec![Accepted, Failed],
        vec![Accepted, Released],
        // The start was announced, its confirm never came, so the worker did not run it (D7).
        vec![Accepted, Started, Released],
    ];
    prop::sample::select(ways).prop_flat_map(|way| {
        let repeats = prop::collection::vec(prop::sample::select(way.clone()), 0..8);
        repeats.prop_flat_map(move |repeats| {
            let mut all = way.clone();
            all.extend(repeats);
            Just(all).prop_shuffle()
        })
    })
}

/// Applies events as the server stores their decisions.
fn apply(events: &[AttemptEvent], mut retries: u16) -> (TaskState, AttemptState, u16, Vec<Effect>) {
    let (d, a) = (dispatch(1), attempt(1));
    let mut task = TaskState::Assigned { dispatch: d };
    let mut stands = AttemptState::Unknown;
    let mut all = Vec::new();
    for event in events {
        match transition(
            task,
            retries,
            stands,
            Event::Attempt {
                dispatch: d,
                attempt: a,
                event: *event,
            },
        ) {
            Decision::Changed {
                task: next,
                attempt,
                effects,
            } => {
                task = next;
                stands = attempt.unwrap_or(stands);
                retries -= u16::from(effects.contains(&Effect::UseRetry));
                all.extend(effects);
            }
            Decision::Stale { attempt, effects } => {
                stands = attempt.unwrap_or(stands);
                all.extend(effects);
            }
            Decision::Duplicate => {}
            Decision::Refused(why) => panic!("refused: {why}"),
        }
    }
    all.sort_unstable();
    (task, stands, retries, all)
}

proptest! {
    #[test]
    fn any_order_and_repetition_ends_the_same(history in histories(), retries in 0u16..3) {
        let mut in_order = history.clone();
        in_order.sort_by_key(|event| AttemptEvent::ALL.iter().position(|e| e == event));
        in_order.dedup();
        prop_assert_eq!(apply(&history, retries), apply(&in_order, retries));
    }
}
