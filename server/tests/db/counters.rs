use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use scitq_shared::api::CounterMismatch;
use scitq_shared::ids::TaskId;
use scitq_shared::submit::SubmitTask;
use scitq_shared::transition::AttemptEvent;

use crate::fixture::{Fixture, batch, ids, soon};
use crate::projector::{Attempt, project};

/// Whatever happens in whatever order, the counters agree with the tasks, and the tasks with their requirements.
pub async fn random_walk(fixture: &Fixture) {
    for seed in 0..4 {
        let mut random = StdRng::seed_from_u64(seed);
        let epoch = fixture.lead().await;
        let (mut tasks, mut attempts): (Vec<TaskId>, Vec<Attempt>) = Default::default();
        for _ in 0..80 {
            match random.random_range(0..10) {
                0..=2 => {
                    let new: Vec<_> = (0..random.random_range(1..8))
                        .map(|_| {
                            let required = tasks
                                .choose_multiple(&mut random, 3)
                                .map(|id| id.0)
                                .collect();
                            SubmitTask {
                                command: "true".to_owned(),
                                batch: Some(format!("b{}", random.random_range(0..3))),
                                retry: random.random_range(0..3),
                                priority: random.random_range(-2..3),
                                required_task_ids: if random.random_bool(0.5) {
                                    required
                                } else {
                                    Vec::new()
                                },
                                ..SubmitTask::default()
                            }
                            .validate()
                            .unwrap()
                        })
                        .collect();
                    tasks.extend(ids(&fixture.db.submit(new).await.unwrap()));
                }
                3..=4 => {
                    let name = batch(&format!("b{}", random.random_range(0..3)));
                    let claim = fixture
                        .db
                        .claim(epoch, &name, random.random_range(0..30))
                        .await
                        .unwrap();
                    attempts.extend(claim.tasks.iter().map(Attempt::of));
                }
                5 => {
                    fixture.db.return_all_dispatches(epoch).await.unwrap();
                }
                _ => {
                    let events: Vec<_> = (0..random.random_range(1..20))
                        .filter_map(|_| {
                            Some(
                                attempts
                                    .choose(&mut random)?
                                    .event(*AttemptEvent::ALL.choose(&mut random)?),
                            )
                        })
                        .collect();
                    project(&fixture.db, epoch, &events, Vec::new())
                        .await
                        .unwrap();
                }
            }
        }
        fixture.check().await;
        for id in &tasks {
            let task = fixture.db.task(*id).await.unwrap().unwrap();
            let mut unmet = 0;
            for required in &task.required_task_ids {
                unmet += i64::from(fixture.status(TaskId(*required)).await != "succeeded");
            }
            assert_eq!(task.missing_requirements, unmet, "task {id}, seed {seed}");
            assert_eq!(
                task.status == "waiting",
                unmet > 0,
                "task {id}, seed {seed}"
            );
        }
    }
}

pub async fn repair(fixture: &Fixture) {
    fixture.submit(&["a", "b", "c"]).await;
    fixture.check().await;
    fixture.execute("UPDATE batch_counter SET tasks = 5; INSERT INTO batch_counter VALUES ('ghost', 'failed', 2);").await;
    let mismatch = |batch: &str, status: &str, counter, tasks| CounterMismatch {
        batch: batch.to_owned(),
        status: status.to_owned(),
        counter,
        tasks,
    };
    let expected = [
        mismatch("Default", "pending", 5, 3),
        mismatch("ghost", "failed", 2, 0),
    ];
    assert_eq!(fixture.db.check_counters().await.unwrap(), expected);
    let repairs: Vec<_> = (0..4)
        .map(|_| {
            let db = fixture.db.clone();
            tokio::spawn(async move { db.repair_counters().await.unwrap() })
        })
        .collect();
    let mut repaired = 0;
    for repair in repairs {
        repaired += usize::from(soon(repair).await.unwrap() == expected);
        fixture.submit(&["more"]).await;
    }
    assert_eq!(repaired, 1, "each is repaired once");
    fixture.check().await;
    assert_eq!(fixture.db.batch("Default").await.unwrap().unwrap().total, 7);
}
