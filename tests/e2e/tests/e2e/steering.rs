//! Workers are changed while they work.

use scitq_e2e::{Pair, Setup, WORKER};
use serde_json::{Value, json};

on_both_pairs!(
    concurrency_changes_live,
    a_paused_worker_starts_nothing,
    a_worker_changes_its_batch,
    heavy_tasks_take_more_slots,
    impossible_changes_are_refused,
    it_is_explained_why_a_task_does_not_run,
);

fn time(execution: &Value, field: &str) -> chrono::DateTime<chrono::FixedOffset> {
    let text = execution[field].as_str().expect("a time");
    chrono::DateTime::parse_from_rfc3339(text).expect("ISO 8601")
}

async fn concurrency_changes_live(pair: Pair) {
    let system = pair.start_with(Setup::concurrency(1)).await;
    let gate = system.gate("first");
    let held = |gate: &scitq_e2e::Gate, number: usize| {
        vec![json!({"command": gate.before("true")}); number]
    };
    let tasks = system.submit(&json!(held(&gate, 4))).await;
    system.running(&tasks, 1).await;
    let changed = system
        .ctl(["worker", "update", WORKER, "--concurrency", "3"])
        .run()
        .await;
    assert!(changed.code(0).text().contains('3'));
    system.running(&tasks, 3).await;
    assert_eq!(system.worker(WORKER, "running").await["running"], 3);

    // Lowering ends nothing; from then on tasks run one after the other.
    let changed = system
        .change_worker(WORKER, &json!({"concurrency": 1}))
        .await;
    assert_eq!(changed["concurrency"], 1, "{changed}");
    let later = system
        .submit(&json!([{"command": "true"}, {"command": "true"}]))
        .await;
    gate.open();
    system.succeeded(&tasks).await;
    system.succeeded(&later).await;
    let mut executions = Vec::new();
    for id in tasks.iter().chain(&later) {
        executions.push(system.execution(*id).await);
    }
    let [.., first, second] = executions.as_slice() else {
        panic!("{executions:?}")
    };
    for (earlier, behind) in [(&executions[3], first), (first, second)] {
        assert!(
            time(earlier, "ended_at") <= time(behind, "started_at"),
            "{earlier} and {behind}"
        );
    }
}

async fn a_paused_worker_starts_nothing(pair: Pair) {
    let system = pair.start().await;
    let gate = system.gate("running");
    let running = system
        .submit(&json!({"command": gate.before("true")}))
        .await;
    system.running(&running, 1).await;
    let paused = system
        .ctl(["worker", "update", WORKER, "--pause"])
        .run()
        .await;
    let _ = paused.code(0);
    system.worker(WORKER, "paused").await;
    let later = system
        .submit(&json!([{"command": "true"}, {"command": "true"}]))
        .await;
    // What runs goes on to its end.
    gate.open();
    system.succeeded(&running).await;
    let progress = system
        .rest
        .post(
            "/api/v1/progress?wait=1&seen_over=0",
            &json!({"task_ids": later}),
        )
        .await;
    assert_eq!(progress.expect(200)["over"], 0);
    let listed = system.ctl(["worker", "list"]).run().await.code(0).text();
    assert!(listed.contains("paused"), "{listed}");

    let before = chrono::Utc::now();
    let resumed = system
        .ctl(["worker", "update", WORKER, "--resume"])
        .run()
        .await;
    let _ = resumed.code(0);
    system.succeeded(&later).await;
    system.worker(WORKER, "running").await;
    for id in later {
        assert!(time(&system.execution(id).await, "started_at") >= before);
    }
}

async fn a_worker_changes_its_batch(pair: Pair) {
    let system = pair.start().await;
    let name = "other: 50 % é.#*";
    let other = system
        .submit(&json!({"command": "true", "batch": name}))
        .await;
    let gate = system.gate("running");
    let running = system
        .submit(&json!({"command": gate.before("true")}))
        .await;
    system.running(&running, 1).await;
    let changed = system
        .ctl(["-o", "json", "worker", "update", WORKER, "--batch", name])
        .run()
        .await;
    assert_eq!(changed.code(0).json()["batch"], name);
    system.succeeded(&other).await;
    let left = system.submit(&json!({"command": "true"})).await;
    gate.open();
    system.succeeded(&running).await;
    assert_eq!(
        system.task(left[0]).await["status"],
        "pending",
        "nobody works for Default"
    );
    system
        .change_worker(WORKER, &json!({"batch": "Default"}))
        .await;
    system.succeeded(&left).await;
    let path = format!(
        "/api/v1/progress?batch={}",
        "other%3A%2050%20%25%20%C3%A9.%23%2A"
    );
    assert_eq!(system.rest.get(&path).await.expect(200)["succeeded"], 1);
    system.counters_agree().await;
}

async fn heavy_tasks_take_more_slots(pair: Pair) {
    let system = pair.start_with(Setup::concurrency(3)).await;
    let gate = system.gate("first");
    let heavy = |weight: i32| json!({"command": gate.before("true"), "weight": weight});
    // 2 of 3 slots, then more than all: it waits, and nothing overtakes it.
    let tasks = system
        .submit(&json!([heavy(2), heavy(100), heavy(1)]))
        .await;
    system.running(&tasks[..1], 1).await;
    gate.open();
    system.succeeded(&tasks).await;
    let first = system.execution(tasks[0]).await;
    let second = system.execution(tasks[1]).await;
    let third = system.execution(tasks[2]).await;
    assert!(
        time(&first, "ended_at") <= time(&second, "started_at"),
        "{first} {second}"
    );
    assert!(
        time(&second, "ended_at") <= time(&third, "started_at"),
        "{second} {third}"
    );
}

async fn impossible_changes_are_refused(pair: Pair) {
    let system = pair.start().await;
    let path = format!("/api/v1/workers/{WORKER}");
    for (body, field) in [
        (json!({"concurrency": -1}), "concurrency"),
        (json!({"concurrency": 10_001}), "concurrency"),
        (json!({"concurrency": "two"}), "concurrency"),
        (json!({"prefetch": 70_000}), "prefetch"),
        (json!({"batch": "a/b"}), "batch"),
        (json!({"paused": 1}), "paused"),
        (json!({"colour": "red"}), "colour"),
    ] {
        let problem = system.rest.patch(&path, &body).await.problem(422);
        assert_eq!(problem["field"], field, "{body}: {problem}");
    }
    let missing = system
        .rest
        .patch("/api/v1/workers/nobody", &json!({"concurrency": 1}))
        .await;
    assert!(
        missing.problem(404)["detail"]
            .as_str()
            .is_some_and(|text| text.contains("nobody"))
    );
    let refused = system
        .ctl(["worker", "update", "nobody", "--pause"])
        .run()
        .await
        .code(2);
    assert!(refused.stderr.contains("nobody"), "{}", refused.stderr);
    assert_eq!(system.worker(WORKER, "running").await["concurrency"], 2);
}

async fn it_is_explained_why_a_task_does_not_run(pair: Pair) {
    let system = pair.start_with(Setup::concurrency(1)).await;
    let explain = async |task: i64| {
        let id = task.to_string();
        let explained = system.ctl(["task", "explain", id.as_str()]).run().await;
        explained.code(0).text()
    };
    let gate = system.gate("held");
    let held = system
        .submit(&json!({"command": gate.before("true")}))
        .await[0];
    system.running(&[held], 1).await;
    assert!(
        explain(held)
            .await
            .contains(&format!("runs on worker {WORKER}"))
    );
    let child = json!({"command": "true", "required_task_ids": [held]});
    let child = system.submit(&child).await[0];
    let text = explain(child).await;
    assert!(
        text.contains("is waiting") && text.contains(&format!("task {held} (running)")),
        "{text}"
    );
    let queued = system.submit(&json!({"command": "true"})).await[0];
    system.status(queued, "assigned").await;
    let text = explain(queued).await;
    assert!(
        text.contains("in the queue of batch Default") && text.contains("slot of worker"),
        "{text}"
    );
    let elsewhere = json!({"command": "true", "batch": "elsewhere"});
    let elsewhere = system.submit(&elsewhere).await[0];
    let text = explain(elsewhere).await;
    assert!(
        text.contains("no worker works for batch elsewhere")
            && text.contains(&format!(
                "remedy: scitq-ctl worker update {WORKER} --batch elsewhere"
            )),
        "{text}"
    );
    gate.open();
    system.succeeded(&[held, child, queued]).await;
    assert!(explain(child).await.contains("has succeeded"));
    let unknown = system.ctl(["task", "explain", "999"]).run().await;
    assert!(unknown.code(2).stderr.contains("scitq-ctl task list"));
    let json = system
        .ctl(["task", "explain", &elsewhere.to_string(), "-o", "json"])
        .run()
        .await
        .json();
    assert_eq!(json["reasons"][0]["code"], "no_worker", "{json}");
}
