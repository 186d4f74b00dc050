//! What reaches the server when tasks are handed in.

mod support;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::{
    Answer, Fake, Seen, assert_code, created, created_from, execution, stderr, stdout, task,
};

fn submissions(fake: &Fake) -> Vec<Seen> {
    fake.seen()
        .into_iter()
        .filter(|seen| seen.path() == "/api/v1/tasks")
        .collect()
}

#[test]
fn words_and_options_reach_the_server() {
    let fake = Fake::start(|_, seen| created(seen));
    let output = fake.run(&[
        "launch",
        "-b",
        "b",
        "--priority",
        "-5",
        "echo",
        "-n",
        "a b",
        "--",
        "$x",
    ]);
    assert_code(&output, 0);
    assert_eq!(stdout(&output), "task 1 created in batch b\n");
    let seen = &submissions(&fake)[0];
    assert_eq!(seen.method, "POST");
    let sent = &seen.lines()[0];
    assert_eq!(sent["command"], "echo -n 'a b' -- '$x'");
    assert_eq!(
        (&sent["batch"], &sent["priority"]),
        (&"b".into(), &(-5).into())
    );
    let json = fake.run(&["-o", "json", "launch", "true"]);
    let array: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(array[0]["task_id"], 1);
    assert_eq!(array.as_array().unwrap().len(), 1);
}

#[test]
fn a_dry_run_asks_nobody_and_its_output_can_be_launched() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tasks");
    std::fs::write(&file, "echo 'a b'\n{\"command\":\"c\",\"name\":\"n\"}\n").unwrap();
    let from = file.to_str().unwrap();
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let dry = support::command(nowhere, &["launch", "-t", "-b", "x", "--from", from])
        .output()
        .unwrap();
    assert_code(&dry, 0);
    std::fs::write(&file, &dry.stdout).unwrap();
    let again = support::command(nowhere, &["launch", "--dry-run", "--from", from])
        .output()
        .unwrap();
    assert_eq!(stdout(&again), stdout(&dry));
    assert!(
        stdout(&dry).contains(r#""command":"echo 'a b'""#),
        "{}",
        stdout(&dry)
    );
}

#[test]
fn a_hundred_thousand_lines_go_in_seconds() {
    let fake = Fake::start(|number, seen| created_from(seen, 1 + number * 1_000_000, true));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tasks");
    let mut text = String::new();
    for number in 0..100_000 {
        writeln!(text, "sha256sum '/data/file number {number}.txt'").unwrap();
    }
    std::fs::write(&file, text).unwrap();
    let begun = Instant::now();
    let output = fake.run(&["launch", "--from", file.to_str().unwrap()]);
    assert_code(&output, 0);
    // a debug build on a loaded machine; what is left out is anything that grows with the square
    assert!(
        begun.elapsed() < Duration::from_mins(1),
        "{:?}",
        begun.elapsed()
    );
    let commands: Vec<String> = submissions(&fake)
        .iter()
        .flat_map(Seen::lines)
        .map(|task| task["command"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(commands.len(), 100_000);
    assert_eq!(commands[99_999], "sha256sum '/data/file number 99999.txt'");
    assert!(
        stdout(&output).starts_with("100000 tasks created in batch Default"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn a_server_with_a_lower_limit_gets_shorter_requests() {
    let created_so_far = AtomicUsize::new(0);
    let fake = Fake::start(move |_, seen| {
        if seen.body.len() > 1000 {
            return Answer::problem(413, "the body is longer than the 1000 bytes allowed");
        }
        let first = 1 + created_so_far.fetch_add(seen.lines().len(), Ordering::SeqCst);
        created_from(seen, first, true)
    });
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tasks");
    let lines: Vec<String> = (0..40).map(|number| format!("echo {number}")).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let output = fake.run(&["-o", "json", "launch", "--from", file.to_str().unwrap()]);
    assert_code(&output, 0);
    let taken: Vec<String> = submissions(&fake)
        .iter()
        .filter(|seen| seen.body.len() <= 1000)
        .flat_map(Seen::lines)
        .map(|task| task["command"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(taken, lines);
    let answered: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let ids: Vec<u64> = answered
        .as_array()
        .unwrap()
        .iter()
        .map(|task| task["task_id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids, (1..=40).collect::<Vec<u64>>());
    let alone = fake.run(&["launch", "echo", &"x".repeat(2000)]);
    assert_code(&alone, 2);
    assert!(
        stderr(&alone).contains("longer than the 1000 bytes"),
        "{}",
        stderr(&alone)
    );
}

#[test]
fn what_the_server_refuses_is_told_with_its_line() {
    let fake = Fake::start(|_, _| {
        let problem = serde_json::json!({
            "type": "/problems/invalid-field", "title": "A field breaks a rule", "status": 422, "index": 1,
            "field": "required_task_ids", "detail": "required_task_ids names task 99, which does not exist",
        });
        Answer::status(422, &problem)
    });
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tasks");
    std::fs::write(
        &file,
        "# first\necho a\n\n{\"command\":\"b\",\"required_task_ids\":[99]}\n",
    )
    .unwrap();
    let from = file.to_str().unwrap();
    let output = fake.run(&["launch", "--from", from]);
    assert_code(&output, 2);
    let expected =
        format!("error: {from}, line 4: required_task_ids names task 99, which does not exist\n");
    assert_eq!(stderr(&output), expected);
}

#[test]
fn what_cannot_be_used_is_refused_before_anything_is_sent() {
    let fake = Fake::start(|_, seen| created(seen));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tasks");
    std::fs::write(&file, "echo a\necho 'b\n").unwrap();
    let from = file.to_str().unwrap();
    let table: [(&[&str], &str); 5] = [
        (
            &["launch", "--from", from],
            "line 2: command cannot be used: the ' quote opened at byte 5 is never closed",
        ),
        (
            &["launch", "--from", "/nonexistent"],
            "cannot read /nonexistent",
        ),
        (
            &["launch", "--weight", "0", "true"],
            "weight must be between 1 and 10000, not 0",
        ),
        (&["launch"], "required"),
        (&["launch", "-o", "json", "--follow", "true"], "no JSON"),
    ];
    for (words, part) in table {
        let output = fake.run(words);
        assert_code(&output, 2);
        assert!(
            stderr(&output).contains(part),
            "{words:?}: {}",
            stderr(&output)
        );
    }
    assert_eq!(fake.seen().len(), 0);
}

#[test]
fn wait_and_follow_tell_how_the_task_ended() {
    let fake = Fake::start(|_, seen| match (seen.method.as_str(), seen.path()) {
        ("POST", "/api/v1/tasks") => created(seen),
        ("GET", "/api/v1/progress") => Answer::json(
            &serde_json::json!({"tasks": {"failed": 1}, "total": 1, "over": 1, "succeeded": 0}),
        ),
        ("GET", "/api/v1/tasks") => support::page(&[task(1, "failed", Some(9))], None),
        ("GET", "/api/v1/tasks/1") => Answer::json(&task(1, "failed", Some(9))),
        ("GET", "/api/v1/executions/9") => Answer::json(&execution(9, 1, "failed", None)),
        ("GET", "/api/v1/executions/9/output/stdout") => Answer::bytes(b"out\n"),
        ("GET", "/api/v1/executions/9/output/stderr") => Answer::bytes(b"err\n"),
        _ => Answer::problem(404, "not there"),
    });
    let waited = fake.run(&["launch", "--wait", "false"]);
    assert_code(&waited, 1);
    assert_eq!(
        stdout(&waited),
        "task 1 created in batch Default\n1 task: 1 failed\n"
    );
    assert!(
        stderr(&waited).contains("task 1 failed: the command ended with exit code 3"),
        "{}",
        stderr(&waited)
    );
    let followed = fake.run(&["launch", "--follow", "false"]);
    assert_code(&followed, 1);
    assert_eq!(
        stdout(&followed),
        "out\n",
        "standard output is the task's alone"
    );
    assert!(stderr(&followed).contains("err\n"), "{}", stderr(&followed));
}
