//! What can only be seen on a PostgreSQL server.

use std::time::Duration;

use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Text};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use scitq_server::db::{Database, NewChunk};
use scitq_shared::output::{Chunk, Stream};
use scitq_shared::secret::SecretUrl;
use scitq_shared::transition::AttemptEvent;

use crate::fixture::{Fixture, soon, task_after};
use crate::projector::{Attempt, project};

/// A lost server gives errors that say "later", and is used again when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_server_is_used_again() {
    let postgres = scitq_testkit::Postgres::durable().await;
    let db = Database::connect(&SecretUrl::new(postgres.database().await), 4)
        .await
        .unwrap();
    let epoch = db
        .take_leadership("one", scitq_shared::ids::Epoch(0))
        .await
        .unwrap();
    for orderly in [true, false] {
        db.submit(vec![crate::fixture::task("true")]).await.unwrap();
        if orderly {
            postgres.stop().await;
        } else {
            postgres.kill().await;
        }
        for _ in 0..3 {
            let error = soon(db.batches()).await.unwrap_err();
            assert!(error.is_transient(), "{error:?}");
            let error = soon(db.set_offline(epoch, Duration::from_secs(1)))
                .await
                .unwrap_err();
            assert!(error.is_transient(), "{error:?}");
        }
        assert!(db.ping().await.is_err());
        postgres.restart().await;
        soon(async {
            while db.ping().await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        db.set_offline(epoch, Duration::from_secs(1)).await.unwrap();
    }
    assert_eq!(db.batch("Default").await.unwrap().unwrap().total, 2);
}

#[derive(Debug, QueryableByName)]
struct Scans {
    #[diesel(sql_type = Text)]
    relname: String,
    #[diesel(sql_type = BigInt)]
    whole: i64,
    #[diesel(sql_type = BigInt)]
    entries: i64,
}

/// Plans are kept from when the tables were empty. None of them may read a table, or an index, from end to end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_plans_find_rows_by_index() {
    let fixture = Fixture::postgres().await;
    // One connection, so that its plans are kept from the beginning.
    let db = Database::connect(&SecretUrl::new(&fixture.url), 1)
        .await
        .unwrap();
    let epoch = db
        .take_leadership("one", scitq_shared::ids::Epoch(0))
        .await
        .unwrap();
    // Making an index reads its table, too.
    let mut conn = AsyncPgConnection::establish(&fixture.url).await.unwrap();
    let made = soon(async {
        loop {
            let made = scans(&mut conn).await;
            if made.iter().all(|scan| scan.whole > 0) {
                break made;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let groups = 150;
    for _ in 0..groups {
        let parents: Vec<_> = db
            .submit(vec![crate::fixture::task("true"); 10])
            .await
            .unwrap();
        let parents: Vec<_> = parents.iter().map(|created| created.task).collect();
        db.submit(vec![task_after(&parents); 5]).await.unwrap();
        let claim = db
            .claim(epoch, &scitq_shared::names::BatchName::default(), 10)
            .await
            .unwrap();
        let attempts: Vec<Attempt> = claim.tasks.iter().map(Attempt::of).collect();
        for event in [AttemptEvent::Started, AttemptEvent::Succeeded] {
            let events: Vec<_> = attempts
                .iter()
                .map(|attempt| attempt.event(event))
                .collect();
            project(&db, epoch, &events, Vec::new()).await.unwrap();
        }
        let chunk = |offset: u64| {
            let chunk = |attempt: &Attempt| NewChunk {
                attempt: attempt.id,
                task: attempt.message.task,
                stream: Stream::Stdout,
                offset,
                chunk: Chunk::pack(b"abcd").unwrap(),
            };
            attempts.iter().map(chunk).collect::<Vec<_>>()
        };
        project(&db, epoch, &[], chunk(0)).await.unwrap();
        project(&db, epoch, &[], chunk(2)).await.unwrap();
        let asked: Vec<_> = attempts.iter().map(|attempt| attempt.id).collect();
        db.held_attempts(&attempts[0].worker, attempts[0].incarnation, &asked)
            .await
            .unwrap();
    }
    // The figures of a session are there at the latest when it has ended.
    drop(db);
    let scans = soon(async {
        loop {
            let scans = scans(&mut conn).await;
            let seen = |table: &&str| {
                scans
                    .iter()
                    .any(|scan| scan.relname == *table && scan.entries > 0)
            };
            if TABLES.iter().all(seen) {
                break scans;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    for scan in &scans {
        let made = made
            .iter()
            .find(|made| made.relname == scan.relname)
            .map(|made| made.whole);
        assert_eq!(Some(scan.whole), made, "{scan:?}");
        // Of the 15 tasks of a group each is looked up some dozen times; reading everything each time would be
        // millions.
        assert!(scan.entries < groups * 15 * 60, "{scan:?}");
    }
}

const TABLES: [&str; 5] = [
    "task",
    "execution",
    "requirement",
    "output_stream",
    "output_chunk",
];

async fn scans(conn: &mut AsyncPgConnection) -> Vec<Scans> {
    let read = "SELECT t.relname::text AS relname, t.seq_scan AS whole, sum(i.idx_tup_read)::bigint AS entries \
                FROM pg_stat_user_tables AS t JOIN pg_stat_user_indexes AS i USING (relid) GROUP BY t.relname, t.seq_scan";
    let mut scans: Vec<Scans> = diesel::sql_query(read).load(conn).await.unwrap();
    scans.retain(|scan| TABLES.contains(&scan.relname.as_str()));
    scans
}
