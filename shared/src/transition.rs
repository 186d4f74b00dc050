//! The state machine of tasks and attempts (D11): one pure function decides every status, SQL stores its answer.
//!
//! [`transition`] is given where a task and one of its attempts stand, and an event; it answers what changes. Events of
//! one attempt may come in any order and any number of times: an attempt only ever moves forward
//! (`accepted → running → uploading → over`), so what comes late changes nothing. `docs/STATE_MACHINE.md` shows the same
//! table; a test compares the two.

use std::fmt;

use crate::execution::ExecutionStatus;
use crate::ids::{AttemptId, DispatchId};
use crate::task::TaskStatus;

/// Where a task stands, with exactly the data of that state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TaskState {
    /// Waits for tasks to succeed.
    Waiting {
        /// How many requirements are not yet met, at least 1.
        missing: u32,
    },
    /// Ready to be dispatched.
    Pending,
    /// Published to its batch's queue.
    Assigned {
        /// The one dispatch that counts.
        dispatch: DispatchId,
    },
    /// Held by a worker, not started.
    Accepted {
        /// The one dispatch that counts.
        dispatch: DispatchId,
        /// The attempt that accepted it.
        attempt: AttemptId,
    },
    /// Started.
    Running {
        /// The one dispatch that counts.
        dispatch: DispatchId,
        /// The attempt that runs.
        attempt: AttemptId,
        /// True when the process has ended and its output is being stored.
        uploading: bool,
    },
    /// Done.
    Succeeded,
    /// Given up after its last retry.
    Failed,
    /// Given up by a person.
    Cancelled,
    /// Held by a person.
    Paused,
    /// Held for debugging.
    Debug,
}

impl TaskState {
    /// The status that people see.
    pub fn status(self) -> TaskStatus {
        match self {
            Self::Waiting { .. } => TaskStatus::Waiting,
            Self::Pending => TaskStatus::Pending,
            Self::Assigned { .. } => TaskStatus::Assigned,
            Self::Accepted { .. } => TaskStatus::Accepted,
            Self::Running { .. } => TaskStatus::Running,
            Self::Succeeded => TaskStatus::Succeeded,
            Self::Failed => TaskStatus::Failed,
            Self::Cancelled => TaskStatus::Cancelled,
            Self::Paused => TaskStatus::Paused,
            Self::Debug => TaskStatus::Debug,
        }
    }

    /// The state of a new task with this many unmet requirements.
    pub fn submitted(missing: u32) -> Self {
        if missing == 0 {
            Self::Pending
        } else {
            Self::Waiting { missing }
        }
    }

    /// The dispatch that counts, while there is one.
    pub fn dispatch(self) -> Option<DispatchId> {
        match self {
            Self::Assigned { dispatch }
            | Self::Accepted { dispatch, .. }
            | Self::Running { dispatch, .. } => Some(dispatch),
            _ => None,
        }
    }

    /// The attempt that counts, while there is one.
    pub fn attempt(self) -> Option<AttemptId> {
        match self {
            Self::Accepted { attempt, .. } | Self::Running { attempt, .. } => Some(attempt),
            _ => None,
        }
    }
}

/// Where an attempt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttemptState {
    /// The server has not heard of it.
    Unknown,
    /// Held by its worker.
    Accepted,
    /// Its process runs.
    Running,
    /// Its process has ended, its output is being stored.
    Uploading,
    /// Over: exit code 0.
    Succeeded,
    /// Over: anything else.
    Failed,
    /// Over: given back without having run.
    Released,
    /// Over: its worker is gone or does not know it.
    Lost,
    /// Over: ended by a person.
    Cancelled,
}

impl AttemptState {
    /// Every state, for tables.
    pub const ALL: [Self; 9] = [
        Self::Unknown,
        Self::Accepted,
        Self::Running,
        Self::Uploading,
        Self::Succeeded,
        Self::Failed,
        Self::Released,
        Self::Lost,
        Self::Cancelled,
    ];

    /// The status that people see; none for an attempt that has no execution yet.
    pub fn status(self) -> Option<ExecutionStatus> {
        Some(match self {
            Self::Unknown => return None,
            Self::Accepted => ExecutionStatus::Accepted,
            Self::Running | Self::Uploading => ExecutionStatus::Running,
            Self::Succeeded => ExecutionStatus::Succeeded,
            Self::Failed => ExecutionStatus::Failed,
            Self::Released => ExecutionStatus::Released,
            Self::Lost => ExecutionStatus::Lost,
            Self::Cancelled => ExecutionStatus::Cancelled,
        })
    }

    /// True when the attempt is over.
    pub fn is_over(self) -> bool {
        !matches!(
            self,
            Self::Unknown | Self::Accepted | Self::Running | Self::Uploading
        )
    }
}

/// What can happen to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// One more of its requirements succeeded, for the first time.
    RequirementMet,
    /// The leader commits a dispatch, before publishing it (D3).
    Dispatched {
        /// The new dispatch.
        dispatch: DispatchId,
    },
    /// The dispatch came back unstarted: withdrawn, returned (D6) or missing (D12).
    DispatchReturned {
        /// The dispatch that came back.
        dispatch: DispatchId,
    },
    /// Something happened to an attempt.
    Attempt {
        /// The dispatch that the attempt accepted.
        dispatch: DispatchId,
        /// The attempt.
        attempt: AttemptId,
        /// What happened.
        event: AttemptEvent,
    },
}

/// What can happen to an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttemptEvent {
    /// A worker holds it.
    Accepted,
    /// Its process is executed.
    Started,
    /// Its process ended, its output is being stored.
    Exited,
    /// Over with exit code 0.
    Succeeded,
    /// Over with a failure.
    Failed,
    /// Given back without having run.
    Released,
    /// Its worker is gone or does not know it.
    Lost,
}

impl AttemptEvent {
    /// Every event, for tables.
    pub const ALL: [Self; 7] = [
        Self::Accepted,
        Self::Started,
        Self::Exited,
        Self::Succeeded,
        Self::Failed,
        Self::Released,
        Self::Lost,
    ];

    fn state(self) -> AttemptState {
        match self {
            Self::Accepted => AttemptState::Accepted,
            Self::Started => AttemptState::Running,
            Self::Exited => AttemptState::Uploading,
            Self::Succeeded => AttemptState::Succeeded,
            Self::Failed => AttemptState::Failed,
            Self::Released => AttemptState::Released,
            Self::Lost => AttemptState::Lost,
        }
    }
}

/// What the storing side has to do besides writing the new states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// The task became pending: its batch has something to dispatch.
    Dispatch,
    /// The task left the dispatch window: there may be room for another (D3).
    RoomInWindow,
    /// One retry is used up.
    UseRetry,
    /// The task succeeded: tell those that wait for it. Counts once per edge, however often it succeeds.
    MeetRequirements,
    /// The task reached a final status.
    TaskOver,
    /// The attempt counts no more but may still be alive: its worker is told to give it up.
    StopAttempt,
}

/// The answer of [`transition`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Write these.
    Changed {
        /// The task's new state.
        task: TaskState,
        /// The attempt's new state, where the event is about one.
        attempt: Option<AttemptState>,
        /// What else is to be done, in this order.
        effects: Vec<Effect>,
    },
    /// Known already: nothing to write.
    Duplicate,
    /// The event concerns a dispatch or attempt that counts no more. What it says about the attempt belongs in the
    /// history; the task is not touched.
    Stale {
        /// The attempt's new state, where it changes.
        attempt: Option<AttemptState>,
        /// What else is to be done.
        effects: Vec<Effect>,
    },
    /// The event makes no sense here; the text says why.
    Refused(&'static str),
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { task, .. } => write!(f, "{}", task.status()),
            Self::Duplicate => f.write_str("duplicate"),
            Self::Stale { .. } => f.write_str("stale"),
            Self::Refused(_) => f.write_str("refused"),
        }
    }
}

/// Decides what an event changes.
///
/// `retries_left` is what the task has left before this event; `attempt` is where the event's attempt stands
/// ([`AttemptState::Unknown`] for events about none).
pub fn transition(
    task: TaskState,
    retries_left: u16,
    attempt: AttemptState,
    event: Event,
) -> Decision {
    match event {
        Event::RequirementMet => requirement_met(task),
        Event::Dispatched { dispatch } => match task {
            TaskState::Pending => changed(TaskState::Assigned { dispatch }, None, &[]),
            _ if task.dispatch() == Some(dispatch) => Decision::Duplicate,
            _ => Decision::Refused("only a pending task can be dispatched"),
        },
        Event::DispatchReturned { dispatch } => match task {
            TaskState::Assigned { dispatch: current }
            | TaskState::Accepted {
                dispatch: current, ..
            } if current == dispatch => {
                // An attempt that had accepted this dispatch lost its channel with it: its own `released` follows, and
                // finds that the task has moved on.
                changed(
                    TaskState::Pending,
                    None,
                    &[Effect::RoomInWindow, Effect::Dispatch],
                )
            }
            _ => Decision::Stale {
                attempt: None,
                effects: Vec::new(),
            },
        },
        Event::Attempt {
            dispatch,
            attempt: id,
            event,
        } => attempt_event(task, retries_left, attempt, dispatch, id, event),
    }
}

fn changed(task: TaskState, attempt: Option<AttemptState>, effects: &[Effect]) -> Decision {
    Decision::Changed {
        task,
        attempt,
        effects: effects.to_vec(),
    }
}

fn requirement_met(task: TaskState) -> Decision {
    match task {
        TaskState::Waiting { missing: 0 | 1 } => {
            changed(TaskState::Pending, None, &[Effect::Dispatch])
        }
        TaskState::Waiting { missing } => changed(
            TaskState::Waiting {
                missing: missing - 1,
            },
            None,
            &[],
        ),
        _ => Decision::Duplicate,
    }
}

/// How far a state is on an attempt's way; an event moves an attempt only forward.
fn rank(state: AttemptState) -> u8 {
    match state {
        AttemptState::Unknown => 0,
        AttemptState::Accepted => 1,
        AttemptState::Running => 2,
        AttemptState::Uploading => 3,
        _ => 4,
    }
}

fn attempt_event(
    task: TaskState,
    retries_left: u16,
    attempt: AttemptState,
    dispatch: DispatchId,
    id: AttemptId,
    event: AttemptEvent,
) -> Decision {
    let next = event.state();
    if rank(next) <= rank(attempt) {
        return late(attempt, next);
    }
    let next = Some(next);
    // An attempt counts when its dispatch does and no other attempt has taken that dispatch.
    let counts =
        task.dispatch() == Some(dispatch) && task.attempt().is_none_or(|current| current == id);
    if !counts {
        let alive = matches!(event, AttemptEvent::Accepted | AttemptEvent::Started);
        let effects = if alive {
            vec![Effect::StopAttempt]
        } else {
            Vec::new()
        };
        return Decision::Stale {
            attempt: next,
            effects,
        };
    }
    // The window holds what is dispatched and not yet accepted.
    let room: &[Effect] = if matches!(task, TaskState::Assigned { .. }) {
        &[Effect::RoomInWindow]
    } else {
        &[]
    };
    let with = |effects: &[Effect]| [room, effects].concat();
    match event {
        AttemptEvent::Accepted => changed(
            TaskState::Accepted {
                dispatch,
                attempt: id,
            },
            next,
            &with(&[]),
        ),
        AttemptEvent::Started | AttemptEvent::Exited => {
            let uploading = event == AttemptEvent::Exited;
            changed(
                TaskState::Running {
                    dispatch,
                    attempt: id,
                    uploading,
                },
                next,
                &with(&[]),
            )
        }
        AttemptEvent::Succeeded => changed(
            TaskState::Succeeded,
            next,
            &with(&[Effect::MeetRequirements, Effect::TaskOver]),
        ),
        AttemptEvent::Failed if retries_left > 0 => changed(
            TaskState::Pending,
            next,
            &with(&[Effect::UseRetry, Effect::Dispatch]),
        ),
        AttemptEvent::Failed => changed(TaskState::Failed, next, &with(&[Effect::TaskOver])),
        // What was not the command's own doing costs no retry.
        AttemptEvent::Released | AttemptEvent::Lost => {
            changed(TaskState::Pending, next, &with(&[Effect::Dispatch]))
        }
    }
}

/// An event that does not move its attempt forward: normally a repetition.
fn late(attempt: AttemptState, next: AttemptState) -> Decision {
    match (attempt, next) {
        // It was declared lost and its worker has the last word after all (a heartbeat may overtake it): that belongs in
        // its history, its task has gone on.
        (
            AttemptState::Lost,
            AttemptState::Succeeded | AttemptState::Failed | AttemptState::Released,
        ) => Decision::Stale {
            attempt: Some(next),
            effects: Vec::new(),
        },
        (AttemptState::Lost, AttemptState::Accepted | AttemptState::Running) => Decision::Stale {
            attempt: None,
            effects: vec![Effect::StopAttempt],
        },
        _ => Decision::Duplicate,
    }
}

#[cfg(test)]
mod tests;
