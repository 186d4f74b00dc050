use scitq_shared::definition::TaskDefinition;
use scitq_shared::ids::{DispatchId, Revision, TaskId};
use scitq_shared::names::BatchName;
use scitq_shared::transition::TaskState;

use super::LoadedTask;

/// What a task is to be from its next revision on (D8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRevision {
    /// The task.
    pub task: TaskId,
    /// Its batch from now on.
    pub batch: BatchName,
    /// Its priority from now on.
    pub priority: i32,
    /// What is to be run. Its `revision` is the one that the change was made from; the new one is the next.
    pub definition: TaskDefinition,
}

/// What became of the change of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revised {
    /// It is changed.
    Changed {
        /// Its new revision.
        revision: Revision,
        /// The dispatch of an earlier revision that is still out: the change stands unless that starts.
        unconfirmed: Option<DispatchId>,
    },
    /// It has started, and is not changed.
    Started,
    /// It is over, and is not changed.
    Over,
    /// It was changed meanwhile, or is in another batch, and is not changed now.
    Outdated {
        /// Its revision.
        revision: Revision,
    },
    /// There is no such task (any more).
    Unknown,
}

/// Decides whether a task of a batch may be changed, and what that comes to. Pure. The caller has taken back what was
/// dispatched, as far as it could be, and nothing is dispatched meanwhile.
pub fn revise(task: Option<&LoadedTask>, batch: &BatchName, wanted: &NewRevision) -> Revised {
    let Some(task) = task else {
        return Revised::Unknown;
    };
    let Revision(revision) = task.revision;
    if task.revision != wanted.definition.revision || task.batch != *batch {
        return Revised::Outdated {
            revision: task.revision,
        };
    }
    match task.state {
        TaskState::Running { .. } => Revised::Started,
        TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled => Revised::Over,
        TaskState::Waiting { .. }
        | TaskState::Pending
        | TaskState::Assigned { .. }
        | TaskState::Accepted { .. }
        | TaskState::Paused
        | TaskState::Debug => Revised::Changed {
            revision: Revision(revision + 1),
            unconfirmed: task.state.dispatch(),
        },
    }
}

#[cfg(test)]
mod tests {
    use scitq_shared::ids::AttemptId;

    use super::*;

    #[test]
    fn only_what_has_not_started_is_changed() {
        let batch = BatchName::new("b").unwrap();
        let dispatch = DispatchId(uuid::Uuid::from_u128(1));
        let attempt = AttemptId(uuid::Uuid::from_u128(2));
        let wanted = NewRevision {
            task: TaskId(1),
            batch: BatchName::new("other").unwrap(),
            priority: 0,
            definition: TaskDefinition {
                revision: Revision(3),
                ..TaskDefinition::bare("true")
            },
        };
        let changed = |unconfirmed| Revised::Changed {
            revision: Revision(4),
            unconfirmed,
        };
        let running = |uploading| TaskState::Running {
            dispatch,
            attempt,
            uploading,
        };
        let table = [
            (TaskState::Waiting { missing: 1 }, changed(None)),
            (TaskState::Pending, changed(None)),
            (TaskState::Assigned { dispatch }, changed(Some(dispatch))),
            (
                TaskState::Accepted { dispatch, attempt },
                changed(Some(dispatch)),
            ),
            (running(false), Revised::Started),
            (running(true), Revised::Started),
            (TaskState::Succeeded, Revised::Over),
            (TaskState::Failed, Revised::Over),
            (TaskState::Cancelled, Revised::Over),
            (TaskState::Paused, changed(None)),
            (TaskState::Debug, changed(None)),
        ];
        let task = |state| LoadedTask {
            id: TaskId(1),
            batch: batch.clone(),
            state,
            retries_left: 0,
            revision: Revision(3),
            execution: None,
        };
        for (state, expected) in table {
            assert_eq!(revise(Some(&task(state)), &batch, &wanted), expected);
        }
        assert_eq!(revise(None, &batch, &wanted), Revised::Unknown);
        let pending = task(TaskState::Pending);
        let outdated = Revised::Outdated {
            revision: Revision(3),
        };
        assert_eq!(revise(Some(&pending), &wanted.batch, &wanted), outdated);
        let mut later = wanted.clone();
        later.definition.revision = Revision(2);
        assert_eq!(revise(Some(&pending), &batch, &later), outdated);
    }
}
