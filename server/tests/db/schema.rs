use std::time::Duration;

use scitq_server::db::{Database, DbError, NewChunk, PageRequest, TaskFilter};
use scitq_shared::names::BatchName;
use scitq_shared::output::{Chunk, Stream};
use scitq_shared::secret::SecretUrl;
use scitq_shared::transition::AttemptEvent;

use crate::fixture::{Fixture, soon, task};
use crate::projector::{Attempt, project};

pub async fn newer_schema_is_refused(fixture: &Fixture) {
    fixture
        .execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('29991231000000')")
        .await;
    let refused = Database::connect(&SecretUrl::new(&fixture.url), 2)
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, DbError::NewerSchema { found, .. } if found == "29991231000000"),
        "{refused}"
    );
    assert!(
        refused.to_string().contains("29991231000000") && !refused.is_transient(),
        "{refused}"
    );
    fixture
        .execute("DELETE FROM __diesel_schema_migrations WHERE version = '29991231000000'")
        .await;
    soon(crate::fixture::connect(&fixture.url))
        .await
        .ping()
        .await
        .unwrap();
}

/// On a database that nobody has prepared yet.
pub async fn servers_start_at_once(fixture: &Fixture) {
    let directory = tempfile::tempdir().unwrap();
    let url = if fixture.is_sqlite() {
        format!("sqlite:{}", directory.path().join("new.db").display())
    } else {
        scitq_testkit::Postgres::shared().await.database().await
    };
    let starts: Vec<_> = (0..4)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { crate::fixture::connect(&url).await })
        })
        .collect();
    let mut epochs = Vec::new();
    for start in starts {
        epochs.push(
            soon(start)
                .await
                .unwrap()
                .take_leadership("one", scitq_shared::ids::Epoch(0))
                .await
                .unwrap()
                .0,
        );
    }
    assert_eq!(epochs, [1, 2, 3, 4], "the schema was made once");
}

/// Callers that go away in the middle of whatever leave no lock and no transaction behind.
pub async fn dropped_calls_leave_nothing_open(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    fixture.submit(&["true"; 100]).await;
    for micros in (0..4_000).step_by(100) {
        let claim = fixture.claim(epoch, 10_000).await;
        let events: Vec<_> = claim
            .tasks
            .iter()
            .map(|message| Attempt::of(message).event(AttemptEvent::Released))
            .collect();
        let limit = Duration::from_micros(micros);
        let chunks: Vec<NewChunk> = events
            .iter()
            .map(|(attempt, _)| NewChunk {
                attempt: attempt.id,
                task: attempt.message.task,
                stream: Stream::Stdout,
                offset: 0,
                chunk: Chunk::pack(b"abc").unwrap(),
            })
            .collect();
        let _ = tokio::time::timeout(limit, project(&fixture.db, epoch, &events, chunks)).await;
        let _ = tokio::time::timeout(limit, fixture.db.submit(vec![task("more"); 50])).await;
        let _ = tokio::time::timeout(
            limit,
            fixture
                .db
                .tasks(&TaskFilter::default(), &PageRequest::default()),
        )
        .await;
        soon(fixture.db.return_all_dispatches(epoch)).await.unwrap();
    }
    soon(
        fixture
            .db
            .take_leadership("again", scitq_shared::ids::Epoch(0)),
    )
    .await
    .unwrap();
    // The last submissions may still be on their way.
    let total = async || fixture.db.batch("Default").await.unwrap().unwrap().total;
    soon(async {
        while total().await != 100 + 40 * 50 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    fixture.check().await;
}

/// A program that ends in the middle of calls leaves whole transactions or none.
pub async fn a_dropped_database_leaves_nothing_open(fixture: &Fixture) {
    for micros in (0..2_000).step_by(100) {
        let db = crate::fixture::connect(&fixture.url).await;
        let limit = Duration::from_micros(micros);
        let _ = tokio::time::timeout(limit, db.submit(vec![task("true"); 500])).await;
        drop(db);
    }
    soon(fixture.db.submit(vec![task("true"); 500]))
        .await
        .unwrap();
    let batch = fixture.db.batch("Default").await.unwrap().unwrap();
    assert_eq!(batch.total % 500, 0);
    fixture.check().await;
}

pub async fn concurrent_writers(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let db = fixture.db.clone();
            tokio::spawn(async move {
                for round in 0..25 {
                    db.submit(vec![task("true"); 10]).await.unwrap();
                    let name = BatchName::new(format!("b{}", (writer + round) % 3)).unwrap();
                    let mut other = task("true");
                    other.batch = name.clone();
                    db.submit(vec![other]).await.unwrap();
                    let claim = db.claim(epoch, &name, 5).await.unwrap();
                    let events: Vec<_> = claim
                        .tasks
                        .iter()
                        .map(|message| Attempt::of(message).event(AttemptEvent::Succeeded))
                        .collect();
                    project(&db, epoch, &events, Vec::new()).await.unwrap();
                    db.tasks(&TaskFilter::default(), &PageRequest::default())
                        .await
                        .unwrap();
                    db.batches().await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        soon(writer).await.unwrap();
    }
    let total: i64 = fixture
        .db
        .batches()
        .await
        .unwrap()
        .iter()
        .map(|batch| batch.total)
        .sum();
    assert_eq!(total, 8 * 25 * 11);
    fixture.check().await;
}

pub async fn ping_and_address(fixture: &Fixture) {
    fixture.db.ping().await.unwrap();
    assert_eq!(fixture.db.address(), SecretUrl::new(&fixture.url).masked());
    assert!(format!("{:?}", fixture.db).starts_with("Database("));
    let bad = if fixture.is_sqlite() {
        "sqlite:/nonexistent/directory/scitq.db".to_owned()
    } else {
        let free = scitq_testkit::free_port();
        format!("postgres://user:s3cret@127.0.0.1:{free}/scitq")
    };
    let refused = soon(Database::connect(&SecretUrl::new(bad), 2))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, DbError::Unreachable { .. }) && refused.is_transient(),
        "{refused}"
    );
    assert!(!refused.to_string().contains("s3cret"), "{refused}");
}
