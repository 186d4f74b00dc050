use scitq_shared::execution::Exit;
use scitq_shared::ids::{Epoch, ExecutionId, Revision};
use scitq_shared::output::StreamEnd;
use scitq_shared::protocol::{AttemptPhase, ReleaseReason, WorkerMessage};
use uuid::Uuid;

use super::*;
use crate::db::{LoadedAttempt, LoadedTask};

fn dispatch(n: u128) -> DispatchId {
    DispatchId(Uuid::from_u128(n))
}

fn attempt(n: u128) -> AttemptId {
    AttemptId(Uuid::from_u128(n))
}

fn worker() -> WorkerName {
    WorkerName::new("w").unwrap()
}

fn incarnation() -> IncarnationId {
    IncarnationId(Uuid::from_u128(9))
}

fn report(task: i64, n: u128) -> AttemptReport {
    let now = scitq_shared::now();
    AttemptReport {
        attempt: attempt(n),
        dispatch: dispatch(n),
        dispatch_epoch: Epoch(1),
        task: TaskId(task),
        batch: BatchName::default(),
        revision: Revision(1),
        queued_at: now,
        accepted_at: now,
        started_at: None,
        ended_at: None,
        exit: None,
        outcome: None,
        usage: None,
        stdout: None,
        stderr: None,
    }
}

fn started(task: i64, n: u128) -> WorkerEvent {
    let mut report = report(task, n);
    report.started_at = Some(report.accepted_at);
    WorkerEvent::Started(report)
}

fn ended(task: i64, n: u128, exit: Exit) -> WorkerEvent {
    let mut report = report(task, n);
    report.ended_at = Some(report.accepted_at);
    report.exit = Some(exit);
    report.outcome = Some(Outcome::of_exit(exit));
    report.stdout = Some(StreamEnd {
        length: 5,
        cut: None,
    });
    report.stderr = Some(StreamEnd::default());
    WorkerEvent::Ended(report)
}

fn happening(sequence: u64, event: WorkerEvent) -> Happening {
    let message = WorkerMessage::new(worker(), incarnation(), Epoch(1), sequence, event);
    Happening::of(&message).unwrap().unwrap()
}

fn loaded(tasks: &[(i64, TaskState, u16)], attempts: &[(u128, i64, AttemptState)]) -> Loaded {
    let tasks = tasks.iter().map(|(id, state, retries_left)| {
        let id = TaskId(*id);
        let task = LoadedTask {
            id,
            batch: BatchName::default(),
            state: *state,
            retries_left: *retries_left,
            revision: Revision(1),
            execution: None,
        };
        (id, task)
    });
    let attempts = attempts.iter().map(|(n, task, state)| {
        let loaded = LoadedAttempt {
            attempt: attempt(*n),
            task: TaskId(*task),
            dispatch: dispatch(*n),
            revision: Revision(1),
            state: *state,
            worker: worker(),
            incarnation: incarnation(),
            ended: false,
        };
        (loaded.attempt, loaded)
    });
    Loaded {
        tasks: tasks.collect(),
        attempts: attempts.collect(),
        ..Loaded::default()
    }
}

#[test]
fn a_whole_life_in_one_batch_is_one_change_with_everything_known() {
    let loaded = loaded(
        &[(
            1,
            TaskState::Assigned {
                dispatch: dispatch(1),
            },
            0,
        )],
        &[],
    );
    let happenings = [
        happening(5, started(1, 1)),
        happening(6, ended(1, 1, Exit::Code(0))),
    ];
    assert_eq!(needs(&happenings).tasks.len(), 1);
    let (projection, effects) = project(&loaded, &happenings);
    assert_eq!(projection.tasks.len(), 1);
    assert_eq!(
        projection.tasks[0].from,
        TaskState::Assigned {
            dispatch: dispatch(1)
        }
    );
    assert_eq!(projection.tasks[0].to, TaskState::Succeeded);
    assert!(projection.tasks[0].meet_requirements);
    let [change] = &projection.attempts[..] else {
        panic!("{projection:?}")
    };
    let known = change.report.as_ref().unwrap();
    assert_eq!(change.state, AttemptState::Succeeded);
    assert_eq!(change.announced_sequence, 5);
    assert!(known.started_at.is_some() && known.ended_at.is_some() && known.stdout.is_some());
    assert_eq!(effects.room.values().sum::<usize>(), 1);
    assert!(effects.tasks_changed);
}

#[test]
fn the_order_of_a_batch_does_not_matter_to_what_is_known() {
    let loaded = loaded(
        &[(
            1,
            TaskState::Assigned {
                dispatch: dispatch(1),
            },
            2,
        )],
        &[],
    );
    let (first, last) = (
        happening(5, started(1, 1)),
        happening(6, ended(1, 1, Exit::Code(3))),
    );
    let (forward, _) = project(&loaded, &[first.clone(), last.clone(), first.clone()]);
    let (backward, _) = project(&loaded, &[last, first]);
    assert_eq!(forward.tasks, backward.tasks);
    assert_eq!(forward.tasks[0].to, TaskState::Pending);
    assert_eq!(forward.tasks[0].retries_left, 1);
    assert_eq!(forward.attempts[0].state, backward.attempts[0].state);
    assert_eq!(forward.attempts[0].failure, backward.attempts[0].failure);
    let (one, other) = (
        forward.attempts[0].report.as_ref().unwrap(),
        backward.attempts[0].report.as_ref().unwrap(),
    );
    assert_eq!(
        (one.started_at.is_some(), one.exit),
        (other.started_at.is_some(), other.exit)
    );
}

#[test]
fn a_repetition_fills_what_was_missing_and_moves_nothing() {
    let loaded = loaded(
        &[(1, TaskState::Succeeded, 0)],
        &[(1, 1, AttemptState::Succeeded)],
    );
    let (projection, effects) = project(&loaded, &[happening(5, started(1, 1))]);
    assert_eq!(projection.tasks, []);
    assert_eq!(projection.attempts[0].state, AttemptState::Succeeded);
    assert!(!effects.tasks_changed && effects.stop.is_empty());
}

#[test]
fn an_attempt_of_an_old_dispatch_is_kept_and_stopped() {
    let loaded = loaded(
        &[(
            1,
            TaskState::Assigned {
                dispatch: dispatch(2),
            },
            0,
        )],
        &[],
    );
    let (projection, effects) = project(&loaded, &[happening(5, started(1, 1))]);
    assert_eq!(projection.tasks, []);
    assert_eq!(projection.attempts[0].state, AttemptState::Running);
    assert_eq!(effects.stop, [(worker(), attempt(1))]);
}

#[test]
fn an_unknowable_result_is_lost_and_costs_no_retry() {
    let running = TaskState::Running {
        dispatch: dispatch(1),
        attempt: attempt(1),
        uploading: false,
    };
    let loaded = loaded(&[(1, running, 1)], &[(1, 1, AttemptState::Running)]);
    let mut report = report(1, 1);
    let reason = FailureReason::AgentRestarted;
    report.outcome = Some(Outcome::Failed {
        reason,
        detail: "the agent ended".into(),
    });
    let (projection, _) = project(&loaded, &[happening(5, WorkerEvent::Ended(report))]);
    assert_eq!(
        (projection.tasks[0].to, projection.tasks[0].retries_left),
        (TaskState::Pending, 1)
    );
    assert_eq!(projection.attempts[0].state, AttemptState::Lost);
    assert_eq!(
        projection.attempts[0].failure,
        Some((reason, "the agent ended".into()))
    );
}

#[test]
fn what_a_worker_cannot_run_is_its_fault_and_only_sometimes_the_tasks() {
    let assigned = TaskState::Assigned {
        dispatch: dispatch(1),
    };
    let table = [
        (FailureReason::DiskFull, TaskState::Pending, 1, true),
        (FailureReason::WorkerFault, TaskState::Pending, 1, true),
        (FailureReason::StartFailed, TaskState::Pending, 0, true),
        (FailureReason::CommandNotFound, TaskState::Pending, 0, false),
        (FailureReason::Cancelled, TaskState::Pending, 1, false),
    ];
    for (reason, to, retries_left, fault) in table {
        let mut report = report(1, 1);
        report.outcome = Some(Outcome::Failed {
            reason,
            detail: "so".into(),
        });
        let loaded = loaded(&[(1, assigned, 1)], &[]);
        let ended = happening(5, WorkerEvent::Ended(report));
        let (projection, effects) = project(&loaded, &[ended.clone(), ended]);
        let change = &projection.tasks[0];
        assert_eq!(
            (change.to, change.retries_left),
            (to, retries_left),
            "{reason}"
        );
        assert_eq!(projection.attempts[0].state, AttemptState::Failed);
        assert_eq!(effects.faults.len(), usize::from(fault), "{reason}");
    }
}

#[test]
fn what_hinders_a_task_too_often_costs_retries() {
    let assigned = TaskState::Assigned {
        dispatch: dispatch(1),
    };
    let fails = |reason| {
        let mut report = report(1, 1);
        report.outcome = Some(Outcome::Failed {
            reason,
            detail: "so".into(),
        });
        happening(5, WorkerEvent::Ended(report))
    };
    let hindered = fails(FailureReason::WorkerFault);
    let needed = needs([&hindered, &fails(FailureReason::StartFailed)]);
    assert_eq!(needed.hindered, [TaskId(1)].into());
    assert!(
        needs([&fails(FailureReason::Cancelled)])
            .hindered
            .is_empty()
    );
    // Failed so before, retries left; what becomes of it.
    let table = [
        (0, 1, TaskState::Pending, 1),
        (HINDRANCES_SPARED - 1, 0, TaskState::Pending, 0),
        (HINDRANCES_SPARED, 1, TaskState::Pending, 0),
        (HINDRANCES_SPARED, 0, TaskState::Failed, 0),
    ];
    for (before, retries_left, to, left) in table {
        let mut loaded = loaded(&[(1, assigned, retries_left)], &[]);
        loaded.hindrances = [(TaskId(1), before)].into();
        let (projection, effects) = project(&loaded, &[hindered.clone(), hindered.clone()]);
        let change = &projection.tasks[0];
        assert_eq!((change.to, change.retries_left), (to, left), "{before}");
        assert_eq!(effects.faults.len(), 1);
        // What the server's own word did never counts.
        let stopped = fails(FailureReason::Cancelled);
        let (projection, _) = project(&loaded, &[stopped]);
        assert_eq!(projection.tasks[0].to, TaskState::Pending);
    }
}

#[test]
fn an_inventory_takes_a_lost_attempt_back_unless_its_task_was_changed() {
    let newer = TaskState::Assigned {
        dispatch: dispatch(2),
    };
    let alive = Happening::Alive {
        worker: worker(),
        attempt: attempt(1),
        task: TaskId(1),
        phase: AttemptPhase::Running,
    };
    let mut known = loaded(&[(1, newer, 0)], &[(1, 1, AttemptState::Lost)]);
    let (projection, effects) = project(&known, std::slice::from_ref(&alive));
    let running = TaskState::Running {
        dispatch: dispatch(1),
        attempt: attempt(1),
        uploading: false,
    };
    assert_eq!(projection.tasks[0].to, running);
    assert_eq!(projection.tasks[0].moved_by, Some(attempt(1)));
    assert_eq!(projection.attempts[0].state, AttemptState::Running);
    assert_eq!(projection.attempts[0].failure, None);
    assert_eq!(effects.revoke[&BatchName::default()], [dispatch(2)]);
    assert_eq!(effects.room[&BatchName::default()], 1);
    assert_eq!(effects.stop, []);
    // The task was rewritten meanwhile: what runs is of the past.
    if let Some(task) = known.tasks.get_mut(&TaskId(1)) {
        task.revision = Revision(2);
    }
    let (projection, effects) = project(&known, std::slice::from_ref(&alive));
    assert_eq!(projection.tasks, []);
    assert_eq!(effects.stop, [(worker(), attempt(1))]);
    assert!(effects.revoke.is_empty());
    // Of what is not known at all an inventory says nothing.
    let unknown = loaded(&[(1, newer, 0)], &[]);
    let nothing = project(&unknown, &[alive]);
    assert_eq!(nothing, (Projection::default(), SideEffects::default()));
}

#[test]
fn what_its_own_worker_has_given_up_does_not_come_back() {
    let mut known = loaded(&[(1, TaskState::Pending, 0)], &[(1, 1, AttemptState::Lost)]);
    if let Some(known) = known.attempts.get_mut(&attempt(1)) {
        known.ended = true;
    }
    let alive = Happening::Alive {
        worker: worker(),
        attempt: attempt(1),
        task: TaskId(1),
        phase: AttemptPhase::Running,
    };
    let (projection, _) = project(&known, std::slice::from_ref(&alive));
    assert_eq!(projection.tasks, []);
    // Said and contradicted in one batch.
    let running = TaskState::Running {
        dispatch: dispatch(1),
        attempt: attempt(1),
        uploading: false,
    };
    let known = loaded(&[(1, running, 0)], &[(1, 1, AttemptState::Running)]);
    let mut report = report(1, 1);
    report.ended_at = Some(report.accepted_at);
    report.outcome = Some(Outcome::Failed {
        reason: FailureReason::AgentRestarted,
        detail: "the agent ended".into(),
    });
    let given_up = happening(5, WorkerEvent::Ended(report));
    let (projection, _) = project(&known, &[given_up, alive]);
    assert_eq!(projection.tasks[0].to, TaskState::Pending);
    assert_eq!(projection.attempts[0].state, AttemptState::Lost);
}

#[test]
fn lost_and_back_in_one_batch_leaves_no_reason() {
    let running = TaskState::Running {
        dispatch: dispatch(1),
        attempt: attempt(1),
        uploading: false,
    };
    let known = loaded(&[(1, running, 0)], &[(1, 1, AttemptState::Running)]);
    let lost = Happening::Lost {
        attempt: attempt(1),
        dispatch: dispatch(1),
        task: TaskId(1),
        detail: "gone".into(),
    };
    let (projection, effects) = project(&known, &[lost, happening(5, started(1, 1))]);
    assert_eq!(projection.tasks[0].to, running);
    assert_eq!(projection.attempts[0].failure, None);
    assert!(effects.revoke.is_empty());
}

#[test]
fn what_was_said_before_an_end_takes_nothing_back() {
    let newer = TaskState::Assigned {
        dispatch: dispatch(2),
    };
    let alive = || Happening::Alive {
        worker: worker(),
        attempt: attempt(1),
        task: TaskId(1),
        phase: AttemptPhase::Running,
    };
    for ended in [false, true] {
        for late in [alive(), happening(5, started(1, 1))] {
            let mut known = loaded(&[(1, newer, 0)], &[(1, 1, AttemptState::Lost)]);
            known.attempts.get_mut(&attempt(1)).unwrap().ended = ended;
            let (projection, effects) = project(&known, std::slice::from_ref(&late));
            assert_eq!(projection.tasks.is_empty(), ended, "{late:?}");
            assert_eq!(effects.revoke.is_empty(), ended, "{late:?}");
        }
    }
    // The end may stand in the same batch, before what it has overtaken.
    let running = TaskState::Running {
        dispatch: dispatch(1),
        attempt: attempt(1),
        uploading: false,
    };
    let mut gone = report(1, 1);
    gone.ended_at = Some(gone.accepted_at);
    gone.outcome = Some(Outcome::Failed {
        reason: FailureReason::AgentRestarted,
        detail: "its process is gone".to_owned(),
    });
    let known = loaded(&[(1, running, 0)], &[(1, 1, AttemptState::Running)]);
    let happenings = [
        happening(6, WorkerEvent::Ended(gone)),
        happening(5, started(1, 1)),
        alive(),
    ];
    let (projection, _) = project(&known, &happenings);
    assert_eq!(projection.tasks[0].to, TaskState::Pending);
    assert_eq!(projection.attempts[0].state, AttemptState::Lost);
}

#[test]
fn lost_returned_and_released() {
    let running = TaskState::Running {
        dispatch: dispatch(1),
        attempt: attempt(1),
        uploading: false,
    };
    let assigned = TaskState::Assigned {
        dispatch: dispatch(2),
    };
    let accepted = TaskState::Accepted {
        dispatch: dispatch(3),
        attempt: attempt(3),
    };
    let tasks = [(1, running, 0), (2, assigned, 0), (3, accepted, 0)];
    let loaded = loaded(
        &tasks,
        &[
            (1, 1, AttemptState::Running),
            (3, 3, AttemptState::Accepted),
        ],
    );
    let released = WorkerEvent::Released {
        report: report(3, 3),
        reason: ReleaseReason::LessRoom,
    };
    let happenings = [
        Happening::Lost {
            attempt: attempt(1),
            dispatch: dispatch(1),
            task: TaskId(1),
            detail: "gone".into(),
        },
        Happening::Returned {
            dispatch: dispatch(2),
            task: TaskId(2),
        },
        // A return of another dispatch changes nothing.
        Happening::Returned {
            dispatch: dispatch(7),
            task: TaskId(3),
        },
        happening(8, released),
    ];
    let (projection, effects) = project(&loaded, &happenings);
    assert!(
        projection
            .tasks
            .iter()
            .all(|change| change.to == TaskState::Pending),
        "{projection:?}"
    );
    assert_eq!(projection.tasks.len(), 3);
    let states: Vec<_> = projection
        .attempts
        .iter()
        .map(|change| change.state)
        .collect();
    assert_eq!(states, [AttemptState::Lost, AttemptState::Released]);
    assert!(projection.attempts[0].report.is_none());
    assert_eq!(effects.room.values().sum::<usize>(), 1);
}

#[test]
fn events_of_unknown_tasks_are_left_out_and_said() {
    let (projection, effects) = project(&Loaded::default(), &[happening(5, started(1, 1))]);
    assert_eq!(projection, Projection::default());
    assert_eq!(effects.refused.len(), 1);
}

#[test]
fn an_end_without_an_outcome_contradicts_itself() {
    let message = WorkerMessage::new(
        worker(),
        incarnation(),
        Epoch(1),
        1,
        WorkerEvent::Ended(report(1, 1)),
    );
    assert!(Happening::of(&message).is_err());
}

/// A restoration: the backup ended with task 100 and execution 90, and this database goes on with epoch 1,000.
fn restored() -> Restorations {
    Restorations(vec![crate::db::Restoration {
        epoch: Epoch(1000),
        last_task: TaskId(100),
        last_free_task: TaskId(1100),
        last_execution: ExecutionId(90),
        heard: true,
    }])
}

#[test]
fn what_a_restored_database_has_forgotten_is_taken_and_nothing_of_it_stopped() {
    let old = TaskState::Running {
        dispatch: dispatch(1),
        attempt: attempt(1),
        uploading: false,
    };
    let accepted = TaskState::Accepted {
        dispatch: dispatch(1),
        attempt: attempt(1),
    };
    let assigned = TaskState::Assigned {
        dispatch: dispatch(1),
    };
    let running = TaskState::Running {
        dispatch: dispatch(2),
        attempt: attempt(2),
        uploading: false,
    };
    let waiting = TaskState::Waiting { missing: 2 };
    // As the backup has it, its newest execution there, and what it comes to when attempt 2 is heard to run, and to have
    // failed with a retry left.
    let table = [
        (waiting, None, Some((running, TaskState::Pending))),
        (
            TaskState::Pending,
            None,
            Some((running, TaskState::Pending)),
        ),
        (assigned, None, Some((running, TaskState::Pending))),
        (accepted, Some(90), Some((running, TaskState::Pending))),
        (old, Some(90), Some((running, TaskState::Pending))),
        // Of something that was heard of since.
        (old, Some(1_000_091), None),
        (TaskState::Succeeded, Some(90), None),
        (TaskState::Failed, Some(90), None),
    ];
    for (state, execution, expected) in table {
        let mut known = loaded(&[(50, state, 1)], &[]);
        if let Some(task) = known.tasks.get_mut(&TaskId(50)) {
            task.execution = execution.map(ExecutionId);
        }
        let begins = happening(5, started(50, 2));
        let fails = happening(6, ended(50, 2, Exit::Code(1)));
        for (happened, to) in [
            (vec![begins.clone()], expected.map(|(running, _)| running)),
            // What is dispatched already is the repetition.
            (
                vec![fails.clone()],
                expected.map(|(_, over)| if state == assigned { state } else { over }),
            ),
            (vec![begins, fails], expected.map(|(_, over)| over)),
        ] {
            let (projection, effects) = project_restored(&known, &happened, &restored());
            // A task that was pending and is again has only used a retry.
            let found = projection.tasks.first().map(|change| change.to);
            assert_eq!(found, to, "{state:?}");
            assert_eq!(projection.attempts.len(), 1, "it is in the history");
            if to.is_some() {
                assert_eq!(effects.stop, [], "{state:?}");
            }
            if state == assigned {
                let revoked = effects.revoke.get(&BatchName::default());
                let goes_on = to == Some(state);
                assert_eq!(revoked.is_none(), goes_on, "{revoked:?}");
            }
            // A database that was not restored knows what it has done.
            let (projection, _) = project(&known, &happened);
            assert_eq!(projection.tasks, [], "{state:?}");
        }
    }
}

#[test]
fn what_cannot_have_been_forgotten_is_not_taken() {
    let table = [
        // Of a leader since the restoration.
        (50, Epoch(1000), Revision(1), false),
        // A task that only this database has submitted.
        (1101, Epoch(1), Revision(1), false),
        // Of an older definition than the backup's, and of a newer one.
        (50, Epoch(1), Revision(0), false),
        (50, Epoch(1), Revision(2), true),
    ];
    for (task, epoch, revision, taken) in table {
        let known = loaded(&[(task, TaskState::Pending, 0)], &[]);
        let mut report = report(task, 2);
        report.dispatch_epoch = epoch;
        report.revision = revision;
        let happened = happening(5, WorkerEvent::Started(report));
        let (projection, effects) = project_restored(&known, &[happened], &restored());
        assert_eq!(projection.tasks.len(), usize::from(taken), "{task} {epoch}");
        assert_eq!(effects.stop.is_empty(), taken);
    }
    // What was given back says nothing about how far the task had come.
    let waiting = loaded(&[(50, TaskState::Waiting { missing: 1 }, 0)], &[]);
    let released = WorkerEvent::Released {
        report: report(50, 2),
        reason: ReleaseReason::LessRoom,
    };
    let (projection, _) = project_restored(&waiting, &[happening(5, released)], &restored());
    assert_eq!(projection.tasks, []);
    assert_eq!(projection.attempts[0].state, AttemptState::Released);
}

#[test]
fn of_two_forgotten_attempts_the_first_heard_of_is_kept() {
    let old = TaskState::Running {
        dispatch: dispatch(1),
        attempt: attempt(1),
        uploading: false,
    };
    let mut known = loaded(&[(50, old, 0)], &[]);
    if let Some(task) = known.tasks.get_mut(&TaskId(50)) {
        task.execution = Some(ExecutionId(7));
    }
    let happened = [happening(5, started(50, 2)), happening(6, started(50, 3))];
    let (projection, effects) = project_restored(&known, &happened, &restored());
    assert_eq!(projection.tasks[0].to.attempt(), Some(attempt(2)));
    assert_eq!(effects.stop, [(worker(), attempt(3))]);
}
