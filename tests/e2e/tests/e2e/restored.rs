//! The database restored from a backup that is older than what workers and broker hold.

use std::collections::BTreeMap;
use std::path::Path;

use scitq_e2e::{Embedded, Gate, Separate, Setup, Site, WORKER, eventually};
use scitq_testkit::{Postgres, RabbitMq};
use serde_json::{Value, json};

/// Short, so that listening is.
fn setup() -> Setup {
    Setup::concurrency(3).with("SCITQ_SERVER_OFFLINE_AFTER_SECONDS", "4")
}

/// A task that adds its id to the file, says so, and ends when the gate is open. `kind` is its name.
fn task(kind: &str, file: &Path, gate: Option<&Gate>) -> Value {
    let wait = gate.map_or_else(|| "true".to_owned(), |gate| gate.before("true"));
    let command = format!(
        "echo $SCITQ_TASK_ID >> {}; echo {kind} $SCITQ_TASK_ID; {wait}; echo end",
        file.display()
    );
    json!({ "command": command, "shell": "sh", "name": kind, "priority": 1 })
}

async fn submit(site: &Site, tasks: usize, task: &Value) -> Vec<i64> {
    site.submit(&json!(vec![task.clone(); tasks])).await
}

/// How often each task began.
fn begun(file: &Path) -> BTreeMap<i64, usize> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut begun = BTreeMap::new();
    for line in text.lines() {
        *begun.entry(line.parse().expect("an id")).or_default() += 1;
    }
    begun
}

/// Waits until so many of these tasks have begun.
async fn began(file: &Path, tasks: &[i64], wanted: usize) {
    eventually(&format!("{wanted} of {tasks:?} have begun"), || async {
        let begun = begun(file);
        let count = tasks.iter().filter(|task| begun.contains_key(*task));
        (count.count() == wanted).then_some(())
    })
    .await;
}

/// Every task succeeded by one execution with the right command and output.
async fn whole(site: &Site, kind: &str, tasks: &[i64], submitted: &Value) {
    for task in tasks {
        let found = site.task(*task).await;
        assert_eq!(found["status"], "succeeded", "{found}");
        for field in ["command", "shell", "name", "priority"] {
            assert_eq!(found[field], submitted[field], "{found}");
        }
        let execution = site.execution(*task).await;
        assert_eq!(execution["command"], submitted["command"], "{execution}");
        let expected = format!("{kind} {task}\nend\n");
        let output = site.output(*task, "stdout").await;
        assert_eq!(String::from_utf8_lossy(&output), expected);
    }
}

#[tokio::test]
async fn what_came_after_the_backup_goes_on() {
    let broker_url = RabbitMq::shared().await.vhost().await;
    let postgres = Postgres::shared().await;
    let database_url = postgres.database().await;
    let mut system = Separate::at(broker_url.clone(), database_url, setup());
    system.start_server();
    system.ready().await;
    system.start_worker(WORKER, &setup());
    system.worker(WORKER, "running").await;
    let file = system.directory().join("ran");
    let (first, second) = (system.gate("first"), system.gate("second"));

    // Before the backup: some are over, some run, others wait in the queue, and one for a task that runs.
    let early = task("early", &file, None);
    let done = submit(&system, 3, &early).await;
    system.succeeded(&done).await;
    let held = task("held", &file, Some(&first));
    let running = submit(&system, 3, &held).await;
    began(&file, &running, 3).await;
    let queued = submit(&system, 4, &held).await;
    let mut after = task("after", &file, Some(&second));
    after["required_task_ids"] = json!([running[0]]);
    let waiting = submit(&system, 1, &after).await;
    eventually("all are dispatched", || async {
        let batch = system.rest.get("/api/v1/batches/Default").await.expect(200);
        (batch["tasks"]["assigned"] == 4).then_some(())
    })
    .await;
    system.stop_server().await;
    let template = system.database_url().rsplit('/').next().expect("a name");
    let backup = postgres.database_from(template).await;

    // More work: what ran ends and is forgotten, what waited runs now, also on a worker that the backup does not know.
    system.start_server();
    system.ready().await;
    first.open();
    system.succeeded(&running).await;
    system.succeeded(&queued).await;
    began(&file, &waiting, 1).await;
    let late = task("late", &file, None);
    let late_done = submit(&system, 3, &late).await;
    system.succeeded(&late_done).await;
    let late_held = task("late_held", &file, Some(&second));
    let late_running = submit(&system, 2, &late_held).await;
    began(&file, &late_running, 2).await;
    let other = Setup {
        concurrency: 1,
        ..setup()
    };
    system.start_worker("w2", &other.clone().with("SCITQ_WORKER_BATCH", "elsewhere"));
    system.worker("w2", "running").await;
    let mut elsewhere = task("elsewhere", &file, Some(&second));
    elsewhere["batch"] = json!("elsewhere");
    let elsewhere_tasks = submit(&system, 3, &elsewhere).await;
    began(&file, &elsewhere_tasks, 1).await;
    // Held by the workers, unstarted, or in the queues.
    let late_queued = submit(&system, 5, &late_held).await;
    eventually("all are dispatched", || async {
        let batch = system.rest.get("/api/v1/batches/Default").await.expect(200);
        let other = system
            .rest
            .get("/api/v1/batches/elsewhere")
            .await
            .expect(200);
        (batch["tasks"]["pending"].is_null() && other["tasks"]["pending"].is_null()).then_some(())
    })
    .await;
    // One ends while nobody listens.
    system.kill_server().await;
    let before = begun(&file);

    // The backup is put in place, and workers and broker know nothing of that.
    let mut restored = system.with_database(backup);
    restored.start_restored_server();
    restored.ready().await;
    let new = submit(&restored, 2, &late).await;
    let given: Vec<i64> = [&late_done, &late_running, &elsewhere_tasks, &late_queued]
        .into_iter()
        .flatten()
        .copied()
        .collect();
    assert!(
        new.iter()
            .all(|task| *task > 1_000_000 && !given.contains(task))
    );
    restored.server().line("dispatching begins").await;
    // What runs is known again, and runs on.
    for task in late_running
        .iter()
        .chain(&waiting)
        .chain(&elsewhere_tasks[..1])
    {
        let found = restored.task(*task).await;
        assert_eq!(found["status"], "running", "{found}");
    }
    for (task, times) in &before {
        if late_running.contains(task) || waiting.contains(task) || elsewhere_tasks.contains(task) {
            assert_eq!((*times, begun(&file)[task]), (1, 1), "task {task}");
        }
    }
    second.open();
    restored.succeeded(&late_running).await;
    restored.succeeded(&late_queued).await;
    restored.succeeded(&waiting).await;
    restored.succeeded(&new).await;
    restored.succeeded(&elsewhere_tasks).await;
    whole(&restored, "late_held", &late_running, &late_held).await;
    whole(&restored, "late_held", &late_queued, &late_held).await;
    whole(&restored, "elsewhere", &elsewhere_tasks, &elsewhere).await;
    whole(&restored, "after", &waiting, &after).await;
    // The backup takes these for unfinished, and their ends were forgotten: they run again, which cannot be helped.
    restored.succeeded(&running).await;
    restored.succeeded(&queued).await;
    whole(&restored, "early", &done, &early).await;
    let begun = begun(&file);
    for task in [
        &late_running,
        &late_queued,
        &elsewhere_tasks,
        &waiting,
        &new,
        &done,
    ]
    .into_iter()
    .flatten()
    {
        assert_eq!(begun[task], 1, "task {task} had its effect once");
    }
    restored.counters_agree().await;
    // The next start is one like any other.
    restored.stop_server().await;
    restored.start_server();
    restored.ready().await;
    let last = submit(&restored, 1, &late).await;
    restored.succeeded(&last).await;
    assert_eq!(last[0], new[1] + 1);
}

#[tokio::test]
async fn the_embedded_pair_goes_on_after_a_restored_backup() {
    let mut system = Embedded::start(setup()).await;
    let file = system.directory().join("ran");
    let gate = system.gate("held");
    let early = task("early", &file, None);
    let done = submit(&system, 2, &early).await;
    system.succeeded(&done).await;
    system.interrupt();
    assert_eq!(system.ended().await, Some(0));
    // All files of the database, while nobody uses it.
    let files = ["scitq.db", "scitq.db-wal", "scitq.db-shm"];
    let files = files.map(|name| system.directory().join("data").join(name));
    let backup: Vec<Option<Vec<u8>>> = files.iter().map(|file| std::fs::read(file).ok()).collect();
    assert!(backup[0].is_some(), "{files:?}");

    system.start_again().await;
    system.worker(WORKER, "running").await;
    let held = task("held", &file, Some(&gate));
    let running = submit(&system, 2, &held).await;
    began(&file, &running, 2).await;
    system.kill().await;
    for (file, bytes) in files.iter().zip(&backup) {
        let _ = std::fs::remove_file(file);
        if let Some(bytes) = bytes {
            std::fs::write(file, bytes).expect("the backup in its place");
        }
    }

    system.start_again_with(&["--restored"]).await;
    let new = submit(&system, 1, &early).await;
    assert!(new[0] > 1_000_000, "{new:?}");
    system.succeeded(&new).await;
    system.running(&running, 2).await;
    gate.open();
    system.succeeded(&running).await;
    for task in running.iter().chain(&done).chain(&new) {
        assert_eq!(begun(&file)[task], 1, "task {task} had its effect once");
    }
    let expected = format!("held {}\nend\n", running[0]);
    let output = system.output(running[0], "stdout").await;
    assert_eq!(String::from_utf8_lossy(&output), expected);
    let found = system.task(running[0]).await;
    assert_eq!(found["command"], held["command"], "{found}");
    system.counters_agree().await;
}
