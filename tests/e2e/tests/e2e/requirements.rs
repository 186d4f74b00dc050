//! Tasks that wait for others.

use scitq_e2e::{Pair, Setup};
use serde_json::json;

on_both_pairs!(
    a_task_waits_until_all_its_parents_succeed,
    a_chain_runs_in_its_order,
    a_failed_parent_keeps_its_children_waiting,
    unknown_parents_are_refused,
);

async fn a_task_waits_until_all_its_parents_succeed(pair: Pair) {
    let system = pair.start_with(Setup::concurrency(3)).await;
    let gate = system.gate("parent");
    let done = system.launch(["true"]).await;
    system.succeeded(&[done]).await;
    let quick = system.launch(["true"]).await;
    let held = system
        .submit(&json!({"command": gate.before("true")}))
        .await[0];
    let requires = format!("{done},{quick},{held}");
    let child = system.launch(["-R", &requires, "true"]).await;
    system.succeeded(&[quick]).await;
    let shown = system.task(child).await;
    assert_eq!(shown["status"], "waiting");
    assert_eq!(shown["required_task_ids"], json!([done, quick, held]));
    assert_eq!(shown["missing_requirements"], 1);
    let text = system
        .ctl(["task", "show", &child.to_string()])
        .run()
        .await
        .code(0)
        .text();
    assert!(text.contains("1 not succeeded yet"), "{text}");

    gate.open();
    system.succeeded(&[held, child]).await;
    assert_eq!(system.task(child).await["missing_requirements"], 0);
    let time = |execution: &serde_json::Value, field: &str| {
        let text = execution[field].as_str().expect("a time");
        chrono::DateTime::parse_from_rfc3339(text).expect("ISO 8601")
    };
    let parent_ended = time(&system.execution(held).await, "ended_at");
    let child_started = time(&system.execution(child).await, "started_at");
    assert!(parent_ended <= child_started);

    // All its parents have succeeded already: nothing to wait for.
    let late = system.launch(["-R", &requires, "true"]).await;
    system.succeeded(&[late]).await;
    system.counters_agree().await;
}

async fn a_chain_runs_in_its_order(pair: Pair) {
    let system = pair.start().await;
    let file = system.directory().join("chain");
    let mut ids: Vec<i64> = Vec::new();
    for number in 0..10 {
        let task = json!({
            "command": format!("echo {number} >> {}", file.display()), "shell": "sh",
            "required_task_ids": ids.last().into_iter().collect::<Vec<_>>(),
        });
        ids.extend(system.submit(&task).await);
    }
    system.succeeded(&ids).await;
    let written = std::fs::read_to_string(&file).expect("a file");
    assert_eq!(written, "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n");
}

async fn a_failed_parent_keeps_its_children_waiting(pair: Pair) {
    let system = pair.start().await;
    let mark = system.directory().join("mark");
    // The parent fails for good; another one fails once and is tried again.
    let failing = system.launch(["false"]).await;
    let script = format!("mkdir {} && exit 1 || true", mark.display());
    let second_time = system.launch(["--retry", "1", "--shell", &script]).await;
    let stuck = system.launch(["-R", &failing.to_string(), "true"]).await;
    let going = system
        .launch(["-R", &second_time.to_string(), "true"])
        .await;
    system.succeeded(&[going]).await;
    assert_eq!(system.over(&[failing]).await, json!({"failed": 1}));
    assert_eq!(system.task(stuck).await["status"], "waiting");
    assert_eq!(system.executions(stuck).await.len(), 0);
}

async fn unknown_parents_are_refused(pair: Pair) {
    let system = pair.start().await;
    let refused = system
        .ctl(["launch", "-R", "4711", "true"])
        .run()
        .await
        .code(2);
    assert!(refused.stderr.contains("4711"), "{}", refused.stderr);
    let body = json!([{"command": "true"}, {"command": "true", "required_task_ids": [4711]}]);
    let problem = system.rest.post("/api/v1/tasks", &body).await.problem(422);
    assert_eq!(problem["field"], "required_task_ids", "{problem}");
    assert_eq!(problem["index"], 1, "{problem}");
    let page = system.rest.get("/api/v1/tasks").await.expect(200);
    assert_eq!(page["items"], json!([]), "nothing was created");
}
