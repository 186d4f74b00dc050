//! Bad input is refused with the field and the rule, and creates nothing.

use reqwest::Method;
use scitq_e2e::{Pair, System};
use serde_json::{Value, json};

on_both_pairs!(
    bad_tasks_name_field_and_rule,
    unreadable_bodies_say_why,
    bad_requests_are_refused,
    the_command_line_tells_them,
);

async fn nothing_was_created(system: &System) {
    let page = system.rest.get("/api/v1/tasks").await.expect(200);
    assert_eq!(page, json!({"items": []}));
    // The batch that the worker works for exists without tasks.
    let page = system.rest.get("/api/v1/batches").await.expect(200);
    let batches = page["items"].as_array().expect("an array");
    assert!(batches.iter().all(|batch| batch["total"] == 0), "{page}");
}

async fn bad_tasks_name_field_and_rule(pair: Pair) {
    let system = pair.start().await;
    let long = "x".repeat(5000);
    // task; field; words of the rule
    let table = [
        (json!({"command": ""}), "command", "empty"),
        (json!({"command": "  "}), "command", "empty"),
        (json!({"command": "'' x"}), "command", "empty"),
        (json!({"command": "echo 'a"}), "command", "never closed"),
        (json!({"command": "echo \"a"}), "command", "never closed"),
        (json!({"command": "echo \\"}), "command", "backslash"),
        (json!({"command": "echo \u{0}"}), "command", "NUL"),
        (
            json!({"command": "x".repeat(1024 * 1024 + 1)}),
            "command",
            "at most 1048576",
        ),
        (json!({}), "command", "missing"),
        (json!({"command": null}), "command", "invalid type"),
        (json!({"command": 5}), "command", "invalid type"),
        (json!({"command": ["a"]}), "command", "invalid type"),
        (
            json!({"command": "a", "batch": "x/y"}),
            "batch",
            "must not contain '/'",
        ),
        (
            json!({"command": "a", "batch": ""}),
            "batch",
            "must not be empty",
        ),
        (
            json!({"command": "a", "batch": " x"}),
            "batch",
            "white space",
        ),
        (
            json!({"command": "a", "batch": "x\u{1b}[2J"}),
            "batch",
            "must not contain",
        ),
        (
            json!({"command": "a", "batch": "é".repeat(100)}),
            "batch",
            "too long",
        ),
        (
            json!({"command": "a", "retry": -1}),
            "retry",
            "between 0 and 1000",
        ),
        (
            json!({"command": "a", "retry": 1001}),
            "retry",
            "between 0 and 1000",
        ),
        (
            json!({"command": "a", "retry": 1.5}),
            "retry",
            "invalid type",
        ),
        (
            json!({"command": "a", "retry": "3"}),
            "retry",
            "invalid type",
        ),
        (
            json!({"command": "a", "retry": 99_999_999_999_u64}),
            "retry",
            "invalid value",
        ),
        (
            json!({"command": "a", "weight": 0}),
            "weight",
            "between 1 and",
        ),
        (
            json!({"command": "a", "priority": 1_000_001}),
            "priority",
            "between -1000000 and",
        ),
        (
            json!({"command": "a", "run_timeout": 0}),
            "run_timeout",
            "between 1 and",
        ),
        (
            json!({"command": "a", "download_timeout": -5}),
            "download_timeout",
            "between 1 and",
        ),
        (json!({"command": "a", "uid": -1}), "uid", "between 0 and"),
        (
            json!({"command": "a", "gid": 4_294_967_295_u32}),
            "gid",
            "between 0 and",
        ),
        (
            json!({"command": "a", "name": ""}),
            "name",
            "must not be empty",
        ),
        (
            json!({"command": "a", "name": long}),
            "name",
            "at most 4096",
        ),
        (
            json!({"command": "a", "name": "a\u{0}b"}),
            "name",
            "control character",
        ),
        (
            json!({"command": "a", "shell": ""}),
            "shell",
            "must not be empty",
        ),
        (
            json!({"command": "a", "container_options": "-e A"}),
            "container_options",
            "needs a container",
        ),
        (
            json!({"command": "a", "container": "x", "container_options": "'"}),
            "container_options",
            "never closed",
        ),
        (
            json!({"command": "a", "labels": {"": "x"}}),
            "labels",
            "empty key",
        ),
        (
            json!({"command": "a", "labels": {"x": 1}}),
            "labels.x",
            "invalid type",
        ),
        (json!({"command": "a", "input": [""]}), "input", "empty URI"),
        (
            json!({"command": "a", "input": 5}),
            "input",
            "a text, or an array of texts",
        ),
        (
            json!({"command": "a", "required_task_ids": [0]}),
            "required_task_ids",
            "between 1 and",
        ),
        (
            json!({"command": "a", "required_task_ids": [99]}),
            "required_task_ids",
            "does not exist",
        ),
        (
            json!({"command": "a", "required_task_ids": "1"}),
            "required_task_ids",
            "invalid type",
        ),
        (
            json!({"command": "a", "use_cache": "yes"}),
            "use_cache",
            "invalid type",
        ),
        (
            json!({"command": "a", "idempotency_key": ""}),
            "idempotency_key",
            "must not be empty",
        ),
        (
            json!({"command": "a", "comand": "b"}),
            "comand",
            "unknown field",
        ),
        (
            json!({"command": "a", "task_id": 7}),
            "task_id",
            "unknown field",
        ),
        (
            json!({"command": "a", "status": "paused"}),
            "status",
            "unknown field",
        ),
        (json!(5), "body", "invalid type"),
    ];
    for (task, field, rule) in table {
        let problem = system.rest.post("/api/v1/tasks", &task).await.problem(422);
        assert_eq!(
            problem["type"], "/problems/invalid-field",
            "{task}: {problem}"
        );
        assert_eq!(problem["field"], field, "{task}: {problem}");
        let detail = problem["detail"].as_str().expect("a text");
        assert!(detail.contains(rule), "{task}: {rule:?} in {detail:?}");
        // In a series it is told which one; the good ones are not created either.
        let bulk = json!([{"command": "true"}, task]);
        let problem = system.rest.post("/api/v1/tasks", &bulk).await.problem(422);
        assert_eq!(
            (&problem["field"], &problem["index"]),
            (&json!(field), &json!(1)),
            "{problem}"
        );
    }
    nothing_was_created(&system).await;
    // The limits themselves are allowed.
    let good = json!({"command": "true", "retry": 1000, "weight": 10_000, "priority": -1_000_000, "batch": "B",
        "name": "x".repeat(4096), "run_timeout": 1, "uid": 0});
    assert_eq!(system.submit(&good).await.len(), 1);
}

async fn unreadable_bodies_say_why(pair: Pair) {
    let system = pair.start().await;
    let json_type = Some("application/json");
    let lines = Some("application/x-ndjson");
    let table: [(Option<&str>, &[u8], u16, &str); 13] = [
        (
            json_type,
            b"{\"command\":\"\xff\"}",
            400,
            "not valid UTF-8 at byte 12",
        ),
        (
            json_type,
            b"\xff\xfe{\x00",
            400,
            "not valid UTF-8 at byte 0",
        ),
        (json_type, b"", 400, "is empty"),
        (json_type, b"{", 400, "not valid JSON"),
        (
            json_type,
            b"{\"command\":\"\\ud800\"}",
            400,
            "not valid JSON",
        ),
        (
            json_type,
            b"{\"command\":\"a\"} x",
            400,
            "goes on behind its end",
        ),
        (json_type, b"[{\"command\":\"a\"},]", 400, "not valid JSON"),
        (
            json_type,
            b"{\"command\":\"a\",\"command\":\"b\"}",
            422,
            "duplicate field",
        ),
        (
            lines,
            b"{\"command\":\"a\"}\n{\"command\":\n",
            400,
            "task 1",
        ),
        (
            lines,
            b"{\"command\":\"a\"}\n{\"command\":\"\"}\n",
            422,
            "empty",
        ),
        (Some("text/plain"), b"true", 415, "application/json"),
        (
            Some("application/x-www-form-urlencoded"),
            b"command=true",
            415,
            "application/json",
        ),
        (Some("nonsense"), b"{\"command\":\"a\"}", 415, "nonsense"),
    ];
    for (content_type, body, status, part) in table {
        let answer = system
            .rest
            .send(Method::POST, "/api/v1/tasks", content_type, body.to_vec())
            .await;
        let problem = answer.problem(status);
        let detail = problem["detail"].as_str().expect("a text");
        assert!(detail.contains(part), "{part:?} in {problem}");
    }
    // Deep nesting must not exhaust the stack.
    let deep = [vec![b'['; 200_000], vec![b']'; 200_000]].concat();
    let answer = system
        .rest
        .send(Method::POST, "/api/v1/tasks", json_type, deep)
        .await;
    assert!(
        (400..500).contains(&answer.status),
        "{}: {}",
        answer.status,
        answer.text()
    );

    let mut large = b"{\"command\":\"true\",\"name\":\"".to_vec();
    large.resize(20 * 1024 * 1024, b'x');
    large.extend_from_slice(b"\"}");
    let answer = system
        .rest
        .send(Method::POST, "/api/v1/tasks", json_type, large)
        .await;
    let problem = answer.problem(413);
    let detail = problem["detail"].as_str().expect("a text");
    assert!(detail.contains("server.max_body_bytes"), "{problem}");
    nothing_was_created(&system).await;
    // It still serves.
    let task = system.launch(["true"]).await;
    system.succeeded(&[task]).await;
}

async fn bad_requests_are_refused(pair: Pair) {
    let system = pair.start().await;
    let get = Method::GET;
    let table = [
        (&get, "/api/v1/tasks?colour=red", 422, "colour"),
        (&get, "/api/v1/tasks?status=done", 422, "status"),
        (&get, "/api/v1/tasks?limit=0", 422, "limit"),
        (&get, "/api/v1/tasks?limit=1001", 422, "limit"),
        (&get, "/api/v1/tasks?limit=x", 422, "limit"),
        (&get, "/api/v1/tasks?order=up", 422, "order"),
        (&get, "/api/v1/tasks?after=-x", 422, "after"),
        (&get, "/api/v1/tasks?id=1,x", 422, "id"),
        (&get, "/api/v1/tasks?label=x", 422, "label"),
        (&get, "/api/v1/tasks?limit=1&limit=2", 422, "limit"),
        (&get, "/api/v1/tasks?name=a%00b", 422, "name"),
        (&get, "/api/v1/tasks/x", 422, "id"),
        (&get, "/api/v1/tasks/-1", 422, "id"),
        (&get, "/api/v1/tasks/99999999999999999999", 422, "id"),
        (&get, "/api/v1/tasks/4711", 404, ""),
        (&get, "/api/v1/executions?task=x", 422, "task"),
        (&get, "/api/v1/executions?latest=maybe", 422, "latest"),
        (&get, "/api/v1/executions/x", 422, "id"),
        (&get, "/api/v1/executions/4711", 404, ""),
        (&get, "/api/v1/executions/4711/output/stdout", 404, ""),
        (
            &get,
            "/api/v1/tasks/4711/output/stdout?follow=true",
            404,
            "",
        ),
        (&get, "/api/v1/progress", 422, "batch"),
        (&get, "/api/v1/progress?batch=nothing", 404, ""),
        (&get, "/api/v1/progress?id=1&wait=61", 422, "wait"),
        (&get, "/api/v1/batches/nothing", 404, ""),
        (&get, "/api/v1/workers/nobody", 404, ""),
        (&get, "/api/v1/nothing", 404, ""),
        (&get, "/nothing", 404, ""),
        (&Method::DELETE, "/api/v1/tasks", 405, ""),
        (&Method::PUT, "/api/v1/tasks/1", 405, ""),
        (&Method::POST, "/api/v1/maintenance/counters", 405, ""),
    ];
    for (method, path, status, field) in table {
        let answer = system
            .rest
            .send(method.clone(), path, None, Vec::new())
            .await;
        let problem = answer.problem(status);
        let expected = if field.is_empty() {
            Value::Null
        } else {
            json!(field)
        };
        assert_eq!(problem["field"], expected, "{method} {path}: {problem}");
    }
    let body = json!({"task_ids": ["x"]});
    let problem = system
        .rest
        .post("/api/v1/progress", &body)
        .await
        .problem(422);
    assert_eq!(problem["field"], "task_ids[0]", "{problem}");
    nothing_was_created(&system).await;
}

async fn the_command_line_tells_them(pair: Pair) {
    let system = pair.start().await;
    let table: [(&[&str], &[&str]); 9] = [
        (&["launch", ""], &["command", "empty"]),
        (&["launch"], &["required"]),
        (&["launch", "-b", "a/b", "true"], &["batch", "'/'"]),
        (
            &["launch", "--retry", "-1", "true"],
            &["retry", "0 and 1000"],
        ),
        (&["launch", "--colour", "red", "true"], &["--colour"]),
        (&["task", "show", "0"], &["0"]),
        (&["task", "show", "4711"], &["4711", "scitq-ctl task list"]),
        (
            &["execution", "show", "4711"],
            &["4711", "scitq-ctl execution list"],
        ),
        (&["task", "list", "--status", "done"], &["done"]),
    ];
    for (words, parts) in table {
        let refused = system.ctl(words).run().await.code(2);
        assert_eq!(refused.text(), "", "{words:?}");
        assert!(
            refused.stderr.contains("error: "),
            "{words:?}: {}",
            refused.stderr
        );
        for part in parts {
            assert!(
                refused.stderr.contains(part),
                "{words:?}: {part:?} in {}",
                refused.stderr
            );
        }
        for part in ["panicked", "RUST_BACKTRACE"] {
            assert!(
                !refused.stderr.contains(part),
                "{words:?}: {}",
                refused.stderr
            );
        }
    }
    nothing_was_created(&system).await;
}
