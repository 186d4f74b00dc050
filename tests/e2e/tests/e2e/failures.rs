//! Tasks that fail say why, and are tried again as often as asked.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use scitq_e2e::Pair;
use serde_json::{Value, json};

on_both_pairs!(
    each_failure_says_why,
    retries_are_executions_of_their_own,
    a_retry_may_succeed,
    waiting_tells_how_it_ended,
);

async fn each_failure_says_why(pair: Pair) {
    let system = pair.start().await;
    let plain = system.directory().join("plain.txt");
    fs::write(&plain, "no program").expect("a file");
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).expect("a file");
    let interpreter = system.directory().join("broken.sh");
    fs::write(&interpreter, "#!/nonexistent/shell\n").expect("a file");
    fs::set_permissions(&interpreter, fs::Permissions::from_mode(0o755)).expect("a file");
    let path = |path: &std::path::Path| path.to_str().expect("text").to_owned();

    // command; reason, words of the detail, exit code, signal
    let table = [
        (
            json!({"command": "sh -c 'exit 3'"}),
            "exit_code",
            vec!["exit code 3"],
            json!(3),
            Value::Null,
        ),
        (
            json!({"command": "kill -9 $$", "shell": "sh"}),
            "signal",
            vec!["signal 9", "KILL"],
            Value::Null,
            json!(9),
        ),
        (
            json!({"command": "kill -SEGV $$", "shell": "sh"}),
            "signal",
            vec!["signal 11", "SEGV"],
            Value::Null,
            json!(11),
        ),
        (
            json!({"command": "no-such-program -x"}),
            "command_not_found",
            vec!["no-such-program", "PATH"],
            Value::Null,
            Value::Null,
        ),
        (
            json!({"command": "/no/such/file"}),
            "command_not_found",
            vec!["/no/such/file"],
            Value::Null,
            Value::Null,
        ),
        (
            json!({"command": path(&plain)}),
            "not_executable",
            vec!["plain.txt", "executed"],
            Value::Null,
            Value::Null,
        ),
        (
            json!({"command": "/"}),
            "not_executable",
            vec!["directory"],
            Value::Null,
            Value::Null,
        ),
        (
            json!({"command": path(&interpreter)}),
            "start_failed",
            vec!["broken.sh"],
            Value::Null,
            Value::Null,
        ),
        (
            json!({"command": "true", "shell": "no-such-shell"}),
            "command_not_found",
            vec!["no-such-shell"],
            Value::Null,
            Value::Null,
        ),
        (
            json!({"command": "true", "container": "debian"}),
            "unsupported",
            vec!["container"],
            Value::Null,
            Value::Null,
        ),
        (
            json!({"command": "true", "input": ["s3://a/b"]}),
            "unsupported",
            vec!["input"],
            Value::Null,
            Value::Null,
        ),
    ];
    let tasks: Vec<Value> = table.iter().map(|row| row.0.clone()).collect();
    let ids = system.submit(&json!(tasks)).await;
    assert_eq!(system.over(&ids).await, json!({"failed": ids.len()}));
    for (id, (task, reason, words, exit_code, signal)) in ids.iter().zip(table) {
        let execution = system.execution(*id).await;
        assert_eq!(execution["status"], "failed", "{task}: {execution}");
        assert_eq!(execution["failure_reason"], reason, "{task}: {execution}");
        assert_eq!(execution["exit_code"], exit_code, "{task}: {execution}");
        assert_eq!(execution["signal"], signal, "{task}: {execution}");
        let detail = execution["failure_detail"].as_str().unwrap_or_default();
        for word in words {
            assert!(detail.contains(word), "{task}: {word} in {detail:?}");
        }
        let shown = system.ctl(["task", "show", &id.to_string()]).run().await;
        let shown = shown.code(0).text();
        assert!(shown.contains(detail), "{detail:?} in {shown}");
    }
    system.counters_agree().await;
}

async fn retries_are_executions_of_their_own(pair: Pair) {
    let system = pair.start().await;
    let script = "echo $SCITQ_EXECUTION_ID; exit 3";
    let task = system.launch(["--retry", "2", "--shell", script]).await;
    assert_eq!(system.over(&[task]).await, json!({"failed": 1}));
    let executions = system.executions(task).await;
    assert_eq!(executions.len(), 3, "{executions:#?}");
    let mut latest = Vec::new();
    for execution in &executions {
        assert_eq!(execution["status"], "failed");
        assert_eq!(execution["exit_code"], 3);
        latest.push(execution["latest"] == true);
        let id = execution["execution_id"].to_string();
        let output = system
            .ctl(["execution", "output", &id, "--follow"])
            .run()
            .await;
        let attempt = execution["attempt_id"].as_str().expect("a UUID");
        assert_eq!(output.code(0).text(), format!("{attempt}\n"));
    }
    assert_eq!(latest, [false, false, true]);
    let shown = system.task(task).await;
    assert_eq!(shown["retry"], 2);
    assert_eq!(shown["retries_left"], 0);
    assert_eq!(shown["execution_id"], executions[2]["execution_id"]);
    let query = format!("/api/v1/executions?task={task}&latest=true");
    let page = system.rest.get(&query).await.expect(200);
    assert_eq!(page["items"], json!([executions[2]]));
}

async fn a_retry_may_succeed(pair: Pair) {
    let system = pair.start().await;
    let mark = system.directory().join("mark");
    let script = format!("mkdir {} && exit 1 || echo again", mark.display());
    let task = system.launch(["--retry", "5", "--shell", &script]).await;
    system.succeeded(&[task]).await;
    let statuses: Vec<Value> = system.executions(task).await;
    let statuses: Vec<_> = statuses.iter().map(|e| e["status"].clone()).collect();
    assert_eq!(statuses, ["failed", "succeeded"]);
    assert_eq!(system.task(task).await["retries_left"], 4);
    // The newest execution's output is the task's.
    assert_eq!(system.output(task, "stdout").await, b"again\n");
}

async fn waiting_tells_how_it_ended(pair: Pair) {
    let system = pair.start().await;
    let gate = system.gate("held");
    let [good, bad, held] = [
        system.launch(["true"]).await,
        system.launch(["false"]).await,
        system
            .launch(gate.words().into_iter().chain(["true".to_owned()]))
            .await,
    ]
    .map(|id| id.to_string());
    let wait = async |words: &[&str]| {
        let words = ["task", "wait"].iter().chain(words);
        system.ctl(words).run().await
    };
    assert_eq!(wait(&[&good]).await.code, Some(0));
    let failed = wait(&[&good, &bad]).await.code(1);
    assert!(failed.stderr.contains("exit code 1"), "{}", failed.stderr);
    assert!(failed.text().contains("1 failed"), "{}", failed.text());
    let timed_out = wait(&[&held, "--for", "1"]).await.code(4);
    assert!(timed_out.stderr.contains("go on"), "{}", timed_out.stderr);
    let unknown = wait(&["4711"]).await.code(2);
    assert!(
        unknown.stderr.contains("does not exist"),
        "{}",
        unknown.stderr
    );
    assert_eq!(wait(&["--batch", "nothing"]).await.code, Some(2));
    assert_eq!(wait(&["x"]).await.code, Some(2));
    gate.open();
    assert_eq!(wait(&[&held]).await.code, Some(0));
    let json = wait(&["--batch", "Default", "-o", "json"])
        .await
        .code(1)
        .json();
    assert_eq!(json["tasks"], json!({"succeeded": 2, "failed": 1}));
    let unreachable = system
        .ctl([
            "task",
            "wait",
            "1",
            "--server",
            "http://127.0.0.1:9",
            "--timeout",
            "0",
        ])
        .run()
        .await
        .code(3);
    assert!(
        unreachable.stderr.contains("127.0.0.1:9"),
        "{}",
        unreachable.stderr
    );
}
