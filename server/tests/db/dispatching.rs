use std::collections::BTreeSet;
use std::time::Duration;

use scitq_server::db::{BatchLoad, DbError, Loaded, Needs, Projection, Surplus};
use scitq_shared::ids::{Epoch, IncarnationId, TaskId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::protocol::TaskMessage;
use scitq_shared::submit::{SubmitTask, ValidTask};
use scitq_shared::transition::AttemptEvent;

use crate::fixture::{Fixture, batch, ids, soon, task, task_after};
use crate::projector::{Attempt, apply};

fn tasks(claimed: &[TaskMessage]) -> Vec<TaskId> {
    claimed.iter().map(|message| message.task).collect()
}

fn task_in(batch: &str, priority: i32) -> ValidTask {
    SubmitTask {
        command: "true".to_owned(),
        priority,
        batch: Some(batch.to_owned()),
        ..SubmitTask::default()
    }
    .validate()
    .unwrap()
}

pub async fn order_and_window(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let submitted = vec![
        task_in("b", 0),
        task_in("b", 5),
        task_in("b", 0),
        task_in("b", -1),
        task_in("b", 5),
        task_in("other", 9),
    ];
    let id = ids(&fixture.db.submit(submitted).await.unwrap());
    let b = batch("b");
    // The place in that order, counted up to a limit.
    let db = &fixture.db;
    let ahead =
        async |priority, task, most| db.tasks_ahead("b", priority, task, most).await.unwrap();
    assert_eq!(ahead(5, id[1], 9).await, 0);
    assert_eq!(ahead(5, id[4], 9).await, 1);
    assert_eq!(ahead(0, id[2], 9).await, 3);
    assert_eq!(ahead(-1, id[3], 9).await, 4);
    assert_eq!(ahead(-1, id[3], 2).await, 2);
    let claim = fixture.db.claim(epoch, &b, 3).await.unwrap();
    assert_eq!(tasks(&claim.tasks), [id[1], id[4], id[0]]);
    assert_eq!(
        ahead(-1, id[3], 9).await,
        1,
        "what is dispatched is not before it"
    );
    assert_eq!((claim.assigned, claim.pending_left), (3, true));
    assert!(
        claim
            .tasks
            .iter()
            .all(|message| message.epoch == epoch && message.batch == b)
    );
    // The window is full.
    let full = fixture.db.claim(epoch, &b, 3).await.unwrap();
    assert_eq!(
        (full.tasks.len(), full.assigned, full.pending_left),
        (0, 3, true)
    );
    let load = |pending, assigned| BatchLoad { pending, assigned };
    let expected = vec![(b.clone(), load(2, 3)), (batch("other"), load(1, 0))];
    assert_eq!(fixture.db.dispatchable().await.unwrap(), expected);
    // An accepted task makes room.
    apply(
        &fixture.db,
        epoch,
        &Attempt::of(&claim.tasks[0]),
        &[AttemptEvent::Accepted],
    )
    .await;
    let next = fixture.db.claim(epoch, &b, 3).await.unwrap();
    assert_eq!(
        (tasks(&next.tasks), next.assigned, next.pending_left),
        (vec![id[2]], 3, true)
    );
    let last = fixture.db.claim(epoch, &b, 100).await.unwrap();
    assert_eq!(
        (tasks(&last.tasks), last.assigned, last.pending_left),
        (vec![id[3]], 4, false)
    );
    let none = fixture
        .db
        .claim(epoch, &batch("unknown"), 100)
        .await
        .unwrap();
    assert_eq!(
        (none.tasks.len(), none.assigned, none.pending_left),
        (0, 0, false)
    );
    let dispatches: BTreeSet<_> = [claim, next, last]
        .iter()
        .flat_map(|claim| claim.tasks.clone())
        .map(|m| m.dispatch)
        .collect();
    assert_eq!(dispatches.len(), 5);
    fixture.check().await;
}

pub async fn only_the_leader_writes(fixture: &Fixture) {
    let old = fixture.lead().await;
    fixture.submit(&["a"]).await;
    let new = fixture.db.take_leadership("other", Epoch(0)).await.unwrap();
    assert_eq!(new, Epoch(old.0 + 1));
    let default = BatchName::default();
    assert_eq!(
        fixture.db.claim(old, &default, 9).await,
        Err(DbError::Fenced)
    );
    assert_eq!(
        fixture.db.return_all_dispatches(old).await,
        Err(DbError::Fenced)
    );
    let mut asked = false;
    let decide = |_: &Loaded| {
        asked = true;
        Projection::default()
    };
    let outcome = fixture
        .db
        .project(old, &Needs::default(), Vec::new(), decide)
        .await;
    assert_eq!((outcome, asked), (Err(DbError::Fenced), false));
    assert_eq!(
        fixture.db.set_offline(old, Duration::ZERO).await,
        Err(DbError::Fenced)
    );
    assert_eq!(fixture.claim(new, 9).await.tasks.len(), 1);
    assert!(!DbError::Fenced.is_transient());
}

pub async fn claims_share_nothing(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let submitted = ids(&fixture
        .db
        .submit((0..600).map(|_| task("true")).collect())
        .await
        .unwrap());
    let mut seen = BTreeSet::new();
    for round in 1..=3 {
        let claims: Vec<_> = (0..4)
            .map(|_| {
                let db = fixture.db.clone();
                // Four claims at once, each with room for fifty more than were assigned before the round.
                tokio::spawn(async move {
                    db.claim(epoch, &BatchName::default(), (round - 1) * 200 + 50)
                        .await
                })
            })
            .collect();
        for claim in claims {
            for message in soon(claim).await.unwrap().unwrap().tasks {
                assert!(
                    seen.insert(message.task),
                    "task {} was handed out twice",
                    message.task
                );
            }
        }
        let rest = fixture.claim(epoch, round * 200).await;
        seen.extend(tasks(&rest.tasks));
        assert_eq!(seen.len(), round * 200);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), submitted);
    fixture.check().await;
}

pub async fn dispatches_can_be_returned(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    fixture.submit(&["a", "b", "c"]).await;
    let claim = fixture.claim(epoch, 3).await;
    apply(
        &fixture.db,
        epoch,
        &Attempt::of(&claim.tasks[1]),
        &[AttemptEvent::Accepted],
    )
    .await;
    assert_eq!(fixture.db.return_all_dispatches(epoch).await.unwrap(), 2);
    assert_eq!(fixture.db.return_all_dispatches(epoch).await.unwrap(), 0);
    assert_eq!(fixture.status(claim.tasks[1].task).await, "accepted");
    let again = fixture.claim(epoch, 3).await;
    assert_eq!(
        tasks(&again.tasks),
        [claim.tasks[0].task, claim.tasks[2].task]
    );
    assert_ne!(again.tasks[0].dispatch, claim.tasks[0].dispatch);
    fixture.check().await;
}

/// A submission holds the rows of the tasks it requires; a claim meanwhile must come back with them all the same.
pub async fn a_submission_in_progress_does_not_hide_tasks(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    for _ in 0..10 {
        let parents = fixture.submit(&["a", "b", "c"]).await;
        let children = (0..200).map(|_| task_after(&parents)).collect();
        let db = fixture.db.clone();
        let submitting = tokio::spawn(async move { db.submit(children).await });
        let claim = soon(fixture.claim(epoch, 10_000)).await;
        assert_eq!(tasks(&claim.tasks), parents);
        soon(submitting).await.unwrap().unwrap();
    }
    fixture.check().await;
}

pub async fn what_is_not_accepted_is_listed_and_counted(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let names: BTreeSet<_> = ["v", "w"].map(|name| WorkerName::new(name).unwrap()).into();
    let mut incarnations = Vec::new();
    for name in &names {
        let hello = crate::workers::hello("b", 1);
        let incarnation = IncarnationId::generate();
        incarnations.push(incarnation);
        fixture
            .db
            .greet(epoch, name, incarnation, &hello)
            .await
            .unwrap();
    }
    let submitted = vec![
        task_in("b", 0),
        task_in("b", 0),
        task_in("b", 0),
        task_in("other", 0),
    ];
    ids(&fixture.db.submit(submitted).await.unwrap());
    let b = batch("b");
    let claim = fixture.db.claim(epoch, &b, 3).await.unwrap();
    fixture.db.claim(epoch, &batch("other"), 3).await.unwrap();
    let dispatches: Vec<_> = claim
        .tasks
        .iter()
        .map(|message| (message.task, message.dispatch))
        .collect();
    let all = fixture.db.unaccepted(&b, None).await.unwrap();
    assert_eq!((&all.dispatches, &all.workers), (&dispatches, &names));
    // Who has departed need not be asked; who has only gone may have something.
    let v = WorkerName::new("v").unwrap();
    for (departed, left) in [(false, 2), (true, 1)] {
        fixture
            .db
            .farewell(epoch, &v, incarnations[0], departed)
            .await
            .unwrap();
        let some = fixture.db.unaccepted(&b, None).await.unwrap();
        assert_eq!(some.workers.len(), left);
    }
    // The accepted one is not looked for any more.
    apply(
        &fixture.db,
        epoch,
        &Attempt::of(&claim.tasks[0]),
        &[AttemptEvent::Accepted],
    )
    .await;
    let some = dispatches[..2].iter().map(|(_, dispatch)| *dispatch);
    let some = fixture
        .db
        .unaccepted(&b, Some(some.collect()))
        .await
        .unwrap();
    assert_eq!(some.dispatches, dispatches[1..2]);

    let beyond = async |age, depth| {
        fixture
            .db
            .dispatches_beyond(&b, Duration::from_secs(age), depth)
            .await
            .unwrap()
            .surplus
    };
    assert_eq!(beyond(3600, 0).await, [], "none is so old");
    // By the database's clock, which need not have moved since.
    let past = async {
        while beyond(0, 0).await.len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    soon(past).await;
    // The newest are taken to be in the queue.
    assert_eq!(beyond(0, 1).await, [dispatches[1].1]);
    assert_eq!(beyond(0, 2).await, []);
    let all = fixture.db.dispatches_beyond(&b, Duration::ZERO, 9).await;
    assert_eq!(all.unwrap().assigned, 2);
    let none = batch("unknown");
    let none = fixture.db.dispatches_beyond(&none, Duration::ZERO, 0).await;
    assert_eq!(none.unwrap(), Surplus::default());
}
