use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use scitq_server::db::{DbError, NewChunk, StreamState};
use scitq_shared::ids::{AttemptId, TaskId};
use scitq_shared::output::{Chunk, Cut, Encoding, MAX_CHUNK_BYTES, Stream, StreamEnd};
use scitq_shared::transition::AttemptEvent;

use crate::fixture::{Fixture, soon};
use crate::projector::{Attempt, apply, complete, project};

fn chunk(attempt: &Attempt, stream: Stream, offset: usize, bytes: &[u8]) -> NewChunk {
    NewChunk {
        attempt: attempt.id,
        task: attempt.message.task,
        stream,
        offset: offset as u64,
        chunk: Chunk::pack(bytes).unwrap(),
    }
}

async fn running(fixture: &Fixture, epoch: scitq_shared::ids::Epoch) -> Attempt {
    fixture.submit(&["a"]).await;
    let claim = fixture.claim(epoch, 10_000).await;
    let attempt = Attempt::of(&claim.tasks[0]);
    apply(&fixture.db, epoch, &attempt, &[AttemptEvent::Started]).await;
    attempt
}

/// Everything stored of a stream; pieces must follow each other, but for one gap where there is a cut.
async fn read(fixture: &Fixture, attempt: AttemptId, stream: Stream) -> Vec<(u64, Vec<u8>)> {
    let mut parts: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut offset = 0;
    loop {
        let chunks = fixture
            .db
            .output_chunks(attempt, stream, offset, 3)
            .await
            .unwrap();
        if chunks.is_empty() {
            return parts;
        }
        for stored in chunks {
            assert!(stored.offset >= offset, "pieces overlap");
            let bytes = stored.chunk.unpack().unwrap();
            offset = stored.offset + bytes.len() as u64;
            match parts.last_mut() {
                Some((start, part)) if *start + part.len() as u64 == stored.offset => {
                    part.extend(bytes);
                }
                _ => parts.push((stored.offset, bytes)),
            }
        }
    }
}

pub async fn random_pieces_come_back(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    for seed in 0..12 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut attempt = running(fixture, epoch).await;
        let mut texts = [
            vec![0; random.random_range(1..5_000)],
            vec![b'x'; random.random_range(1..600_000)],
        ];
        random.fill_bytes(&mut texts[0]);
        let mut chunks = Vec::new();
        for (stream, text) in Stream::ALL.iter().zip(&texts) {
            // Everything once, in pieces, and some of it again with other boundaries.
            let mut low = 0;
            while low < text.len() {
                let high = (low + random.random_range(1..=text.len().min(MAX_CHUNK_BYTES)))
                    .min(text.len());
                chunks.push(chunk(&attempt, *stream, low, &text[low..high]));
                low = high;
            }
            for _ in 0..20 {
                let low = random.random_range(0..text.len());
                let high = (low + random.random_range(0..=text.len().min(MAX_CHUNK_BYTES)))
                    .min(text.len());
                chunks.push(chunk(&attempt, *stream, low, &text[low..high]));
            }
        }
        rand::seq::SliceRandom::shuffle(chunks.as_mut_slice(), &mut random);
        attempt.stdout = StreamEnd {
            length: texts[0].len() as u64,
            cut: None,
        };
        attempt.stderr = StreamEnd {
            length: texts[1].len() as u64,
            cut: None,
        };
        let mut told = 0;
        let end_at = random.random_range(0..chunks.len());
        let total = chunks.len();
        while !chunks.is_empty() {
            let some =
                chunks.split_off(chunks.len() - random.random_range(1..=chunks.len().min(9)));
            let ended = (total - chunks.len()) > end_at;
            let events = if ended {
                vec![attempt.event(AttemptEvent::Succeeded)]
            } else {
                Vec::new()
            };
            told += project(&fixture.db, epoch, &events, some)
                .await
                .unwrap()
                .complete
                .len();
        }
        assert_eq!(told, 1, "seed {seed}");
        for (stream, text) in Stream::ALL.iter().zip(&texts) {
            let parts = read(fixture, attempt.id, *stream).await;
            assert!(
                parts == [(0, text.clone())],
                "seed {seed}, {stream}: other bytes came back"
            );
        }
    }
}

pub async fn cut_streams_complete(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let mut attempt = running(fixture, epoch).await;
    attempt.stdout = StreamEnd {
        length: 1_000_000_000,
        cut: Some(Cut {
            from: 3,
            to: 999_999_996,
        }),
    };
    let head = chunk(&attempt, Stream::Stdout, 0, b"abc");
    let started = project(&fixture.db, epoch, &[], vec![head]).await.unwrap();
    let (_, id) = started.executions[0];
    let state = fixture.db.output_state(id).await.unwrap().unwrap();
    assert_eq!(
        (state.attempt, state.over, state.complete),
        (attempt.id, false, false)
    );
    assert_eq!(
        state.stdout,
        StreamState {
            stored_end: 3,
            end: None
        }
    );
    assert_eq!(
        fixture
            .db
            .execution(id)
            .await
            .unwrap()
            .unwrap()
            .stdout_bytes,
        3
    );
    let ended = apply(&fixture.db, epoch, &attempt, &[AttemptEvent::Failed]).await;
    assert_eq!(ended.complete, []);
    let tail = chunk(&attempt, Stream::Stdout, 999_999_996, b"wxyz");
    let projected = project(&fixture.db, epoch, &[], vec![tail]).await.unwrap();
    assert_eq!(complete(&projected), [attempt.id].into());
    assert_eq!(
        read(fixture, attempt.id, Stream::Stdout).await,
        [(0, b"abc".to_vec()), (999_999_996, b"wxyz".to_vec())]
    );
    let state = fixture.db.output_state(id).await.unwrap().unwrap();
    assert_eq!((state.over, state.complete), (true, true));
    assert_eq!(
        state.stdout,
        StreamState {
            stored_end: 1_000_000_000,
            end: Some(attempt.stdout)
        }
    );
    assert_eq!(
        state.stderr,
        StreamState {
            stored_end: 0,
            end: Some(StreamEnd::default())
        }
    );
    assert_eq!(
        fixture
            .db
            .output_state(scitq_shared::ids::ExecutionId(0))
            .await
            .unwrap(),
        None
    );
}

pub async fn completion_is_told_once(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let mut attempt = running(fixture, epoch).await;
    attempt.stdout.length = 5;
    let hello = || vec![chunk(&attempt, Stream::Stdout, 0, b"hello")];
    let events = [attempt.event(AttemptEvent::Succeeded)];
    let first = project(&fixture.db, epoch, &events, hello()).await.unwrap();
    assert_eq!(complete(&first), [attempt.id].into());
    let again = project(&fixture.db, epoch, &events, hello()).await.unwrap();
    assert_eq!(again.complete, []);
    // Nothing grew and nothing is lacking.
    let repeated = project(&fixture.db, epoch, &[], hello()).await.unwrap();
    assert_eq!(
        (repeated.complete, repeated.executions),
        (Vec::new(), Vec::new())
    );
}

/// The end arrives through one queue, the output through another: whichever is committed last tells.
pub async fn ends_and_output_race(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    for known in [true, false].repeat(30) {
        fixture.submit(&["a"]).await;
        let claim = fixture.claim(epoch, 10_000).await;
        let mut attempt = Attempt::of(&claim.tasks[0]);
        if known {
            apply(&fixture.db, epoch, &attempt, &[AttemptEvent::Started]).await;
        }
        attempt.stdout.length = 5;
        let chunks = vec![chunk(&attempt, Stream::Stdout, 0, b"hello")];
        let db = fixture.db.clone();
        let output = tokio::spawn(async move { project(&db, epoch, &[], chunks).await.unwrap() });
        let (db, ended) = (fixture.db.clone(), attempt.clone());
        let end = tokio::spawn(async move {
            project(
                &db,
                epoch,
                &[ended.event(AttemptEvent::Succeeded)],
                Vec::new(),
            )
            .await
            .unwrap()
        });
        let (output, end) = soon(async { (output.await.unwrap(), end.await.unwrap()) }).await;
        assert_eq!(output.complete.len() + end.complete.len(), 1);
    }
}

pub async fn damaged_chunks_are_named(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let attempt = running(fixture, epoch).await;
    let good = chunk(&attempt, Stream::Stdout, 0, b"good");
    let mut bad = chunk(&attempt, Stream::Stderr, 9, &[b'a'; 1_000]);
    bad.chunk = Chunk {
        encoding: Encoding::Zstd,
        data: b"not zstd".to_vec(),
        ..bad.chunk
    };
    let outcome = project(&fixture.db, epoch, &[], vec![good.clone(), bad]).await;
    let Err(DbError::BadChunk {
        attempt: named,
        stream,
        offset,
        ..
    }) = outcome
    else {
        panic!("{outcome:?}")
    };
    assert_eq!((named, stream, offset), (attempt.id, Stream::Stderr, 9));
    assert_eq!(
        read(fixture, attempt.id, Stream::Stdout).await,
        [],
        "nothing of the request is stored"
    );
    project(&fixture.db, epoch, &[], vec![good]).await.unwrap();
    let far = NewChunk {
        offset: u64::MAX,
        ..chunk(&attempt, Stream::Stdout, 0, b"x")
    };
    let outcome = project(&fixture.db, epoch, &[], vec![far]).await;
    assert!(
        matches!(outcome, Err(DbError::BadChunk { .. })),
        "{outcome:?}"
    );
}

pub async fn output_before_its_attempt(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    fixture.submit(&["a"]).await;
    let claim = fixture.claim(epoch, 1).await;
    let mut attempt = Attempt::of(&claim.tasks[0]);
    attempt.stderr.length = 3;
    let early = vec![chunk(&attempt, Stream::Stderr, 0, b"abc")];
    let projected = project(&fixture.db, epoch, &[], early).await.unwrap();
    assert_eq!(projected.executions, [], "nobody knows the attempt yet");
    let projected = apply(&fixture.db, epoch, &attempt, &[AttemptEvent::Succeeded]).await;
    assert_eq!(complete(&projected), [attempt.id].into());
    // Of a task that is not there nothing is kept.
    let stray = NewChunk {
        task: TaskId(1 << 40),
        attempt: AttemptId::generate(),
        ..chunk(&attempt, Stream::Stdout, 0, b"x")
    };
    let outcome = project(&fixture.db, epoch, &[], vec![stray.clone()])
        .await
        .unwrap();
    assert_eq!(outcome.executions, []);
    assert_eq!(
        fixture
            .db
            .output_chunks(stray.attempt, Stream::Stdout, 0, 9)
            .await
            .unwrap(),
        []
    );
}

pub async fn chunks_are_found_by_offset(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let attempt = running(fixture, epoch).await;
    let long = vec![b'l'; MAX_CHUNK_BYTES];
    let chunks = vec![
        chunk(&attempt, Stream::Stdout, 0, b"ab"),
        chunk(&attempt, Stream::Stdout, 2, &long),
        chunk(&attempt, Stream::Stdout, 2 + MAX_CHUNK_BYTES, b"yz"),
    ];
    project(&fixture.db, epoch, &[], chunks).await.unwrap();
    let max = MAX_CHUNK_BYTES as u64;
    let table = [
        (0, Some(0)),
        (1, Some(0)),
        (2, Some(2)),
        (max + 1, Some(2)),
        (max + 2, Some(max + 2)),
        (max + 4, None),
        (u64::MAX, None),
    ];
    for (offset, expected) in table {
        let found = fixture
            .db
            .output_chunks(attempt.id, Stream::Stdout, offset, 1)
            .await
            .unwrap();
        assert_eq!(
            found.first().map(|stored| stored.offset),
            expected,
            "from {offset}"
        );
    }
    let all = fixture
        .db
        .output_chunks(attempt.id, Stream::Stdout, 0, 100)
        .await
        .unwrap();
    assert_eq!(all.len(), 3);
}
