//! Tasks outlive the programs that started them: killed, stopped to leave, started again.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use rustix::process::Signal;
use scitq_e2e::{Embedded, Pair, Separate, Setup, Site, System, WORKER, binary, eventually};
use serde_json::json;

on_both_pairs!(
    running_tasks_outlive_a_kill,
    each_effect_happens_once_through_kills
);

/// Kills the process that the tasks' agent lives in, and starts it again.
async fn kill_and_start(system: &mut System) {
    match system {
        System::Embedded(embedded) => {
            embedded.kill().await;
            embedded.start_again().await;
        }
        System::Separate(separate) => {
            separate.kill_worker(WORKER).await;
            separate.start_worker(WORKER, &Setup::default());
        }
    }
}

/// Waits until a task has written this: one that is shown as running is announced, and not executed yet.
async fn begun(system: &Site, task: i64, text: &str) {
    let path = format!("/api/v1/tasks/{task}/output/stdout");
    eventually("the task has begun", || async {
        let output = system.rest.get(&path).await.text();
        output.contains(text).then_some(())
    })
    .await;
}

async fn running_tasks_outlive_a_kill(pair: Pair) {
    let mut system = pair.start().await;
    let gate = system.gate("held");
    let script = format!(
        "i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo line $i; done; {}; echo after; exit 3",
        gate.before("true")
    );
    let task = system
        .submit(&json!({"command": script, "shell": "sh"}))
        .await;
    begun(&system, task[0], "line 200").await;
    for _ in 0..2 {
        kill_and_start(&mut system).await;
        system.worker(WORKER, "running").await;
        system.running(&task, 1).await;
    }
    gate.open();
    system.status(task[0], "failed").await;
    let execution = system.execution(task[0]).await;
    assert_eq!(execution["exit_code"], 3, "{execution}");
    let lines: Vec<String> = (1..=200).map(|i| format!("line {i}\n")).collect();
    let output = system.output(task[0], "stdout").await;
    assert_eq!(String::from_utf8_lossy(&output), lines.concat() + "after\n");
    system.counters_agree().await;
}

async fn each_effect_happens_once_through_kills(pair: Pair) {
    let setup = Setup {
        concurrency: 4,
        prefetch: 4,
        ..Setup::default()
    };
    let mut system = pair.start_with(setup).await;
    let effects = system.directory().join("effects");
    let script = format!("sleep 0.02; echo $SCITQ_TASK_ID >> {}", effects.display());
    let series = vec![json!({"command": script, "shell": "sh"}); 200];
    let tasks = system.submit(&json!(series)).await;
    for part in 1..=4 {
        system.progress(&tasks, 40 * part).await;
        kill_and_start(&mut system).await;
    }
    system.succeeded(&tasks).await;
    let text = std::fs::read_to_string(&effects).expect("effects");
    let done: Vec<i64> = text
        .lines()
        .map(|line| line.parse().expect("an id"))
        .collect();
    let once: BTreeSet<i64> = done.iter().copied().collect();
    assert_eq!(done.len(), once.len(), "none was done twice");
    assert_eq!(once, tasks.iter().copied().collect());
    system.counters_agree().await;
}

#[tokio::test]
async fn an_upgrade_by_a_service_manager_leaves_tasks_running() {
    let setup = Setup::concurrency(1).with("SCITQ_WORKER_DRAIN_TIMEOUT", "0");
    let mut system = Separate::start(setup.clone()).await;
    let gate = system.gate("held");
    let held = system
        .submit(
            &json!({"command": format!("echo begun; {}", gate.before("echo end")), "shell": "sh"}),
        )
        .await;
    begun(&system, held[0], "begun").await;
    system.stop_worker(WORKER).await;
    // Nothing of the task has changed for the server.
    system.running(&held, 1).await;
    system.start_worker(WORKER, &setup);
    gate.open();
    system.succeeded(&held).await;
    system.execution(held[0]).await;
    assert_eq!(system.output(held[0], "stdout").await, b"begun\nend\n");
}

#[tokio::test]
async fn a_restart_puts_a_new_program_under_the_running_task() {
    let setup = Setup::concurrency(1);
    let mut system = Separate::start(setup.clone()).await;
    system.stop_worker(WORKER).await;
    let program = system.directory().join("scitq-worker");
    std::fs::copy(binary("scitq-worker"), &program).expect("a copy");
    system.start_worker_from(&program, WORKER, &setup);
    let gate = system.gate("held");
    let held = system
        .submit(
            &json!({"command": format!("echo begun; {}", gate.before("echo end")), "shell": "sh"}),
        )
        .await;
    begun(&system, held[0], "begun").await;

    // As a packager does it: the new file takes the place of the old one, which is still being executed.
    let new = system.directory().join("scitq-worker.new");
    std::fs::copy(&program, &new).expect("a new program");
    std::fs::rename(&new, &program).expect("it is put in place");
    let file = |path: &str| std::fs::metadata(path).expect("a file").ino();
    let pid = system.worker_process(WORKER).pid();
    let executed = || file(&format!("/proc/{pid}/exe"));
    let placed = file(&program.to_string_lossy());
    assert_ne!(executed(), placed);

    let restarted = system.ctl(["worker", "restart", WORKER, "--wait"]).run();
    let restarted = restarted.await.code(0);
    assert!(
        restarted.text().contains("started anew"),
        "{}",
        restarted.text()
    );
    assert_eq!(executed(), placed);
    system.running(&held, 1).await;
    gate.open();
    system.succeeded(&held).await;
    // One execution, with all of its output.
    system.execution(held[0]).await;
    assert_eq!(system.output(held[0], "stdout").await, b"begun\nend\n");
    // The new agent works, too.
    let next = system.launch(["true"]).await;
    system.succeeded(&[next]).await;
}

#[tokio::test]
async fn a_closed_terminal_takes_no_task_with_it() {
    let mut system = Embedded::start(Setup::default()).await;
    let gate = system.gate("held");
    let held = system
        .submit(&json!({"command": format!("echo $$; {}", gate.before("echo end")), "shell": "sh"}))
        .await;
    begun(&system, held[0], "\n").await;
    // A terminal that is closed hangs up on its programs.
    system.program().signal(Signal::HUP);
    assert_ne!(system.ended().await, Some(0));
    system.start_again().await;
    gate.open();
    system.succeeded(&held).await;
    let output = String::from_utf8(system.output(held[0], "stdout").await).expect("text");
    let (process, rest) = output.split_once('\n').expect("two lines");
    assert_eq!(rest, "end\n");
    let process = PathBuf::from(format!("/proc/{process}"));
    eventually("the task's process is gone", || async {
        (!process.exists()).then_some(())
    })
    .await;
    system.execution(held[0]).await;
}
