use scitq_server::db::{DbError, NewRevision, Revised, Unstarted};
use scitq_shared::definition::TaskDefinition;
use scitq_shared::ids::{Epoch, Revision, TaskId};
use scitq_shared::names::BatchName;
use scitq_shared::transition::AttemptEvent;

use crate::fixture::{Fixture, batch};
use crate::projector::{Attempt, apply};

/// Everything about the task is to be another, from this revision on.
fn wanted(task: TaskId, batch: &BatchName, from: i64) -> NewRevision {
    let some = |text: &str| Some(text.to_owned());
    NewRevision {
        task,
        batch: batch.clone(),
        priority: 7,
        definition: TaskDefinition {
            revision: Revision(from),
            name: some("changed"),
            command: "echo 'new\u{1F980}'".to_owned(),
            shell: some("sh"),
            container: some("image"),
            container_options: some("--cpus 2"),
            input: vec!["file:///in".to_owned()],
            output: some("file:///out"),
            resource: vec!["file:///resource".to_owned()],
            download_timeout_seconds: Some(11),
            run_timeout_seconds: Some(12),
            use_cache: true,
            weight: 3,
            uid: Some(13),
            gid: Some(14),
        },
    }
}

fn changed(revision: i64, unconfirmed: Option<scitq_shared::ids::DispatchId>) -> Revised {
    Revised::Changed {
        revision: Revision(revision),
        unconfirmed,
    }
}

pub async fn what_has_not_started_is_changed(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let default = BatchName::default();
    let ids = fixture.submit(&["a", "b", "c", "d"]).await;
    let claim = fixture.claim(epoch, 2).await;
    let accepted = Attempt::of(&claim.tasks[1]);
    apply(&fixture.db, epoch, &accepted, &[AttemptEvent::Accepted]).await;
    let unstarted = |message: usize, holder| Unstarted {
        task: claim.tasks[message].task,
        dispatch: claim.tasks[message].dispatch,
        holder,
    };
    let (out, _) = fixture.db.unstarted(&default).await.unwrap();
    let holder = Some(accepted.worker.clone());
    assert_eq!(out, [unstarted(0, None), unstarted(1, holder)]);
    assert_eq!(fixture.db.unstarted(&batch("none")).await.unwrap().0, []);

    let revisions: Vec<NewRevision> = ids[..3].iter().map(|id| wanted(*id, &default, 1)).collect();
    let answers = fixture
        .db
        .revise(epoch, &default, &revisions)
        .await
        .unwrap();
    let expected = [
        (ids[0], changed(2, Some(claim.tasks[0].dispatch))),
        (ids[1], changed(2, Some(claim.tasks[1].dispatch))),
        (ids[2], changed(2, None)),
    ];
    assert_eq!(answers, expected);
    // The order of dispatch is the new one, and what is dispatched is the new definition.
    let next = fixture.claim(epoch, 9).await.tasks;
    assert_eq!([next[0].task, next[1].task], [ids[2], ids[3]]);
    let definition = TaskDefinition {
        revision: Revision(2),
        ..revisions[2].definition.clone()
    };
    assert_eq!(next[0].definition, definition);
    assert_eq!(next[1].definition.revision, Revision(1));
    // The dispatch of before has not been touched: it may start, and then counts.
    let early = Attempt::of(&claim.tasks[0]);
    apply(&fixture.db, epoch, &early, &[AttemptEvent::Started]).await;
    assert_eq!(fixture.status(ids[0]).await, "running");
    fixture.check().await;
}

pub async fn what_has_started_is_not(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let default = BatchName::default();
    let ids = fixture.submit(&["a", "b", "c", "d"]).await;
    let claim = fixture.claim(epoch, 2).await;
    let running = Attempt::of(&claim.tasks[0]);
    apply(&fixture.db, epoch, &running, &[AttemptEvent::Started]).await;
    let over = Attempt::of(&claim.tasks[1]);
    apply(&fixture.db, epoch, &over, &[AttemptEvent::Succeeded]).await;
    let unknown = TaskId(ids[3].0 + 1000);
    let revisions = [
        wanted(unknown, &default, 1),
        wanted(ids[0], &default, 1),
        wanted(ids[1], &default, 1),
        wanted(ids[2], &default, 2),
        // Of two changes of one task in one go the last one counts.
        wanted(ids[3], &default, 9),
        wanted(ids[3], &default, 1),
    ];
    let answers = fixture
        .db
        .revise(epoch, &default, &revisions)
        .await
        .unwrap();
    let outdated = Revised::Outdated {
        revision: Revision(1),
    };
    let expected = [
        (ids[0], Revised::Started),
        (ids[1], Revised::Over),
        (ids[2], outdated),
        (ids[3], changed(2, None)),
        (unknown, Revised::Unknown),
    ];
    assert_eq!(answers, expected);
    let command = |id| async move { fixture.db.task(id).await.unwrap().unwrap().command };
    assert_eq!(command(ids[0]).await, "a");
    assert_eq!(command(ids[2]).await, "c");
    let elsewhere = fixture
        .db
        .revise(epoch, &batch("other"), &revisions[3..4])
        .await;
    assert_eq!(elsewhere.unwrap(), [(ids[2], outdated)]);
    let later = fixture.db.take_leadership("other", Epoch(0)).await.unwrap();
    let fenced = fixture.db.revise(epoch, &default, &revisions).await;
    assert_eq!(fenced, Err(DbError::Fenced));
    assert_eq!(fixture.db.revise(later, &default, &[]).await.unwrap(), []);
    fixture.check().await;
}

pub async fn moved_tasks_are_counted_where_they_are(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let (default, other) = (BatchName::default(), batch("other"));
    let ids = fixture.submit(&["a", "b"]).await;
    let claim = fixture.claim(epoch, 1).await;
    let revisions: Vec<NewRevision> = ids.iter().map(|id| wanted(*id, &other, 1)).collect();
    fixture
        .db
        .revise(epoch, &default, &revisions)
        .await
        .unwrap();
    fixture.check().await;
    let moved = fixture.db.claim(epoch, &other, 9).await.unwrap();
    assert_eq!((moved.tasks.len(), moved.assigned), (1, 2));
    assert_eq!(moved.tasks[0].batch, other);
    assert_eq!(fixture.claim(epoch, 9).await.assigned, 0);
    // One that was out starts all the same, and its task goes with it.
    let early = Attempt::of(&claim.tasks[0]);
    apply(&fixture.db, epoch, &early, &[AttemptEvent::Succeeded]).await;
    assert_eq!(fixture.status(ids[0]).await, "succeeded");
    fixture.check().await;
}
