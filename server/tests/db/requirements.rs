use scitq_server::db::SubmitError;
use scitq_shared::ids::TaskId;
use scitq_shared::task::TaskStatus;
use scitq_shared::transition::AttemptEvent;

use crate::fixture::{Fixture, ids, soon, task, task_after};
use crate::projector::{Attempt, apply, project};

pub async fn statuses_follow_requirements(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let parents = fixture.submit(&["a", "b"]).await;
    let child = ids(&fixture.db.submit(vec![task_after(&parents)]).await.unwrap())[0];
    let view = fixture.db.task(child).await.unwrap().unwrap();
    assert_eq!(
        (view.status.as_str(), view.missing_requirements),
        ("waiting", 2)
    );
    assert_eq!(view.required_task_ids, [parents[0].0, parents[1].0]);
    let claim = fixture.claim(epoch, 10).await;
    assert_eq!(claim.tasks.len(), 2, "a waiting task is not dispatched");
    let attempts: Vec<Attempt> = claim.tasks.iter().map(Attempt::of).collect();
    let projected = apply(&fixture.db, epoch, &attempts[0], &[AttemptEvent::Succeeded]).await;
    assert!(projected.newly_pending.is_empty());
    assert_eq!(
        fixture
            .db
            .task(child)
            .await
            .unwrap()
            .unwrap()
            .missing_requirements,
        1
    );
    // A failure meets nothing.
    apply(&fixture.db, epoch, &attempts[1], &[AttemptEvent::Failed]).await;
    assert_eq!(fixture.status(child).await, "waiting");
    // One that has succeeded already counts as met.
    let late = fixture
        .db
        .submit(vec![task_after(&parents[..1]), task_after(&parents)])
        .await
        .unwrap();
    assert_eq!(late[0].status, TaskStatus::Pending);
    assert_eq!(late[1].status, TaskStatus::Waiting);
    fixture.check().await;
}

pub async fn unknown_requirements_store_nothing(fixture: &Fixture) {
    let parent = fixture.submit(&["a"]).await[0];
    let missing = TaskId(parent.0 + 1000);
    let tasks = vec![
        task("b"),
        task_after(&[parent]),
        task_after(&[parent, missing]),
    ];
    let refused = fixture.db.submit(tasks).await;
    assert_eq!(
        refused,
        Err(SubmitError::UnknownRequirement {
            index: 2,
            task: missing
        })
    );
    assert_eq!(fixture.db.batch("Default").await.unwrap().unwrap().total, 1);
    fixture.check().await;
}

pub async fn a_parent_that_ends_meanwhile_is_not_missed(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    for _ in 0..60 {
        let parents = fixture.submit(&["a", "b"]).await;
        let claim = fixture.claim(epoch, 2).await;
        let attempts: Vec<Attempt> = claim.tasks.iter().map(Attempt::of).collect();
        let end = |attempt: Attempt| {
            let db = fixture.db.clone();
            tokio::spawn(async move {
                project(
                    &db,
                    epoch,
                    &[attempt.event(AttemptEvent::Succeeded)],
                    Vec::new(),
                )
                .await
                .unwrap()
            })
        };
        let (db, after) = (fixture.db.clone(), task_after(&parents));
        let one = end(attempts[0].clone());
        let submitted = tokio::spawn(async move { db.submit(vec![after]).await.unwrap() });
        let two = end(attempts[1].clone());
        let (one, submitted, two) = soon(async {
            (
                one.await.unwrap(),
                submitted.await.unwrap(),
                two.await.unwrap(),
            )
        })
        .await;
        let told: u64 = [&one, &two]
            .into_iter()
            .flat_map(|projected| projected.newly_pending.values())
            .sum();
        let ready = submitted[0].status == TaskStatus::Pending;
        assert_eq!(fixture.status(submitted[0].task).await, "pending");
        assert_eq!(
            u64::from(ready) + told,
            1,
            "told once: by the submission or by the parent that ended last"
        );
        // Out of the way of the next round.
        let claim = fixture.claim(epoch, 1).await;
        apply(
            &fixture.db,
            epoch,
            &Attempt::of(&claim.tasks[0]),
            &[AttemptEvent::Succeeded],
        )
        .await;
    }
    fixture.check().await;
}

pub async fn a_parent_counts_once(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let parents = fixture.submit(&["a", "b"]).await;
    let child = ids(&fixture.db.submit(vec![task_after(&parents)]).await.unwrap())[0];
    let claim = fixture.claim(epoch, 1).await;
    let attempt = Attempt::of(&claim.tasks[0]);
    apply(&fixture.db, epoch, &attempt, &[AttemptEvent::Succeeded]).await;
    // It is run and succeeds once more.
    fixture
        .execute(&format!(
            "UPDATE task SET status = 'pending' WHERE id = {}",
            attempt.message.task
        ))
        .await;
    fixture.db.repair_counters().await.unwrap();
    let claim = fixture.claim(epoch, 1).await;
    assert_eq!(claim.tasks[0].task, attempt.message.task);
    apply(
        &fixture.db,
        epoch,
        &Attempt::of(&claim.tasks[0]),
        &[AttemptEvent::Succeeded],
    )
    .await;
    assert_eq!(
        fixture
            .db
            .task(child)
            .await
            .unwrap()
            .unwrap()
            .missing_requirements,
        1
    );
    let claim = fixture.claim(epoch, 1).await;
    let projected = apply(
        &fixture.db,
        epoch,
        &Attempt::of(&claim.tasks[0]),
        &[AttemptEvent::Succeeded],
    )
    .await;
    assert_eq!(projected.newly_pending.values().sum::<u64>(), 1);
    assert_eq!(fixture.status(child).await, "pending");
    fixture.check().await;
}

pub async fn many_dependents(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let parent = fixture.submit(&["a"]).await[0];
    let children = (0..10_000).map(|_| task_after(&[parent])).collect();
    let children = ids(&soon(fixture.db.submit(children)).await.unwrap());
    let claim = fixture.claim(epoch, 1).await;
    let attempt = Attempt::of(&claim.tasks[0]);
    let projected = soon(apply(
        &fixture.db,
        epoch,
        &attempt,
        &[AttemptEvent::Succeeded],
    ))
    .await;
    assert_eq!(projected.newly_pending.values().sum::<u64>(), 10_000);
    assert_eq!(fixture.status(children[9_999]).await, "pending");
    fixture.check().await;
}

pub async fn many_requirements(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let parents = (0..10_000).map(|_| task("true")).collect();
    let parents = ids(&soon(fixture.db.submit(parents)).await.unwrap());
    let child = ids(&soon(fixture.db.submit(vec![task_after(&parents)]))
        .await
        .unwrap())[0];
    let claim = soon(fixture.claim(epoch, 10_000)).await;
    let events: Vec<_> = claim
        .tasks
        .iter()
        .map(|message| Attempt::of(message).event(AttemptEvent::Succeeded))
        .collect();
    for (place, some) in events.chunks(2_500).enumerate() {
        let projected = soon(project(&fixture.db, epoch, some, Vec::new()))
            .await
            .unwrap();
        assert_eq!(
            projected.newly_pending.values().sum::<u64>(),
            u64::from(place == 3)
        );
    }
    let view = fixture.db.task(child).await.unwrap().unwrap();
    assert_eq!(
        (view.status.as_str(), view.missing_requirements),
        ("pending", 0)
    );
    assert_eq!(view.required_task_ids.len(), 10_000);
    fixture.check().await;
}
