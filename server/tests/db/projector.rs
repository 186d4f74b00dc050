//! A projection as the server makes it: events through the state machine.

use std::collections::{BTreeMap, BTreeSet};

use scitq_server::db::{
    AttemptChange, Database, DbError, Loaded, Needs, NewChunk, Projected, Projection, TaskChange,
};
use scitq_shared::execution::{Exit, FailureReason, MemorySource, Outcome, Usage};
use scitq_shared::ids::{AttemptId, Epoch, IncarnationId};
use scitq_shared::names::WorkerName;
use scitq_shared::output::StreamEnd;
use scitq_shared::protocol::{AttemptReport, TaskMessage};
use scitq_shared::transition::{AttemptEvent, AttemptState, Decision, Effect, Event, transition};

/// An attempt as its worker sees it.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub id: AttemptId,
    pub message: TaskMessage,
    pub worker: WorkerName,
    pub incarnation: IncarnationId,
    pub stdout: StreamEnd,
    pub stderr: StreamEnd,
}

impl Attempt {
    pub fn of(message: &TaskMessage) -> Self {
        Self {
            id: AttemptId::generate(),
            message: message.clone(),
            worker: WorkerName::new("w1").unwrap(),
            incarnation: IncarnationId(uuid::Uuid::nil()),
            stdout: StreamEnd::default(),
            stderr: StreamEnd::default(),
        }
    }

    pub fn event(&self, event: AttemptEvent) -> (Self, AttemptEvent) {
        (self.clone(), event)
    }

    pub fn report(&self, event: AttemptEvent) -> AttemptReport {
        let accepted_at = self.message.queued_at + chrono::TimeDelta::milliseconds(5);
        let started = !matches!(
            event,
            AttemptEvent::Accepted | AttemptEvent::Released | AttemptEvent::Lost
        );
        let exited = matches!(
            event,
            AttemptEvent::Exited | AttemptEvent::Succeeded | AttemptEvent::Failed
        );
        let over = matches!(event, AttemptEvent::Succeeded | AttemptEvent::Failed);
        let code = i32::from(event == AttemptEvent::Failed);
        let usage = Usage {
            user_cpu_ms: 12,
            system_cpu_ms: 3,
            peak_memory_bytes: 4_096_000,
            memory_source: MemorySource::LargestProcess,
        };
        AttemptReport {
            attempt: self.id,
            dispatch: self.message.dispatch,
            dispatch_epoch: self.message.epoch,
            task: self.message.task,
            batch: self.message.batch.clone(),
            revision: self.message.definition.revision,
            queued_at: self.message.queued_at,
            accepted_at,
            started_at: started.then(|| accepted_at + chrono::TimeDelta::milliseconds(1)),
            ended_at: exited.then(|| accepted_at + chrono::TimeDelta::milliseconds(20)),
            exit: over.then_some(Exit::Code(code)),
            outcome: over.then(|| Outcome::of_exit(Exit::Code(code))),
            usage: exited.then_some(usage),
            stdout: over.then_some(self.stdout),
            stderr: over.then_some(self.stderr),
        }
    }
}

/// What a batch of events needs to be decided.
pub fn needs(events: &[(Attempt, AttemptEvent)]) -> Needs {
    Needs {
        tasks: events
            .iter()
            .map(|(attempt, _)| attempt.message.task)
            .collect(),
        attempts: events.iter().map(|(attempt, _)| attempt.id).collect(),
        ..Needs::default()
    }
}

/// The answers of the state machine to a batch of events.
pub fn decide(loaded: &Loaded, events: &[(Attempt, AttemptEvent)]) -> Projection {
    let mut tasks: BTreeMap<_, _> = loaded
        .tasks
        .iter()
        .map(|(id, task)| (*id, (task.state, task.retries_left)))
        .collect();
    let mut attempts: BTreeMap<_, _> = loaded
        .attempts
        .iter()
        .map(|(id, attempt)| (*id, attempt.state))
        .collect();
    let mut projection = Projection::default();
    for (attempt, event) in events {
        let Some((state, retries_left)) = tasks.get_mut(&attempt.message.task) else {
            continue;
        };
        let stands = attempts
            .get(&attempt.id)
            .copied()
            .unwrap_or(AttemptState::Unknown);
        let happened = Event::Attempt {
            dispatch: attempt.message.dispatch,
            attempt: attempt.id,
            event: *event,
            may_be_taken: stands == AttemptState::Lost,
        };
        let next = match transition(*state, *retries_left, stands, happened) {
            Decision::Changed {
                task,
                attempt: next,
                effects,
            } => {
                if effects.contains(&Effect::UseRetry) {
                    *retries_left -= 1;
                }
                projection.tasks.push(TaskChange {
                    task: attempt.message.task,
                    from: *state,
                    to: task,
                    retries_left: *retries_left,
                    meet_requirements: effects.contains(&Effect::MeetRequirements),
                    moved_by: Some(attempt.id),
                });
                *state = task;
                next
            }
            Decision::Stale { attempt: next, .. } => next,
            Decision::Duplicate => Some(stands),
            Decision::Refused(why) => panic!("{why}"),
        };
        if let Some(next) = next {
            attempts.insert(attempt.id, next);
            let lost = *event == AttemptEvent::Lost;
            projection.attempts.push(AttemptChange {
                attempt: attempt.id,
                state: next,
                report: (!lost).then(|| attempt.report(*event)),
                worker: attempt.worker.clone(),
                incarnation: attempt.incarnation,
                announced_sequence: 7,
                failure: lost.then(|| (FailureReason::Lost, "gone with\0its worker".to_owned())),
            });
        }
    }
    projection
}

/// Applies a batch of events, with pieces of output.
pub async fn project(
    db: &Database,
    epoch: Epoch,
    events: &[(Attempt, AttemptEvent)],
    chunks: Vec<NewChunk>,
) -> Result<Projected, DbError> {
    db.project(epoch, &needs(events), chunks, |loaded| {
        decide(loaded, events)
    })
    .await
}

/// Applies events one after another.
pub async fn apply(
    db: &Database,
    epoch: Epoch,
    attempt: &Attempt,
    events: &[AttemptEvent],
) -> Projected {
    let events: Vec<_> = events.iter().map(|event| attempt.event(*event)).collect();
    project(db, epoch, &events, Vec::new()).await.unwrap()
}

/// The attempts among the complete ones.
pub fn complete(projected: &Projected) -> BTreeSet<AttemptId> {
    projected
        .complete
        .iter()
        .map(|(_, attempt)| *attempt)
        .collect()
}
