//! Names and lives of workers.

use rustix::process::Signal;
use scitq_e2e::{Separate, Setup, WORKER};
use serde_json::json;

#[tokio::test]
async fn a_worker_that_comes_back_keeps_what_the_server_holds() {
    let mut system = Separate::start(Setup::concurrency(1)).await;
    system
        .change_worker(WORKER, &json!({"concurrency": 3, "prefetch": 1}))
        .await;
    let before = system.worker(WORKER, "running").await;
    system.stop_worker(WORKER).await;
    system.worker(WORKER, "offline").await;
    // Changed while it is away.
    system
        .change_worker(WORKER, &json!({"batch": "other"}))
        .await;
    system.start_worker(WORKER, &Setup::concurrency(1));
    let back = system.worker(WORKER, "running").await;
    for (field, expected) in [
        ("concurrency", json!(3)),
        ("prefetch", json!(1)),
        ("batch", json!("other")),
    ] {
        assert_eq!(back[field], expected, "{field}: {back}");
    }
    assert_eq!(back["worker_id"], before["worker_id"]);
    // It really works so.
    let gate = system.gate("three");
    let task = json!({"command": gate.before("true"), "batch": "other"});
    let tasks = system.submit(&json!(vec![task; 3])).await;
    system.running(&tasks, 3).await;
    gate.open();
    system.succeeded(&tasks).await;
}

#[tokio::test]
async fn a_second_live_worker_of_a_name_is_refused() {
    let system = Separate::start(Setup::default()).await;
    let setup = Setup::default().with("SCITQ_WORKER_DOUBLE_AFTER_SECONDS", "1");
    let mut double = system.worker_program(WORKER, "double", &setup);
    let status = double.ended().await;
    assert!(!status.success(), "{status}");
    let log = double.log();
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains(WORKER) && last.contains("name"), "{log}");
    // The first one is not disturbed.
    let task = system.launch(["true"]).await;
    system.succeeded(&[task]).await;
    assert_eq!(system.execution(task).await["worker"], WORKER);
}

#[tokio::test]
async fn one_directory_belongs_to_one_worker() {
    let system = Separate::start(Setup::default()).await;
    let mut second = system.worker_program("w2", WORKER, &Setup::default());
    let status = second.ended().await;
    assert!(!status.success(), "{status}");
    let log = second.log();
    assert!(
        log.contains(&format!("{WORKER}-state")),
        "it names the directory: {log}"
    );
}

#[tokio::test]
async fn a_worker_can_begin_paused() {
    let mut system = Separate::start(Setup::default()).await;
    let setup = Setup::concurrency(4)
        .with("SCITQ_WORKER_STATUS", "paused")
        .with("SCITQ_WORKER_BATCH", "later");
    system.start_worker("w2", &setup);
    let worker = system.worker("w2", "paused").await;
    assert_eq!(
        (&worker["concurrency"], &worker["batch"]),
        (&json!(4), &json!("later"))
    );
    let tasks = system
        .submit(&json!({"command": "true", "batch": "later"}))
        .await;
    let other = system.launch(["true"]).await;
    system.succeeded(&[other]).await;
    assert_eq!(system.task(tasks[0]).await["status"], "pending");
    system.change_worker("w2", &json!({"paused": false})).await;
    system.succeeded(&tasks).await;
}

#[tokio::test]
async fn a_stopped_worker_ends_what_runs_and_gives_back_the_rest() {
    let setup = Setup {
        concurrency: 1,
        prefetch: 2,
        ..Setup::default()
    };
    let mut system = Separate::start(setup.clone()).await;
    let gate = system.gate("running");
    let command = gate.before("echo end");
    let running = system.submit(&json!({"command": command})).await;
    system.running(&running, 1).await;
    let held = system
        .submit(&json!(vec![json!({"command": "true"}); 2]))
        .await;
    // Held ready by the worker that is busy.
    system.status(held[1], "accepted").await;
    system.worker_process(WORKER).signal(Signal::TERM);
    system.start_worker("w2", &setup);
    system.succeeded(&held).await;
    for task in &held {
        let executions = system.executions(*task).await;
        let last = executions.last().expect("an execution");
        assert_eq!(last["worker"], "w2", "{executions:#?}");
        for earlier in &executions[..executions.len() - 1] {
            // Given back; or lost, where a heartbeat without it came through its own queue before that.
            let given_back = earlier["status"] == "released" || earlier["status"] == "lost";
            assert!(given_back && earlier["started_at"].is_null(), "{earlier}");
        }
    }
    assert_eq!(system.task(running[0]).await["status"], "running");
    assert!(!system.worker_process(WORKER).has_ended());
    gate.open();
    system.worker_ended(WORKER).await;
    system.succeeded(&running).await;
    assert_eq!(system.execution(running[0]).await["worker"], WORKER);
    assert_eq!(system.output(running[0], "stdout").await, b"end\n");
}

#[tokio::test]
async fn a_silent_worker_is_shown_offline() {
    let setup = Setup::default().with("SCITQ_SERVER_OFFLINE_AFTER_SECONDS", "3");
    let mut system = Separate::start(setup.clone()).await;
    system.kill_worker(WORKER).await;
    system.worker(WORKER, "offline").await;
    let task = system.launch(["true"]).await;
    system.start_worker(WORKER, &setup);
    system.succeeded(&[task]).await;
    system.worker(WORKER, "running").await;
}

#[tokio::test]
async fn what_a_worker_ran_that_is_gone_for_good_runs_elsewhere() {
    let setup = Setup::default()
        .with("SCITQ_SERVER_OFFLINE_AFTER_SECONDS", "3")
        .with("SCITQ_SERVER_LOST_AFTER_SECONDS", "6")
        .with("SCITQ_WORKER_HEARTBEAT_SECONDS", "1");
    let mut system = Separate::start(setup.clone()).await;
    let file = system.directory().join("ran");
    // The first one never ends by itself; its process goes with the machine.
    let script = format!(
        "echo $SCITQ_WORKER >> {0}; test $(wc -l < {0}) -gt 1 || sleep 3600",
        file.display()
    );
    let task = system
        .submit(&json!({"command": script, "shell": "sh"}))
        .await[0];
    system.status(task, "running").await;
    system.kill_worker(WORKER).await;
    system.start_worker("w2", &setup);
    system.succeeded(&[task]).await;
    let executions = system.executions(task).await;
    assert_eq!(
        (&executions[0]["status"], &executions[0]["worker"]),
        (&json!("lost"), &json!(WORKER)),
        "{executions:#?}"
    );
    let detail = executions[0]["failure_detail"].as_str().unwrap_or_default();
    assert!(detail.contains("has been silent since"), "{detail}");
    assert_eq!(system.task(task).await["retries_left"], 0);
    let worker = system.worker(WORKER, "offline").await;
    assert!(worker["lost_at"].is_string(), "{worker}");
    let list = system.ctl(["worker", "list"]).run().await.code(0).text();
    assert!(list.contains("offline (lost)"), "{list}");
    // With its directory it comes back, and what it ran is of the past.
    system.start_worker(WORKER, &setup);
    let worker = system.worker(WORKER, "running").await;
    assert!(worker["lost_at"].is_null(), "{worker}");
    assert_eq!(system.task(task).await["status"], "succeeded");
    system.counters_agree().await;
}
