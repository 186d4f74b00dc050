//! Leases, losses and what is taken back; workers that only fail; what people want of batches and agents.

use std::time::Duration;

use scitq_server::db::{RecentEnd, Restart, Silent, WorkerChange};
use scitq_shared::execution::FailureReason;
use scitq_shared::ids::{Epoch, IncarnationId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::protocol::Hello;
use scitq_shared::transition::AttemptEvent;
use scitq_shared::worker::{DesiredState, Lease};

use crate::fixture::{Fixture, batch};
use crate::projector::{Attempt, apply};

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
        .set_lost(epoch, &name("b"), Some(b))
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
    fixture
        .db
        .heard_from(epoch, &[(name("b"), b)])
        .await
        .unwrap();
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
        .set_lost(epoch, &worker, Some(two))
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
    // Another life of the directory counts from 1.
    assert_eq!(ask(Some(3)).await, Some(Restart::Done));
    assert_eq!(ask(Some(4)).await, Some(Restart::Requested(4)));
    let other = IncarnationId::generate();
    assert_eq!(greet(fixture, epoch, "w", other, 1).await, None);
    assert_eq!(requested().await, (1, None));
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
    // The server has nothing to add to what a person did.
    let again = fixture
        .db
        .pause_faulty_batch(epoch, &default, "broken")
        .await;
    assert!(!again.unwrap());
    assert!(fixture.db.pause_batch(&default, false).await.unwrap());
    assert_eq!(fixture.claim(epoch, 10).await.tasks.len(), 1);
    let paused = fixture
        .db
        .pause_faulty_batch(epoch, &default, "broken")
        .await;
    assert!(paused.unwrap());
    let view = fixture.db.batch("Default").await.unwrap().unwrap();
    assert_eq!(view.pause_reason.as_deref(), Some("broken"));
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
    let history = |worker: &str| {
        let worker = name(worker);
        let default = default.clone();
        async move {
            let found = fixture.db.fault_history(&worker, &default, 3).await;
            found.unwrap()
        }
    };
    let found = history("w1").await;
    let reasons: Vec<_> = found.recent.iter().map(|end| end.reason).collect();
    let failed = Some(FailureReason::ExitCode);
    assert_eq!(reasons, [failed, None, failed], "the newest first");
    assert_eq!((found.paused, found.batch_paused), (false, false));
    let fault = RecentEnd {
        reason: Some(FailureReason::DiskFull),
        detail: "no space".to_owned(),
    };
    let desired = fixture
        .db
        .pause_faulty_worker(epoch, &worker, &default, &fault, "why")
        .await
        .unwrap()
        .unwrap();
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
    assert_eq!(others, [("w1".to_owned(), fault.clone())]);
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
