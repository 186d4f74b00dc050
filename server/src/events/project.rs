use std::collections::{BTreeMap, BTreeSet};

use scitq_shared::execution::{FailureReason, HINDRANCES_SPARED, Outcome};
use scitq_shared::ids::{AttemptId, DispatchId, IncarnationId, Revision, TaskId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::protocol::{AttemptPhase, AttemptReport, WorkerEvent, WorkerMessage};
use scitq_shared::transition::{
    AttemptEvent, AttemptState, Decision, Effect, Event, TaskState, transition,
};

use crate::db::{AttemptChange, Loaded, LoadedAttempt, Needs, Projection, TaskChange};

/// One thing that happened to a task or an attempt, as the projection takes it.
#[derive(Clone, Debug, PartialEq)]
pub enum Happening {
    /// A worker reported something about an attempt.
    Reported {
        /// Who.
        worker: WorkerName,
        /// Which life of its state directory.
        incarnation: IncarnationId,
        /// The announcement's number.
        sequence: u64,
        /// What.
        event: AttemptEvent,
        /// All that is known of the attempt.
        report: Box<AttemptReport>,
        /// Why it failed, where it did.
        failure: Option<(FailureReason, String)>,
    },
    /// A dispatch came back unstarted.
    Returned {
        /// The dispatch.
        dispatch: DispatchId,
        /// Its task.
        task: TaskId,
    },
    /// An inventory shows an attempt alive that was declared lost.
    Alive {
        /// Who holds it.
        worker: WorkerName,
        /// The attempt.
        attempt: AttemptId,
        /// Its task.
        task: TaskId,
        /// How far it is.
        phase: AttemptPhase,
    },
    /// The worker does not know an attempt that the server takes to be alive, or its lease has expired.
    Lost {
        /// The attempt.
        attempt: AttemptId,
        /// Its dispatch.
        dispatch: DispatchId,
        /// Its task.
        task: TaskId,
        /// Why, in words.
        detail: String,
    },
}

impl Happening {
    /// What a worker's message says about an attempt or dispatch. `Ok(None)` for messages about the worker itself,
    /// an error for messages that contradict themselves.
    pub fn of(message: &WorkerMessage) -> Result<Option<Self>, String> {
        let (event, report, failure) = match &message.event {
            WorkerEvent::Hello(_) | WorkerEvent::Goodbye { .. } | WorkerEvent::Absent { .. } => {
                return Ok(None);
            }
            WorkerEvent::Returned { dispatch, task } => {
                return Ok(Some(Self::Returned {
                    dispatch: *dispatch,
                    task: *task,
                }));
            }
            WorkerEvent::Accepted(report) => (AttemptEvent::Accepted, report, None),
            WorkerEvent::Started(report) => (AttemptEvent::Started, report, None),
            WorkerEvent::Exited(report) => (AttemptEvent::Exited, report, None),
            WorkerEvent::Released { report, .. } => (AttemptEvent::Released, report, None),
            WorkerEvent::Ended(report) => match &report.outcome {
                Some(Outcome::Succeeded) => (AttemptEvent::Succeeded, report, None),
                Some(Outcome::Failed { reason, detail }) => {
                    // What cannot be known, and what the worker's machine or the server's own word did, is not the
                    // command's failure: it costs no retry.
                    let event = match reason {
                        FailureReason::AgentRestarted => AttemptEvent::Lost,
                        FailureReason::Cancelled => AttemptEvent::Hindered,
                        reason if reason.spares_task() => AttemptEvent::Hindered,
                        _ => AttemptEvent::Failed,
                    };
                    (event, report, Some((*reason, detail.clone())))
                }
                None => return Err("an attempt that ended must say its outcome".to_owned()),
            },
        };
        Ok(Some(Self::Reported {
            worker: message.worker.clone(),
            incarnation: message.incarnation,
            sequence: message.sequence,
            event,
            report: Box::new(report.clone()),
            failure,
        }))
    }

    /// The task it is about.
    pub fn task(&self) -> TaskId {
        match self {
            Self::Reported { report, .. } => report.task,
            Self::Returned { task, .. } | Self::Alive { task, .. } | Self::Lost { task, .. } => {
                *task
            }
        }
    }

    /// The attempt it is about.
    pub fn attempt(&self) -> Option<AttemptId> {
        match self {
            Self::Reported { report, .. } => Some(report.attempt),
            Self::Alive { attempt, .. } | Self::Lost { attempt, .. } => Some(*attempt),
            Self::Returned { .. } => None,
        }
    }

    /// True when it tells of a failure that spares its task, unless that has happened to it too often.
    fn is_hindrance(&self) -> bool {
        matches!(
            self,
            Self::Reported {
                event: AttemptEvent::Hindered,
                failure: Some((reason, _)),
                ..
            } if reason.spares_task()
        )
    }

    /// The worker that speaks, where one does.
    fn speaker(&self) -> Option<&WorkerName> {
        match self {
            Self::Reported { worker, .. } | Self::Alive { worker, .. } => Some(worker),
            Self::Returned { .. } | Self::Lost { .. } => None,
        }
    }

    /// The event, with what the database knows of the attempt. None where it knows nothing of an attempt that an inventory
    /// names: its report comes.
    fn event(
        &self,
        known: Option<&LoadedAttempt>,
        stands: AttemptState,
        given_up: bool,
        current: Revision,
    ) -> Option<Event> {
        // What its own worker has given up is not there to be taken back, whatever an older word of it says.
        let lost = stands == AttemptState::Lost && !given_up;
        Some(match self {
            Self::Reported { report, event, .. } => Event::Attempt {
                dispatch: report.dispatch,
                attempt: report.attempt,
                event: *event,
                may_be_taken: lost && report.revision == current,
            },
            Self::Returned { dispatch, .. } => Event::DispatchReturned {
                dispatch: *dispatch,
            },
            Self::Alive { attempt, phase, .. } => {
                let known = known?;
                Event::Attempt {
                    dispatch: known.dispatch,
                    attempt: *attempt,
                    event: match phase {
                        AttemptPhase::Accepted => AttemptEvent::Accepted,
                        AttemptPhase::Running => AttemptEvent::Started,
                        AttemptPhase::Uploading => AttemptEvent::Exited,
                        // How it ended is for its report to say.
                        AttemptPhase::Ended => return None,
                    },
                    may_be_taken: lost && known.revision == current,
                }
            }
            Self::Lost {
                attempt, dispatch, ..
            } => Event::Attempt {
                dispatch: *dispatch,
                attempt: *attempt,
                event: AttemptEvent::Lost,
                may_be_taken: false,
            },
        })
    }
}

/// What the database must load to decide about these.
pub fn needs<'a>(happenings: impl IntoIterator<Item = &'a Happening>) -> Needs {
    let mut needs = Needs::default();
    for happening in happenings {
        needs.tasks.insert(happening.task());
        needs.attempts.extend(happening.attempt());
        if happening.is_hindrance() {
            needs.hindered.insert(happening.task());
        }
    }
    needs
}

/// What follows from a batch of happenings besides database rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SideEffects {
    /// Batches whose dispatch window has room again.
    pub room: BTreeMap<BatchName, usize>,
    /// Attempts that count no more: their workers are told to give them up.
    pub stop: Vec<(WorkerName, AttemptId)>,
    /// Unstarted dispatches that count no more, by batch: whoever holds them is asked to give them back.
    pub revoke: BTreeMap<BatchName, Vec<DispatchId>>,
    /// Workers that could not run an attempt, with the batch that it was of (D13).
    pub faults: BTreeMap<WorkerName, BatchName>,
    /// True when a task changed its status.
    pub tasks_changed: bool,
    /// Happenings that make no sense, in words, for the log.
    pub refused: Vec<String>,
}

/// Decides what a batch of happenings changes, in their order. Pure: called again when a transaction is retried.
pub fn project(loaded: &Loaded, happenings: &[Happening]) -> (Projection, SideEffects) {
    let mut work = Work::new(loaded);
    for happening in happenings {
        work.apply(happening);
    }
    work.finish()
}

struct WorkingTask {
    batch: BatchName,
    revision: Revision,
    from: TaskState,
    now: TaskState,
    retries_left: u16,
    meet_requirements: bool,
    touched: bool,
    moved_by: Option<AttemptId>,
}

struct Work<'a> {
    tasks: BTreeMap<TaskId, WorkingTask>,
    states: BTreeMap<AttemptId, AttemptState>,
    known: &'a BTreeMap<AttemptId, LoadedAttempt>,
    /// Attempts that are lost by their own worker's word.
    given_up: BTreeSet<AttemptId>,
    /// How many attempts of a task failed by what spared it.
    hindrances: BTreeMap<TaskId, u32>,
    changes: BTreeMap<AttemptId, AttemptChange>,
    effects: SideEffects,
}

impl<'a> Work<'a> {
    fn new(loaded: &'a Loaded) -> Self {
        let tasks = loaded.tasks.iter().map(|(id, task)| {
            let working = WorkingTask {
                batch: task.batch.clone(),
                revision: task.revision,
                from: task.state,
                now: task.state,
                retries_left: task.retries_left,
                meet_requirements: false,
                touched: false,
                moved_by: None,
            };
            (*id, working)
        });
        let attempts = loaded.attempts.values();
        Self {
            tasks: tasks.collect(),
            states: attempts.map(|a| (a.attempt, a.state)).collect(),
            known: &loaded.attempts,
            given_up: loaded.given_up.clone(),
            hindrances: loaded.hindrances.clone(),
            changes: BTreeMap::new(),
            effects: SideEffects::default(),
        }
    }

    fn apply(&mut self, happening: &Happening) {
        let Some(task) = self.tasks.get_mut(&happening.task()) else {
            let text = format!("task {} does not exist (any more)", happening.task());
            self.effects.refused.push(text);
            return;
        };
        let attempt = happening.attempt();
        let stands = attempt
            .and_then(|attempt| self.states.get(&attempt).copied())
            .unwrap_or(AttemptState::Unknown);
        let known = attempt.and_then(|attempt| self.known.get(&attempt));
        let given_up = attempt.is_some_and(|attempt| self.given_up.contains(&attempt));
        let Some(mut event) = happening.event(known, stands, given_up, task.revision) else {
            return;
        };
        if happening.is_hindrance() && !stands.is_over() {
            let times = self.hindrances.entry(happening.task()).or_default();
            *times += 1;
            if let Event::Attempt { event, .. } = &mut event
                && *times > HINDRANCES_SPARED
            {
                // It would come back for ever: by now it is its own failure, too.
                *event = AttemptEvent::Failed;
            }
        }
        let (next, effects) = match transition(task.now, task.retries_left, stands, event) {
            Decision::Changed {
                task: next,
                attempt: attempt_next,
                effects,
            } => {
                self.effects.tasks_changed |= next.status() != task.now.status();
                task.now = next;
                task.touched = true;
                task.moved_by = attempt.or(task.moved_by);
                (attempt_next, effects)
            }
            Decision::Stale { attempt, effects } => (attempt, effects),
            // A repetition may still know more: reports are cumulative, and what comes late fills what was missing.
            Decision::Duplicate => (Some(stands), Vec::new()),
            Decision::Refused(why) => {
                let text = format!("task {}: {why}", happening.task());
                self.effects.refused.push(text);
                return;
            }
        };
        for effect in effects {
            match effect {
                Effect::RoomInWindow => {
                    *self.effects.room.entry(task.batch.clone()).or_default() += 1;
                }
                Effect::UseRetry => task.retries_left = task.retries_left.saturating_sub(1),
                Effect::MeetRequirements => task.meet_requirements = true,
                Effect::StopAttempt => {
                    let speaker = happening.speaker().cloned();
                    self.effects.stop.extend(speaker.zip(attempt));
                }
                Effect::RevokeDispatch(dispatch) => {
                    let revoke = self.effects.revoke.entry(task.batch.clone());
                    revoke.or_default().push(dispatch);
                }
                // The database says which batches have newly pending tasks, and the notice follows `tasks_changed`.
                Effect::Dispatch | Effect::TaskOver => {}
            }
        }
        if let (Some(attempt), Some(next)) = (attempt, next) {
            if let Happening::Reported {
                worker,
                report,
                failure: Some((reason, _)),
                ..
            } = happening
                && reason.is_infrastructure()
                && !stands.is_over()
            {
                let fault = (worker.clone(), report.batch.clone());
                self.effects.faults.extend([fault]);
            }
            if let Happening::Reported {
                failure: Some((FailureReason::AgentRestarted, _)),
                ..
            } = happening
                && next == AttemptState::Lost
            {
                self.given_up.insert(attempt);
            }
            self.states.insert(attempt, next);
            self.record(attempt, next, happening);
        }
    }

    fn record(&mut self, attempt: AttemptId, state: AttemptState, happening: &Happening) {
        match happening {
            Happening::Reported {
                worker,
                incarnation,
                sequence,
                report,
                failure,
                ..
            } => {
                let change = AttemptChange {
                    attempt,
                    state,
                    report: Some((**report).clone()),
                    worker: worker.clone(),
                    incarnation: *incarnation,
                    announced_sequence: *sequence,
                    failure: failure.clone(),
                };
                match self.changes.entry(attempt) {
                    std::collections::btree_map::Entry::Vacant(entry) => {
                        entry.insert(change);
                    }
                    std::collections::btree_map::Entry::Occupied(mut entry) => {
                        merge(entry.get_mut(), change);
                    }
                }
            }
            Happening::Lost { detail, .. } => {
                self.decided(attempt, state, Some((FailureReason::Lost, detail.clone())));
            }
            Happening::Alive { .. } => self.decided(attempt, state, None),
            Happening::Returned { .. } => {}
        }
    }

    /// Writes down what the server itself decided about an attempt that it knows.
    fn decided(
        &mut self,
        attempt: AttemptId,
        state: AttemptState,
        failure: Option<(FailureReason, String)>,
    ) {
        let Some(known) = self.known.get(&attempt) else {
            return;
        };
        let change = self.changes.entry(attempt).or_insert(AttemptChange {
            attempt,
            state,
            report: None,
            worker: known.worker.clone(),
            incarnation: known.incarnation,
            announced_sequence: 0,
            failure: None,
        });
        change.state = state;
        change.failure = failure.or(change.failure.take());
        forget_failure_of_the_living(change);
    }

    fn finish(self) -> (Projection, SideEffects) {
        let tasks = self.tasks.into_iter().filter(|(_, task)| task.touched);
        let tasks = tasks.map(|(id, task)| TaskChange {
            task: id,
            from: task.from,
            to: task.now,
            retries_left: task.retries_left,
            meet_requirements: task.meet_requirements,
            moved_by: task.moved_by,
        });
        let projection = Projection {
            tasks: tasks.collect(),
            attempts: self.changes.into_values().collect(),
        };
        (projection, self.effects)
    }
}

/// Takes what a later message knows into an earlier change of the same attempt. Nothing known is forgotten, whichever
/// of the two came first.
fn merge(into: &mut AttemptChange, from: AttemptChange) {
    into.state = from.state;
    into.announced_sequence = match (into.announced_sequence, from.announced_sequence) {
        (0, other) | (other, 0) => other,
        (one, other) => one.min(other),
    };
    into.failure = from.failure.or(into.failure.take());
    into.report = match (into.report.take(), from.report) {
        (Some(old), Some(new)) => Some(AttemptReport {
            started_at: new.started_at.or(old.started_at),
            ended_at: new.ended_at.or(old.ended_at),
            exit: new.exit.or(old.exit),
            outcome: new.outcome.or(old.outcome),
            usage: new.usage.or(old.usage),
            stdout: new.stdout.or(old.stdout),
            stderr: new.stderr.or(old.stderr),
            ..old
        }),
        (old, new) => new.or(old),
    };
    forget_failure_of_the_living(into);
}

/// An attempt that was lost and is taken back has not failed.
fn forget_failure_of_the_living(change: &mut AttemptChange) {
    if !change.state.is_over() {
        change.failure = None;
    }
}

#[cfg(test)]
mod tests;
