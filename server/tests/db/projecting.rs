use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use scitq_server::db::{DbError, Needs, Projected, Projection, TaskChange};
use scitq_shared::api::ExecutionView;
use scitq_shared::ids::{ExecutionId, Revision, TaskId};
use scitq_shared::names::WorkerName;
use scitq_shared::output::{Cut, StreamEnd};
use scitq_shared::submit::SubmitTask;
use scitq_shared::transition::{AttemptEvent, TaskState};

use crate::fixture::{Fixture, ids, soon};
use crate::projector::{Attempt, apply, complete, project};
use scitq_server::db::{ExecutionFilter, PageRequest};

async fn execution(fixture: &Fixture, projected: &Projected) -> ExecutionView {
    let (_, id) = projected.executions[0];
    fixture.db.execution(id).await.unwrap().unwrap()
}

async fn retrying(fixture: &Fixture, retry: i32) -> TaskId {
    let task = SubmitTask {
        command: "false".to_owned(),
        retry,
        ..SubmitTask::default()
    };
    ids(&fixture
        .db
        .submit(vec![task.validate().unwrap()])
        .await
        .unwrap())[0]
}

/// The events of many attempts, shuffled, repeated, and cut into batches anywhere: the end is the same.
pub async fn any_order_ends_the_same(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let mut random = StdRng::seed_from_u64(7);
    let commands: Vec<String> = (0..40).map(|place| format!("echo {place}")).collect();
    let submitted = fixture
        .submit(&commands.iter().map(String::as_str).collect::<Vec<_>>())
        .await;
    let claim = fixture.claim(epoch, 40).await;
    let mut events = Vec::new();
    for (place, message) in claim.tasks.iter().enumerate() {
        let attempt = Attempt::of(message);
        let end = [AttemptEvent::Succeeded, AttemptEvent::Failed][place % 2];
        let steps = [
            AttemptEvent::Accepted,
            AttemptEvent::Started,
            AttemptEvent::Exited,
            end,
        ];
        events.extend(steps.map(|event| attempt.event(event)));
        events.push(attempt.event(steps[random.random_range(0..4)]));
    }
    events.shuffle(&mut random);
    let mut told = Vec::new();
    while !events.is_empty() {
        let some: Vec<_> =
            events.split_off(events.len() - random.random_range(1..=events.len().min(30)));
        let projected = project(&fixture.db, epoch, &some, Vec::new())
            .await
            .unwrap();
        told.extend(complete(&projected));
    }
    for (place, id) in submitted.iter().enumerate() {
        let view = fixture.db.task(*id).await.unwrap().unwrap();
        assert_eq!(view.status, ["succeeded", "failed"][place % 2]);
        let execution = fixture
            .db
            .execution(ExecutionId(view.execution_id.unwrap()))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(execution.status, view.status);
        assert_eq!(execution.command, format!("echo {place}"));
        assert!(execution.latest && execution.output_complete && execution.started_at.is_some());
        assert_eq!(execution.exit_code, Some(i32::from(place % 2 == 1)));
    }
    told.sort_unstable();
    assert_eq!(told.len(), 40);
    told.dedup();
    assert_eq!(told.len(), 40, "completion is told once");
    fixture.check().await;
}

pub async fn the_whole_history_of_an_attempt(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let task = fixture.submit(&["sleep 1"]).await[0];
    let claim = fixture.claim(epoch, 1).await;
    let mut attempt = Attempt::of(&claim.tasks[0]);
    attempt.stdout = StreamEnd {
        length: 100,
        cut: Some(Cut { from: 10, to: 90 }),
    };
    let accepted = apply(&fixture.db, epoch, &attempt, &[AttemptEvent::Accepted]).await;
    let view = execution(fixture, &accepted).await;
    assert_eq!(
        (view.status.as_str(), view.task_id, view.latest),
        ("accepted", task.0, true)
    );
    assert_eq!(
        (
            view.worker.as_str(),
            view.batch.as_str(),
            view.command.as_str()
        ),
        ("w1", "Default", "sleep 1")
    );
    assert_eq!(view.queued_at, claim.tasks[0].queued_at);
    assert_eq!(
        (view.attempt_id, view.dispatch_id),
        (attempt.id.to_string(), claim.tasks[0].dispatch.to_string())
    );
    assert_eq!(
        (view.epoch, view.revision, view.started_at),
        (epoch.0, 1, None)
    );
    assert_eq!(fixture.status(task).await, "accepted");
    apply(&fixture.db, epoch, &attempt, &[AttemptEvent::Started]).await;
    assert_eq!(fixture.status(task).await, "running");
    let exited = apply(&fixture.db, epoch, &attempt, &[AttemptEvent::Exited]).await;
    assert!(execution(fixture, &exited).await.uploading);
    assert!(fixture.db.task(task).await.unwrap().unwrap().uploading);
    let ended = apply(&fixture.db, epoch, &attempt, &[AttemptEvent::Succeeded]).await;
    assert_eq!(ended.executions, accepted.executions);
    let view = execution(fixture, &ended).await;
    assert_eq!(
        (
            view.status.as_str(),
            view.uploading,
            view.exit_code,
            view.signal
        ),
        ("succeeded", false, Some(0), None)
    );
    let report = attempt.report(AttemptEvent::Succeeded);
    assert_eq!(
        (Some(view.accepted_at), view.started_at, view.ended_at),
        (Some(report.accepted_at), report.started_at, report.ended_at)
    );
    assert_eq!(
        (view.user_cpu_ms, view.system_cpu_ms, view.peak_memory_bytes),
        (Some(12), Some(3), Some(4_096_000))
    );
    assert_eq!(view.memory_source.as_deref(), Some("largest_process"));
    assert_eq!(
        (view.stdout_bytes, view.stderr_bytes, view.output_complete),
        (100, 0, false)
    );
    assert_eq!(
        view.stdout_cut.map(|cut| (cut.from, cut.to)),
        Some((10, 90))
    );
    assert_eq!((view.failure_reason, view.failure_detail), (None, None));
    // A late repetition of the beginning empties nothing.
    apply(&fixture.db, epoch, &attempt, &[AttemptEvent::Accepted]).await;
    assert_eq!(execution(fixture, &ended).await.exit_code, Some(0));
    fixture.check().await;
}

pub async fn retries_are_used_up(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let task = retrying(fixture, 2).await;
    for left in [1, 0] {
        let claim = fixture.claim(epoch, 1).await;
        let projected = apply(
            &fixture.db,
            epoch,
            &Attempt::of(&claim.tasks[0]),
            &[AttemptEvent::Started, AttemptEvent::Failed],
        )
        .await;
        assert_eq!(
            projected.newly_pending.into_values().collect::<Vec<_>>(),
            [1]
        );
        let view = fixture.db.task(task).await.unwrap().unwrap();
        assert_eq!(
            (view.status.as_str(), view.retry, view.retries_left),
            ("pending", 2, left)
        );
    }
    let claim = fixture.claim(epoch, 1).await;
    let projected = apply(
        &fixture.db,
        epoch,
        &Attempt::of(&claim.tasks[0]),
        &[AttemptEvent::Failed],
    )
    .await;
    assert!(projected.newly_pending.is_empty());
    assert_eq!(fixture.status(task).await, "failed");
    let filter = ExecutionFilter {
        task: Some(task),
        ..ExecutionFilter::default()
    };
    let executions = fixture
        .db
        .executions(&filter, &PageRequest::default())
        .await
        .unwrap();
    assert_eq!(
        executions
            .iter()
            .map(|execution| execution.latest)
            .collect::<Vec<_>>(),
        [false, false, true]
    );
    assert!(
        executions
            .iter()
            .all(|execution| execution.failure_reason.as_deref() == Some("exit_code"))
    );
    fixture.check().await;
}

pub async fn lost_and_found(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let task = fixture.submit(&["a"]).await[0];
    let claim = fixture.claim(epoch, 1).await;
    let lost = Attempt::of(&claim.tasks[0]);
    let started = apply(&fixture.db, epoch, &lost, &[AttemptEvent::Started]).await;
    let projected = apply(&fixture.db, epoch, &lost, &[AttemptEvent::Lost]).await;
    assert_eq!(projected.complete, [], "it may come back with its output");
    let view = execution(fixture, &started).await;
    assert_eq!(
        (view.status.as_str(), view.failure_reason.as_deref()),
        ("lost", Some("lost"))
    );
    assert_eq!(
        view.failure_detail.as_deref(),
        Some("gone with\u{fffd}its worker")
    );
    assert_eq!(fixture.status(task).await, "pending");
    // Nothing is known of this one, and nobody reported it.
    let unknown = Attempt {
        id: scitq_shared::ids::AttemptId::generate(),
        ..lost.clone()
    };
    let projected = apply(&fixture.db, epoch, &unknown, &[AttemptEvent::Lost]).await;
    assert_eq!(projected.executions, []);
    let claim = fixture.claim(epoch, 1).await;
    let newer = Attempt::of(&claim.tasks[0]);
    apply(&fixture.db, epoch, &newer, &[AttemptEvent::Started]).await;
    // It comes back with its end: that belongs in its history, the task goes on with the newer one.
    let projected = apply(&fixture.db, epoch, &lost, &[AttemptEvent::Succeeded]).await;
    assert_eq!(
        complete(&projected).into_iter().collect::<Vec<_>>(),
        [lost.id]
    );
    let view = execution(fixture, &started).await;
    assert_eq!(
        (
            view.status.as_str(),
            view.failure_reason,
            view.failure_detail
        ),
        ("succeeded", None, None)
    );
    assert!(!view.latest && view.output_complete);
    assert_eq!(fixture.status(task).await, "running");
    fixture.check().await;
}

pub async fn released_attempts_are_complete(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let task = fixture.submit(&["a"]).await[0];
    let claim = fixture.claim(epoch, 1).await;
    let attempt = Attempt::of(&claim.tasks[0]);
    let released = apply(
        &fixture.db,
        epoch,
        &attempt,
        &[AttemptEvent::Accepted, AttemptEvent::Released],
    )
    .await;
    assert_eq!(
        released.complete,
        [(WorkerName::new("w1").unwrap(), attempt.id)]
    );
    let view = execution(fixture, &released).await;
    assert_eq!(
        (
            view.status.as_str(),
            view.output_complete,
            view.stdout_bytes
        ),
        ("released", true, 0)
    );
    let view = fixture.db.task(task).await.unwrap().unwrap();
    assert_eq!((view.status.as_str(), view.retries_left), ("pending", 0));
    fixture.check().await;
}

pub async fn changes_must_follow(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let task = fixture.submit(&["a"]).await[0];
    let needs = Needs {
        tasks: [task].into(),
        ..Needs::default()
    };
    let change = |from, to| TaskChange {
        task,
        from,
        to,
        retries_left: 0,
        meet_requirements: false,
        moved_by: None,
    };
    let project = async |changes: Vec<TaskChange>, needs: &Needs| {
        let decide = move |_: &_| Projection {
            tasks: changes.clone(),
            attempts: Vec::new(),
        };
        fixture.db.project(epoch, needs, Vec::new(), decide).await
    };
    let wrong = project(vec![change(TaskState::Paused, TaskState::Pending)], &needs).await;
    assert!(matches!(wrong, Err(DbError::Refused { .. })), "{wrong:?}");
    let not_asked = project(
        vec![change(TaskState::Pending, TaskState::Paused)],
        &Needs::default(),
    )
    .await;
    assert!(
        matches!(not_asked, Err(DbError::Refused { .. })),
        "{not_asked:?}"
    );
    let chain = vec![
        change(TaskState::Pending, TaskState::Paused),
        change(TaskState::Paused, TaskState::Debug),
        change(TaskState::Debug, TaskState::Pending),
    ];
    project(chain, &needs).await.unwrap();
    assert_eq!(fixture.status(task).await, "pending");
    project(
        vec![change(TaskState::Pending, TaskState::Cancelled)],
        &needs,
    )
    .await
    .unwrap();
    assert_eq!(fixture.status(task).await, "cancelled");
    fixture.check().await;
}

/// Projections of overlapping tasks at once, with submissions beside them.
pub async fn projections_race(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let commands = ["true"; 60];
    fixture.submit(&commands).await;
    let claim = fixture.claim(epoch, 60).await;
    let attempts: Vec<Attempt> = claim.tasks.iter().map(Attempt::of).collect();
    let workers: Vec<_> = (0..6_u64)
        .map(|seed| {
            let (db, attempts) = (fixture.db.clone(), attempts.clone());
            tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(seed);
                for _ in 0..20 {
                    let mut events: Vec<_> = attempts
                        .iter()
                        .filter(|_| random.random_bool(0.3))
                        .flat_map(|attempt| {
                            [AttemptEvent::Started, AttemptEvent::Succeeded]
                                .map(|event| attempt.event(event))
                        })
                        .collect();
                    events.reverse();
                    project(&db, epoch, &events, Vec::new()).await.unwrap();
                }
                project(
                    &db,
                    epoch,
                    &attempts
                        .iter()
                        .map(|a| a.event(AttemptEvent::Succeeded))
                        .collect::<Vec<_>>(),
                    Vec::new(),
                )
                .await
                .unwrap();
            })
        })
        .collect();
    for _ in 0..20 {
        fixture.submit(&["later"]).await;
    }
    for worker in workers {
        soon(worker).await.unwrap();
    }
    let batch = fixture.db.batch("Default").await.unwrap().unwrap();
    assert_eq!(
        batch.tasks,
        [("pending".to_owned(), 20), ("succeeded".to_owned(), 60)].into()
    );
    let page = PageRequest {
        limit: 500,
        ..PageRequest::default()
    };
    assert_eq!(
        fixture
            .db
            .executions(&ExecutionFilter::default(), &page)
            .await
            .unwrap()
            .len(),
        60
    );
    fixture.check().await;
}

pub async fn other_revisions_have_no_definition(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    fixture.submit(&["a"]).await;
    let claim = fixture.claim(epoch, 1).await;
    let mut attempt = Attempt::of(&claim.tasks[0]);
    attempt.message.definition.revision = Revision(2);
    let projected = apply(&fixture.db, epoch, &attempt, &[AttemptEvent::Started]).await;
    let view = execution(fixture, &projected).await;
    assert_eq!((view.command.as_str(), view.revision), ("", 2));
}
