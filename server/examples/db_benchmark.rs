//! Measures the database layer by itself: submission, claims, projection of events and of output, on SQLite and on a
//! private PostgreSQL that waits for its disk.
//!
//! `cargo run --release -p scitq-server --example db_benchmark [TASKS [URL…]]`
#![expect(clippy::print_stdout, reason = "a benchmark says what it measured")]
#![expect(
    clippy::cast_precision_loss,
    reason = "figures for people, far below 2^52"
)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Context;
use scitq_server::db::{
    AttemptChange, Database, Needs, NewChunk, PageRequest, Projection, TaskChange, TaskFilter,
};
use scitq_shared::execution::{Exit, MemorySource, Outcome, Usage};
use scitq_shared::ids::{AttemptId, Epoch, IncarnationId};
use scitq_shared::names::{BatchName, WorkerName};
use scitq_shared::output::{Chunk, Stream, StreamEnd};
use scitq_shared::protocol::{AttemptReport, TaskMessage};
use scitq_shared::secret::SecretUrl;
use scitq_shared::submit::{SubmitTask, ValidTask};
use scitq_shared::task::TaskStatus;
use scitq_shared::transition::{AttemptState, TaskState};

/// Tasks of one claim and of one projection: about what a batch of events holds under load.
const GROUP: usize = 256;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let tasks: usize = arguments.next().map_or(Ok(20_000), |text| text.parse())?;
    let urls: Vec<String> = arguments.collect();
    if !urls.is_empty() {
        for url in urls {
            measure(&url, tasks).await?;
        }
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    measure(
        &format!("sqlite:{}", directory.path().join("scitq.db").display()),
        tasks,
    )
    .await?;
    let postgres = scitq_testkit::Postgres::durable().await;
    measure(&postgres.database().await, tasks).await
}

fn valid(command: &str) -> anyhow::Result<ValidTask> {
    Ok(SubmitTask {
        command: command.to_owned(),
        ..SubmitTask::default()
    }
    .validate()?)
}

/// Processor time of this process and its descendants (the private PostgreSQL), in ticks of 10 ms: what a step costs,
/// however busy the machine is.
fn ticks() -> u64 {
    let mut processes = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // Behind the name in brackets: state, parent, … user time and system time as the 12th and 13th.
        let Some((id, rest)) = stat.split_once(" (") else {
            continue;
        };
        let Some((_, rest)) = rest.rsplit_once(") ") else {
            continue;
        };
        let fields: Vec<u64> = rest
            .split(' ')
            .skip(1)
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        if let (Ok(id), Some(parent), Some(user), Some(system)) = (
            id.parse::<u64>(),
            fields.first(),
            fields.get(10),
            fields.get(11),
        ) {
            processes.push((id, *parent, user + system));
        }
    }
    let mut ours = BTreeSet::from([u64::from(std::process::id())]);
    loop {
        let before = ours.len();
        for (id, parent, _) in &processes {
            if ours.contains(parent) {
                ours.insert(*id);
            }
        }
        if ours.len() == before {
            break;
        }
    }
    processes
        .iter()
        .filter(|(id, ..)| ours.contains(id))
        .map(|(_, _, ticks)| ticks)
        .sum()
}

/// What steps of one kind took.
#[derive(Default)]
struct Spent {
    time: Duration,
    ticks: u64,
}

impl Spent {
    async fn on<T>(&mut self, step: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let (began, ticks_before) = (Instant::now(), ticks());
        let outcome = step.await;
        self.time += began.elapsed();
        self.ticks += ticks() - ticks_before;
        outcome
    }

    /// Says it, per task.
    fn say(&self, what: &str, tasks: usize) {
        let micros = self.time.as_secs_f64() * 1e6 / tasks as f64;
        let processor = self.ticks as f64 * 1e4 / tasks as f64;
        println!(
            "  {what:<44} {micros:>8.1} µs a task {:>9.0} tasks/s {processor:>8.1} µs of processor",
            1e6 / micros
        );
    }
}

async fn measure(url: &str, tasks: usize) -> anyhow::Result<()> {
    let db = Database::connect(&SecretUrl::new(url), 8).await?;
    println!("{}", db.address());
    let epoch = db.take_leadership("benchmark", Epoch(0)).await?;
    let batch = BatchName::default();

    for size in [1, 1_000, 10_000] {
        let rounds = (tasks / size).clamp(1, 300);
        let mut submitting = Spent::default();
        let groups = (0..rounds)
            .map(|_| Ok(vec![valid("echo hello")?; size]))
            .collect::<anyhow::Result<Vec<_>>>()?;
        submitting
            .on(async {
                for group in groups {
                    db.submit(group).await?;
                }
                Ok(())
            })
            .await?;
        submitting.say(&format!("submit {size} at a time"), rounds * size);
    }
    let pending = db
        .batch("Default")
        .await?
        .context("the batch is there")?
        .total;
    println!("  {pending} tasks are pending");

    let rounds = (tasks / GROUP).max(2);
    let mut claimed = Vec::new();
    let mut claiming = Spent::default();
    claiming
        .on(async {
            for round in 1..=rounds {
                claimed.push(db.claim(epoch, &batch, round * GROUP).await?.tasks);
            }
            Ok(())
        })
        .await?;
    claiming.say("claim 256", rounds * GROUP);
    let groups: Vec<Vec<(AttemptId, TaskMessage)>> = claimed
        .into_iter()
        .map(|group| {
            group
                .into_iter()
                .map(|message| (AttemptId::generate(), message))
                .collect()
        })
        .collect();
    let (apart, together) = groups.split_at(rounds / 2);
    for (what, groups, state) in [
        ("project 256 started", apart, AttemptState::Running),
        ("project 256 ended", apart, AttemptState::Succeeded),
        (
            "project 256 started and ended at once",
            together,
            AttemptState::Succeeded,
        ),
    ] {
        let mut projecting = Spent::default();
        projecting
            .on(async {
                for group in groups {
                    project(&db, epoch, group, state, Vec::new()).await?;
                }
                Ok(())
            })
            .await?;
        projecting.say(what, groups.len() * GROUP);
    }
    let mut storing = Spent::default();
    storing
        .on(async {
            for group in &groups {
                let chunks = group
                    .iter()
                    .map(|(attempt, message)| chunk(*attempt, message));
                project(
                    &db,
                    epoch,
                    &[],
                    AttemptState::Succeeded,
                    chunks.collect::<Result<_, _>>()?,
                )
                .await?;
            }
            Ok(())
        })
        .await?;
    storing.say("store 256 outputs of 20 bytes", rounds * GROUP);

    let single = 300;
    let mut trickling = Spent::default();
    trickling
        .on(async {
            for _ in 0..single {
                let claim = db.claim(epoch, &batch, 1).await?;
                let attempts: Vec<_> = claim
                    .tasks
                    .into_iter()
                    .map(|message| (AttemptId::generate(), message))
                    .collect();
                project(&db, epoch, &attempts, AttemptState::Succeeded, Vec::new()).await?;
            }
            Ok(())
        })
        .await?;
    trickling.say("claim 1 and project 1, one after the other", single);

    for (what, filter) in [
        ("first page of 100 tasks", TaskFilter::default()),
        (
            "first page of two statuses",
            TaskFilter {
                statuses: vec![TaskStatus::Succeeded, TaskStatus::Pending],
                ..TaskFilter::default()
            },
        ),
    ] {
        let began = Instant::now();
        for _ in 0..100 {
            db.tasks(
                &filter,
                &PageRequest {
                    descending: true,
                    ..PageRequest::default()
                },
            )
            .await?;
        }
        println!(
            "  {what:<46} {:>8.2} ms",
            began.elapsed().as_secs_f64() * 10.0
        );
    }
    let began = Instant::now();
    let wrong = db.check_counters().await?;
    println!(
        "  {:<46} {:>8.2} ms",
        "check of the counters",
        began.elapsed().as_secs_f64() * 1e3
    );
    anyhow::ensure!(wrong.is_empty(), "the counters disagree: {wrong:?}");
    Ok(())
}

fn chunk(attempt: AttemptId, message: &TaskMessage) -> anyhow::Result<NewChunk> {
    let chunk = Chunk::pack(b"hello hello hello he")?;
    Ok(NewChunk {
        attempt,
        task: message.task,
        stream: Stream::Stdout,
        offset: 0,
        chunk,
    })
}

/// Applies one event of each attempt, as the server does.
async fn project(
    db: &Database,
    epoch: Epoch,
    attempts: &[(AttemptId, TaskMessage)],
    state: AttemptState,
    chunks: Vec<NewChunk>,
) -> anyhow::Result<()> {
    let worker = WorkerName::new("w1")?;
    let needs = Needs {
        tasks: attempts
            .iter()
            .map(|(_, message)| message.task)
            .collect::<BTreeSet<_>>(),
        attempts: attempts.iter().map(|(attempt, _)| *attempt).collect(),
        ..Needs::default()
    };
    db.project(epoch, &needs, chunks, |loaded| {
        let mut projection = Projection::default();
        for (attempt, message) in attempts {
            let Some(task) = loaded.tasks.get(&message.task) else {
                continue;
            };
            let (dispatch, attempt) = (message.dispatch, *attempt);
            let to = match state {
                AttemptState::Running => TaskState::Running {
                    dispatch,
                    attempt,
                    uploading: false,
                },
                _ => TaskState::Succeeded,
            };
            projection.tasks.push(TaskChange {
                task: message.task,
                from: task.state,
                to,
                retries_left: 0,
                meet_requirements: to == TaskState::Succeeded,
                moved_by: Some(attempt),
            });
            projection.attempts.push(AttemptChange {
                attempt,
                state,
                report: Some(report(attempt, message, state)),
                worker: worker.clone(),
                incarnation: IncarnationId(uuid::Uuid::nil()),
                announced_sequence: 1,
                failure: None,
            });
        }
        projection
    })
    .await?;
    Ok(())
}

fn report(attempt: AttemptId, message: &TaskMessage, state: AttemptState) -> AttemptReport {
    let over = state.is_over();
    let usage = Usage {
        user_cpu_ms: 1,
        system_cpu_ms: 1,
        peak_memory_bytes: 2_000_000,
        memory_source: MemorySource::LargestProcess,
    };
    AttemptReport {
        attempt,
        dispatch: message.dispatch,
        dispatch_epoch: message.epoch,
        task: message.task,
        batch: message.batch.clone(),
        revision: message.definition.revision,
        queued_at: message.queued_at,
        accepted_at: message.queued_at,
        started_at: Some(scitq_shared::now()),
        ended_at: over.then(scitq_shared::now),
        exit: over.then_some(Exit::Code(0)),
        outcome: over.then_some(Outcome::Succeeded),
        usage: over.then_some(usage),
        stdout: over.then_some(StreamEnd {
            length: 20,
            cut: None,
        }),
        stderr: over.then_some(StreamEnd::default()),
    }
}
