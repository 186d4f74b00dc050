//! One task goes in, and its whole history comes out.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use scitq_e2e::{Pair, WORKER};
use serde_json::{Value, json};

on_both_pairs!(
    hello_world,
    words_reach_the_process_byte_for_byte,
    a_shell_reads_the_command_when_asked,
    launch_waits_and_prints,
    every_field_is_kept_and_shown,
    the_same_key_creates_nothing_twice,
    the_interface_describes_itself,
);

async fn hello_world(pair: Pair) {
    let system = pair.start().await;
    let launched = system.ctl(["launch", "echo", "Hello world!"]).run().await;
    let launched = launched.code(0).text();
    assert!(
        launched.contains("task 1 created in batch Default"),
        "{launched}"
    );
    let waited = system.ctl(["task", "wait", "1"]).run().await.code(0).text();
    assert!(waited.contains("succeeded"), "{waited}");

    let output = system.ctl(["task", "output", "1", "--follow"]).run().await;
    let output = output.code(0);
    assert_eq!(output.text(), "Hello world!\n");
    assert_eq!(output.stderr, "");
    // What was waited for is complete without following it, too.
    let output = system.ctl(["task", "output", "1", "--stdout"]).run().await;
    assert_eq!(output.code(0).text(), "Hello world!\n");

    let shown = system.ctl(["task", "show", "1"]).run().await.code(0).text();
    for part in ["succeeded", "Default", "echo 'Hello world!'", WORKER] {
        assert!(shown.contains(part), "{part:?}: {shown}");
    }
    let task = system.ctl(["-o", "json", "task", "show", "1"]).run().await;
    let task = task.code(0).json();
    assert_eq!(task["task_id"], 1);
    assert_eq!(task["status"], "succeeded");
    assert_eq!(task["command"], "echo 'Hello world!'");
    let list = system.ctl(["-o", "json", "task", "list"]).run().await;
    assert_eq!(list.code(0).json(), json!([task]));

    let executions = system.ctl(["-o", "json", "execution", "list"]).run().await;
    let executions = executions.code(0).json();
    let [execution] = executions.as_array().expect("an array").as_slice() else {
        panic!("one execution: {executions}");
    };
    check_history(execution);
    let table = system.ctl(["execution", "list"]).run().await.code(0).text();
    assert!(
        table.contains("EXECUTION") && table.contains("succeeded"),
        "{table}"
    );
    let id = execution["execution_id"].to_string();
    let shown = system.ctl(["execution", "show", &id]).run().await;
    assert!(
        shown.code(0).text().contains("echo 'Hello world!'"),
        "its command"
    );

    let workers = system.ctl(["-o", "json", "worker", "list"]).run().await;
    let workers = workers.code(0).json();
    assert_eq!(workers[0]["name"], WORKER, "{workers}");
    assert_eq!(workers[0]["status"], "running", "{workers}");
    assert_eq!(workers[0]["concurrency"], 2, "{workers}");
    let batches = system.ctl(["-o", "json", "batch", "list"]).run().await;
    let batches = batches.code(0).json();
    assert_eq!(batches[0]["batch"], "Default", "{batches}");
    assert_eq!(batches[0]["tasks"], json!({"succeeded": 1}), "{batches}");
    assert_eq!(batches[0]["workers"], 1, "{batches}");
    system.counters_agree().await;
    assert_eq!(system.rest.get("/health/live").await.status, 200);
}

/// Everything that is known of an execution that ran `echo 'Hello world!'`.
fn check_history(execution: &Value) {
    let time = |field: &str| {
        let text = execution[field].as_str();
        text.unwrap_or_else(|| panic!("{field}: {execution}"))
    };
    // ISO 8601 in UTC: the order of the texts is that of the times, if their fractions are cut.
    let seconds = |field| &time(field)[.."2026-01-01T00:00:00".len()];
    let times = ["queued_at", "accepted_at", "started_at", "ended_at"].map(seconds);
    assert!(times.is_sorted(), "{execution}");
    for (field, expected) in [
        ("task_id", json!(1)),
        ("batch", json!("Default")),
        ("worker", json!(WORKER)),
        ("revision", json!(1)),
        ("status", json!("succeeded")),
        ("uploading", json!(false)),
        ("latest", json!(true)),
        ("command", json!("echo 'Hello world!'")),
        ("shell", Value::Null),
        ("exit_code", json!(0)),
        ("signal", Value::Null),
        ("failure_reason", Value::Null),
        ("failure_detail", Value::Null),
        ("memory_source", json!("largest_process")),
        ("stdout_bytes", json!(13)),
        ("stderr_bytes", json!(0)),
        ("stdout_cut", Value::Null),
        ("output_complete", json!(true)),
    ] {
        assert_eq!(execution[field], expected, "{field}: {execution}");
    }
    for field in ["attempt_id", "incarnation", "dispatch_id"] {
        assert_eq!(time(field).len(), 36, "{field} is a UUID: {execution}");
    }
    assert!(execution["user_cpu_ms"].is_u64(), "{execution}");
    assert!(execution["system_cpu_ms"].is_u64(), "{execution}");
    let memory = execution["peak_memory_bytes"].as_u64().unwrap_or(0);
    assert!(memory > 100_000, "{execution}");
}

async fn words_reach_the_process_byte_for_byte(pair: Pair) {
    let system = pair.start().await;
    let words = [
        &b"a b"[..],
        b"",
        b"'",
        b"\"",
        b"\\",
        b"it's \"quoted\" \\n",
        b"line 1\nline 2\n",
        b"\ttab\r",
        b"$HOME * ~ | & ; < > ( ) { } `x` #",
        "é 漢字 🦀".as_bytes(),
        b"\xff\xfe invalid",
        b"\x01\x1b[31m",
        b"-o",
        b"--server",
        b"--",
    ];
    let mut command = vec![OsString::from("printf"), OsString::from(r"%s\0")];
    command.extend(words.map(|word| OsString::from_vec(word.to_vec())));
    let task = system.launch(command).await;
    system.succeeded(&[task]).await;
    let mut expected = Vec::new();
    for word in words {
        expected.extend_from_slice(word);
        expected.push(0);
    }
    let output = system
        .ctl(["task", "output", &task.to_string()])
        .run()
        .await;
    assert_eq!(output.code(0).stdout, expected);
}

async fn a_shell_reads_the_command_when_asked(pair: Pair) {
    let system = pair.start().await;
    let scripts: [(&[&str], &str); 4] = [
        (
            &["--shell", "echo $((1 + 2)) | tr 3 x; echo '$x'"],
            "x\n$x\n",
        ),
        (&["--shell=bash", "echo ${BASH_VERSION:+bash}"], "bash\n"),
        (
            &["--shell", "printf", "%s\\n", "a  b", "$HOME"],
            "a  b\n$HOME\n",
        ),
        (&["echo", "$HOME"], "$HOME\n"),
    ];
    for (words, expected) in scripts {
        let task = system.launch(words.iter().copied()).await;
        system.succeeded(&[task]).await;
        let output = system.output(task, "stdout").await;
        assert_eq!(String::from_utf8_lossy(&output), expected, "{words:?}");
    }
}

async fn launch_waits_and_prints(pair: Pair) {
    let system = pair.start().await;
    let waited = system.ctl(["launch", "--wait", "true"]).run().await;
    assert!(waited.code(0).text().contains("succeeded"));
    let waited = system
        .ctl(["launch", "--wait", "false"])
        .run()
        .await
        .code(1);
    assert!(
        waited.stderr.contains("exit code 1"),
        "why it failed: {}",
        waited.stderr
    );
    let followed = system
        .ctl(["launch", "--follow", "--shell", "echo out; echo err >&2"])
        .run()
        .await
        .code(0);
    assert!(followed.text().ends_with("out\n"), "{}", followed.text());
    assert!(followed.stderr.contains("err\n"), "{}", followed.stderr);
}

async fn every_field_is_kept_and_shown(pair: Pair) {
    let system = pair.start().await;
    // No worker listens to this batch, so the task stays as it was submitted.
    let mut task = json!({
        "command": "run 'a b'", "shell": "bash", "name": "näme", "batch": "nobody listens",
        "container": "debian:12", "container_options": "-e 'A=b c'", "input": ["s3://a/b", "file:///c"],
        "output": "s3://o/", "resource": ["https://r/x.gz|gunzip"], "retry": 3, "download_timeout": 5,
        "run_timeout": 6, "use_cache": true, "priority": -7, "weight": 8, "idempotency_key": "key 1",
        "labels": {"project": "x=y", "é": ""}, "uid": 9, "gid": 10,
    });
    let ids = system.submit(&task).await;
    let shown = system.task(ids[0]).await;
    for (field, value) in task.as_object().expect("an object") {
        assert_eq!(&shown[field], value, "{field}: {shown}");
    }
    assert_eq!(shown["status"], "pending");
    assert_eq!(shown["retries_left"], 3);
    assert_eq!(shown["revision"], 1);
    let text = system
        .ctl(["task", "show", &ids[0].to_string()])
        .run()
        .await;
    let text = text.code(0).text();
    for part in [
        "run 'a b'",
        "näme",
        "debian:12",
        "s3://a/b",
        "project=x=y",
        "-7",
        "key 1",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }

    // scitq 1 gives URIs as one text.
    task["input"] = json!("s3://a/b  file:///c");
    task["idempotency_key"] = Value::Null;
    task["name"] = json!("other");
    let other = system.submit(&json!([task])).await;
    assert_eq!(
        system.task(other[0]).await["input"],
        json!(["s3://a/b", "file:///c"])
    );

    let filters = [
        ("--name=näme", vec![ids[0]]),
        ("--label=project=x=y", vec![other[0], ids[0]]),
        ("--batch=nobody listens", vec![other[0], ids[0]]),
        ("--status=succeeded,failed", vec![]),
    ];
    for (filter, expected) in filters {
        let list = system
            .ctl(["-o", "json", "task", "list", filter])
            .run()
            .await;
        let list = list.code(0).json();
        let found = list.as_array().expect("an array");
        let found: Vec<_> = found.iter().map(|task| task["task_id"].clone()).collect();
        assert_eq!(json!(found), json!(expected), "{filter}");
    }
}

async fn the_same_key_creates_nothing_twice(pair: Pair) {
    let system = pair.start().await;
    let launch = || system.ctl(["-o", "json", "launch", "--idempotency-key", "k", "true"]);
    let first = launch().run().await.code(0).json();
    let second = launch().run().await.code(0).json();
    assert_eq!(first[0]["created"], true, "{first}");
    assert_eq!(second[0]["created"], false, "{second}");
    assert_eq!(first[0]["task_id"], second[0]["task_id"]);
    let list = system.ctl(["-o", "json", "task", "list"]).run().await;
    assert_eq!(list.code(0).json().as_array().map(Vec::len), Some(1));
}

async fn the_interface_describes_itself(pair: Pair) {
    let system = pair.start().await;
    let version = system.rest.get("/api/v1/version").await.expect(200);
    assert_eq!(version["protocol"], 1, "{version}");
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"), "{version}");
    let document = system.rest.get("/api/v1/openapi.json").await.expect(200);
    assert!(document["openapi"].is_string());
    let paths = document["paths"].as_object().expect("an object");
    // Everything that it lists and that takes no parameters in its path answers.
    assert!(paths.contains_key("/api/v1/tasks/{id}"), "{paths:?}");
    for (path, methods) in paths {
        if path.contains('{') || methods["get"].is_null() {
            continue;
        }
        let status = system.rest.get(path).await.status;
        assert!(status == 200 || status == 422, "{path}: {status}");
    }
}
