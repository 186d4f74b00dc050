//! Requests ride out a server that is away, and nothing is created twice.

mod support;

use std::io::Read as _;
use std::time::Duration;

use support::{
    Answer, Fake, assert_code, created, created_from, page, stderr, stdout, task, until_said,
};

#[test]
fn a_busy_server_is_asked_again_and_said_once() {
    let fake = Fake::start(|number, _| match number {
        0 => Answer::problem(503, "the database cannot be reached"),
        1 => Answer::status(502, &serde_json::json!("bad gateway")),
        2 => Answer::Broken(b"{\"items\":".to_vec()),
        _ => page(&[task(7, "running", None)], None),
    });
    let output = fake.run(&["task", "list"]);
    assert_code(&output, 0);
    assert_eq!(fake.seen().len(), 4);
    let said = stderr(&output);
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(
        said.contains("answers 503: the database cannot be reached; trying for 30 s"),
        "{said}"
    );
    assert!(
        said.lines().last().unwrap().ends_with("answers again"),
        "{said}"
    );
    assert!(stdout(&output).contains("running"), "{}", stdout(&output));
}

#[test]
fn a_server_that_is_not_there_yet_is_waited_for() {
    // a port that was free a moment ago
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut child = support::command(address, &["--timeout", "60", "-o", "json", "task", "list"])
        .spawn()
        .unwrap();
    let (said, mut rest) = until_said(&mut child, "trying for 60 s");
    assert!(
        said.contains(&format!("http://{address} cannot be reached: ")),
        "{said}"
    );
    let fake = Fake::start_at(address, |_, _| page(&[], None));
    let mut after = String::new();
    rest.read_to_string(&mut after).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_code(&output, 0);
    assert_eq!(stdout(&output), "[]\n");
    assert!(after.contains("answers again"), "{after}");
    assert_eq!(fake.seen().len(), 1);
}

#[test]
fn patience_ends_with_the_address_and_the_remedy() {
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for (seconds, tried) in [("0", ""), ("1", " (tried for 1 s)")] {
        let output = support::command(address, &["--timeout", seconds, "worker", "list"])
            .output()
            .unwrap();
        assert_code(&output, 3);
        let said = stderr(&output);
        assert!(
            said.contains(&format!("error: http://{address} cannot be reached: ")),
            "{said}"
        );
        assert!(
            said.contains(tried) && said.contains("`scitq-ctl up`") && said.contains("--server"),
            "{said}"
        );
    }
}

#[test]
fn a_fault_of_the_server_is_not_asked_again() {
    let fake =
        Fake::start(|_, _| Answer::problem(500, "the server failed to answer; its log says why"));
    let output = fake.run(&["batch", "list"]);
    assert_code(&output, 3);
    assert_eq!(fake.seen().len(), 1);
    assert!(
        stderr(&output).contains("answered 500 with: the server failed to answer"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_password_in_the_address_is_never_shown() {
    let output = support::command(
        "127.0.0.1:1".parse().unwrap(),
        &["--timeout", "0", "task", "list"],
    )
    .env("SCITQ_SERVER", "http://me:s3cret@127.0.0.1:1")
    .output()
    .unwrap();
    assert_code(&output, 3);
    assert!(
        stderr(&output).contains("http://me:****@127.0.0.1:1"),
        "{}",
        stderr(&output)
    );
    let help = support::command("127.0.0.1:1".parse().unwrap(), &["--help"])
        .env("SCITQ_SERVER", "http://me:s3cret@127.0.0.1:1")
        .output()
        .unwrap();
    assert!(!stderr(&output).contains("s3cret") && !stdout(&help).contains("s3cret"));
}

/// The idempotency keys of a submission's tasks.
fn keys(seen: &support::Seen) -> Vec<String> {
    let keys: Vec<String> = seen
        .lines()
        .into_iter()
        .map(|task| task["idempotency_key"].to_string())
        .collect();
    assert!(!keys.contains(&"null".to_owned()), "{keys:?}");
    keys
}

#[test]
fn a_launch_whose_answer_is_lost_is_repeated_with_the_same_keys() {
    for words in [&["launch", "true"][..], &["launch", "--from", "-"]] {
        let fake = Fake::start(|number, seen| match number {
            0 => Answer::Lost,
            1 => Answer::problem(503, "restarting"),
            // the first request did create them
            _ => created_from(seen, 5, false),
        });
        let mut child = fake
            .command(words)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"echo a\necho b\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_code(&output, 0);
        let seen = fake.seen();
        assert_eq!(seen.len(), 3);
        let first = keys(&seen[0]);
        assert_eq!([&keys(&seen[1]), &keys(&seen[2])], [&first, &first]);
        let different: std::collections::BTreeSet<&String> = first.iter().collect();
        assert_eq!(different.len(), first.len());
        assert!(
            stdout(&output).contains("created in batch Default"),
            "{}",
            stdout(&output)
        );
        assert!(
            !stdout(&output).contains("already"),
            "its own tasks are no surprise: {}",
            stdout(&output)
        );
    }
}

#[test]
fn a_launch_that_is_given_up_says_how_to_repeat_it() {
    let fake = Fake::start(|number, seen| {
        if number == 0 {
            Answer::Lost
        } else {
            created(seen)
        }
    });
    let output = fake.run(&["--timeout", "0", "launch", "echo", "a b"]);
    assert_code(&output, 3);
    let said = stderr(&output).to_owned();
    let key = said
        .split("--idempotency-key ")
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .to_owned();
    assert_code(
        &fake.run(&["launch", "--idempotency-key", &key, "echo", "a b"]),
        0,
    );
    let seen = fake.seen();
    assert_eq!(seen[0].body, seen[1].body);
}

#[test]
fn a_launch_that_reached_nobody_leaves_no_doubt() {
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let output = support::command(nowhere, &["--timeout", "0", "launch", "true"])
        .output()
        .unwrap();
    assert_code(&output, 3);
    assert!(
        !stderr(&output).contains("--idempotency-key"),
        "{}",
        stderr(&output)
    );
    let busy = Fake::start(|_, _| Answer::problem(503, "the database cannot be reached"));
    let output = busy.run(&["--timeout", "0", "task", "list"]);
    assert_code(&output, 3);
    assert!(
        stderr(&output).contains("--timeout") && !stderr(&output).contains("`scitq-ctl up`"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_server_that_never_answers_does_not_stop_ctrl_c() {
    let fake = Fake::start(|_, _| Answer::Silent);
    let mut child = fake.command(&["task", "wait", "1"]).spawn().unwrap();
    let deadline = std::time::Instant::now() + Duration::from_mins(1);
    while fake.seen().is_empty() {
        assert!(std::time::Instant::now() < deadline, "no request came");
        std::thread::yield_now();
    }
    let pid = child.id().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let (said, _rest) = until_said(&mut child, "the tasks go on");
    assert!(said.contains("`scitq-ctl task wait 1`"), "{said}");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
