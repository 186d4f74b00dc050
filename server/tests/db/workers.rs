use std::time::Duration;

use scitq_server::db::{
    Capacity, HeldAttempts, ListedAttempt, LiveAttempt, NewChunk, SignOfLife, WorkerChange,
};
use scitq_shared::ids::{AttemptId, Epoch, IncarnationId};
use scitq_shared::names::WorkerName;
use scitq_shared::output::{Chunk, Stream};
use scitq_shared::protocol::Hello;
use scitq_shared::transition::{AttemptEvent, AttemptState};
use scitq_shared::worker::DesiredState;

use crate::fixture::{DEADLINE, Fixture, batch};
use crate::projector::{Attempt, apply, project};

pub fn hello(batch_name: &str, concurrency: u16) -> Hello {
    Hello {
        boots: 1,
        can_restart: true,
        hostname: "host\0".to_owned(),
        program_version: "0.1.0".to_owned(),
        cores: 8,
        memory_bytes: 1 << 34,
        initial: DesiredState {
            version: 0,
            batch: batch(batch_name),
            concurrency,
            prefetch: 1,
            paused: false,
        },
        desired_version: 0,
        batch: None,
        recounted: None,
        inventory: Vec::new(),
    }
}

fn name(text: &str) -> WorkerName {
    WorkerName::new(text).unwrap()
}

async fn greet(fixture: &Fixture, epoch: Epoch, worker: &str) -> IncarnationId {
    let incarnation = IncarnationId::generate();
    fixture
        .db
        .greet(epoch, &name(worker), incarnation, &hello("Default", 2))
        .await
        .unwrap();
    incarnation
}

pub async fn greeting(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let (one, two) = (IncarnationId::generate(), IncarnationId::generate());
    let greeted = fixture
        .db
        .greet(epoch, &name("w"), one, &hello("new", 4))
        .await
        .unwrap();
    let desired = DesiredState {
        version: 1,
        batch: batch("new"),
        concurrency: 4,
        prefetch: 1,
        paused: false,
    };
    assert_eq!(
        (greeted.desired, greeted.known, greeted.previous_incarnation),
        (desired.clone(), false, None)
    );
    assert!(fixture.db.batch("new").await.unwrap().is_some());
    // Known by now: what the server holds counts, not what the worker asks for.
    let greeted = fixture
        .db
        .greet(epoch, &name("w"), two, &hello("other", 9))
        .await
        .unwrap();
    assert_eq!(
        (greeted.desired, greeted.known, greeted.previous_incarnation),
        (desired, true, Some(one))
    );
    let view = fixture.db.worker("w").await.unwrap().unwrap();
    assert_eq!(
        (
            view.name.as_str(),
            view.batch.as_str(),
            view.status.as_str()
        ),
        ("w", "new", "running")
    );
    assert_eq!(
        (view.hostname.as_str(), view.cores, view.memory_bytes),
        ("host\u{fffd}", 8, 1 << 34)
    );
    assert_eq!(
        (
            view.concurrency,
            view.prefetch,
            view.program_version.as_str()
        ),
        (4, 1, "0.1.0")
    );
    assert_eq!(fixture.db.workers().await.unwrap(), [view]);
    assert_eq!(fixture.db.worker("v").await.unwrap(), None);
    assert_eq!(fixture.db.batch("new").await.unwrap().unwrap().workers, 1);
    // All at once, the same name: one worker.
    let greetings: Vec<_> = (0..8)
        .map(|_| {
            let db = fixture.db.clone();
            tokio::spawn(async move {
                db.greet(
                    epoch,
                    &name("z"),
                    IncarnationId::generate(),
                    &hello("zz", 1),
                )
                .await
            })
        })
        .collect();
    let mut new = 0;
    for greeting in greetings {
        new += usize::from(!greeting.await.unwrap().unwrap().known);
    }
    assert_eq!((new, fixture.db.workers().await.unwrap().len()), (1, 2));
}

pub async fn silence_and_return(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let one = greet(fixture, epoch, "w1").await;
    let two = greet(fixture, epoch, "w2").await;
    let paused = WorkerChange {
        paused: Some(true),
        ..WorkerChange::default()
    };
    fixture.db.change_worker("w2", &paused).await.unwrap();
    let status = async |worker: &str| fixture.db.worker(worker).await.unwrap().unwrap().status;
    assert_eq!(
        fixture.db.set_offline(epoch, DEADLINE * 60).await.unwrap(),
        []
    );
    assert_eq!(
        fixture.db.set_offline(epoch, Duration::MAX).await.unwrap(),
        []
    );
    // The database's clock says how long they were silent.
    let ago = if fixture.is_sqlite() {
        "strftime('%Y-%m-%d %H:%M:%f', 'now', '-20 seconds')"
    } else {
        "timezone('utc', now()) - interval '20 seconds'"
    };
    fixture
        .execute(&format!(
            "UPDATE worker SET last_contact_at = {ago} WHERE name <> 'w3'"
        ))
        .await;
    greet(fixture, epoch, "w3").await;
    assert_eq!(
        fixture
            .db
            .set_offline(epoch, Duration::from_hours(1))
            .await
            .unwrap(),
        []
    );
    let silent = fixture
        .db
        .set_offline(epoch, Duration::from_secs(15))
        .await
        .unwrap();
    assert_eq!(silent, [name("w1"), name("w2")]);
    assert_eq!(
        fixture
            .db
            .set_offline(epoch, Duration::from_secs(15))
            .await
            .unwrap(),
        [],
        "told once"
    );
    assert_eq!(
        (status("w1").await.as_str(), status("w3").await.as_str()),
        ("offline", "running")
    );
    // Signs of life, one of them of an incarnation that is not the worker's, one of nobody known.
    let signs = [
        (name("w1"), one),
        (name("w2"), two),
        (name("w3"), one),
        (name("w4"), one),
    ]
    .map(|(worker, incarnation)| SignOfLife {
        worker,
        incarnation,
        boots: 1,
    });
    let unknown = fixture.db.heard_from(epoch, &signs).await.unwrap();
    assert_eq!(unknown, [name("w3"), name("w4")]);
    assert_eq!(
        (status("w1").await.as_str(), status("w2").await.as_str()),
        ("running", "paused")
    );
    assert_eq!(
        fixture
            .db
            .set_offline(epoch, Duration::from_secs(15))
            .await
            .unwrap(),
        []
    );
    fixture
        .db
        .farewell(epoch, &name("w1"), two, true)
        .await
        .unwrap();
    assert_eq!(
        status("w1").await,
        "running",
        "another incarnation said goodbye"
    );
    fixture
        .db
        .farewell(epoch, &name("w1"), one, true)
        .await
        .unwrap();
    assert_eq!(status("w1").await, "offline");
    assert_eq!(
        fixture.db.batch("Default").await.unwrap().unwrap().workers,
        2
    );
}

pub async fn changes(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let change = |batch_name: &str| WorkerChange {
        batch: Some(batch(batch_name)),
        concurrency: Some(7),
        prefetch: Some(3),
        paused: Some(true),
        lost_after: None,
    };
    assert_eq!(
        fixture
            .db
            .change_worker("nobody", &change("b"))
            .await
            .unwrap(),
        None
    );
    let incarnation = greet(fixture, epoch, "w").await;
    let desired = fixture
        .db
        .change_worker("w", &change("b"))
        .await
        .unwrap()
        .unwrap();
    let expected = DesiredState {
        version: 2,
        batch: batch("b"),
        concurrency: 7,
        prefetch: 3,
        paused: true,
    };
    assert_eq!(desired, expected);
    assert!(fixture.db.batch("b").await.unwrap().is_some());
    assert_eq!(
        fixture.db.worker("w").await.unwrap().unwrap().status,
        "paused"
    );
    let greeted = fixture
        .db
        .greet(epoch, &name("w"), incarnation, &hello("Default", 1))
        .await
        .unwrap();
    assert_eq!(
        (greeted.desired, greeted.previous_incarnation),
        (expected, Some(incarnation))
    );
    assert_eq!(
        fixture.db.worker("w").await.unwrap().unwrap().status,
        "paused"
    );
    let resume = WorkerChange {
        paused: Some(false),
        ..WorkerChange::default()
    };
    let desired = fixture
        .db
        .change_worker("w", &resume)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (desired.version, desired.paused, desired.concurrency),
        (3, false, 7)
    );
    assert_eq!(
        fixture.db.worker("w").await.unwrap().unwrap().status,
        "running"
    );
}

pub async fn capacity(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    assert_eq!(fixture.db.batch_capacity().await.unwrap(), []);
    for worker in ["a", "b", "c"] {
        greet(fixture, epoch, worker).await;
    }
    let gone = greet(fixture, epoch, "gone").await;
    fixture
        .db
        .farewell(epoch, &name("gone"), gone, true)
        .await
        .unwrap();
    let away = WorkerChange {
        batch: Some(batch("x")),
        concurrency: Some(10),
        ..WorkerChange::default()
    };
    fixture.db.change_worker("b", &away).await.unwrap();
    fixture
        .db
        .change_worker(
            "c",
            &WorkerChange {
                paused: Some(true),
                ..WorkerChange::default()
            },
        )
        .await
        .unwrap();
    let expected = vec![
        (
            batch("Default"),
            Capacity {
                workers: 1,
                slots_and_prefetch: 3,
            },
        ),
        (
            batch("x"),
            Capacity {
                workers: 1,
                slots_and_prefetch: 11,
            },
        ),
    ];
    assert_eq!(fixture.db.batch_capacity().await.unwrap(), expected);
}

pub async fn inventories(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    fixture.submit(&["a", "b", "c", "d"]).await;
    let claim = fixture.claim(epoch, 4).await;
    let mut attempts: Vec<Attempt> = claim.tasks.iter().map(Attempt::of).collect();
    attempts[3].incarnation = IncarnationId::generate();
    attempts[2].stdout.length = 10;
    let chunk = |offset: u64, bytes: &[u8]| NewChunk {
        attempt: attempts[2].id,
        task: attempts[2].message.task,
        stream: Stream::Stdout,
        offset,
        chunk: Chunk::pack(bytes).unwrap(),
    };
    apply(&fixture.db, epoch, &attempts[0], &[AttemptEvent::Accepted]).await;
    apply(&fixture.db, epoch, &attempts[1], &[AttemptEvent::Succeeded]).await;
    project(
        &fixture.db,
        epoch,
        &[attempts[2].event(AttemptEvent::Failed)],
        vec![chunk(0, b"abc"), chunk(7, b"xy")],
    )
    .await
    .unwrap();
    apply(&fixture.db, epoch, &attempts[3], &[AttemptEvent::Started]).await;
    let asked: Vec<AttemptId> = attempts
        .iter()
        .map(|attempt| attempt.id)
        .chain([AttemptId::generate(), attempts[0].id])
        .collect();
    let (worker, incarnation) = (&attempts[0].worker, attempts[0].incarnation);
    let HeldAttempts { live, mut listed } = fixture
        .db
        .held_attempts(worker, incarnation, &asked)
        .await
        .unwrap();
    let expected = LiveAttempt {
        attempt: attempts[0].id,
        task: attempts[0].message.task,
        dispatch: attempts[0].message.dispatch,
        state: AttemptState::Accepted,
        announced_sequence: 7,
    };
    assert_eq!(
        live,
        [expected],
        "those of another incarnation, or over, are not its"
    );
    listed.sort_unstable_by_key(|listed| listed.task);
    let listed_as = |place: usize, state, complete, stdout_from| ListedAttempt {
        attempt: attempts[place].id,
        task: attempts[place].message.task,
        state,
        complete,
        stdout_from,
        stderr_from: None,
    };
    let expected = [
        listed_as(0, AttemptState::Accepted, false, None),
        listed_as(1, AttemptState::Succeeded, true, None),
        listed_as(2, AttemptState::Failed, false, Some(3)),
        listed_as(3, AttemptState::Running, false, None),
    ];
    assert_eq!(listed, expected);
    let more = |chunks| project(&fixture.db, epoch, &[], chunks);
    more(vec![chunk(3, b"defg")]).await.unwrap();
    let held = fixture
        .db
        .held_attempts(worker, incarnation, &asked[2..3])
        .await
        .unwrap();
    assert_eq!(held.listed[0].stdout_from, Some(9));
    more(vec![chunk(9, b"z")]).await.unwrap();
    let held = fixture
        .db
        .held_attempts(worker, incarnation, &asked[2..3])
        .await
        .unwrap();
    assert_eq!(
        (held.listed[0].stdout_from, held.listed[0].complete),
        (None, true)
    );
    let none = fixture
        .db
        .held_attempts(&name("other"), incarnation, &[])
        .await
        .unwrap();
    assert_eq!(none, HeldAttempts::default());
    let view = fixture.db.workers().await.unwrap();
    assert_eq!(view, [], "an attempt does not make a worker known");
}
