//! A database that was restored from a backup.

use std::collections::{BTreeMap, BTreeSet};

use scitq_server::db::{LEAP, TaskFilter};
use scitq_shared::definition::TaskDefinition;
use scitq_shared::ids::{DispatchId, Epoch, Revision, TaskId};
use scitq_shared::protocol::{TaskMessage, TaskParticulars};
use scitq_shared::submit::{SubmitTask, ValidTask};
use scitq_shared::transition::AttemptEvent;

use crate::fixture::{Fixture, batch, ids, task};
use crate::projector::{Attempt, apply};
use crate::workers::hello;

fn message(task: i64, batch_name: &str, command: &str) -> TaskMessage {
    TaskMessage::new(
        Epoch(1),
        DispatchId::generate(),
        TaskId(task),
        batch(batch_name),
        scitq_shared::now(),
        TaskDefinition {
            revision: Revision(3),
            ..TaskDefinition::bare(command)
        },
    )
}

/// Ids and epochs of before are never given again, and who led is overtaken.
pub async fn ids_are_left_free(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let before = fixture.submit(&["one", "two", "three"]).await;
    let claim = fixture.claim(epoch, 10).await;
    let attempt = Attempt::of(&claim.tasks[0]);
    apply(&fixture.db, epoch, &attempt, &[AttemptEvent::Started]).await;
    let incarnation = scitq_shared::ids::IncarnationId::generate();
    let greet = async |name: &str, epoch| {
        let name = scitq_shared::names::WorkerName::new(name).unwrap();
        let greeted = fixture
            .db
            .greet(epoch, &name, incarnation, &hello("Default", 2))
            .await;
        greeted.unwrap().desired.version
    };
    assert_eq!(greet("w1", epoch).await, 1);
    assert!(fixture.db.restorations().await.unwrap().is_empty());

    let restoration = fixture.db.restore().await.unwrap();
    assert_eq!(restoration.epoch, Epoch(epoch.0 + LEAP));
    assert_eq!(restoration.last_task, before[2]);
    assert_eq!(restoration.last_free_task, TaskId(before[2].0 + LEAP));
    let restorations = fixture.db.restorations().await.unwrap();
    assert_eq!(restorations.0, std::slice::from_ref(&restoration));
    assert!(restorations.is_open());
    let fenced = fixture.db.claim(epoch, &batch("Default"), 10).await;
    assert!(fenced.is_err(), "who led before does no more");
    let epoch = fixture.lead().await;
    assert_eq!(epoch, Epoch(restoration.epoch.0 + 1));

    let after = fixture.submit(&["four", "five"]).await;
    assert_eq!(
        after,
        [
            TaskId(before[2].0 + LEAP + 1),
            TaskId(before[2].0 + LEAP + 2)
        ]
    );
    let attempt = Attempt::of(&claim.tasks[1]);
    let applied = apply(&fixture.db, epoch, &attempt, &[AttemptEvent::Started]).await;
    assert!(applied.executions[0].1.0 > restoration.last_execution.0 + LEAP);
    assert_eq!(
        greet("w1", epoch).await,
        1 + LEAP,
        "workers follow no older version"
    );
    assert!(greet("w2", epoch).await > 0);
    let workers = fixture.db.workers().await.unwrap();
    assert!(workers[1].worker_id > LEAP, "{workers:?}");

    // What others have heard of may be later than all that was left free.
    let epoch = fixture
        .db
        .take_leadership("test", Epoch(5 * LEAP))
        .await
        .unwrap();
    assert_eq!(epoch, Epoch(5 * LEAP + 1));
    assert_eq!(fixture.db.restorations().await.unwrap().0[0].epoch, epoch);
    fixture.db.restoration_heard(epoch).await.unwrap();
    assert!(!fixture.db.restorations().await.unwrap().is_open());
    // The same once more, with an empty table of executions in between or not.
    let again = fixture.db.restore().await.unwrap();
    assert_eq!(again.last_task, after[1]);
    assert_eq!(fixture.db.restorations().await.unwrap().0.len(), 2);
    let last = fixture.submit(&["six"]).await;
    assert_eq!(last, [TaskId(again.last_free_task.0 + 1)]);
    fixture.check().await;
}

/// Tasks that the backup does not know keep their ids and everything that their messages say.
pub async fn unknown_tasks_are_taken_in(fixture: &Fixture) {
    fixture.lead().await;
    let known = fixture.submit(&["known"]).await;
    fixture.db.restore().await.unwrap();
    let epoch = fixture.lead().await;
    let keyed = ValidTask {
        idempotency_key: Some("taken".to_owned()),
        ..task("submitted again")
    };
    let resubmitted = ids(&fixture.db.submit(vec![keyed]).await.unwrap());
    let mut first = message(known[0].0 + 5, "new", "echo 'a b'");
    first.definition.name = Some("name".to_owned());
    first.definition.weight = 3;
    first.definition.input = vec!["s3://bucket/in".to_owned()];
    first.particulars = TaskParticulars {
        retries_left: 2,
        priority: -7,
        idempotency_key: Some("key".to_owned()),
        labels: BTreeMap::from([("sample".to_owned(), "s1".to_owned())]),
    };
    let mut second = message(known[0].0 + 6, "new", "second\0");
    second.particulars.idempotency_key = Some("taken".to_owned());
    let another_dispatch = message(known[0].0 + 5, "new", "another");
    let of_known = message(known[0].0, "new", "another");
    let messages = vec![first.clone(), another_dispatch, of_known, second.clone()];
    let imported = fixture.db.import(epoch, messages.clone()).await.unwrap();
    assert_eq!(imported, [first.task, second.task]);
    assert_eq!(fixture.db.import(epoch, messages).await.unwrap(), []);
    assert!(
        fixture
            .db
            .import(Epoch(1), vec![first.clone()])
            .await
            .is_err()
    );
    fixture.check().await;

    let view = fixture.db.task(first.task).await.unwrap().unwrap();
    assert_eq!(view.status, "assigned");
    assert_eq!(view.batch, "new");
    assert_eq!(view.command, "echo 'a b'");
    assert_eq!(view.name.as_deref(), Some("name"));
    assert_eq!((view.weight, view.priority, view.retry), (3, -7, 2));
    assert_eq!(view.labels, first.particulars.labels);
    let filter = TaskFilter {
        label: Some(("sample".to_owned(), "s1".to_owned())),
        ..TaskFilter::default()
    };
    let page = scitq_server::db::PageRequest {
        limit: 10,
        ..scitq_server::db::PageRequest::default()
    };
    let labelled = fixture.db.tasks(&filter, &page).await.unwrap();
    assert_eq!(labelled.len(), 1);
    assert_eq!(
        fixture.db.task(known[0]).await.unwrap().unwrap().command,
        "known"
    );
    let second_view = fixture.db.task(second.task).await.unwrap().unwrap();
    assert_eq!(second_view.command, "second\u{fffd}");

    // A submission with the key finds the task, also where somebody had used it again.
    for (key, expected) in [("key", first.task), ("taken", resubmitted[0])] {
        let valid = SubmitTask {
            command: "true".to_owned(),
            idempotency_key: Some(key.to_owned()),
            ..SubmitTask::default()
        };
        let created = fixture
            .db
            .submit(vec![valid.validate().unwrap()])
            .await
            .unwrap();
        assert_eq!((created[0].task, created[0].created), (expected, false));
    }

    // They live on like any other.
    let attempt = Attempt::of(&first);
    apply(&fixture.db, epoch, &attempt, &[AttemptEvent::Started]).await;
    let failed = apply(&fixture.db, epoch, &attempt, &[AttemptEvent::Failed]).await;
    assert_eq!(failed.newly_pending, BTreeMap::from([(batch("new"), 1)]));
    let claim = fixture.db.claim(epoch, &batch("new"), 10).await.unwrap();
    assert_eq!(claim.tasks[0].task, first.task);
    assert_eq!(claim.tasks[0].definition, first.definition);
    let particulars = TaskParticulars {
        retries_left: 1,
        ..first.particulars.clone()
    };
    assert_eq!(claim.tasks[0].particulars, particulars);
    let around = fixture.db.whereabouts().await.unwrap();
    assert_eq!(
        around.batches,
        BTreeSet::from([batch("Default"), batch("new")])
    );
    fixture.check().await;
}
