//! A task's state as columns, and back.

use scitq_shared::task::TaskStatus;
use scitq_shared::transition::{AttemptState, TaskState};

use super::DbError;
use super::value::parse;

/// Reads a task's state from its columns.
pub(super) fn read(
    status: &str,
    uploading: bool,
    missing: i32,
    dispatch: Option<&str>,
    attempt: Option<&str>,
) -> Result<TaskState, DbError> {
    let lacking = |column: &str| DbError::Corrupt {
        reason: format!("task.{column} is empty in status {status}"),
    };
    let dispatch = || {
        parse(
            "task.dispatch_id",
            dispatch.ok_or_else(|| lacking("dispatch_id"))?,
        )
    };
    let attempt = || {
        parse(
            "task.attempt_id",
            attempt.ok_or_else(|| lacking("attempt_id"))?,
        )
    };
    Ok(match parse("task.status", status)? {
        TaskStatus::Waiting => TaskState::Waiting {
            missing: u32::try_from(missing).unwrap_or(0),
        },
        TaskStatus::Pending => TaskState::Pending,
        TaskStatus::Assigned => TaskState::Assigned {
            dispatch: dispatch()?,
        },
        TaskStatus::Accepted => TaskState::Accepted {
            dispatch: dispatch()?,
            attempt: attempt()?,
        },
        TaskStatus::Running => TaskState::Running {
            dispatch: dispatch()?,
            attempt: attempt()?,
            uploading,
        },
        TaskStatus::Succeeded => TaskState::Succeeded,
        TaskStatus::Failed => TaskState::Failed,
        TaskStatus::Cancelled => TaskState::Cancelled,
        TaskStatus::Paused => TaskState::Paused,
        TaskStatus::Debug => TaskState::Debug,
    })
}

/// Requirements not yet met, as its column.
pub(super) fn missing(state: TaskState) -> i32 {
    match state {
        TaskState::Waiting { missing } => i32::try_from(missing).unwrap_or(i32::MAX),
        _ => 0,
    }
}

/// True while the process has ended and the output is being stored.
pub(super) fn is_uploading(state: TaskState) -> bool {
    matches!(
        state,
        TaskState::Running {
            uploading: true,
            ..
        }
    )
}

/// The word for an attempt's state in its column.
pub(super) fn attempt_word(state: AttemptState) -> &'static str {
    match state {
        AttemptState::Unknown => "unknown",
        AttemptState::Accepted => "accepted",
        AttemptState::Running => "running",
        AttemptState::Uploading => "uploading",
        AttemptState::Succeeded => "succeeded",
        AttemptState::Failed => "failed",
        AttemptState::Released => "released",
        AttemptState::Lost => "lost",
        AttemptState::Cancelled => "cancelled",
    }
}

/// Reads an attempt's state from its column.
pub(super) fn attempt_state(word: &str) -> Result<AttemptState, DbError> {
    AttemptState::ALL
        .into_iter()
        .find(|state| *state != AttemptState::Unknown && attempt_word(*state) == word)
        .ok_or_else(|| DbError::Corrupt {
            reason: format!("execution.state is {word:?}"),
        })
}

#[cfg(test)]
mod tests {
    use scitq_shared::ids::{AttemptId, DispatchId};

    use super::*;

    #[test]
    fn every_state_comes_back() {
        let (dispatch, attempt) = (DispatchId::generate(), AttemptId::generate());
        let states = [
            TaskState::Waiting { missing: 3 },
            TaskState::Pending,
            TaskState::Assigned { dispatch },
            TaskState::Accepted { dispatch, attempt },
            TaskState::Running {
                dispatch,
                attempt,
                uploading: false,
            },
            TaskState::Running {
                dispatch,
                attempt,
                uploading: true,
            },
            TaskState::Succeeded,
            TaskState::Failed,
            TaskState::Cancelled,
            TaskState::Paused,
            TaskState::Debug,
        ];
        for state in states {
            let columns = (
                state.dispatch().map(|id| id.to_string()),
                state.attempt().map(|id| id.to_string()),
            );
            let back = read(
                state.status().as_str(),
                is_uploading(state),
                missing(state),
                columns.0.as_deref(),
                columns.1.as_deref(),
            );
            assert_eq!(back, Ok(state));
        }
        for state in AttemptState::ALL
            .into_iter()
            .filter(|state| *state != AttemptState::Unknown)
        {
            assert_eq!(attempt_state(attempt_word(state)), Ok(state));
        }
        assert!(matches!(
            read("assigned", false, 0, None, None),
            Err(DbError::Corrupt { .. })
        ));
        assert!(matches!(
            read("asigned", false, 0, None, None),
            Err(DbError::Corrupt { .. })
        ));
        assert!(matches!(
            attempt_state("unknown"),
            Err(DbError::Corrupt { .. })
        ));
    }
}
