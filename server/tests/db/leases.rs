//! Leases, losses and what is taken back; workers that only fail; what people want of batches and agents.

use std::time::Duration;

use scitq_server::db::{
    DbError, Fault, FaultHistory, Judged, Loaded, Needs, Projection, Restart, SignOfLife, Silent,
    WorkerChange,
};
use scitq_server::dispatch::{DispatchInput, DispatchSender};
use scitq_server::maintenance::{Loser, Loss, Told, lose};
use scitq_shared::execution::FailureReason;
use scitq_shared::ids::{Epoch, IncarnationId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::protocol::Hello;
use scitq_shared::transition::AttemptEvent;
use scitq_shared::worker::{DesiredState, Lease};

use crate::fixture::{Fixture, batch};
use crate::projector::{Attempt, apply, project};

const HOUR: Duration = Duration::from_hours(1);

fn name(text: &str) -> WorkerName {
    WorkerName::new(text).unwrap()
}

async fn greet(
    fixture: &Fixture,
    epoch: Epoch,
    worker: &str,
    incarnation: IncarnationId,
    boots: u32,
) -> Option<u32> {
    let hello = Hello {
        boots,
        can_restart: true,
        hostname: "host".to_owned(),
        program_version: "0.1.0".to_owned(),
        cores: 8,
        memory_bytes: 1 << 34,
        initial: DesiredState {
            version: 0,
            batch: BatchName::default(),
            concurrency: 2,
            prefetch: 0,
            paused: false,
        },
        desired_version: 0,
        batch: None,
        recounted: None,
        inventory: Vec::new(),
    };
    let greeted = fixture
        .db
        .greet(epoch, &name(worker), incarnation, &hello)
        .await;
    greeted.unwrap().restart
}

fn sign(worker: &str, incarnation: IncarnationId) -> SignOfLife {
    SignOfLife {
        worker: name(worker),
        incarnation,
        boots: 1,
    }
}

/// Moves a worker's last sign of life back.
async fn silent_for(fixture: &Fixture, worker: &str, seconds: u32) {
    let ago = if fixture.is_sqlite() {
        format!("strftime('%Y-%m-%d %H:%M:%f', 'now', '-{seconds} seconds')")
    } else {
        format!("timezone('utc', now()) - interval '{seconds} seconds'")
    };
    let sql = format!("UPDATE worker SET last_contact_at = {ago} WHERE name = '{worker}'");
    fixture.execute(&sql).await;
}

async fn silent(fixture: &Fixture, lease: Duration) -> Vec<(String, IncarnationId, u64, bool)> {
    let silent = fixture.db.silent_beyond_lease(lease).await.unwrap();
    let row = |silent: Silent| {
        let age = scitq_shared::now() - silent.since;
        assert!(age.num_seconds() >= i64::try_from(silent.lease.as_secs()).unwrap());
        let worker = silent.worker.to_string();
        (
            worker,
            silent.incarnation,
            silent.lease.as_secs(),
            silent.former,
        )
    };
    silent.into_iter().map(row).collect()
}

pub async fn leases_end(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let (a, b) = (IncarnationId::generate(), IncarnationId::generate());
    greet(fixture, epoch, "a", a, 1).await;
    greet(fixture, epoch, "b", b, 1).await;
    silent_for(fixture, "a", 100).await;
    silent_for(fixture, "b", 100).await;
    assert_eq!(silent(fixture, HOUR).await, []);
    let own = |lease| WorkerChange {
        lost_after: Some(lease),
        ..WorkerChange::default()
    };
    fixture
        .db
        .change_worker("b", &own(Lease::Seconds(60)))
        .await
        .unwrap();
    let view = fixture.db.worker("b").await.unwrap().unwrap();
    assert_eq!((view.lost_after_seconds, view.lost_at), (Some(60), None));
    let lost_b = ("b".to_owned(), b, 60, false);
    assert_eq!(silent(fixture, HOUR).await, std::slice::from_ref(&lost_b));
    let lost_a = ("a".to_owned(), a, 99, false);
    assert_eq!(
        silent(fixture, Duration::from_secs(99)).await,
        [lost_a, lost_b]
    );
    fixture
        .db
        .change_worker("b", &WorkerChange::default())
        .await
        .unwrap();
    assert_eq!(silent(fixture, HOUR).await.len(), 1, "what is absent stays");
    // Told once, until it is heard of.
    fixture
        .db
        .set_lost(epoch, &name("b"), Some(b), None)
        .await
        .unwrap();
    let view = fixture.db.worker("b").await.unwrap().unwrap();
    assert_eq!(view.status, "offline");
    assert!(view.lost_at.is_some());
    assert_eq!(silent(fixture, HOUR).await, []);
    assert!(
        fixture
            .db
            .unaccepted(&BatchName::default(), None)
            .await
            .unwrap()
            .workers
            .into_iter()
            .eq([name("a")]),
        "a lost worker is not waited for"
    );
    fixture.db.heard_from(epoch, &[sign("b", b)]).await.unwrap();
    let view = fixture.db.worker("b").await.unwrap().unwrap();
    assert_eq!((view.status.as_str(), view.lost_at), ("running", None));
    fixture
        .db
        .change_worker("b", &own(Lease::Default))
        .await
        .unwrap();
    let view = fixture.db.worker("b").await.unwrap().unwrap();
    assert_eq!(view.lost_after_seconds, None);
    // Who said goodbye and keeps nothing is not lost.
    fixture
        .db
        .farewell(epoch, &name("b"), b, true)
        .await
        .unwrap();
    silent_for(fixture, "b", 7200).await;
    silent_for(fixture, "a", 7200).await;
    let all = silent(fixture, HOUR).await;
    assert_eq!(all, [("a".to_owned(), a, 3600, false)]);
}

/// What an earlier life of a worker's directory ran keeps a lease of its own.
pub async fn earlier_lives_have_leases(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let (one, two) = (IncarnationId::generate(), IncarnationId::generate());
    greet(fixture, epoch, "w1", one, 3).await;
    fixture.submit(&["a"]).await;
    let claim = fixture.claim(epoch, 1).await;
    let mut attempt = Attempt::of(&claim.tasks[0]);
    attempt.incarnation = one;
    apply(&fixture.db, epoch, &attempt, &[AttemptEvent::Started]).await;
    silent_for(fixture, "w1", 7200).await;
    greet(fixture, epoch, "w1", two, 1).await;
    let lost = vec![("w1".to_owned(), one, 3600, true)];
    assert_eq!(silent(fixture, HOUR).await, lost);
    // It comes back: nothing is former any more, but for the other one.
    silent_for(fixture, "w1", 7200).await;
    greet(fixture, epoch, "w1", one, 4).await;
    let lost = vec![("w1".to_owned(), two, 3600, true)];
    assert_eq!(silent(fixture, HOUR).await, lost);
    let worker = name("w1");
    let live = |incarnation| fixture.db.live_attempts(&worker, incarnation);
    assert_eq!(live(Some(two)).await.unwrap(), []);
    assert_eq!(live(Some(one)).await.unwrap(), live(None).await.unwrap());
    assert_eq!(live(None).await.unwrap()[0].attempt, attempt.id);
    fixture
        .db
        .set_lost(epoch, &worker, Some(two), None)
        .await
        .unwrap();
    assert_eq!(silent(fixture, HOUR).await, []);
    let view = fixture.db.worker("w1").await.unwrap().unwrap();
    assert_eq!((view.status.as_str(), view.lost_at), ("running", None));
}

/// A lost attempt comes back before its task has started anew: it is taken back, in every way.
pub async fn lost_attempts_are_taken_back(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let task = fixture.submit(&["a"]).await[0];
    let claim = fixture.claim(epoch, 1).await;
    let old = Attempt::of(&claim.tasks[0]);
    let view = async || {
        let task = fixture.db.task(task).await.unwrap().unwrap();
        let id = scitq_shared::ids::ExecutionId(task.execution_id.unwrap());
        let execution = fixture.db.execution(id).await.unwrap().unwrap();
        (task.status, execution)
    };
    apply(&fixture.db, epoch, &old, &[AttemptEvent::Started]).await;
    let (_, before) = view().await;
    apply(&fixture.db, epoch, &old, &[AttemptEvent::Lost]).await;
    // Back while the task is pending.
    apply(&fixture.db, epoch, &old, &[AttemptEvent::Started]).await;
    let (status, execution) = view().await;
    assert_eq!(status, "running");
    assert_eq!(execution, before, "nothing is left of the loss");
    fixture.check().await;
    // Back while it is dispatched anew, and while another worker holds that, unstarted.
    for accepted in [false, true] {
        apply(&fixture.db, epoch, &old, &[AttemptEvent::Lost]).await;
        let claim = fixture.claim(epoch, 1).await;
        let newer = Attempt::of(&claim.tasks[0]);
        if accepted {
            apply(&fixture.db, epoch, &newer, &[AttemptEvent::Accepted]).await;
        }
        apply(&fixture.db, epoch, &old, &[AttemptEvent::Started]).await;
        let (status, execution) = view().await;
        assert_eq!((status.as_str(), &execution), ("running", &before));
        let window = fixture.claim(epoch, 1).await;
        assert_eq!(window.assigned, 0, "the newer dispatch has left the window");
        if accepted {
            apply(&fixture.db, epoch, &newer, &[AttemptEvent::Released]).await;
            assert_eq!(view().await.1, before);
        }
        fixture.check().await;
    }
    // Its end comes while the newer one is held: the task shows the attempt that did it.
    apply(&fixture.db, epoch, &old, &[AttemptEvent::Lost]).await;
    let claim = fixture.claim(epoch, 1).await;
    let newer = Attempt::of(&claim.tasks[0]);
    apply(&fixture.db, epoch, &newer, &[AttemptEvent::Accepted]).await;
    apply(&fixture.db, epoch, &old, &[AttemptEvent::Succeeded]).await;
    let (status, execution) = view().await;
    assert_eq!((status.as_str(), execution.latest), ("succeeded", true));
    assert_eq!(execution.attempt_id, old.id.to_string());
    assert_eq!(
        (execution.failure_reason, execution.failure_detail),
        (None, None)
    );
    fixture.check().await;
}

pub async fn restarts(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let worker = name("w");
    let ask = async |of| fixture.db.request_restart(&worker, of).await.unwrap();
    assert_eq!(ask(None).await, None);
    assert_eq!(fixture.db.wish(&worker).await.unwrap(), None);
    let incarnation = IncarnationId::generate();
    assert_eq!(greet(fixture, epoch, "w", incarnation, 3).await, None);
    assert_eq!(ask(Some(2)).await, Some(Restart::Done));
    assert_eq!(ask(None).await, Some(Restart::Requested(3)));
    let requested = async || {
        let view = fixture.db.worker("w").await.unwrap().unwrap();
        let wish = fixture.db.wish(&worker).await.unwrap().unwrap();
        assert_eq!(view.restart_requested, wish.restart.is_some());
        (view.boots, wish.restart)
    };
    assert_eq!(requested().await, (3, Some(3)));
    // The same start again: it still has to happen.
    assert_eq!(greet(fixture, epoch, "w", incarnation, 3).await, Some(3));
    assert_eq!(requested().await, (3, Some(3)));
    assert_eq!(greet(fixture, epoch, "w", incarnation, 4).await, None);
    assert_eq!(requested().await, (4, None));
    // One that is taken back is forgotten.
    assert_eq!(ask(None).await, Some(Restart::Requested(4)));
    assert!(fixture.db.cancel_restart(&worker).await.unwrap());
    assert_eq!(requested().await, (4, None));
    assert!(!fixture.db.cancel_restart(&name("nobody")).await.unwrap());
    // Another life of the directory counts from 1.
    assert_eq!(ask(Some(3)).await, Some(Restart::Done));
    assert_eq!(ask(Some(4)).await, Some(Restart::Requested(4)));
    let other = IncarnationId::generate();
    assert_eq!(greet(fixture, epoch, "w", other, 1).await, None);
    assert_eq!(requested().await, (1, None));
    // A start that is not known cannot be told from the next one.
    fixture.execute("UPDATE worker SET boots = 0").await;
    assert_eq!(ask(None).await, Some(Restart::Unheard));
    fixture
        .db
        .heard_from(epoch, &[sign("w", other)])
        .await
        .unwrap();
    assert_eq!(ask(None).await, Some(Restart::Requested(1)));
}

pub async fn paused_batches(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let default = BatchName::default();
    let unknown = fixture.db.pause_batch(&batch("unknown"), true).await;
    assert!(!unknown.unwrap());
    fixture.submit(&["a", "b"]).await;
    let first = fixture.claim(epoch, 1).await;
    assert_eq!(first.tasks.len(), 1);
    assert!(fixture.db.pause_batch(&default, true).await.unwrap());
    let claim = fixture.claim(epoch, 10).await;
    assert_eq!(
        (claim.tasks.len(), claim.assigned, claim.pending_left),
        (0, 1, false)
    );
    let loads = fixture.db.dispatchable().await.unwrap();
    assert_eq!((loads[0].1.pending, loads[0].1.assigned), (0, 1));
    let view = fixture.db.batch("Default").await.unwrap().unwrap();
    assert_eq!((view.paused, view.pause_reason), (true, None));
    // What is dispatched of it, and what is held and has not started, is known.
    let unstarted = fixture.db.paused_with_dispatches().await;
    assert_eq!(unstarted.unwrap(), std::slice::from_ref(&default));
    let held = async || fixture.db.held_of_paused(&default).await.unwrap();
    assert_eq!(held().await, []);
    let attempt = Attempt::of(&first.tasks[0]);
    apply(&fixture.db, epoch, &attempt, &[AttemptEvent::Accepted]).await;
    let holder = (attempt.worker.clone(), attempt.message.dispatch);
    assert_eq!(held().await, [holder]);
    let unstarted = fixture.db.paused_with_dispatches().await;
    assert_eq!(unstarted.unwrap(), std::slice::from_ref(&default));
    apply(&fixture.db, epoch, &attempt, &[AttemptEvent::Started]).await;
    assert_eq!(held().await, []);
    assert_eq!(fixture.db.paused_with_dispatches().await.unwrap(), []);
    // The server has nothing to add to what a person did.
    greet(fixture, epoch, "w1", IncarnationId::generate(), 1).await;
    let judged = judged("w1", &default, 0);
    let pause = async |judged: &Judged| {
        let paused = fixture.db.pause_faulty_batch(epoch, judged).await;
        paused.unwrap()
    };
    assert!(!pause(&judged).await);
    assert!(fixture.db.pause_batch(&default, false).await.unwrap());
    assert_eq!(fixture.claim(epoch, 10).await.tasks.len(), 1);
    // Judged by failures that count no more.
    let counted_after = history(fixture, "w1", &default).await.counted_after;
    assert!(counted_after > 0 && !pause(&judged).await);
    let judged = Judged {
        counted_after,
        ..judged
    };
    assert!(pause(&judged).await);
    let view = fixture.db.batch("Default").await.unwrap().unwrap();
    assert_eq!(view.pause_reason.as_deref(), Some("why"));
    fixture.check().await;
}

fn judged(worker: &str, batch: &BatchName, counted_after: i64) -> Judged {
    Judged {
        worker: name(worker),
        batch: batch.clone(),
        counted_after,
        fault: Fault {
            reason: FailureReason::DiskFull,
            key: "no space".to_owned(),
        },
        why: "why".to_owned(),
    }
}

async fn history(fixture: &Fixture, worker: &str, batch: &BatchName) -> FaultHistory {
    let found = fixture.db.fault_history(&name(worker), batch, 3).await;
    found.unwrap()
}

/// Whoever resumes a batch starts afresh: neither what its workers failed at before nor what paused them counts.
pub async fn resumed_batches_count_anew(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let default = BatchName::default();
    for worker in ["w1", "w2"] {
        greet(fixture, epoch, worker, IncarnationId::generate(), 1).await;
    }
    fixture.submit(&["a", "b"]).await;
    for message in &fixture.claim(epoch, 2).await.tasks {
        let attempt = Attempt::of(message);
        apply(&fixture.db, epoch, &attempt, &[AttemptEvent::Failed]).await;
    }
    let paused = judged("w2", &default, 0);
    fixture
        .db
        .pause_faulty_worker(epoch, &paused)
        .await
        .unwrap();
    let counts = async || {
        let history = history(fixture, "w1", &default).await;
        (history.recent.len(), history.others.len())
    };
    assert_eq!(counts().await, (2, 1));
    // One that is not paused is not resumed.
    assert!(fixture.db.pause_batch(&default, false).await.unwrap());
    assert!(fixture.db.pause_batch(&default, true).await.unwrap());
    assert_eq!(counts().await, (2, 1));
    assert!(fixture.db.pause_batch(&default, false).await.unwrap());
    assert_eq!(counts().await, (0, 0));
    let view = fixture.db.worker("w2").await.unwrap().unwrap();
    assert_eq!(
        view.status, "paused",
        "the worker is for a person to resume"
    );
}

/// How often a task was hindered is known to whoever decides about it.
pub async fn hindrances(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let task = fixture.submit(&["a"]).await[0];
    let reasons = ["disk_full", "worker_fault", "cancelled", "start_failed"];
    for (id, reason) in (1..).zip(reasons) {
        let claim = fixture.claim(epoch, 1).await;
        let attempt = Attempt::of(&claim.tasks[0]);
        apply(&fixture.db, epoch, &attempt, &[AttemptEvent::Hindered]).await;
        let reason = format!("UPDATE execution SET failure_reason = '{reason}' WHERE id = {id}");
        fixture.execute(&reason).await;
    }
    let mut counted = Vec::new();
    for hindered in [[task].into(), std::collections::BTreeSet::new()] {
        let needs = Needs {
            tasks: [task].into(),
            hindered,
            ..Needs::default()
        };
        let decide = |loaded: &Loaded| {
            counted.push(loaded.hindrances.get(&task).copied());
            Projection::default()
        };
        let projected = fixture.db.project(epoch, &needs, Vec::new(), decide).await;
        projected.unwrap();
    }
    assert_eq!(counted, [Some(2), None]);
}

/// A database of before the leases has attempts of earlier lives of workers' directories: they get a lease.
pub async fn lives_before_the_migration(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let (former, present) = (IncarnationId::generate(), IncarnationId::generate());
    greet(fixture, epoch, "w1", present, 1).await;
    silent_for(fixture, "w1", 7200).await;
    fixture.submit(&["a", "b", "c"]).await;
    let claim = fixture.claim(epoch, 3).await;
    let lives = [
        (former, AttemptEvent::Started),
        (IncarnationId::generate(), AttemptEvent::Succeeded),
        (present, AttemptEvent::Started),
    ];
    for (message, (incarnation, event)) in claim.tasks.iter().zip(lives) {
        let attempt = Attempt {
            incarnation,
            ..Attempt::of(message)
        };
        apply(&fixture.db, epoch, &attempt, &[event]).await;
    }
    fixture
        .execute(
            "ALTER TABLE worker DROP COLUMN can_restart; DELETE FROM former_incarnation; \
             DELETE FROM __diesel_schema_migrations WHERE version = '20260103100000'",
        )
        .await;
    let migrated = crate::fixture::connect(&fixture.url).await;
    let mut silent = migrated.silent_beyond_lease(HOUR).await.unwrap();
    silent.sort_by_key(|silent| silent.former);
    let lives: Vec<_> = silent
        .iter()
        .map(|silent| (silent.incarnation, silent.former))
        .collect();
    assert_eq!(lives, [(present, false), (former, true)]);
}

/// What nobody with a lease holds has one all the same.
pub async fn attempts_of_nobody_have_leases(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    fixture.submit(&["a", "b"]).await;
    let claim = fixture.claim(epoch, 2).await;
    let incarnation = IncarnationId::generate();
    let attempt = Attempt {
        incarnation,
        ..Attempt::of(&claim.tasks[0])
    };
    apply(&fixture.db, epoch, &attempt, &[AttemptEvent::Started]).await;
    assert_eq!(silent(fixture, HOUR).await, []);
    let long_ago = "UPDATE execution SET created_at = '2001-01-01 00:00:00'";
    fixture.execute(long_ago).await;
    let nobody = |former| vec![("w1".to_owned(), incarnation, 3600, former)];
    assert_eq!(silent(fixture, HOUR).await, nobody(false));
    // Its worker's name belongs to somebody else.
    greet(fixture, epoch, "w1", IncarnationId::generate(), 1).await;
    assert_eq!(silent(fixture, HOUR).await, nobody(true));
}

/// A row that cannot be read keeps nobody else's lease from ending, and one that was heard of meanwhile is not lost.
pub async fn leases_are_judged_one_by_one(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let (a, b) = (IncarnationId::generate(), IncarnationId::generate());
    greet(fixture, epoch, "a", a, 1).await;
    greet(fixture, epoch, "b", b, 1).await;
    for worker in ["a", "b"] {
        silent_for(fixture, worker, 7200).await;
    }
    fixture
        .execute("UPDATE worker SET incarnation = 'damaged' WHERE name = 'a'")
        .await;
    let lost_b = vec![("b".to_owned(), b, 3600, false)];
    assert_eq!(silent(fixture, HOUR).await, lost_b);
    let lose = async |silent_for| {
        let worker = name("b");
        let lost = fixture.db.set_lost(epoch, &worker, Some(b), silent_for);
        lost.await.unwrap();
        let view = fixture.db.worker("b").await.unwrap().unwrap();
        view.lost_at.is_some()
    };
    assert!(!lose(Some(HOUR * 3)).await, "it has been heard of since");
    assert!(lose(Some(HOUR)).await);
}

/// An agent that was started anew, be it that its hello was lost.
pub async fn starts_are_heard_of(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let worker = name("w");
    let (one, two) = (IncarnationId::generate(), IncarnationId::generate());
    greet(fixture, epoch, "w", one, 3).await;
    let asked = fixture.db.request_restart(&worker, None).await.unwrap();
    assert_eq!(asked, Some(Restart::Requested(3)));
    // Sign of life of, start; known start and what is asked for then.
    let table = [
        (one, 3, (3, Some(3))),
        (two, 9, (3, Some(3))),
        (one, 2, (3, Some(3))),
        (one, 4, (4, None)),
        (one, 3, (4, None)),
    ];
    for (incarnation, boots, then) in table {
        let sign = SignOfLife {
            boots,
            ..sign("w", incarnation)
        };
        fixture.db.heard_from(epoch, &[sign]).await.unwrap();
        let wish = fixture.db.wish(&worker).await.unwrap().unwrap();
        assert_eq!((wish.start, wish.restart), ((one, then.0), then.1));
    }
}

/// The dispatcher hears of what is pending again, whatever fails behind it.
pub async fn what_is_lost_is_told(fixture: &Fixture) {
    const TASKS: usize = 300;
    let epoch = fixture.lead().await;
    fixture.submit(&vec!["a"; TASKS]).await;
    let claim = fixture.claim(epoch, TASKS).await;
    let events: Vec<_> = claim
        .tasks
        .iter()
        .map(|message| Attempt::of(message).event(AttemptEvent::Started))
        .collect();
    project(&fixture.db, epoch, &events, Vec::new())
        .await
        .unwrap();
    fixture.execute("DROP TABLE former_incarnation").await;
    let (sender, mut inputs) = DispatchSender::new();
    let told = Told::Dispatcher(sender);
    let mut loss = Loss::default();
    let loser = Loser {
        worker: name("w1"),
        incarnation: None,
        silent_for: None,
        detail: "gone".to_owned(),
    };
    let outcome = lose(&fixture.db, epoch, &loser, &told, &mut loss).await;
    assert!(outcome.is_err(), "it cannot be marked lost");
    assert_eq!((loss.attempts, loss.tasks.len()), (TASKS, TASKS));
    drop(told);
    let mut heard = 0;
    while let Some(input) = inputs.recv().await {
        let pending = [BatchName::default()].into();
        assert!(matches!(input, DispatchInput::Pending(batches) if batches == pending));
        heard += 1;
    }
    assert_eq!(heard, 2, "once for each transaction");
    // Another server leads: nothing is begun, nothing told.
    let (sender, mut inputs) = DispatchSender::new();
    let claim = fixture.claim(epoch, 1).await;
    let attempt = Attempt::of(&claim.tasks[0]);
    apply(&fixture.db, epoch, &attempt, &[AttemptEvent::Started]).await;
    fixture.lead().await;
    let told = Told::Dispatcher(sender);
    let outcome = lose(&fixture.db, epoch, &loser, &told, &mut loss).await;
    assert!(matches!(outcome, Err(DbError::Fenced)), "{outcome:?}");
    assert_eq!(loss.attempts, TASKS);
    drop(told);
    assert!(inputs.recv().await.is_none(), "nothing was even begun");
    fixture.check().await;
}

pub async fn faults(fixture: &Fixture) {
    let epoch = fixture.lead().await;
    let (worker, default) = (name("w1"), BatchName::default());
    let none = fixture.db.fault_history(&worker, &default, 3).await;
    assert_eq!(none.unwrap().recent, []);
    for other in ["w1", "w2"] {
        greet(fixture, epoch, other, IncarnationId::generate(), 1).await;
    }
    fixture.submit(&["a", "b", "c", "d"]).await;
    let claim = fixture.claim(epoch, 4).await;
    let ends = [
        AttemptEvent::Failed,
        AttemptEvent::Succeeded,
        AttemptEvent::Released,
        AttemptEvent::Failed,
    ];
    for (message, end) in claim.tasks.iter().zip(ends) {
        apply(&fixture.db, epoch, &Attempt::of(message), &[end]).await;
    }
    let history = async |worker: &str| history(fixture, worker, &default).await;
    let found = history("w1").await;
    let reasons: Vec<_> = found.recent.iter().map(|end| end.reason).collect();
    let failed = Some(FailureReason::ExitCode);
    assert_eq!(reasons, [failed, None, failed], "the newest first");
    assert_eq!(found.recent[0].task, claim.tasks[3].task);
    // What ended last counts, be it that it began first.
    fixture
        .execute("UPDATE execution SET ended_at = '2100-01-01 00:00:00' WHERE id = 2")
        .await;
    let reasons: Vec<_> = history("w1").await.recent;
    let reasons: Vec<_> = reasons.iter().map(|end| end.reason).collect();
    assert_eq!(reasons, [None, failed, failed], "the last one first");
    assert_eq!((found.paused, found.batch_paused), (false, false));
    let pause = async |judged: &Judged| {
        let desired = fixture.db.pause_faulty_worker(epoch, judged).await;
        desired.unwrap().unwrap()
    };
    // Its failures are counted anew meanwhile: nothing happens.
    let stale = pause(&judged("w1", &default, found.counted_after + 1)).await;
    assert_eq!((stale.paused, stale.version), (false, 1));
    let judged = judged("w1", &default, found.counted_after);
    let desired = pause(&judged).await;
    assert_eq!((desired.paused, desired.version), (true, 2));
    let view = fixture.db.worker("w1").await.unwrap().unwrap();
    assert_eq!(
        (view.status.as_str(), view.pause_reason.as_deref()),
        ("paused", Some("why"))
    );
    let found = history("w1").await;
    assert_eq!((found.paused, found.recent.len()), (true, 0));
    assert_eq!(found.others, [], "it is not another worker");
    let others = history("w2").await.others;
    assert_eq!(others, [("w1".to_owned(), judged.fault)]);
    let elsewhere = fixture.db.fault_history(&name("w2"), &batch("b"), 3).await;
    assert_eq!(elsewhere.unwrap().others, []);
    // Resumed by a person: no reason any more, but it still speaks about others for an hour.
    let resume = WorkerChange {
        paused: Some(false),
        ..WorkerChange::default()
    };
    fixture.db.change_worker("w1", &resume).await.unwrap();
    let view = fixture.db.worker("w1").await.unwrap().unwrap();
    assert_eq!((view.status.as_str(), view.pause_reason), ("running", None));
    assert_eq!(history("w2").await.others.len(), 1);
    let long_ago = if fixture.is_sqlite() {
        "strftime('%Y-%m-%d %H:%M:%f', 'now', '-3700 seconds')"
    } else {
        "timezone('utc', now()) - interval '3700 seconds'"
    };
    fixture
        .execute(&format!("UPDATE worker SET fault_at = {long_ago}"))
        .await;
    assert_eq!(history("w2").await.others, []);
}
