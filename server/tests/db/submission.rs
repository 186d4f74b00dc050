use std::collections::BTreeMap;

use scitq_shared::submit::SubmitTask;
use scitq_shared::task::TaskStatus;

use crate::fixture::{Fixture, batch, ids, soon, task};
use scitq_server::db::{PageRequest, TaskFilter};

pub async fn ids_ascend_in_order(fixture: &Fixture) {
    assert_eq!(fixture.db.submit(Vec::new()).await.unwrap(), []);
    let tasks = |from: usize| {
        (from..from + 7_000)
            .map(|place| task(&format!("echo {place}")))
            .collect::<Vec<_>>()
    };
    // Two submissions at once: each in order, whatever lies between.
    let (one, two) =
        soon(async { tokio::join!(fixture.db.submit(tasks(0)), fixture.db.submit(tasks(7_000))) })
            .await;
    for (created, from) in [(one.unwrap(), 0), (two.unwrap(), 7_000)] {
        let ids = ids(&created);
        assert!(ids.is_sorted() && ids.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(
            created
                .iter()
                .all(|created| created.created && created.status == TaskStatus::Pending)
        );
        for place in [0, 1, 4_999, 5_000, 6_999] {
            let view = fixture.db.task(ids[place]).await.unwrap().unwrap();
            assert_eq!(view.command, format!("echo {}", from + place));
        }
    }
    let view = fixture.db.batch("Default").await.unwrap().unwrap();
    assert_eq!(
        (view.total, view.tasks),
        (14_000, BTreeMap::from([("pending".to_owned(), 14_000)]))
    );
    fixture.check().await;
}

pub async fn every_field_comes_back(fixture: &Fixture) {
    let json = r#"{"command":"run 'a b' \\","shell":"bash","name":"étape 1","batch":"b.1","container":"img","container_options":"-e A=b",
        "input":["s3://a/","s3://b"],"output":"s3://out/","resource":"s3://r|untar","retry":3,"download_timeout":60,
        "run_timeout":600,"use_cache":true,"priority":-5,"weight":4,"idempotency_key":"k","labels":{"a":"1","b.c":"\"x\""},
        "uid":1000,"gid":4294967294}"#;
    let submitted: SubmitTask = serde_json::from_str(json).unwrap();
    let created = fixture
        .db
        .submit(vec![submitted.validate().unwrap()])
        .await
        .unwrap();
    let view = fixture.db.task(created[0].task).await.unwrap().unwrap();
    assert_eq!(created[0].batch, batch("b.1"));
    assert_eq!(view.command, "run 'a b' \\");
    assert_eq!(view.shell.as_deref(), Some("bash"));
    assert_eq!(view.name.as_deref(), Some("étape 1"));
    assert_eq!(view.batch, "b.1");
    assert_eq!(
        (view.status.as_str(), view.uploading, view.revision),
        ("pending", false, 1)
    );
    assert_eq!(view.container.as_deref(), Some("img"));
    assert_eq!(view.container_options.as_deref(), Some("-e A=b"));
    assert_eq!(view.input, ["s3://a/", "s3://b"]);
    assert_eq!(view.output.as_deref(), Some("s3://out/"));
    assert_eq!(view.resource, ["s3://r|untar"]);
    assert_eq!((view.retry, view.retries_left), (3, 3));
    assert_eq!(
        (view.download_timeout, view.run_timeout),
        (Some(60), Some(600))
    );
    assert_eq!((view.use_cache, view.priority, view.weight), (true, -5, 4));
    assert_eq!(view.idempotency_key.as_deref(), Some("k"));
    assert_eq!(
        view.labels,
        BTreeMap::from([("a".into(), "1".into()), ("b.c".into(), "\"x\"".into())])
    );
    assert_eq!((view.uid, view.gid), (Some(1000), Some(4_294_967_294)));
    assert_eq!((view.execution_id, view.missing_requirements), (None, 0));
    let age = scitq_shared::now() - view.created_at;
    assert!(
        age.abs() < chrono::TimeDelta::minutes(5),
        "{}",
        view.created_at
    );
    // The message that a worker gets says the same.
    let epoch = fixture.lead().await;
    let claim = fixture.db.claim(epoch, &batch("b.1"), 1).await.unwrap();
    let submitted: SubmitTask = serde_json::from_str(json).unwrap();
    assert_eq!(
        claim.tasks[0].definition,
        submitted.validate().unwrap().definition
    );
}

pub async fn a_key_creates_one_task(fixture: &Fixture) {
    let keyed = |command: &str, key: Option<&str>| {
        let idempotency_key = key.map(str::to_owned);
        SubmitTask {
            command: command.to_owned(),
            idempotency_key,
            ..SubmitTask::default()
        }
        .validate()
        .unwrap()
    };
    let first = vec![
        keyed("a", Some("1")),
        keyed("b", None),
        keyed("c", Some("1")),
        keyed("d", Some("2")),
    ];
    let created = fixture.db.submit(first).await.unwrap();
    assert_eq!(
        created
            .iter()
            .map(|created| created.created)
            .collect::<Vec<_>>(),
        [true, true, false, true]
    );
    assert_eq!(created[2].task, created[0].task);
    let again = vec![
        keyed("e", Some("2")),
        keyed("f", Some("3")),
        keyed("g", Some("1")),
    ];
    let repeated = fixture.db.submit(again).await.unwrap();
    assert_eq!(
        repeated
            .iter()
            .map(|created| created.created)
            .collect::<Vec<_>>(),
        [false, true, false]
    );
    assert_eq!(
        (repeated[0].task, repeated[2].task),
        (created[3].task, created[0].task)
    );
    let all = fixture
        .db
        .tasks(&TaskFilter::default(), &PageRequest::default())
        .await
        .unwrap();
    let commands: Vec<&str> = all.iter().map(|task| task.command.as_str()).collect();
    assert_eq!(commands, ["a", "b", "d", "f"]);
    fixture.check().await;
}

pub async fn keys_race(fixture: &Fixture) {
    for round in 0..10 {
        let submit = |client: usize| {
            let tasks = (0..20).map(|place| {
                // Half of the clients bring the keys in the opposite order.
                let place = if client.is_multiple_of(2) {
                    place
                } else {
                    19 - place
                };
                let key = format!("{round}-{place}");
                SubmitTask {
                    command: key.clone(),
                    idempotency_key: Some(key),
                    ..SubmitTask::default()
                }
                .validate()
                .unwrap()
            });
            let (db, tasks) = (fixture.db.clone(), tasks.collect::<Vec<_>>());
            tokio::spawn(async move { db.submit(tasks).await })
        };
        let clients: Vec<_> = (0..4).map(submit).collect();
        let mut of_key: BTreeMap<usize, Vec<i64>> = BTreeMap::new();
        let mut created = 0;
        for (client, answer) in clients.into_iter().enumerate() {
            for (place, answer) in soon(answer).await.unwrap().unwrap().into_iter().enumerate() {
                let place = if client.is_multiple_of(2) {
                    place
                } else {
                    19 - place
                };
                created += usize::from(answer.created);
                of_key.entry(place).or_default().push(answer.task.0);
            }
        }
        assert_eq!(created, 20);
        assert!(
            of_key
                .values()
                .all(|ids| ids.len() == 4 && ids.iter().all(|id| *id == ids[0])),
            "{of_key:?}"
        );
    }
    fixture.check().await;
}

pub async fn hostile_text_is_stored(fixture: &Fixture) {
    let texts = [
        "'; DROP TABLE task; --",
        "$1 ? :a @b",
        "\\u0000 \\x00 \u{1f600}",
        "a\nb\t\u{7f}",
        "\"quoted\" \\\"",
        "]}",
    ];
    let tasks: Vec<_> = texts
        .iter()
        .map(|text| {
            let shell = Some("sh".to_owned());
            SubmitTask {
                command: (*text).to_owned(),
                shell,
                ..SubmitTask::default()
            }
            .validate()
            .unwrap()
        })
        .collect();
    let created = fixture.db.submit(tasks).await.unwrap();
    for (created, text) in created.iter().zip(texts) {
        assert_eq!(
            fixture
                .db
                .task(created.task)
                .await
                .unwrap()
                .unwrap()
                .command,
            text
        );
    }
    for name in texts.into_iter().chain(["nul\0", "%"]) {
        let filter = TaskFilter {
            name: Some(name.to_owned()),
            ..TaskFilter::default()
        };
        assert_eq!(
            fixture
                .db
                .tasks(&filter, &PageRequest::default())
                .await
                .unwrap(),
            []
        );
        assert_eq!(fixture.db.batch(name).await.unwrap(), None);
        assert_eq!(fixture.db.worker(name).await.unwrap(), None);
    }
}

pub async fn many_large_tasks(fixture: &Fixture) {
    let command = format!("echo {}", "x".repeat(600_000));
    let tasks = (0..40).map(|_| task(&command)).collect();
    let created = soon(fixture.db.submit(tasks)).await.unwrap();
    for id in ids(&created) {
        assert_eq!(
            fixture.db.task(id).await.unwrap().unwrap().command.len(),
            command.len()
        );
    }
    let epoch = fixture.lead().await;
    let claim = soon(fixture.db.claim(epoch, &batch("Default"), 40))
        .await
        .unwrap();
    assert!(
        claim
            .tasks
            .iter()
            .all(|message| message.definition.command == command)
            && claim.tasks.len() == 40
    );
}
