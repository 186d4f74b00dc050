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
        may_be_taken: false,
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
        ("hindered", 0, about(AttemptEvent::Hindered)),
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

/// The task's states as a lost attempt may find them when it comes back, with a newer dispatch and attempt where it has
/// them.
fn states_after_a_loss() -> Vec<(&'static str, TaskState)> {
    let newer = |state| match state {
        TaskState::Assigned { .. } => TaskState::Assigned {
            dispatch: dispatch(2),
        },
        TaskState::Accepted { .. } => TaskState::Accepted {
            dispatch: dispatch(2),
            attempt: attempt(2),
        },
        TaskState::Running { uploading, .. } => TaskState::Running {
            dispatch: dispatch(2),
            attempt: attempt(2),
            uploading,
        },
        other => other,
    };
    let states = task_states().into_iter();
    states.map(|(name, state)| (name, newer(state))).collect()
}

/// What the worker of a lost attempt may say.
fn returns() -> Vec<(&'static str, u16, AttemptEvent)> {
    vec![
        ("accepted", 0, AttemptEvent::Accepted),
        ("started", 0, AttemptEvent::Started),
        ("exited", 0, AttemptEvent::Exited),
        ("succeeded", 0, AttemptEvent::Succeeded),
        ("failed, retries left", 1, AttemptEvent::Failed),
        ("failed", 0, AttemptEvent::Failed),
        ("hindered", 0, AttemptEvent::Hindered),
        ("released", 0, AttemptEvent::Released),
    ]
}

fn comes_back(task: TaskState, retries: u16, event: AttemptEvent, may_be_taken: bool) -> Decision {
    let event = Event::Attempt {
        dispatch: dispatch(1),
        attempt: attempt(1),
        event,
        may_be_taken,
    };
    transition(task, retries, AttemptState::Lost, event)
}

fn return_cell(decision: &Decision) -> String {
    match decision {
        Decision::Changed { task, .. } => match task {
            TaskState::Running {
                uploading: true, ..
            } => "**uploading**".to_owned(),
            other => format!("**{}**", other.status()),
        },
        Decision::Stale { effects, .. } if effects.contains(&Effect::StopAttempt) => {
            "stop".to_owned()
        }
        Decision::Stale { .. } => "history".to_owned(),
        other => other.to_string(),
    }
}

/// The second table of `docs/STATE_MACHINE.md`.
fn return_table() -> String {
    let mut text = String::from("| task is by then |");
    for (name, _, _) in returns() {
        let _ = write!(text, " {name} |");
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(returns().len()));
    for (name, state) in states_after_a_loss() {
        let _ = write!(text, "\n| {name} |");
        for (_, retries, event) in returns() {
            let cell = return_cell(&comes_back(state, retries, event, true));
            let _ = write!(text, " {cell} |");
        }
    }
    text.push('\n');
    text
}

#[test]
fn a_lost_attempt_is_taken_back_unless_something_newer_has_started() {
    let stay = "stop stop duplicate history history history history history";
    for (name, state) in states_after_a_loss() {
        let cells = |may_be_taken| -> Vec<String> {
            let returns = returns().into_iter();
            returns
                .map(|(_, retries, event)| {
                    return_cell(&comes_back(state, retries, event, may_be_taken))
                })
                .collect()
        };
        let expected = match name {
            "assigned" => {
                "stop **running** **uploading** **succeeded** **assigned** **failed** history history"
            }
            "accepted" => {
                "stop **running** **uploading** **succeeded** **accepted** **failed** history history"
            }
            "pending" => {
                "**accepted** **running** **uploading** **succeeded** **pending** **failed** history history"
            }
            _ => stay,
        };
        assert_eq!(cells(true).join(" "), expected, "{name}");
        assert_eq!(cells(false).join(" "), stay, "{name}, changed since");
    }
}

#[test]
fn what_is_taken_back_revokes_what_is_newer() {
    let newer = dispatch(2);
    let (d, a) = (dispatch(1), attempt(1));
    let running = TaskState::Running {
        dispatch: d,
        attempt: a,
        uploading: false,
    };
    let table = [
        (TaskState::Pending, AttemptEvent::Started, running, vec![]),
        (
            TaskState::Assigned { dispatch: newer },
            AttemptEvent::Started,
            running,
            vec![Effect::RoomInWindow, Effect::RevokeDispatch(newer)],
        ),
        (
            TaskState::Accepted {
                dispatch: newer,
                attempt: attempt(2),
            },
            AttemptEvent::Succeeded,
            TaskState::Succeeded,
            vec![
                Effect::MeetRequirements,
                Effect::TaskOver,
                Effect::RevokeDispatch(newer),
            ],
        ),
        (
            // The newer one is the repetition.
            TaskState::Assigned { dispatch: newer },
            AttemptEvent::Failed,
            TaskState::Assigned { dispatch: newer },
            vec![Effect::UseRetry],
        ),
    ];
    for (from, event, to, effects) in table {
        let Decision::Changed {
            task,
            attempt,
            effects: found,
        } = comes_back(from, 1, event, true)
        else {
            panic!("{from:?} {event:?}")
        };
        assert_eq!((task, found), (to, effects), "{from:?} {event:?}");
        assert_eq!(attempt, Some(event.state()));
    }
}

#[test]
fn only_who_may_be_taken_is_adopted() {
    let about = |event, may_be_taken| Event::Attempt {
        dispatch: dispatch(1),
        attempt: attempt(1),
        event,
        may_be_taken,
    };
    for (name, state) in states_after_a_loss() {
        for event in AttemptEvent::ALL {
            let never = transition(state, 1, AttemptState::Unknown, about(event, false));
            assert!(matches!(never, Decision::Stale { .. }), "{name} {event:?}");
            let adopted = transition(state, 1, AttemptState::Unknown, about(event, true));
            let worth_it = match event {
                AttemptEvent::Hindered | AttemptEvent::Released | AttemptEvent::Lost => false,
                AttemptEvent::Accepted => name == "pending",
                _ => true,
            };
            let free = ["pending", "assigned", "accepted"].contains(&name);
            let changed = matches!(adopted, Decision::Changed { .. });
            assert_eq!(changed, worth_it && free, "{name} {event:?}: {adopted:?}");
        }
    }
}

#[test]
fn the_document_shows_what_the_code_does() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/STATE_MACHINE.md");
    let document = std::fs::read_to_string(path).unwrap();
    let (table, diagram, returns) = (table(), diagram(), return_table());
    assert!(
        document.contains(&returns),
        "docs/STATE_MACHINE.md must contain this table:\n\n{returns}"
    );
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
        ("waiting (1)", "P x s s s s s s s s s s"),
        ("waiting (2)", "W x s s s s s s s s s s"),
        ("pending", "- A s s s s s s s s s s"),
        ("assigned", "- - P C R U S P F P P P"),
        ("accepted", "- - P - R U S P F P P P"),
        ("running", "- - s - - U S P F P P P"),
        ("uploading", "- - s - - - S P F P P P"),
        ("succeeded", "- x s s s s s s s s s s"),
        ("failed", "- x s s s s s s s s s s"),
        ("cancelled", "- x s s s s s s s s s s"),
        ("paused", "- x s s s s s s s s s s"),
        ("debug", "- x s s s s s s s s s s"),
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
                            may_be_taken: false,
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
        may_be_taken: false,
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
        may_be_taken: false,
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
    use AttemptEvent::{Accepted, Exited, Failed, Hindered, Released, Started, Succeeded};
    let ways = vec![
        vec![Accepted, Started, Exited, Succeeded],
        vec![Accepted, Started, Exited, Failed],
        vec![Started, Succeeded],
        vec![Started, Failed],
        vec![Accepted, Failed],
        vec![Accepted, Hindered],
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

/// What happens, as a property test lets it happen.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// To attempt 1 of dispatch 1.
    Attempt(AttemptEvent),
    /// The task is dispatched anew, if it is pending.
    Dispatch,
}

/// Where all stand after events, stored as the server stores their decisions.
#[derive(Debug, PartialEq)]
struct Outcome {
    task: TaskState,
    attempt: AttemptState,
    retries: u16,
    effects: Vec<Effect>,
}

fn apply(steps: impl IntoIterator<Item = Step>, mut retries: u16) -> Outcome {
    let (d, a) = (dispatch(1), attempt(1));
    let mut task = TaskState::Assigned { dispatch: d };
    let mut stands = AttemptState::Unknown;
    let mut all = Vec::new();
    for step in steps {
        let event = match step {
            Step::Attempt(event) => Event::Attempt {
                dispatch: d,
                attempt: a,
                event,
                may_be_taken: stands == AttemptState::Lost,
            },
            Step::Dispatch if task == TaskState::Pending => Event::Dispatched {
                dispatch: dispatch(2),
            },
            Step::Dispatch => continue,
        };
        match transition(task, retries, stands, event) {
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
    Outcome {
        task,
        attempt: stands,
        retries,
        effects: all,
    }
}

fn in_order(history: &[AttemptEvent]) -> Vec<Step> {
    let mut events = history.to_vec();
    events.sort_by_key(|event| AttemptEvent::ALL.iter().position(|e| e == event));
    events.dedup();
    events.into_iter().map(Step::Attempt).collect()
}

proptest! {
    #[test]
    fn any_order_and_repetition_ends_the_same(history in histories(), retries in 0u16..3) {
        let steps = history.iter().copied().map(Step::Attempt);
        prop_assert_eq!(apply(steps, retries), apply(in_order(&history), retries));
    }

    /// An attempt may be declared lost at any moment, and its task be dispatched anew at any moment then: as long as nothing
    /// newer starts, it ends where it would have ended without.
    #[test]
    fn a_loss_that_is_taken_back_leaves_no_trace(
        history in histories(),
        retries in 0u16..3,
        losses in prop::collection::vec(any::<prop::sample::Index>(), 1..3),
        dispatches in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
    ) {
        let mut steps: Vec<Step> = history.iter().copied().map(Step::Attempt).collect();
        for place in losses {
            steps.insert(place.index(steps.len() + 1), Step::Attempt(AttemptEvent::Lost));
        }
        for place in dispatches {
            steps.insert(place.index(steps.len() + 1), Step::Dispatch);
        }
        let expected = apply(in_order(&history), retries);
        let mut found = apply(steps, retries);
        if found.task == (TaskState::Assigned { dispatch: dispatch(2) }) {
            found.task = TaskState::Pending;
        }
        prop_assert_eq!(
            (found.task, found.attempt, found.retries),
            (expected.task, expected.attempt, expected.retries)
        );
    }

    /// Whatever is said of a lost attempt once something newer has started, its task is not touched.
    #[test]
    fn a_newer_start_is_never_touched(history in histories(), retries in 0u16..3) {
        let task = TaskState::Running { dispatch: dispatch(2), attempt: attempt(2), uploading: false };
        let mut stands = AttemptState::Lost;
        for event in history {
            let event = Event::Attempt { dispatch: dispatch(1), attempt: attempt(1), event, may_be_taken: true };
            match transition(task, retries, stands, event) {
                Decision::Stale { attempt, .. } => stands = attempt.unwrap_or(stands),
                Decision::Duplicate => {}
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
