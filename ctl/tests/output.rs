//! What tasks wrote reaches the reader byte for byte.

mod support;

use std::io::Read as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use support::{Answer, Fake, assert_code, execution, page, stderr, stdout, task};

#[test]
fn bytes_are_passed_on_as_they_are() {
    let fake = Fake::start(|_, seen| match seen.path() {
        "/api/v1/tasks/1" => Answer::json(&task(1, "succeeded", Some(9))),
        "/api/v1/executions/9" => Answer::json(&execution(9, 1, "succeeded", None)),
        "/api/v1/executions/9/output/stdout" => Answer::bytes(b"a\0\xff\x1b[2J\r\nno end"),
        "/api/v1/executions/9/output/stderr" => Answer::bytes(b"\xfe!"),
        _ => Answer::problem(404, "not there"),
    });
    let both = fake.run(&["task", "output", "1"]);
    assert_code(&both, 0);
    assert_eq!(
        (both.stdout.as_slice(), both.stderr.as_slice()),
        (&b"a\0\xff\x1b[2J\r\nno end"[..], &b"\xfe!"[..])
    );
    let one = fake.run(&["task", "output", "1", "--stderr"]);
    assert_eq!(
        (one.stdout.as_slice(), one.stderr.as_slice()),
        (&b""[..], &b"\xfe!"[..])
    );
    let by_execution = fake.run(&["execution", "output", "9", "--stdout"]);
    assert_eq!(
        (
            by_execution.stdout.as_slice(),
            by_execution.stderr.as_slice()
        ),
        (both.stdout.as_slice(), &b""[..])
    );
    let other = fake.run(&["task", "output", "2", "--execution", "9"]);
    assert_code(&other, 2);
    assert!(
        stderr(&other).contains("execution 9 belongs to task 1, not to task 2"),
        "{}",
        stderr(&other)
    );
}

#[test]
fn a_broken_stream_goes_on_where_it_broke() {
    let whole: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let served = whole.clone();
    let fake = Fake::start(move |number, seen| match seen.path() {
        "/api/v1/tasks/1" => Answer::json(&task(1, "succeeded", Some(9))),
        "/api/v1/executions/9" => Answer::json(&execution(9, 1, "succeeded", None)),
        "/api/v1/executions/9/output/stdout" => {
            let offset: usize = seen.query("offset").unwrap().parse().unwrap();
            let rest = &served[offset..];
            if number % 2 == 0 {
                Answer::Broken(rest[..rest.len().min(30_000)].to_vec())
            } else {
                Answer::bytes(rest)
            }
        }
        _ => Answer::problem(404, "not there"),
    });
    let output = fake.run(&["task", "output", "1", "--stdout"]);
    assert_code(&output, 0);
    assert!(
        output.stdout == whole,
        "{} of {} bytes",
        output.stdout.len(),
        whole.len()
    );
    assert!(
        fake.seen()
            .iter()
            .filter(|seen| seen.query("offset").is_some())
            .count()
            >= 2
    );
}

#[test]
fn a_cut_is_told_beside_piped_output_and_offsets_count_it() {
    let fake = Fake::start(|number, seen| match seen.path() {
        "/api/v1/executions/9" => Answer::json(&execution(9, 1, "succeeded", Some((5, 1_000_005)))),
        "/api/v1/executions/9/output/stdout" if number < 2 => Answer::Broken(b"head!ta".to_vec()),
        "/api/v1/executions/9/output/stdout" => {
            Answer::bytes(b"il").header("Scitq-Cut", "5-1000005")
        }
        _ => Answer::problem(404, "not there"),
    });
    let output = fake.run(&["execution", "output", "9", "--stdout"]);
    assert_code(&output, 0);
    assert_eq!(stdout(&output), "head!tail");
    assert_eq!(
        stderr(&output),
        "[… 976.6 KiB of stdout not kept: bytes 5 to 1000005 …]\n"
    );
    assert_eq!(fake.seen().last().unwrap().query("offset"), Some("1000007"));
}

#[test]
fn following_waits_for_executions_and_outlives_a_server_that_stops() {
    let looks = AtomicUsize::new(0);
    let fake = Fake::start(move |_, seen| match (seen.path(), seen.query("offset")) {
        // pending; waited for; execution 8; it failed, 9 follows; over
        ("/api/v1/tasks/1", _) => Answer::json(&match looks.fetch_add(1, Ordering::SeqCst) {
            0 => task(1, "pending", None),
            1 => task(1, "running", Some(8)),
            2 => task(1, "running", Some(9)),
            _ => task(1, "succeeded", Some(9)),
        }),
        ("/api/v1/tasks/1/output/stdout", _) => Answer::bytes(b"first"),
        ("/api/v1/executions/8", _) => Answer::json(&execution(8, 1, "failed", None)),
        ("/api/v1/executions/8/output/stdout", _) => Answer::bytes(b"one "),
        // the server ends its answer when it stops, though the execution goes on
        ("/api/v1/executions/9/output/stdout", Some("0")) => Answer::bytes(b"tw"),
        ("/api/v1/executions/9/output/stdout", _) => {
            Answer::bytes(b"o").header("Scitq-Execution-Id", "9")
        }
        ("/api/v1/executions/9", _) => Answer::json(&execution(9, 1, "running", None)),
        _ => Answer::problem(404, "not there"),
    });
    // execution 9 never ends here, so the program is read and then stopped
    let mut child = fake
        .command(&["task", "output", "1", "--follow", "--stdout"])
        .spawn()
        .unwrap();
    let mut read = [0; 7];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut read)
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(&read, b"one two");
    let offsets: Vec<String> = fake
        .seen()
        .iter()
        .filter(|seen| seen.path() == "/api/v1/executions/9/output/stdout")
        .map(|seen| seen.query("offset").unwrap().to_owned())
        .take(2)
        .collect();
    assert_eq!(offsets, ["0", "2"]);
}

#[test]
fn what_was_written_while_the_server_was_away_is_read_too() {
    let opened = AtomicUsize::new(0);
    let fake = Fake::start(move |_, seen| match (seen.path(), seen.query("offset")) {
        ("/api/v1/tasks/1", _) => Answer::json(&task(1, "succeeded", Some(9))),
        // the server stops and ends its answer; when it is back the execution is over
        ("/api/v1/executions/9", _) if opened.load(Ordering::SeqCst) == 0 => {
            Answer::json(&execution(9, 1, "running", None))
        }
        ("/api/v1/executions/9", _) => Answer::json(&execution(9, 1, "succeeded", None)),
        ("/api/v1/executions/9/output/stdout", Some("0")) => {
            opened.fetch_add(1, Ordering::SeqCst);
            Answer::bytes(b"begin")
        }
        ("/api/v1/executions/9/output/stdout", Some("5")) => Answer::bytes(b", end"),
        _ => Answer::problem(404, "not there"),
    });
    let output = fake.run(&["task", "output", "1", "--follow", "--stdout"]);
    assert_code(&output, 0);
    assert_eq!(stdout(&output), "begin, end");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let fake = Fake::start(|_, seen| match seen.path() {
        "/api/v1/executions/9" => Answer::json(&execution(9, 1, "succeeded", None)),
        "/api/v1/executions/9/output/stdout" => Answer::bytes(&vec![b'x'; 10_000_000]),
        _ => page(&vec![task(1, "running", None); 1000], None),
    });
    for words in [
        &["execution", "output", "9", "--stdout"][..],
        &["task", "list", "--limit", "0"],
        &["completions", "zsh"],
    ] {
        let mut child = fake.command(words).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_code(&output, 0);
        assert_eq!(stderr(&output), "", "{words:?}");
    }
}

#[test]
fn a_task_that_has_not_run_says_so() {
    let fake = Fake::start(|_, seen| match seen.path() {
        "/api/v1/tasks/1" => Answer::json(&task(1, "waiting", None)),
        _ => Answer::problem(404, "there is no task 2"),
    });
    let waiting = fake.run(&["task", "output", "1"]);
    assert_code(&waiting, 0);
    assert!(
        stderr(&waiting).contains("task 1 is waiting"),
        "{}",
        stderr(&waiting)
    );
    let missing = fake.run(&["task", "output", "2"]);
    assert_code(&missing, 2);
    assert_eq!(
        stderr(&missing),
        "error: there is no task 2\n  `scitq-ctl task list` shows the tasks\n"
    );
}

#[test]
fn a_task_that_is_over_is_read_to_the_end_of_what_it_wrote() {
    let fake = Fake::start(|_, seen| match seen.path() {
        "/api/v1/executions/9" => {
            let mut uploading = execution(9, 1, "succeeded", None);
            uploading["output_complete"] = false.into();
            Answer::json(&uploading)
        }
        "/api/v1/executions/9/output/stdout" if seen.query("follow") == Some("true") => {
            Answer::bytes(b"all of it")
        }
        "/api/v1/executions/9/output/stdout" => Answer::bytes(b"all"),
        _ => Answer::problem(404, "not there"),
    });
    let output = fake.run(&["execution", "output", "9", "--stdout"]);
    assert_code(&output, 0);
    assert_eq!(stdout(&output), "all of it");
}
