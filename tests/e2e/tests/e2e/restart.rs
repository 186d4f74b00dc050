//! The embedded pair is stopped, killed, and goes on where it was.

use std::path::PathBuf;

use scitq_e2e::{Embedded, Setup, WORKER, eventually};
use serde_json::json;

#[tokio::test]
async fn ctrl_c_drains_and_a_restart_goes_on() {
    let mut system = Embedded::start(Setup::concurrency(1)).await;
    let gate = system.gate("running");
    let script = gate.before("echo done");
    let running = system.submit(&json!({"command": script})).await;
    system.running(&running, 1).await;
    let pending = system
        .submit(&json!([{"command": "echo 1"}, {"command": "echo 2"}]))
        .await;
    let child = system
        .launch(["-R", &pending[1].to_string(), "echo", "3"])
        .await;

    system.interrupt();
    system.program().line("waiting for running tasks").await;
    // It waits for the task that runs.
    assert!(!system.program().has_ended());
    gate.open();
    assert_eq!(system.ended().await, Some(0));

    system.start_again().await;
    system.succeeded(&running).await;
    system.succeeded(&pending).await;
    system.succeeded(&[child]).await;
    // One execution: it was not run again.
    system.execution(running[0]).await;
    assert_eq!(system.output(running[0], "stdout").await, b"done\n");
    assert_eq!(system.output(child, "stdout").await, b"3\n");
    let next = system.launch(["true"]).await;
    assert!(next > child, "ids go on: {next} after {child}");
    system.succeeded(&[next]).await;
    system.counters_agree().await;
}

#[tokio::test]
async fn a_second_ctrl_c_stops_at_once() {
    let mut system = Embedded::start(Setup::default()).await;
    let mark = system.directory().join("mark");
    let script = format!(
        "mkdir {} && echo $$ && exec sleep 1000; echo again",
        mark.display()
    );
    let task = system.launch(["--shell", &script]).await;
    let mut following = system
        .rest
        .open(&format!("/api/v1/tasks/{task}/output/stdout?follow=true"))
        .await;
    let line = following.chunk().await.expect("a piece").expect("a line");
    let process: u32 = String::from_utf8_lossy(&line)
        .trim()
        .parse()
        .expect("a process id");
    system.interrupt();
    system.program().line("waiting for running tasks").await;
    system.interrupt();
    assert_eq!(system.ended().await, Some(130));
    drop(following);
    let directory = PathBuf::from(format!("/proc/{process}"));
    eventually("the task's process is gone", || async {
        (!directory.exists()).then_some(())
    })
    .await;

    // What was stopped says why, and runs again without a retry: it was not the command's failure.
    system.start_again().await;
    system.succeeded(&[task]).await;
    let executions = system.executions(task).await;
    let [stopped, repeated] = executions.as_slice() else {
        panic!("two executions: {executions:#?}")
    };
    assert_eq!(stopped["status"], "lost", "{stopped}");
    let detail = stopped["failure_detail"].as_str().unwrap_or_default();
    assert!(
        detail.contains("stopped") || detail.contains("told to end"),
        "{stopped}"
    );
    assert_eq!(repeated["status"], "succeeded", "{repeated}");
    assert_eq!(system.output(task, "stdout").await, b"again\n");
    let next = system.launch(["true"]).await;
    system.succeeded(&[next]).await;
    system.counters_agree().await;
}

#[tokio::test]
async fn a_kill_in_the_middle_of_a_series_loses_nothing() {
    let setup = Setup {
        concurrency: 4,
        prefetch: 4,
        ..Setup::default()
    };
    let mut system = Embedded::start(setup).await;
    let script = "sleep 0.02; echo $SCITQ_TASK_ID";
    let series = vec![json!({"command": script, "shell": "sh"}); 150];
    let tasks = system.submit(&json!(series)).await;
    for part in 1..=3 {
        system.progress(&tasks, 30 * part).await;
        system.kill().await;
        system.start_again().await;
    }
    system.succeeded(&tasks).await;
    for task in &tasks {
        let expected = format!("{task}\n");
        assert_eq!(
            String::from_utf8_lossy(&system.output(*task, "stdout").await),
            expected
        );
        let executions = system.executions(*task).await;
        let succeeded = executions.iter().filter(|e| e["status"] == "succeeded");
        assert_eq!(succeeded.count(), 1, "{executions:#?}");
        let ended = executions
            .iter()
            .all(|e| e["status"] != "running" && e["status"] != "accepted");
        assert!(ended, "{executions:#?}");
    }
    system.counters_agree().await;
}

#[tokio::test]
async fn a_kill_while_a_task_runs_is_told_in_its_history() {
    let mut system = Embedded::start(Setup::concurrency(1)).await;
    let gate = system.gate("held");
    let held = system
        .submit(&json!({"command": gate.before("echo end")}))
        .await;
    system.running(&held, 1).await;
    let queued = system
        .submit(&json!([{"command": "true"}, {"command": "true"}]))
        .await;
    system
        .change_worker(WORKER, &json!({"concurrency": 3}))
        .await;
    system.kill().await;
    gate.open();
    system.start_again().await;
    system.succeeded(&held).await;
    system.succeeded(&queued).await;
    let executions = system.executions(held[0]).await;
    // Whether the first attempt is adopted or repeated: its end is known, and what it wrote is there once.
    let last = executions.last().expect("an execution");
    assert_eq!(last["status"], "succeeded", "{executions:#?}");
    for earlier in &executions[..executions.len() - 1] {
        assert!(earlier["failure_detail"].is_string(), "{earlier}");
    }
    assert_eq!(system.output(held[0], "stdout").await, b"end\n");
    // What the server holds for the worker counts, not what the settings say; a flag is the user's newest word.
    assert_eq!(system.worker(WORKER, "running").await["concurrency"], 3);
    system.interrupt();
    assert_eq!(system.ended().await, Some(0));
    system.start_again_with(&["--concurrency", "5"]).await;
    assert_eq!(system.worker(WORKER, "running").await["concurrency"], 5);
    system.counters_agree().await;
}

#[tokio::test]
async fn a_taken_address_and_a_taken_directory_are_told() {
    let system = Embedded::start(Setup::default()).await;
    let data = system.directory().join("data");
    let file = system.settings_file();
    let up = async |listen: &str, data: &std::path::Path| {
        let words = ["up", "--listen", listen].map(std::ffi::OsString::from);
        let words = words.into_iter().chain(["--data-dir".into(), data.into()]);
        system
            .ctl(words.chain(["--config".into(), file.clone().into()]))
            .run()
            .await
    };
    let taken = up(&system.listen(), &system.directory().join("other"))
        .await
        .code(1);
    assert!(taken.stderr.contains(&system.listen()), "{}", taken.stderr);
    assert!(
        taken.stderr.contains("--listen"),
        "the remedy: {}",
        taken.stderr
    );
    // Two programs on one data directory would run every task twice.
    let doubled = up("127.0.0.1:0", &data).await;
    assert_ne!(doubled.code, Some(0));
    assert!(doubled.stderr.contains("data"), "{}", doubled.stderr);
    // The first one is not disturbed.
    let task = system.launch(["true"]).await;
    system.succeeded(&[task]).await;
}
