//! What a task finds, and what is found out about it.

use scitq_shared::definition::TaskDefinition;
use scitq_shared::execution::{Exit, FailureReason, Outcome};

use super::server::{definition, script};
use super::site::{NAME, Site};

fn failure(outcome: Option<Outcome>) -> (FailureReason, String) {
    match outcome {
        Some(Outcome::Failed { reason, detail }) => (reason, detail),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_task_runs_and_nothing_is_left_of_it() {
    let site = Site::start(1, 0).await;
    let (report, stdout, stderr) = site.server.run(definition("echo 'Hello world!'")).await;
    assert_eq!(
        (stdout.as_slice(), stderr.as_slice()),
        (&b"Hello world!\n"[..], &b""[..])
    );
    assert_eq!(
        (report.outcome, report.exit),
        (Some(Outcome::Succeeded), Some(Exit::Code(0)))
    );
    let (accepted, started, ended) = (
        report.accepted_at,
        report.started_at.unwrap(),
        report.ended_at.unwrap(),
    );
    assert!(
        accepted <= started && started <= ended,
        "{accepted} {started} {ended}"
    );
    assert!(report.usage.unwrap().peak_memory_bytes > 0);
    site.until_kept(0).await;
    let kinds: Vec<&str> = site
        .server
        .heard
        .lock()
        .unwrap()
        .events
        .iter()
        .map(|message| message.event.kind())
        .collect();
    assert_eq!(kinds, ["hello", "started", "ended"]);
}

#[tokio::test]
async fn the_environment_is_clean_and_as_documented() {
    let site = Site::start(1, 0).await;
    let (report, stdout, _) = site.server.run(definition("env -0")).await;
    let text = String::from_utf8(stdout).unwrap();
    let mut variables: Vec<(&str, &str)> = text
        .split_terminator('\0')
        .map(|variable| variable.split_once('=').unwrap())
        .collect();
    variables.sort_unstable();
    let names: Vec<&str> = variables.iter().map(|(name, _)| *name).collect();
    let documented = [
        "CPU",
        "HOME",
        "INPUT",
        "LANG",
        "OUTPUT",
        "PATH",
        "RESOURCE",
        "SCITQ_BATCH",
        "SCITQ_EXECUTION_ID",
        "SCITQ_TASK_ID",
        "SCITQ_WORKER",
        "TEMP",
    ];
    assert_eq!(names, documented);
    let value = |name: &str| {
        variables
            .iter()
            .find(|(known, _)| *known == name)
            .unwrap()
            .1
            .to_owned()
    };
    let work = site
        .work()
        .canonicalize()
        .unwrap()
        .join(report.attempt.to_string());
    for (name, inner) in [
        ("INPUT", "input"),
        ("OUTPUT", "output"),
        ("RESOURCE", "resource"),
        ("TEMP", "temp"),
    ] {
        assert_eq!(value(name), work.join(inner).to_str().unwrap());
    }
    assert_eq!(value("SCITQ_EXECUTION_ID"), report.attempt.to_string());
    assert_eq!(value("SCITQ_TASK_ID"), report.task.to_string());
    assert_eq!(
        (value("SCITQ_BATCH"), value("SCITQ_WORKER")),
        ("Default".to_owned(), NAME.to_owned())
    );
    assert!(value("CPU").parse::<u32>().unwrap() >= 1);
}

#[tokio::test]
async fn words_reach_the_process_byte_for_byte() {
    let site = Site::start(1, 0).await;
    let words = [
        "printf",
        r"%s\0",
        "",
        "a b",
        "'\"",
        "$HOME `x` $(y) *",
        "\u{e9}\n\t",
        r"back\slash",
    ];
    let (_, stdout, _) = site
        .server
        .run(definition(&scitq_shared::command::join(words)))
        .await;
    assert_eq!(stdout, format!("{}\0", words[2..].join("\0")).into_bytes());
    let (_, stdout, _) = site
        .server
        .run(definition(r"printf '%s' $'\xff\xfe'"))
        .await;
    assert_eq!(stdout, b"\xff\xfe");
}

#[tokio::test]
async fn a_shell_reads_the_command_only_when_asked() {
    let site = Site::start(1, 0).await;
    let (_, stdout, _) = site
        .server
        .run(definition("echo a | cat; echo $PATH"))
        .await;
    assert_eq!(stdout, b"a | cat; echo $PATH\n");
    let (_, stdout, stderr) = site.server.run(script("echo a | tr a b; echo c >&2")).await;
    assert_eq!(
        (stdout.as_slice(), stderr.as_slice()),
        (&b"b\n"[..], &b"c\n"[..])
    );
    let bash = TaskDefinition {
        shell: Some("/bin/bash".to_owned()),
        ..definition("echo a{1,2}")
    };
    let (report, stdout, _) = site.server.run(bash).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded));
    assert_eq!(stdout, b"a1 a2\n");
}

#[tokio::test]
async fn bytes_are_captured_as_they_are() {
    let site = Site::start(1, 0).await;
    let (_, stdout, stderr) = site
        .server
        .run(script(
            r"printf 'a\0b\377\376 no newline'; printf '\n\n' >&2",
        ))
        .await;
    assert_eq!(
        (stdout.as_slice(), stderr.as_slice()),
        (&b"a\0b\xff\xfe no newline"[..], &b"\n\n"[..])
    );
    let (_, stdout, _) = site
        .server
        .run(script("head -c 300000 /dev/zero | tr '\\0' x"))
        .await;
    assert!(
        stdout.len() == 300_000 && stdout.iter().all(|byte| *byte == b'x'),
        "one line longer than a chunk"
    );
}

#[tokio::test]
async fn a_task_leads_its_own_session_without_input_and_other_files() {
    let site = Site::start(1, 0).await;
    let (_, stdout, stderr) = site
        .server
        .run(script(
            "cut -d' ' -f1,5,6 /proc/$$/stat; cat; for f in /proc/$$/fd/*; do test -e $f && open=\"$open ${f##*/}\"; done; echo $open; pwd",
        ))
        .await;
    let text = String::from_utf8(stdout).unwrap();
    let (ids, rest) = text.split_once('\n').unwrap();
    let ids: Vec<&str> = ids.split(' ').collect();
    assert!(
        ids[0] == ids[1] && ids[1] == ids[2],
        "process, group and session are one: {ids:?} {stderr:?}"
    );
    let (files, directory) = rest.trim_end().split_once("\n/").unwrap();
    assert_eq!(files, "0 1 2");
    assert!(
        std::path::Path::new("/")
            .join(directory)
            .starts_with(site.work().canonicalize().unwrap()),
        "{directory}"
    );
    // No signal is ignored or blocked, whatever the worker does with its own (Rust ignores SIGPIPE).
    // 32 and 33 are the C library's own, which posix_spawn leaves ignored.
    let (_, stdout, _) = site
        .server
        .run(definition("grep -E ^Sig(Blk|Ign) /proc/self/status"))
        .await;
    let status = String::from_utf8(stdout).unwrap();
    let sets: Vec<u64> = status
        .split_whitespace()
        .filter_map(|word| u64::from_str_radix(word, 16).ok())
        .collect();
    assert_eq!(
        sets.iter().map(|set| set & !(3 << 31)).collect::<Vec<_>>(),
        [0, 0],
        "{status}"
    );
}

#[tokio::test]
async fn exits_and_signals_are_told_apart() {
    let site = Site::start(1, 0).await;
    let (report, _, _) = site.server.run(script("exit 37")).await;
    assert_eq!(report.exit, Some(Exit::Code(37)));
    assert_eq!(failure(report.outcome).0, FailureReason::ExitCode);
    let (report, _, _) = site.server.run(script("kill -SEGV $$")).await;
    assert_eq!(report.exit, Some(Exit::Signal(11)));
    let (reason, detail) = failure(report.outcome);
    assert!(
        reason == FailureReason::Signal && detail.contains("SEGV"),
        "{detail}"
    );
}

#[tokio::test]
async fn what_cannot_be_executed_says_why() {
    let site = Site::start(1, 0).await;
    let file = |name: &str, content: &str, mode: u32| {
        use std::os::unix::fs::PermissionsExt as _;
        let path = site.directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let plain = file("plain", "#!/bin/sh\n", 0o644);
    let nothing = file("nothing", "not a program", 0o755);
    let bad_interpreter = file("bad", "#!/no/such/interpreter\n", 0o755);
    let table = [
        (
            "no-such-program-here".to_owned(),
            FailureReason::CommandNotFound,
            "no-such-program-here",
        ),
        (
            "./missing x".to_owned(),
            FailureReason::CommandNotFound,
            "./missing",
        ),
        (plain, FailureReason::NotExecutable, "x permission"),
        ("/".to_owned(), FailureReason::NotExecutable, "directory"),
        (nothing, FailureReason::NotExecutable, "interpreter line"),
        (bad_interpreter, FailureReason::StartFailed, "interpreter"),
        (
            "echo 'unbalanced".to_owned(),
            FailureReason::StartFailed,
            "never closed",
        ),
        (
            format!("echo {}", "x".repeat(200_000)),
            FailureReason::StartFailed,
            "longer than the system allows",
        ),
    ];
    for (command, reason, words) in table {
        let (report, _, _) = site.server.run(definition(&command)).await;
        let (found, detail) = failure(report.outcome);
        assert!(
            found == reason && detail.contains(words),
            "{command:.60}: {found} {detail}"
        );
        assert_eq!(report.exit, None);
    }
    let shell = TaskDefinition {
        shell: Some("no-such-shell".to_owned()),
        ..definition("true")
    };
    let (report, _, _) = site.server.run(shell).await;
    assert_eq!(failure(report.outcome).0, FailureReason::CommandNotFound);
    site.until_kept(0).await;
    // The worker goes on.
    assert_eq!(
        site.server.run(definition("true")).await.0.outcome,
        Some(Outcome::Succeeded)
    );
}

#[tokio::test]
async fn what_is_not_offered_is_failed_rather_than_run_without_it() {
    let site = Site::start(1, 0).await;
    let base = || definition("echo must not run");
    let table = [
        TaskDefinition {
            container: Some("debian".to_owned()),
            ..base()
        },
        TaskDefinition {
            input: vec!["s3://a/b".to_owned()],
            ..base()
        },
        TaskDefinition {
            output: Some("s3://a/b/".to_owned()),
            ..base()
        },
        TaskDefinition {
            resource: vec!["s3://a/b".to_owned()],
            ..base()
        },
    ];
    for definition in table {
        let (report, stdout, _) = site.server.run(definition).await;
        assert_eq!(failure(report.outcome).0, FailureReason::Unsupported);
        assert!(stdout.is_empty() && report.started_at.is_none());
    }
    assert_eq!(site.server.heard.lock().unwrap().count("started"), 0);
}

#[tokio::test]
async fn what_a_task_leaves_in_its_group_is_killed_with_it() {
    let site = Site::start(1, 0).await;
    let (report, stdout, _) = site.server.run(script("sleep 1000 & echo $!")).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded));
    let pid = String::from_utf8(stdout).unwrap();
    // Killed, and perhaps waited for already by whoever adopts orphans.
    ended(pid.trim()).await;
}

/// Waits until a process has ended that is no child of ours: the kernel says so by its descriptor.
async fn ended(pid: &str) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    let Ok(process) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
        return;
    };
    let waiting = tokio::task::spawn_blocking(move || {
        let deadline = Timespec {
            tv_sec: 60,
            tv_nsec: 0,
        };
        poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&deadline))
    });
    assert_eq!(waiting.await.unwrap(), Ok(1), "the process has ended");
}

#[tokio::test]
async fn work_directories_are_clean_and_removed() {
    let site = Site::start(1, 0).await;
    let (_, stdout, _) = site
        .server
        .run(script("ls; touch $OUTPUT/a b; mkdir -p c/d && chmod 0 c/d"))
        .await;
    assert_eq!(stdout, b"input\noutput\nresource\ntemp\n");
    for command in [
        "ls -A . input output resource temp",
        "touch x; exit 1",
        "ls -A",
    ] {
        site.server.run(script(command)).await;
    }
    let (_, stdout, _) = site.server.run(script("find . | sort")).await;
    assert_eq!(stdout, b".\n./input\n./output\n./resource\n./temp\n");
}

#[tokio::test]
async fn user_and_group_are_taken_where_the_worker_is_root() {
    let site = Site::start(1, 0).await;
    let task = TaskDefinition {
        uid: Some(65_534),
        gid: Some(65_533),
        ..script(
            "id -u; id -g; id -G; touch $OUTPUT/x . && echo $HOME >> /dev/stdout; cut -d' ' -f1,6 /proc/$$/stat; for f in /proc/$$/fd/*; do test -e $f && open=\"$open ${f##*/}\"; done; echo $open",
        )
    };
    let (report, stdout, stderr) = site.server.run(task).await;
    let stdout = String::from_utf8(stdout).unwrap();
    if rustix::process::geteuid().is_root() {
        assert_eq!(
            report.outcome,
            Some(Outcome::Succeeded),
            "{}",
            String::from_utf8_lossy(&stderr)
        );
        let lines: Vec<&str> = stdout.lines().collect();
        assert_eq!(lines[..3], ["65534", "65533", "65533"]);
        assert_eq!(lines[3], "/nonexistent");
        let (pid, session) = lines[4].split_once(' ').unwrap();
        assert_eq!(pid, session);
        assert_eq!(lines[5].trim(), "0 1 2");
        let signals = TaskDefinition {
            uid: Some(65_534),
            ..definition("grep -E ^SigBlk /proc/self/status")
        };
        let (_, stdout, _) = site.server.run(signals).await;
        assert_eq!(stdout, b"SigBlk:\t0000000000000000\n");
        let bad = TaskDefinition {
            uid: Some(65_534),
            ..definition("no-such-program")
        };
        assert_eq!(
            failure(site.server.run(bad).await.0.outcome).0,
            FailureReason::CommandNotFound
        );
    } else {
        let (reason, detail) = failure(report.outcome);
        assert!(
            reason == FailureReason::Unsupported && detail.contains("root"),
            "{detail}"
        );
    }
}

#[tokio::test]
async fn what_outlives_its_task_writes_into_no_other_tasks_output() {
    let site = Site::start(1, 0).await;
    // It leaves the process group, and so the reach of the worker; its output stays open.
    // Its own directory is removed under it: it looks for the sign to stop by the whole path.
    let (pid, stop) = (site.work().join("pid"), site.work().join("stop"));
    let outliving = format!(
        "setsid sh -c 'echo $$ > {0}; while ! test -e {1}; do echo late; sleep 0.01; done' & \
         while ! test -s {0}; do sleep 0.01; done",
        pid.display(),
        stop.display()
    );
    let (first, _, _) = site.server.run(script(&outliving)).await;
    assert_eq!(first.outcome, Some(Outcome::Succeeded));
    for _ in 0..5 {
        let (_, stdout, stderr) = site.server.run(script("sleep 0.1; echo mine; ls")).await;
        assert_eq!(
            String::from_utf8(stdout).unwrap(),
            "mine\ninput\noutput\nresource\ntemp\n"
        );
        assert!(stderr.is_empty());
    }
    let pid = std::fs::read_to_string(&pid).unwrap();
    std::fs::write(&stop, "").unwrap();
    ended(pid.trim()).await;
}

#[tokio::test]
async fn what_runs_for_longer_than_it_may_is_ended_and_says_so() {
    let site = Site::start(2, 0).await;
    let limited = |text: &str| TaskDefinition {
        run_timeout_seconds: Some(1),
        ..script(text)
    };
    let obeys = "trap 'echo asked; exit 0' TERM; echo begun; while true; do sleep 0.05; done";
    let (report, said, _) = site.server.run(limited(obeys)).await;
    assert_eq!(report.exit, Some(Exit::Code(0)));
    let (reason, detail) = failure(report.outcome);
    assert_eq!(reason, FailureReason::Timeout);
    assert!(detail.contains("run timeout of 1 s"), "{detail}");
    assert_eq!(said, b"begun\nasked\n");
    // One that is in time is left alone.
    let (report, _, _) = site.server.run(limited("exit 3")).await;
    assert_eq!(failure(report.outcome).0, FailureReason::ExitCode);
}
