//! Lists, waiting, and what each command asks the server.

mod support;

use serde_json::{Value, json};
use support::{Answer, Fake, assert_code, execution, page, stderr, stdout, task};

fn progress(succeeded: i64, failed: i64, running: i64) -> Answer {
    let total = succeeded + failed + running;
    Answer::json(&json!({
        "tasks": {"succeeded": succeeded, "failed": failed, "running": running},
        "total": total, "over": succeeded + failed, "succeeded": succeeded,
    }))
}

#[test]
fn waiting_asks_for_the_end_and_answers_it_by_exit_code() {
    let all = Fake::start(|number, _| {
        if number == 0 {
            progress(1, 0, 2)
        } else {
            progress(3, 0, 0)
        }
    });
    let output = all.run(&["task", "wait", "--batch", "a b"]);
    assert_code(&output, 0);
    assert_eq!(stdout(&output), "3 tasks succeeded\n");
    let seen = all.seen();
    assert_eq!(seen.len(), 2, "nothing is polled");
    assert_eq!(
        (seen[1].query("batch"), seen[1].query("seen_over")),
        (Some("a+b"), Some("2"))
    );

    let some = Fake::start(|_, seen| match seen.path() {
        "/api/v1/progress" => progress(1, 1, 0),
        "/api/v1/executions/9" => Answer::json(&execution(9, 2, "failed", None)),
        _ => page(&[task(2, "failed", Some(9))], None),
    });
    let output = some.run(&["-o", "json", "task", "wait", "1", "2", "1"]);
    assert_code(&output, 1);
    assert_eq!(
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["succeeded"],
        1
    );
    assert!(
        stderr(&output).contains("task 2 failed: the command ended with exit code 3"),
        "{}",
        stderr(&output)
    );
    assert_eq!(some.seen()[0].query("id"), Some("1%2C2"));
}

#[test]
fn waiting_has_a_limit_and_knows_what_does_not_exist() {
    let busy = Fake::start(|number, _| {
        if number == 0 {
            progress(0, 0, 1)
        } else {
            Answer::Silent
        }
    });
    let output = busy.run(&["task", "wait", "1", "--for", "1"]);
    assert_code(&output, 4);
    assert!(
        stderr(&output).contains("the tasks go on"),
        "{}",
        stderr(&output)
    );

    let missing = Fake::start(|_, _| progress(0, 0, 1));
    let output = missing.run(&["task", "wait", "1", "2"]);
    assert_code(&output, 2);
    assert!(
        stderr(&output).contains("1 of 2 tasks do not exist"),
        "{}",
        stderr(&output)
    );

    let no_batch = Fake::start(|_, _| Answer::problem(404, "there is no batch \"x\""));
    let output = no_batch.run(&["task", "wait", "-b", "x"]);
    assert_code(&output, 2);
    assert!(
        stderr(&output).contains("`scitq-ctl batch list`"),
        "{}",
        stderr(&output)
    );
    assert_code(&no_batch.run(&["task", "wait"]), 2);
}

#[test]
fn many_tasks_are_asked_for_in_the_body() {
    let fake = Fake::start(|_, seen| {
        let body: Value = serde_json::from_slice(&seen.body).unwrap();
        progress(
            i64::try_from(body["task_ids"].as_array().unwrap().len()).unwrap(),
            0,
            0,
        )
    });
    let ids: Vec<String> = (1..=1500).map(|id: i32| id.to_string()).collect();
    let words: Vec<&str> = ["task", "wait"]
        .into_iter()
        .chain(ids.iter().map(String::as_str))
        .collect();
    let output = fake.run(&words);
    assert_code(&output, 0);
    assert_eq!(stdout(&output), "1500 tasks succeeded\n");
    assert!(
        fake.seen()
            .iter()
            .all(|seen| seen.method == "POST" && seen.path() == "/api/v1/progress")
    );
}

#[test]
fn lists_turn_pages_up_to_the_limit() {
    let fake = Fake::start(|_, seen| {
        let limit: i64 = seen.query("limit").unwrap().parse().unwrap();
        let last: i64 = seen
            .query("after")
            .map_or(5001, |after| after.parse().unwrap());
        let first = (last - limit).max(1);
        let rows: Vec<Value> = (first..last)
            .rev()
            .map(|id| task(id, "pending", None))
            .collect();
        page(&rows, (first > 1).then_some(first))
    });
    let output = fake.run(&["task", "list"]);
    assert_code(&output, 0);
    assert_eq!(stdout(&output).lines().count(), 101);
    assert!(
        stderr(&output).contains("100 rows shown, there are more: --limit 0"),
        "{}",
        stderr(&output)
    );
    let all = fake.run(&["-o", "json", "task", "list", "--limit", "0"]);
    assert_code(&all, 0);
    let rows: Vec<Value> = serde_json::from_slice(&all.stdout).unwrap();
    let ids: Vec<i64> = rows
        .iter()
        .map(|row| row["task_id"].as_i64().unwrap())
        .collect();
    assert_eq!(ids, (1..=5000).rev().collect::<Vec<i64>>());
    assert_eq!(stderr(&all), "");
}

#[test]
fn filters_reach_the_server() {
    let fake = Fake::start(|_, _| page(&[], None));
    let words = [
        "task",
        "list",
        "-b",
        "x",
        "-s",
        "failed,cancelled",
        "-n",
        "n",
        "-i",
        "3,4",
        "-l",
        "k=v",
        "--order",
        "asc",
    ];
    assert_code(&fake.run(&words), 0);
    let words = [
        "execution",
        "list",
        "-t",
        "5",
        "-s",
        "lost",
        "-w",
        "w",
        "--latest",
        "--after",
        "7",
    ];
    assert_code(&fake.run(&words), 0);
    let seen = fake.seen();
    let expected =
        "batch=x&status=failed%2Ccancelled&name=n&id=3%2C4&label=k%3Dv&limit=100&order=asc";
    assert_eq!(seen[0].target, format!("/api/v1/tasks?{expected}"));
    let expected = "task=5&status=lost&worker=w&latest=true&limit=100&order=desc&after=7";
    assert_eq!(seen[1].target, format!("/api/v1/executions?{expected}"));
    let wrong = fake.run(&["task", "list", "-s", "faild"]);
    assert_code(&wrong, 2);
    assert!(
        stderr(&wrong).contains("is not one of waiting, pending"),
        "{}",
        stderr(&wrong)
    );
}

#[test]
fn tables_are_aligned_and_harmless() {
    let fake = Fake::start(|_, seen| match seen.path() {
        "/api/v1/tasks" => page(
            &[task(7, "running", None), task(1234, "succeeded", Some(9))],
            None,
        ),
        "/api/v1/tasks/7" => Answer::json(&task(7, "failed", Some(9))),
        "/api/v1/executions" => page(&[execution(9, 7, "failed", None)], None),
        "/api/v1/executions/9" => Answer::json(&execution(9, 7, "failed", Some((5, 1_000_005)))),
        _ => Answer::problem(404, "not there"),
    });
    let list = fake.run(&["task", "list"]);
    let expected = "\
TASK  STATUS     BATCH    NAME  EXECUTION  CREATED              COMMAND
   7  running    Default  -             -  2026-07-01 10:00:00  echo 'a^[[2Jb'
1234  succeeded  Default  -             9  2026-07-01 10:00:00  echo 'a^[[2Jb'
";
    assert_eq!(stdout(&list), expected);
    let bare = fake.run(&["-H", "task", "list"]);
    let bare: Vec<&str> = stdout(&bare)
        .lines()
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert_eq!(bare, ["7", "1234"], "no headings");
    let shown = fake.run(&["task", "show", "7"]);
    assert_code(&shown, 0);
    for part in [
        "the command ended with exit code 3 (exit_code)",
        "1 min 1 s",
        "newest execution",
    ] {
        assert!(stdout(&shown).contains(part), "{}", stdout(&shown));
    }
    let attempt = fake.run(&["execution", "show", "9"]);
    for part in [
        "2.0 MiB (of the largest process)",
        "10 ms user, 5 ms system",
        "bytes 5 to 1000005",
    ] {
        assert!(stdout(&attempt).contains(part), "{}", stdout(&attempt));
    }
}

#[test]
fn workers_are_changed_and_counters_checked() {
    let worker = json!({
        "worker_id": 1, "name": "w 1", "hostname": "h", "batch": "b", "status": "paused", "concurrency": 4,
        "prefetch": 1, "accepted": 0, "running": 2, "program_version": "0.1.0", "cores": 8,
        "memory_bytes": 17_179_869_184_i64, "last_contact_at": "2026-07-01T10:00:00Z",
        "created_at": "2026-07-01T10:00:00Z",
    });
    let wrong = json!([{"batch": "b", "status": "failed", "counter": 2, "tasks": 1}]);
    let fake = Fake::start(move |_, seen| match seen.path() {
        "/api/v1/workers" => page(std::slice::from_ref(&worker), None),
        "/api/v1/workers/w%201" => Answer::json(&worker),
        "/api/v1/maintenance/counters" | "/api/v1/maintenance/counters/repair" => {
            Answer::json(&wrong)
        }
        _ => Answer::problem(404, "there is no worker"),
    });
    let changed = fake.run(&["worker", "update", "w 1", "--concurrency", "4", "--pause"]);
    assert_code(&changed, 0);
    assert!(
        stdout(&changed).contains("16.0 GiB"),
        "{}",
        stdout(&changed)
    );
    let seen = fake.seen();
    assert_eq!(
        (seen[0].method.as_str(), seen[0].path()),
        ("PATCH", "/api/v1/workers/w%201")
    );
    assert_eq!(seen[0].body, br#"{"concurrency":4,"paused":true}"#);
    assert_code(&fake.run(&["worker", "list"]), 0);
    assert_code(&fake.run(&["worker", "update", "w 1"]), 2);
    let missing = fake.run(&["worker", "show", "x"]);
    assert_code(&missing, 2);
    assert!(
        stderr(&missing).contains("`scitq-ctl worker list`"),
        "{}",
        stderr(&missing)
    );
    let checked = fake.run(&["maintenance", "check"]);
    assert_code(&checked, 1);
    assert!(stdout(&checked).contains("failed"), "{}", stdout(&checked));
    assert_code(&fake.run(&["maintenance", "repair"]), 0);
    assert_eq!(fake.seen().last().unwrap().method, "POST");
}

#[test]
fn lost_and_restarted_workers() {
    let worker = |boots: u32, requested: bool| {
        json!({
            "worker_id": 1, "name": "w", "hostname": "h", "batch": "b", "status": "running", "concurrency": 4,
            "prefetch": 1, "accepted": 0, "running": 2, "program_version": "0.2.0", "cores": 8,
            "memory_bytes": 1, "last_contact_at": "2026-07-01T10:00:00Z", "created_at": "2026-07-01T10:00:00Z",
            "boots": boots, "restart_requested": requested,
        })
    };
    let fake = Fake::start(move |number, seen| match seen.path() {
        "/api/v1/workers" => page(&[worker(3, false)], None),
        "/api/v1/workers/w" => Answer::json(&worker(3, number % 3 == 0)),
        "/api/v1/workers/w/restart" => Answer::json(&worker(3, true)),
        "/api/v1/workers/gone/lost" => {
            Answer::json(&json!({"worker": "gone", "executions": 2, "task_ids": [4, 7]}))
        }
        "/api/v1/workers/w/lost" => Answer::problem(409, "worker w is running"),
        _ => Answer::problem(404, "there is no worker"),
    });
    let lost = fake.run(&["worker", "lost", "gone", "--yes"]);
    assert_code(&lost, 0);
    assert!(
        stdout(&lost).contains("2 executions") && stdout(&lost).contains("anew: 4 7"),
        "{}",
        stdout(&lost)
    );
    assert_eq!(fake.seen().last().unwrap().body, br#"{"force":false}"#);
    let refused = fake.run(&["worker", "lost", "w", "--yes"]);
    assert_code(&refused, 2);
    assert!(stderr(&refused).contains("--force"), "{}", stderr(&refused));
    // Nobody can be asked here.
    let asked = fake.run(&["worker", "lost", "w"]);
    assert_code(&asked, 2);
    assert!(stderr(&asked).contains("--yes"), "{}", stderr(&asked));

    let asked = fake.run(&["worker", "restart", "w"]);
    assert_code(&asked, 0);
    assert_eq!(fake.seen().last().unwrap().body, br#"{"boots":3}"#);
    let waited = fake.run(&["worker", "restart", "--all", "--wait"]);
    assert_code(&waited, 0);
    assert!(
        stdout(&waited).contains("w has started anew with version 0.2.0"),
        "{}",
        stdout(&waited)
    );
    assert_code(&fake.run(&["worker", "restart"]), 2);
    assert_code(&fake.run(&["worker", "restart", "x"]), 2);
}

#[test]
fn whoever_waits_for_a_paused_batch_is_told() {
    let fake = |paused: bool| {
        Fake::start(move |number, seen| match seen.path() {
            "/api/v1/progress" if number > 6 => progress(2, 0, 0),
            "/api/v1/progress" => Answer::json(&json!({
                "tasks": {"succeeded": 1, "pending": 1}, "total": 2, "over": 1, "succeeded": 1,
            })),
            "/api/v1/tasks" => page(&[task(2, "pending", None)], None),
            "/api/v1/batches/b" | "/api/v1/batches/Default" => Answer::json(&json!({
                "batch": "b", "created_at": "2026-07-01T10:00:00Z", "tasks": {"pending": 1}, "total": 2, "workers": 1,
                "paused": paused, "pause_reason": paused.then_some("disk_full: no room"),
            })),
            _ => Answer::problem(404, "there is none"),
        })
    };
    let told = "paused: disk_full: no room; `scitq-ctl batch resume b` goes on";
    for which in [
        &["task", "wait", "1", "2"][..],
        &["task", "wait", "-b", "b"],
    ] {
        let paused = fake(true);
        let output = paused.run(which);
        assert_code(&output, 0);
        assert_eq!(
            stderr(&output).matches(told).count(),
            1,
            "{which:?}: {}",
            stderr(&output)
        );
        let open = fake(false);
        let output = open.run(which);
        assert!(!stderr(&output).contains("paused"), "{}", stderr(&output));
    }
}

#[test]
fn requests_for_a_restart_are_taken_back_or_refused() {
    let worker = |name: &str| {
        json!({
            "worker_id": 1, "name": name, "hostname": "h", "batch": "b", "status": "running", "concurrency": 4,
            "prefetch": 1, "accepted": 0, "running": 2, "program_version": "0.2.0", "cores": 8, "memory_bytes": 1,
            "last_contact_at": "2026-07-01T10:00:00Z", "created_at": "2026-07-01T10:00:00Z", "boots": 3,
            "restart_requested": true,
        })
    };
    let fake = Fake::start(move |_, seen| match (seen.method.as_str(), seen.path()) {
        ("GET", "/api/v1/workers") => page(&[worker("up"), worker("w")], None),
        ("GET" | "DELETE", "/api/v1/workers/w" | "/api/v1/workers/w/restart") => {
            Answer::json(&worker("w"))
        }
        ("POST", "/api/v1/workers/w/restart") => Answer::json(&worker("w")),
        ("POST", "/api/v1/workers/up/restart") => {
            Answer::problem(409, "up is a part of another program")
        }
        ("GET", "/api/v1/workers/up") => Answer::json(&worker("up")),
        ("POST", "/api/v1/workers/w/lost") => {
            Answer::json(&json!({"worker": "w", "executions": 0, "task_ids": []}))
        }
        _ => Answer::problem(404, "there is no worker"),
    });
    let cancelled = fake.run(&["worker", "restart", "w", "--cancel"]);
    assert_code(&cancelled, 0);
    assert_eq!(fake.seen().last().unwrap().method, "DELETE");
    assert!(
        stdout(&cancelled).contains("w is not asked to start anew any more"),
        "{}",
        stdout(&cancelled)
    );
    // The others are asked all the same.
    let all = fake.run(&["worker", "restart", "--all", "--no-wait"]);
    assert_code(&all, 0);
    assert!(
        stdout(&all).contains("w is asked") && stderr(&all).contains("part of another program"),
        "{} {}",
        stdout(&all),
        stderr(&all)
    );
    assert_code(&fake.run(&["worker", "restart", "up", "--no-wait"]), 2);
    // Who forces a loss is told what may come of it.
    let lost = fake.run(&["worker", "lost", "w", "--yes", "--force"]);
    assert_code(&lost, 0);
    assert!(
        stderr(&lost).contains("w is running and may be at work")
            && stderr(&lost).contains("may run twice"),
        "{}",
        stderr(&lost)
    );
}

#[test]
fn a_worker_that_does_not_start_anew_is_told() {
    let worker = json!({
        "worker_id": 1, "name": "w", "hostname": "h", "batch": "b", "status": "offline", "concurrency": 4,
        "prefetch": 1, "accepted": 0, "running": 2, "program_version": "0.2.0", "cores": 8, "memory_bytes": 1,
        "last_contact_at": "2026-07-01T10:00:00Z", "created_at": "2026-07-01T10:00:00Z", "boots": 3,
        "restart_requested": true,
    });
    let fake = Fake::start(move |_, _| Answer::json(&worker));
    let waited = fake.run(&["worker", "restart", "w", "--wait", "--for", "0"]);
    assert_code(&waited, 4);
    assert!(
        stderr(&waited).contains("w has not started anew within 0 s: it is offline"),
        "{}",
        stderr(&waited)
    );
}

#[test]
fn batches_are_paused_and_resumed() {
    let fake = Fake::start(move |_, seen| {
        let paused = seen.body == br#"{"paused":true}"#;
        Answer::json(&json!({
            "batch": "b", "created_at": "2026-07-01T10:00:00Z", "tasks": {}, "total": 0, "workers": 1,
            "paused": paused, "pause_reason": null,
        }))
    });
    let paused = fake.run(&["batch", "pause", "b"]);
    assert_code(&paused, 0);
    assert!(stdout(&paused).contains("paused"), "{}", stdout(&paused));
    let seen = fake.seen();
    assert_eq!(
        (seen[0].method.as_str(), seen[0].path()),
        ("PATCH", "/api/v1/batches/b")
    );
    let resumed = fake.run(&["batch", "resume", "b"]);
    assert_code(&resumed, 0);
    assert!(!stdout(&resumed).contains("paused"), "{}", stdout(&resumed));
}

#[test]
fn the_settings_are_shown_without_secrets() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("scitq.toml");
    std::fs::write(&file, "[broker]\nurl = 'amqp://u:s3cret@h/'\n").unwrap();
    let path = file.to_str().unwrap();
    let nowhere = "127.0.0.1:1".parse().unwrap();
    for format in ["table", "json"] {
        let words = ["-o", format, "config", "show", "--config", path];
        let output = support::command(nowhere, &words).output().unwrap();
        assert_code(&output, 0);
        assert!(
            stdout(&output).contains("amqp://u:****@h/") && stdout(&output).contains(path),
            "{}",
            stdout(&output)
        );
        assert!(!stdout(&output).contains("s3cret"));
    }
    std::fs::write(&file, "[broker]\nurll = 'x'\n").unwrap();
    let wrong = support::command(nowhere, &["config", "show", "--config", path])
        .output()
        .unwrap();
    assert_code(&wrong, 2);
    assert!(
        stderr(&wrong).contains("broker.urll") && stderr(&wrong).contains(path),
        "{}",
        stderr(&wrong)
    );
}

#[test]
fn help_and_completions_are_there() {
    let nowhere = "127.0.0.1:1".parse().unwrap();
    for words in [
        &["--help"][..],
        &["launch", "--help"],
        &["task", "wait", "--help"],
        &["up", "-h"],
        &["--version"],
    ] {
        let output = support::command(nowhere, words).output().unwrap();
        assert_code(&output, 0);
        assert!(!stdout(&output).is_empty());
    }
    let launch = support::command(nowhere, &["launch", "--help"])
        .output()
        .unwrap();
    let wait = support::command(nowhere, &["task", "wait", "--help"])
        .output()
        .unwrap();
    assert!(
        stdout(&launch).contains("a line that begins with # is a comment"),
        "{}",
        stdout(&launch)
    );
    assert!(
        stdout(&wait).contains("4 when the time given with --for"),
        "{}",
        stdout(&wait)
    );
    for shell in ["bash", "zsh", "fish"] {
        let output = support::command(nowhere, &["completions", shell])
            .output()
            .unwrap();
        assert_code(&output, 0);
        assert!(stdout(&output).contains("scitq-ctl") && stdout(&output).contains("launch"));
    }
}
