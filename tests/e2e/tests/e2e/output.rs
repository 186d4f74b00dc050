//! What tasks write is kept as bytes, and seen while they run.

use scitq_e2e::{Pair, Separate, Setup, WORKER};
use serde_json::{Value, json};

on_both_pairs!(
    any_bytes_are_kept,
    a_line_of_megabytes_is_kept,
    a_running_task_can_be_followed,
    parts_can_be_read,
    all_up_to_the_cap_is_seen_while_the_task_runs,
    what_is_too_long_is_cut_in_the_middle,
    a_task_without_output_has_none,
);

async fn any_bytes_are_kept(pair: Pair) {
    let system = pair.start().await;
    let mut bytes: Vec<u8> = (0..=255).collect();
    bytes.extend_from_slice(b"\xff\xfe\0\0 no newline at the end");
    let file = system.directory().join("bytes");
    std::fs::write(&file, &bytes).expect("a file");
    let script = format!("cat {0}; printf 'to stderr\\0' >&2", file.display());
    let task = system.launch(["--shell", &script]).await;
    system.succeeded(&[task]).await;
    let id = task.to_string();
    assert_eq!(system.output(task, "stdout").await, bytes);
    assert_eq!(system.output(task, "stderr").await, b"to stderr\0");
    let both = system.ctl(["task", "output", &id]).run().await.code(0);
    assert_eq!(both.stdout, bytes);
    assert_eq!(both.stderr, "to stderr\0");
    let only = system
        .ctl(["task", "output", &id, "--stderr"])
        .run()
        .await
        .code(0);
    assert_eq!(
        (only.text().as_str(), only.stderr.as_str()),
        ("", "to stderr\0")
    );
    let execution = system.execution(task).await;
    assert_eq!(execution["stdout_bytes"], bytes.len());
    assert_eq!(execution["stderr_bytes"], 10);
}

async fn a_line_of_megabytes_is_kept(pair: Pair) {
    const LENGTH: usize = 5_000_000;
    let system = pair.start().await;
    // A line that repeats itself only after 1,009 bytes, so that a part in the wrong place is seen.
    let script = format!(
        "yes '{}' | tr -d '\\n' | head -c {LENGTH}",
        (0..1009)
            .map(|n| char::from(b'!' + u8::try_from(n * n % 83).unwrap_or(0)))
            .filter(|c| *c != '\'')
            .collect::<String>()
    );
    let task = system.launch(["--shell", &script]).await;
    system.succeeded(&[task]).await;
    let output = system
        .ctl(["task", "output", &task.to_string(), "--follow"])
        .run()
        .await
        .code(0);
    let expected = std::process::Command::new("sh")
        .args(["-c", &script])
        .output()
        .expect("sh")
        .stdout;
    assert_eq!(output.stdout.len(), LENGTH);
    assert!(output.stdout == expected, "the bytes differ");
    assert_eq!(system.execution(task).await["stdout_bytes"], LENGTH);
}

async fn a_running_task_can_be_followed(pair: Pair) {
    let system = pair.start().await;
    let [first, second] = [system.gate("first"), system.gate("second")];
    let script = format!(
        "echo one; {}; echo -n two; echo aside >&2; {}; echo three",
        first.before("true"),
        second.before("true")
    );
    let task = system.launch(["--shell", &script]).await;
    let id = task.to_string();
    let mut following = system
        .ctl(["task", "output", &id, "--stdout", "--follow"])
        .follow();
    // Each part is seen before the next one is written.
    following.expect(b"one\n").await;
    let mut answer = system
        .rest
        .open(&format!("/api/v1/tasks/{task}/output/stdout?follow=true"))
        .await;
    let piece = answer.chunk().await.expect("a piece");
    assert_eq!(piece.as_deref(), Some(&b"one\n"[..]));
    first.open();
    following.expect(b"two").await;
    let piece = answer.chunk().await.expect("a piece");
    assert_eq!(piece.as_deref(), Some(&b"two"[..]));
    assert_eq!(system.execution(task).await["status"], "running");
    let now = system.ctl(["task", "output", &id]).run().await.code(0);
    assert_eq!(now.text(), "one\ntwo");
    second.open();
    following.expect(b"three\n").await;
    assert_eq!(following.end().await, Some(0));
    let piece = answer.chunk().await.expect("a piece");
    assert_eq!(piece.as_deref(), Some(&b"three\n"[..]));
    assert_eq!(answer.chunk().await.expect("the end"), None);
    system.succeeded(&[task]).await;
    assert_eq!(system.output(task, "stderr").await, b"aside\n");
}

async fn parts_can_be_read(pair: Pair) {
    let system = pair.start().await;
    let task = system.launch(["echo", "0123456789"]).await;
    system.succeeded(&[task]).await;
    let path = format!("/api/v1/tasks/{task}/output/stdout?follow=true&offset=");
    for (offset, expected) in [
        ("0", "0123456789\n"),
        ("4", "456789\n"),
        ("11", ""),
        ("99", ""),
    ] {
        let answer = system.rest.get(&format!("{path}{offset}")).await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, expected),
            "{offset}"
        );
    }
    for offset in ["-1", "x", "1.5"] {
        let problem = system
            .rest
            .get(&format!("{path}{offset}"))
            .await
            .problem(422);
        assert_eq!(problem["field"], "offset", "{problem}");
    }
    let problem = system
        .rest
        .get(&format!("/api/v1/tasks/{task}/output/stdin"))
        .await
        .problem(422);
    assert_eq!(problem["field"], "stream", "{problem}");
}

async fn all_up_to_the_cap_is_seen_while_the_task_runs(pair: Pair) {
    let setup = Setup::default().with("SCITQ_WORKER_STREAM_CAP_BYTES", "1000");
    let system = pair.start_with(setup).await;
    let gate = system.gate("seen");
    let script = format!("printf '%01000d' 7; {}; echo more", gate.before("true"));
    let task = system.launch(["--shell", &script]).await;
    let id = task.to_string();
    let mut following = system
        .ctl(["task", "output", &id, "--stdout", "--follow"])
        .follow();
    let whole = format!("{:01000}", 7);
    following.expect(whole.as_bytes()).await;
    assert_eq!(system.execution(task).await["status"], "running");
    gate.open();
    following.expect(b"more\n").await;
    assert_eq!(following.end().await, Some(0));
}

async fn what_is_too_long_is_cut_in_the_middle(pair: Pair) {
    let setup = Setup::default().with("SCITQ_WORKER_STREAM_CAP_BYTES", "1001");
    let system = pair.start_with(setup).await;
    let task = system
        .launch(["--shell", "seq 1 20000; seq 1 150 >&2"])
        .await;
    system.succeeded(&[task]).await;
    let written: String = (1..=20_000).fold(String::new(), |text, n| text + &format!("{n}\n"));
    let (from, to) = (1001, written.len() - 125);
    let kept = format!("{}{}", &written[..from], &written[to..]);
    assert_eq!(
        String::from_utf8_lossy(&system.output(task, "stdout").await),
        kept
    );
    // Under the cap: exactly as written.
    let short: String = (1..=150).fold(String::new(), |text, n| text + &format!("{n}\n"));
    assert_eq!(
        String::from_utf8_lossy(&system.output(task, "stderr").await),
        short
    );

    let execution = system.execution(task).await;
    assert_eq!(execution["stdout_bytes"], written.len());
    assert_eq!(execution["stdout_cut"], json!({"from": from, "to": to}));
    assert_eq!(execution["stderr_cut"], Value::Null);
    let path = format!("/api/v1/tasks/{task}/output/stdout");
    let answer = system.rest.get(&path).await;
    let mark = answer
        .headers
        .get("scitq-cut")
        .and_then(|value| value.to_str().ok());
    assert_eq!(mark, Some(format!("{from}-{to}").as_str()));
    let printed = system
        .ctl(["task", "output", &task.to_string(), "--stdout"])
        .run()
        .await
        .code(0);
    assert_eq!(printed.text(), kept);
    assert!(printed.stderr.contains("not kept"), "{}", printed.stderr);
    assert!(
        printed.stderr.contains(&format!("bytes {from} to {to}")),
        "{}",
        printed.stderr
    );
    // From within the part that was not kept: the tail.
    let answer = system.rest.get(&format!("{path}?offset=5000")).await;
    assert_eq!(answer.text(), &written[to..]);
}

async fn a_task_without_output_has_none(pair: Pair) {
    let system = pair.start().await;
    let task = system.launch(["true"]).await;
    system.succeeded(&[task]).await;
    assert_eq!(system.output(task, "stdout").await, b"");
    // One that has not begun has no execution.
    let waiting = system.launch(["--batch", "nobody", "true"]).await;
    let path = format!("/api/v1/tasks/{waiting}/output/stdout");
    let problem = system.rest.get(&path).await.problem(404);
    let detail = problem["detail"].as_str().expect("a text");
    assert!(detail.contains("no execution yet"), "{problem}");
}

/// A gigabyte as fast as it can be written: neither worker nor server holds much of it, and what is kept is exact.
#[tokio::test]
async fn a_gigabyte_takes_little_memory() {
    const LENGTH: u64 = 1_000_000_000;
    const CAP: u64 = 64 * 1024 * 1024;
    let system = Separate::start(Setup::default()).await;
    let script = format!("yes 0123456789abcde | head -c {LENGTH}");
    let task = system.launch(["--shell", &script]).await;
    system.succeeded(&[task]).await;
    let kept = system.output(task, "stdout").await;
    assert_eq!(kept.len() as u64, CAP + CAP / 8);
    let line = b"0123456789abcde\n";
    assert!(
        kept.chunks(line.len()).all(|part| part == line),
        "the bytes differ"
    );
    let execution = system.execution(task).await;
    assert_eq!(execution["stdout_bytes"], LENGTH);
    let cut = json!({"from": CAP, "to": LENGTH - CAP / 8});
    assert_eq!(execution["stdout_cut"], cut);
    let worker = system.worker_process(WORKER).peak_memory_bytes();
    let server = system.server().peak_memory_bytes();
    assert!(worker < 64 * 1024 * 1024, "the worker held {worker} bytes");
    assert!(server < 200 * 1024 * 1024, "the server held {server} bytes");
}
