use serde_json::{Value, json};

use super::*;

fn task(status: &str) -> TaskView {
    let task = json!({
        "task_id": 7, "name": null, "batch": "genomes", "status": status, "uploading": false, "command": "true",
        "shell": null, "container": null, "container_options": null, "input": [], "output": null, "resource": [],
        "required_task_ids": [], "missing_requirements": 0, "retry": 0, "retries_left": 0, "download_timeout": null,
        "run_timeout": null, "use_cache": false, "priority": 0, "weight": 1, "idempotency_key": null, "labels": {},
        "uid": null, "gid": null, "revision": 1, "execution_id": null, "created_at": "2026-01-01T00:00:00Z",
        "modified_at": "2026-01-01T00:00:00Z"
    });
    serde_json::from_value(task).unwrap()
}

fn worker(name: &str, batch: &str, status: &str, (running, concurrency): (i64, i32)) -> WorkerView {
    let worker = json!({
        "worker_id": 1, "name": name, "hostname": "h", "batch": batch, "status": status, "concurrency": concurrency,
        "prefetch": 0, "accepted": 0, "running": running, "program_version": "0", "cores": 1, "memory_bytes": 1,
        "last_contact_at": "2026-01-01T10:00:00Z", "created_at": "2026-01-01T00:00:00Z"
    });
    serde_json::from_value(worker).unwrap()
}

fn execution(change: &Value) -> ExecutionView {
    let mut execution = json!({
        "execution_id": 3, "attempt_id": "a", "task_id": 7, "batch": "genomes", "worker": "w1", "incarnation": "i",
        "dispatch_id": "d", "epoch": 1, "revision": 1, "status": "running", "uploading": false, "latest": true,
        "command": "true", "shell": null, "container": null, "container_options": null, "input": [], "output": null,
        "resource": [], "queued_at": "2026-01-01T09:00:00Z", "accepted_at": "2026-01-01T09:00:01Z",
        "started_at": "2026-01-01T09:00:02Z", "ended_at": null, "exit_code": null, "signal": null,
        "failure_reason": null, "failure_detail": null, "user_cpu_ms": null, "system_cpu_ms": null,
        "peak_memory_bytes": null, "memory_source": null, "stdout_bytes": 0, "stderr_bytes": 0,
        "stdout_cut": null, "stderr_cut": null, "output_complete": false
    });
    for (key, value) in change.as_object().unwrap() {
        execution[key] = value.clone();
    }
    serde_json::from_value(execution).unwrap()
}

fn batch(assigned: i64) -> BatchView {
    let batch = json!({
        "batch": "genomes", "created_at": "2026-01-01T00:00:00Z", "tasks": {"assigned": assigned}, "total": assigned,
        "workers": 1
    });
    serde_json::from_value(batch).unwrap()
}

/// A task of this status, and a worker with a free slot.
fn facts(status: &str) -> Facts {
    Facts {
        task: task(status),
        batch: Some(batch(1)),
        workers: vec![worker("w1", "genomes", "running", (1, 2))],
        requirements: Vec::new(),
        newest: None,
        ahead: 0,
        not_ready: Vec::new(),
    }
}

/// One case: a status, what is different, and what is said: the codes, and words of the texts and remedies.
type Case = (
    &'static str,
    fn(&mut Facts),
    &'static [&'static str],
    &'static [&'static str],
);

const CASES: &[Case] = &[
    ("pending", |_| {}, &["next"], &["dispatched next"]),
    (
        "pending",
        |it| {
            it.batch = Some(BatchView {
                paused: true,
                pause_reason: Some("two workers fail".to_owned()),
                ..batch(0)
            });
        },
        &["batch_paused"],
        &[
            "batch genomes is paused: two workers fail",
            "scitq-ctl batch resume genomes",
        ],
    ),
    (
        "pending",
        |it| it.workers.clear(),
        &["no_worker"],
        &["none has ever come", "scitq-worker"],
    ),
    (
        "pending",
        |it| {
            it.workers[0].batch = "other".to_owned();
            it.task.batch = "it's; rm -rf".to_owned();
        },
        &["no_worker"],
        &[
            "one works for other batches",
            r"worker update w1 --batch 'it'\''s; rm -rf'",
        ],
    ),
    (
        "pending",
        |it| {
            it.workers = vec![
                worker("w1", "genomes", "paused", (0, 2)),
                worker("w2", "genomes", "offline", (1, 2)),
                worker("w3", "genomes", "draining", (1, 2)),
            ];
            it.workers[0].pause_reason = Some("5 attempts in a row".to_owned());
        },
        &["workers_away", "workers_away", "workers_away"],
        &[
            "w1 is paused: 5 attempts in a row",
            "worker update w1 --resume",
            "last heard of at 2026-01-01 10:00:00 UTC",
            "worker lost w2",
            "w3 is draining",
        ],
    ),
    (
        "pending",
        |it| it.workers = vec![worker("w", "genomes", "offline", (0, 1)); 13],
        &["workers_away"; 11],
        &["3 workers of batch genomes more are away"],
    ),
    (
        "pending",
        |it| {
            it.workers.push(worker("w2", "genomes", "offline", (0, 2)));
            it.workers[0].running = 2;
            it.ahead = 12;
        },
        &["slots_taken", "others_first"],
        &[
            "all 2 slots of worker w1 are taken",
            "12 pending tasks of higher priority",
        ],
    ),
    (
        "pending",
        |it| it.ahead = 10_001,
        &["others_first"],
        &["more than 10000"],
    ),
    (
        "pending",
        |it| it.workers[0].concurrency = 0,
        &["slots_taken"],
        &["concurrency is 0", "--concurrency"],
    ),
    (
        "pending",
        |it| {
            it.newest = Some(execution(
                &json!({"status": "lost", "failure_detail": "silent past its lease"}),
            ));
        },
        &["tried_before"],
        &["execution 3 on worker w1, is lost: silent past its lease"],
    ),
    (
        "waiting",
        |it| {
            it.task.missing_requirements = 12;
            it.requirements = vec![(4, "running".to_owned()), (5, "failed".to_owned())];
        },
        &["waits_for_tasks", "requirement_failed"],
        &[
            "tasks 4 (running), 5 (failed) and 10 more",
            "task 5 (failed) will not succeed by itself",
        ],
    ),
    (
        "waiting",
        |it| {
            it.task.missing_requirements = 1;
            it.requirements = vec![(4, "running".to_owned())];
        },
        &["waits_for_tasks"],
        &["the success of task 4 (running)"],
    ),
    ("assigned", |_| {}, &["in_queue"], &["alone"]),
    (
        "assigned",
        |it| {
            it.batch = Some(batch(5));
            it.workers.push(worker("w2", "genomes", "running", (3, 3)));
            it.workers[0].running = 2;
        },
        &["in_queue", "slots_taken"],
        &["with 4 other tasks", "all 5 slots of 2 workers"],
    ),
    (
        "accepted",
        |it| {
            it.newest = Some(execution(&json!({"status": "accepted"})));
            it.workers[0].running = 2;
        },
        &["held_by_worker", "slots_taken"],
        &[
            "worker w1 holds it since 2026-01-01 09:00:01 UTC",
            "all 2 slots",
        ],
    ),
    (
        "accepted",
        |it| {
            it.newest = Some(execution(&json!({"status": "accepted"})));
            it.task.weight = 9;
        },
        &["held_by_worker", "slots_taken"],
        &["takes 2 of the 2 slots", "one execution there is running"],
    ),
    (
        "running",
        |it| it.newest = Some(execution(&json!({}))),
        &["runs"],
        &["runs on worker w1 since 2026-01-01 09:00:02 UTC"],
    ),
    (
        "running",
        |it| {
            it.newest = Some(execution(&json!({})));
            it.workers[0].status = "offline".to_owned();
            it.not_ready = vec!["the broker is away".to_owned()];
        },
        &["runs", "workers_away", "server_not_ready"],
        &["may still run", "the broker is away"],
    ),
    (
        "running",
        |it| {
            it.newest = Some(execution(&json!({})));
            it.task.uploading = true;
        },
        &["uploads"],
        &["output is being stored"],
    ),
    (
        "succeeded",
        |it| {
            it.newest = Some(execution(
                &json!({"exit_code": 0, "ended_at": "2026-01-01T10:00:00Z"}),
            ));
        },
        &["succeeded"],
        &["it has succeeded: execution 3 on worker w1 ended at 2026-01-01 10:00:00 UTC"],
    ),
    (
        "failed",
        |it| {
            it.task.retry = 2;
            it.newest = Some(execution(&json!({"exit_code": 3})));
            it.not_ready = vec!["it does not matter".to_owned()];
        },
        &["failed", "no_retries"],
        &["with exit code 3", "all its 2 retries are used"],
    ),
    (
        "failed",
        |it| it.newest = Some(execution(&json!({"failure_detail": "no such command"}))),
        &["failed", "no_retries"],
        &["no such command", "tried once"],
    ),
    ("paused", |_| {}, &["held"], &["until it is released"]),
    ("cancelled", |_| {}, &["cancelled"], &["been cancelled"]),
];

#[test]
fn each_status_is_explained() {
    for (status, change, codes, words) in CASES {
        let mut facts = facts(status);
        change(&mut facts);
        let explained = explain(&facts);
        let found: Vec<&str> = explained
            .reasons
            .iter()
            .map(|it| it.code.as_str())
            .collect();
        assert_eq!(found, *codes, "{explained:#?}");
        assert_eq!(explained.status, *status);
        let texts = explained.reasons.iter();
        let texts: Vec<String> = texts
            .flat_map(|it| [Some(it.text.clone()), it.remedy.clone()])
            .flatten()
            .collect();
        for wanted in *words {
            assert!(
                texts.iter().any(|text| text.contains(wanted)),
                "{wanted:?} is not said: {texts:#?}"
            );
        }
    }
}

#[test]
fn every_status_has_at_least_one_reason() {
    for status in TaskStatus::ALL {
        let mut bare = facts(status.as_str());
        for workers in [bare.workers.clone(), Vec::new()] {
            bare.workers = workers;
            assert!(!explain(&bare).reasons.is_empty(), "{status}");
        }
    }
}
