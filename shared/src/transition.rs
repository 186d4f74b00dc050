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
        /// True when the task may take the attempt although it does not count at present, because what it runs is what
        /// the task would run: a lost one that comes back (D7), or one that the database has never heard of because it
        /// was restored (D12). Whoever knows the revisions decides it.
        may_be_taken: bool,
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
    /// Over with a failure of the command's own.
    Failed,
    /// Over with a failure that is not the command's doing: the worker could not run it (D13), or ended it because the
    /// server said so.
    Hindered,
    /// Given back without having run.
    Released,
    /// Its worker is gone or does not know it.
    Lost,
}

impl AttemptEvent {
    /// Every event, for tables.
    pub const ALL: [Self; 8] = [
        Self::Accepted,
        Self::Started,
        Self::Exited,
        Self::Succeeded,
        Self::Failed,
        Self::Hindered,
        Self::Released,
        Self::Lost,
    ];

    fn state(self) -> AttemptState {
        match self {
            Self::Accepted => AttemptState::Accepted,
            Self::Started => AttemptState::Running,
            Self::Exited => AttemptState::Uploading,
            Self::Succeeded => AttemptState::Succeeded,
            Self::Failed | Self::Hindered => AttemptState::Failed,
            Self::Released => AttemptState::Released,
            Self::Lost => AttemptState::Lost,
        }
    }

    /// True when the attempt goes on: it can be told to stop.
    fn is_alive(self) -> bool {
        matches!(self, Self::Accepted | Self::Started)
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
    /// This unstarted dispatch counts no more, because the task took an earlier attempt back: whoever holds it is asked to
    /// give it back. Should it start all the same, its attempt is told to stop.
    RevokeDispatch(DispatchId),
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
            may_be_taken,
        } => {
            let about = About {
                dispatch,
                id,
                event,
                may_be_taken,
            };
            attempt_event(task, retries_left, attempt, about)
        }
    }
}

/// An event of an attempt.
#[derive(Clone, Copy)]
struct About {
    dispatch: DispatchId,
    id: AttemptId,
    event: AttemptEvent,
    may_be_taken: bool,
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
    about: About,
) -> Decision {
    let next = about.event.state();
    if attempt == AttemptState::Lost {
        return comes_back(task, retries_left, about);
    }
    if rank(next) <= rank(attempt) {
        return Decision::Duplicate;
    }
    // An attempt counts when its dispatch does and no other attempt has taken that dispatch.
    let counts = task.dispatch() == Some(about.dispatch)
        && task.attempt().is_none_or(|current| current == about.id);
    if counts {
        return moves(task, retries_left, about);
    }
    if attempt == AttemptState::Unknown && can_be_taken(task, about) {
        return take(task, retries_left, about);
    }
    Decision::Stale {
        attempt: Some(next),
        effects: if about.event.is_alive() {
            vec![Effect::StopAttempt]
        } else {
            Vec::new()
        },
    }
}

/// An attempt that counts moves forward, and its task with it.
fn moves(task: TaskState, retries_left: u16, about: About) -> Decision {
    let (dispatch, attempt) = (about.dispatch, about.id);
    let next = Some(about.event.state());
    // The window holds what is dispatched and not yet accepted.
    let room: &[Effect] = if matches!(task, TaskState::Assigned { .. }) {
        &[Effect::RoomInWindow]
    } else {
        &[]
    };
    let with = |effects: &[Effect]| [room, effects].concat();
    match about.event {
        AttemptEvent::Accepted => {
            changed(TaskState::Accepted { dispatch, attempt }, next, &with(&[]))
        }
        AttemptEvent::Started | AttemptEvent::Exited => {
            let uploading = about.event == AttemptEvent::Exited;
            changed(
                TaskState::Running {
                    dispatch,
                    attempt,
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
        AttemptEvent::Hindered | AttemptEvent::Released | AttemptEvent::Lost => {
            changed(TaskState::Pending, next, &with(&[Effect::Dispatch]))
        }
    }
}

/// An attempt that was declared lost is heard of after all.
///
/// As long as nothing newer of its task has started, the task takes it back: what ran need not run again. Otherwise what it
/// says belongs in its history, and it is told to stop where it still can be.
fn comes_back(task: TaskState, retries_left: u16, about: About) -> Decision {
    match about.event {
        AttemptEvent::Lost => Decision::Duplicate,
        // Nothing to take back: its task goes on as it is.
        AttemptEvent::Released | AttemptEvent::Hindered => Decision::Stale {
            attempt: Some(about.event.state()),
            effects: Vec::new(),
        },
        _ if can_be_taken(task, about) => take(task, retries_left, about),
        AttemptEvent::Succeeded | AttemptEvent::Failed => Decision::Stale {
            attempt: Some(about.event.state()),
            effects: Vec::new(),
        },
        AttemptEvent::Accepted | AttemptEvent::Started => Decision::Stale {
            attempt: None,
            effects: vec![Effect::StopAttempt],
        },
        // Its end follows.
        AttemptEvent::Exited => Decision::Duplicate,
    }
}

/// True when a task may take an attempt that does not count: nothing of the task has started, nothing is held back, and
/// something is gained by it. An unstarted attempt gains nothing over a newer dispatch, and both might start.
fn can_be_taken(task: TaskState, about: About) -> bool {
    let worth_it = match about.event {
        AttemptEvent::Accepted => task == TaskState::Pending,
        AttemptEvent::Started
        | AttemptEvent::Exited
        | AttemptEvent::Succeeded
        | AttemptEvent::Failed => true,
        AttemptEvent::Hindered | AttemptEvent::Released | AttemptEvent::Lost => false,
    };
    let free = match task {
        TaskState::Pending => true,
        TaskState::Assigned { dispatch } | TaskState::Accepted { dispatch, .. } => {
            dispatch != about.dispatch
        }
        _ => false,
    };
    about.may_be_taken && worth_it && free
}

/// The task takes an attempt: it counts from now on, and a newer dispatch does no more.
///
/// One that has failed and is to be repeated is repeated by the newer dispatch, if there is one: a third one might run beside
/// it, for nobody knows whether the newer one can still be taken back.
fn take(task: TaskState, retries_left: u16, about: About) -> Decision {
    if about.event == AttemptEvent::Failed && retries_left > 0 && task.dispatch().is_some() {
        return changed(task, Some(AttemptState::Failed), &[Effect::UseRetry]);
    }
    let decision = moves(task, retries_left, about);
    match (task.dispatch(), decision) {
        (
            Some(newer),
            Decision::Changed {
                task,
                attempt,
                mut effects,
            },
        ) => {
            effects.push(Effect::RevokeDispatch(newer));
            Decision::Changed {
                task,
                attempt,
                effects,
            }
        }
        (_, decision) => decision,
    }
}

#[cfg(test)]
mod tests;
