use std::collections::{BTreeMap, BTreeSet};

use scitq_server::db::{ExecutionFilter, PageRequest, TaskFilter};
use scitq_shared::execution::ExecutionStatus;
use scitq_shared::ids::TaskId;
use scitq_shared::submit::SubmitTask;
use scitq_shared::task::TaskStatus;
use scitq_shared::transition::AttemptEvent;

use crate::fixture::{Fixture, batch, ids, soon};
use crate::projector::{Attempt, apply};

async fn listed(fixture: &Fixture, filter: TaskFilter) -> Vec<i64> {
    let tasks = fixture
        .db
        .tasks(&filter, &PageRequest::default())
        .await
        .unwrap();
    tasks.into_iter().map(|task| task.task_id).collect()
}

fn raw(ids: &[TaskId]) -> Vec<i64> {
    ids.iter().map(|id| id.0).collect()
}

pub async fn filters(fixture: &Fixture) {
    let task = |batch: &str, name: &str, label: &str| {
        let labels = BTreeMap::from([("kind".to_owned(), label.to_owned())]);
        let (batch, name) = (Some(batch.to_owned()), Some(name.to_owned()));
        SubmitTask {
            command: "true".to_owned(),
            batch,
            name,
            labels,
            ..SubmitTask::default()
        }
        .validate()
        .unwrap()
    };
    let submitted = vec![
        task("a", "x", "1"),
        task("a", "y", "2"),
        task("b", "x", "2"),
        task("b", "y", "1"),
    ];
    let id = raw(&ids(&fixture.db.submit(submitted).await.unwrap()));
    let all = TaskFilter::default;
    assert_eq!(listed(fixture, all()).await, id);
    assert_eq!(
        listed(
            fixture,
            TaskFilter {
                batch: Some("a".into()),
                ..all()
            }
        )
        .await,
        id[..2]
    );
    assert_eq!(
        listed(
            fixture,
            TaskFilter {
                name: Some("x".into()),
                ..all()
            }
        )
        .await,
        [id[0], id[2]]
    );
    let label = |value: &str| Some(("kind".to_owned(), value.to_owned()));
    assert_eq!(
        listed(
            fixture,
            TaskFilter {
                label: label("2"),
                ..all()
            }
        )
        .await,
        [id[1], id[2]]
    );
    assert_eq!(
        listed(
            fixture,
            TaskFilter {
                label: label("3"),
                ..all()
            }
        )
        .await,
        Vec::<i64>::new()
    );
    let several = TaskFilter {
        ids: vec![id[3], id[0], 9_999_999, id[0]],
        ..all()
    };
    assert_eq!(listed(fixture, several).await, [id[0], id[3]]);
    let many = TaskFilter {
        ids: (1..40_000).collect(),
        batch: Some("b".into()),
        ..all()
    };
    assert_eq!(listed(fixture, many).await, id[2..]);
    let both = TaskFilter {
        name: Some("x".into()),
        label: label("2"),
        batch: Some("b".into()),
        ..all()
    };
    assert_eq!(listed(fixture, both).await, [id[2]]);
    let pending = TaskFilter {
        statuses: vec![TaskStatus::Pending],
        ..all()
    };
    assert_eq!(listed(fixture, pending).await, id);
    let failed = TaskFilter {
        statuses: vec![TaskStatus::Failed],
        ..all()
    };
    assert_eq!(listed(fixture, failed).await, Vec::<i64>::new());
    let named = TaskFilter {
        statuses: vec![TaskStatus::Failed, TaskStatus::Pending],
        name: Some("y".into()),
        ..all()
    };
    assert_eq!(listed(fixture, named).await, [id[1], id[3]]);
    let batches = fixture.db.batches().await.unwrap();
    assert_eq!(
        batches
            .iter()
            .map(|batch| (batch.batch.as_str(), batch.total))
            .collect::<Vec<_>>(),
        [("a", 2), ("b", 2)]
    );
    assert_eq!(fixture.db.task(TaskId(9_999_999)).await.unwrap(), None);
}

pub async fn pages_neither_repeat_nor_hide(fixture: &Fixture) {
    let first = fixture.submit(&["true"; 50]).await;
    for descending in [false, true] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = PageRequest {
                after,
                limit: 7,
                descending,
            };
            let tasks = fixture
                .db
                .tasks(&TaskFilter::default(), &page)
                .await
                .unwrap();
            assert!(tasks.len() <= 7);
            let Some(last) = tasks.last() else { break };
            after = Some(last.task_id);
            seen.extend(tasks.iter().map(|task| task.task_id));
            if seen.len() < 100 {
                fixture.submit(&["more"; 3]).await;
            }
        }
        let unique: BTreeSet<i64> = seen.iter().copied().collect();
        assert_eq!(unique.len(), seen.len());
        assert!(raw(&first).iter().all(|id| unique.contains(id)));
        assert!(if descending {
            seen.is_sorted_by(|a, b| a > b)
        } else {
            seen.is_sorted()
        });
    }
}

pub async fn many_statuses_at_once(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let id = fixture.submit(&["true"; 60]).await;
    let claim = fixture.claim(epoch, 40).await;
    for (place, message) in claim.tasks.iter().enumerate() {
        let end = [
            AttemptEvent::Accepted,
            AttemptEvent::Started,
            AttemptEvent::Succeeded,
            AttemptEvent::Failed,
        ][place % 4];
        apply(&fixture.db, epoch, &Attempt::of(message), &[end]).await;
    }
    let statuses = [
        TaskStatus::Accepted,
        TaskStatus::Failed,
        TaskStatus::Pending,
    ];
    let fits = |place: usize| place >= 40 || place.is_multiple_of(4) || place % 4 == 3;
    let expected: Vec<i64> = (0..60)
        .filter(|place| fits(*place))
        .map(|place| id[place].0)
        .collect();
    for batch in [None, Some("Default".to_owned())] {
        for descending in [false, true] {
            let filter = TaskFilter {
                statuses: statuses.to_vec(),
                batch: batch.clone(),
                ..TaskFilter::default()
            };
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = PageRequest {
                    after,
                    limit: 7,
                    descending,
                };
                let tasks = fixture.db.tasks(&filter, &page).await.unwrap();
                let Some(last) = tasks.last() else { break };
                after = Some(last.task_id);
                seen.extend(tasks.iter().map(|task| task.task_id));
            }
            if descending {
                seen.reverse();
            }
            assert_eq!(seen, expected, "{batch:?} {descending}");
        }
    }
    let all = TaskFilter {
        statuses: TaskStatus::ALL.to_vec(),
        ..TaskFilter::default()
    };
    assert_eq!(listed(fixture, all).await, raw(&id));
    fixture.check().await;
}

pub async fn executions_by_filter(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let retrying = SubmitTask {
        command: "false".to_owned(),
        retry: 1,
        batch: Some("r".to_owned()),
        ..SubmitTask::default()
    };
    let task = ids(&fixture
        .db
        .submit(vec![retrying.validate().unwrap()])
        .await
        .unwrap())[0];
    fixture.submit(&["a", "b"]).await;
    for _ in 0..2 {
        let claim = fixture.db.claim(epoch, &batch("r"), 1).await.unwrap();
        apply(
            &fixture.db,
            epoch,
            &Attempt::of(&claim.tasks[0]),
            &[AttemptEvent::Failed],
        )
        .await;
    }
    let claim = fixture.claim(epoch, 2).await;
    let mut other = Attempt::of(&claim.tasks[0]);
    other.worker = scitq_shared::names::WorkerName::new("w2").unwrap();
    apply(&fixture.db, epoch, &other, &[AttemptEvent::Started]).await;
    apply(
        &fixture.db,
        epoch,
        &Attempt::of(&claim.tasks[1]),
        &[AttemptEvent::Exited],
    )
    .await;
    let all = ExecutionFilter::default;
    let statuses = |statuses: &[ExecutionStatus]| ExecutionFilter {
        statuses: statuses.to_vec(),
        ..all()
    };
    let table = [
        (all(), vec!["failed", "failed", "running", "running"]),
        (
            ExecutionFilter {
                task: Some(task),
                ..all()
            },
            vec!["failed", "failed"],
        ),
        (
            ExecutionFilter {
                batch: Some("Default".into()),
                ..all()
            },
            vec!["running", "running"],
        ),
        (
            ExecutionFilter {
                worker: Some("w2".into()),
                ..all()
            },
            vec!["running"],
        ),
        (
            ExecutionFilter {
                latest: true,
                ..all()
            },
            vec!["failed", "running", "running"],
        ),
        (
            statuses(&[ExecutionStatus::Running]),
            vec!["running", "running"],
        ),
        (
            statuses(&[ExecutionStatus::Failed]),
            vec!["failed", "failed"],
        ),
        (
            statuses(&[ExecutionStatus::Failed, ExecutionStatus::Running]),
            vec!["failed", "failed", "running", "running"],
        ),
        (
            ExecutionFilter {
                latest: true,
                ..statuses(&[ExecutionStatus::Failed, ExecutionStatus::Lost])
            },
            vec!["failed"],
        ),
        (
            statuses(&[ExecutionStatus::Cancelled, ExecutionStatus::Lost]),
            vec![],
        ),
    ];
    for (filter, expected) in table {
        for descending in [false, true] {
            let page = PageRequest {
                descending,
                ..PageRequest::default()
            };
            let mut found = fixture.db.executions(&filter, &page).await.unwrap();
            assert!(found.is_sorted_by_key(|execution| if descending {
                -execution.execution_id
            } else {
                execution.execution_id
            }));
            if descending {
                found.reverse();
            }
            let found: Vec<&str> = found
                .iter()
                .map(|execution| execution.status.as_str())
                .collect();
            assert_eq!(found, expected, "{filter:?}");
        }
    }
    let second = fixture
        .db
        .executions(
            &all(),
            &PageRequest {
                limit: 1,
                ..PageRequest::default()
            },
        )
        .await
        .unwrap();
    let page = PageRequest {
        after: Some(second[0].execution_id),
        limit: 2,
        descending: false,
    };
    assert_eq!(fixture.db.executions(&all(), &page).await.unwrap().len(), 2);
    assert_eq!(
        fixture
            .db
            .execution(scitq_shared::ids::ExecutionId(1 << 40))
            .await
            .unwrap(),
        None
    );
}

pub async fn progress(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let id = fixture.submit(&vec!["true"; 12_000]).await;
    let claim = fixture.claim(epoch, 2).await;
    apply(
        &fixture.db,
        epoch,
        &Attempt::of(&claim.tasks[0]),
        &[AttemptEvent::Succeeded],
    )
    .await;
    apply(
        &fixture.db,
        epoch,
        &Attempt::of(&claim.tasks[1]),
        &[AttemptEvent::Failed],
    )
    .await;
    let asked: Vec<i64> = raw(&id).into_iter().chain([id[0].0, 1 << 40]).collect();
    let progress = soon(fixture.db.progress_of_tasks(&asked)).await.unwrap();
    assert_eq!(
        (progress.total, progress.over, progress.succeeded),
        (12_000, 2, 1)
    );
    assert_eq!(progress.tasks["pending"], 11_998);
    assert_eq!(fixture.db.progress_of_tasks(&[]).await.unwrap().total, 0);
}
