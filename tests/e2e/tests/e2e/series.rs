//! Many tasks at once.

use std::fmt::Write as _;

use scitq_e2e::{Pair, Setup, System};
use serde_json::{Value, json};

on_both_pairs!(
    a_thousand_tasks_from_standard_input,
    a_bad_line_creates_nothing,
    higher_priority_goes_first,
    an_urgent_task_overtakes_those_in_the_queue,
);

/// Tasks of the series.
const TASKS: usize = 1000;

async fn a_thousand_tasks_from_standard_input(pair: Pair) {
    let setup = Setup {
        concurrency: 8,
        prefetch: 16,
        ..Setup::default()
    };
    let system = pair.start_with(setup).await;
    let mut lines = String::from("# commands and JSON, mixed\n\n");
    for number in 0..TASKS {
        match number % 4 {
            // A JSON object's own fields win over the options of the command line.
            0 => writeln!(
                lines,
                "{}",
                json!({"command": format!("echo {number}"), "name": format!("n{number}")})
            ),
            1 => writeln!(
                lines,
                "{}",
                json!({"command": format!("echo $(({number} + 0))"), "shell": "sh"})
            ),
            2 => writeln!(lines, "echo '{number}'"),
            _ => writeln!(lines, "printf '%s\\n' {number}"),
        }
        .expect("a text");
    }
    let launched = system
        .ctl([
            "-o", "json", "launch", "--batch", "numbers", "--label", "set=1", "--from", "-",
        ])
        .stdin(lines)
        .run()
        .await
        .code(0)
        .json();
    let ids: Vec<i64> = launched
        .as_array()
        .expect("an array")
        .iter()
        .map(id)
        .collect();
    assert_eq!(ids.len(), TASKS);
    assert!(ids.is_sorted(), "in the order of the lines");

    // The worker works for another batch until it is told to come.
    assert_eq!(system.task(ids[0]).await["status"], "pending");
    system
        .change_worker(scitq_e2e::WORKER, &json!({"batch": "numbers"}))
        .await;
    let waited = system
        .ctl(["task", "wait", "--batch", "numbers"])
        .run()
        .await
        .code(0);
    assert_eq!(waited.text(), "1000 tasks succeeded\n");

    let first = system.task(ids[0]).await;
    assert_eq!(
        (&first["name"], &first["batch"]),
        (&json!("n0"), &json!("numbers"))
    );
    assert_eq!(first["labels"], json!({"set": "1"}));
    for number in (0..TASKS).step_by(37) {
        let output = system.output(ids[number], "stdout").await;
        assert_eq!(String::from_utf8_lossy(&output), format!("{number}\n"));
    }
    // Every task ran once: all executions, by pages.
    let list = system
        .ctl(["-o", "json", "execution", "list", "--limit", "5000"])
        .run()
        .await;
    let list = list.code(0).json();
    let mut ran: Vec<i64> = list.as_array().expect("an array").iter().map(id).collect();
    ran.sort_unstable();
    assert_eq!(ran, ids);
    let batch = system.rest.get("/api/v1/batches/numbers").await.expect(200);
    assert_eq!(batch["tasks"], json!({"succeeded": TASKS}));
    assert_eq!(batch["total"], TASKS);
    system.counters_agree().await;
}

fn id(row: &Value) -> i64 {
    row["task_id"].as_i64().expect("a task id")
}

async fn a_bad_line_creates_nothing(pair: Pair) {
    let system = pair.start().await;
    let file = system.directory().join("tasks.txt");
    let path = file.to_str().expect("text").to_owned();
    let table = [
        ("true\necho 'x\n", "line 2", "quote"),
        (
            "true\n\n{\"command\":\"a\",\"retry\":-1}\n",
            "line 3",
            "retry",
        ),
        ("{\"comand\":\"a\"}\n", "line 1", "comand"),
        ("{\"command\":\n", "line 1", "JSON"),
    ];
    for (lines, place, word) in table {
        std::fs::write(&file, lines).expect("a file");
        let refused = system.ctl(["launch", "--from", &path]).run().await.code(2);
        for part in ["tasks.txt", place, word] {
            assert!(
                refused.stderr.contains(part),
                "{part} in {}",
                refused.stderr
            );
        }
    }
    let list = system.ctl(["-o", "json", "task", "list"]).run().await;
    assert_eq!(list.code(0).json(), json!([]));
}

async fn higher_priority_goes_first(pair: Pair) {
    let system = pair.start_with(Setup::concurrency(1)).await;
    let worker = |batch: &str| json!({"batch": batch});
    system
        .change_worker(scitq_e2e::WORKER, &worker("elsewhere"))
        .await;
    let priorities = [0, 5, -3, 9, 0];
    let tasks: Vec<Value> = priorities
        .iter()
        .map(|priority| json!({"command": "true", "priority": priority}))
        .collect();
    let ids = system.submit(&json!(tasks)).await;
    system
        .change_worker(scitq_e2e::WORKER, &worker("Default"))
        .await;
    system.succeeded(&ids).await;
    let order = in_order_of_start(&system, &ids).await;
    assert_eq!(order, [ids[3], ids[1], ids[0], ids[4], ids[2]]);
}

async fn an_urgent_task_overtakes_those_in_the_queue(pair: Pair) {
    let system = pair.start_with(Setup::concurrency(1)).await;
    let gate = system.gate("first");
    let first = system
        .submit(&json!({"command": gate.before("true")}))
        .await;
    system.running(&first, 1).await;
    // More than the queue is given at once.
    let waiting = vec![json!({"command": "true"}); 300];
    let waiting = system.submit(&json!(waiting)).await;
    system.status(waiting[255], "assigned").await;
    let urgent = system
        .submit(&json!({"command": "true", "priority": 1}))
        .await;
    // It is in the queue now, and so are those that it has overtaken.
    system.status(urgent[0], "assigned").await;
    system.status(waiting[0], "assigned").await;
    gate.open();
    system.succeeded(&waiting).await;
    let all = [first.as_slice(), &waiting, &urgent].concat();
    let expected = [first.as_slice(), &urgent, &waiting].concat();
    assert_eq!(in_order_of_start(&system, &all).await, expected);
    system.counters_agree().await;
}

/// These tasks, which ran once each, in the order in which they started.
async fn in_order_of_start(system: &System, tasks: &[i64]) -> Vec<i64> {
    let mut started = Vec::new();
    for task in tasks {
        let execution = system.execution(*task).await;
        let time = execution["started_at"].as_str().expect("a time");
        let time = chrono::DateTime::parse_from_rfc3339(time).expect("ISO 8601");
        started.push((time, *task));
    }
    started.sort_unstable();
    started.into_iter().map(|(_, task)| task).collect()
}
