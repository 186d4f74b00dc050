//! Tasks outlive their agent (D10): real processes, killed and started again.

use std::collections::BTreeSet;

use rustix::process::Signal;
use scitq_shared::definition::TaskDefinition;
use scitq_shared::execution::{Exit, FailureReason, Outcome};
use scitq_shared::ids::{AttemptId, TaskId};
use scitq_shared::output::Stream;
use scitq_shared::protocol::{AttemptPhase, AttemptReport, ControlCommand, WorkerEvent};

use super::program::{Program, Yard, is_alive, own_program, processes_of, signal, until};
use super::server::{GATE, Heard, definition, script};

fn outcome(report: &AttemptReport) -> (FailureReason, &str) {
    match &report.outcome {
        Some(Outcome::Failed { reason, detail }) => (*reason, detail),
        other => panic!("{other:?}"),
    }
}

impl Yard {
    fn text(&self, attempt: AttemptId, stream: Stream) -> String {
        String::from_utf8(self.server.heard.lock().unwrap().text(attempt, stream)).unwrap()
    }

    fn starts(&self, task: TaskId) -> usize {
        let heard = self.server.heard.lock().unwrap();
        let starts = heard.reports("started");
        starts.iter().filter(|report| report.task == task).count()
    }
}

/// Says each line to both streams and appends it to a file beside the work directory, once a process.
const LINES: &str = "i=0; while test $i -lt 300; do i=$((i+1)); echo line $i; echo error $i >&2; sleep 0.01; done; \
                     echo $SCITQ_TASK_ID >> ../effects; exit 7";

#[tokio::test]
async fn a_task_goes_on_while_its_agent_is_killed_again_and_again() {
    let yard = Yard::new(2, 0).await;
    let mut program = yard.start(&[]);
    let task = yard.server.dispatch(script(LINES)).await;
    let begun = yard.server.until_begun(task).await;
    let processes = processes_of(begun.attempt);
    let keepers = yard.keepers();
    for hellos in 2..=4 {
        program.kill().await;
        assert!(processes.iter().any(|pid| is_alive(*pid)) || yard.path("work/effects").exists());
        program = yard.start(&[]);
        yard.server.until_hello(hellos).await;
    }
    assert_eq!(yard.keepers(), keepers, "one and the same keeper");
    let report = yard.server.until_applied(task).await;
    assert_eq!(report.attempt, begun.attempt);
    assert_eq!(report.exit, Some(Exit::Code(7)));
    assert_eq!(outcome(&report).0, FailureReason::ExitCode);
    assert!(report.ended_at.unwrap() > report.started_at.unwrap());
    let usage = report.usage.unwrap();
    assert!(
        usage.peak_memory_bytes > 0 && usage.user_cpu_ms + usage.system_cpu_ms > 0,
        "{usage:?}"
    );
    let lines = |word: &str| {
        let lines: Vec<String> = (1..=300).map(|i| format!("{word} {i}\n")).collect();
        lines.concat()
    };
    assert_eq!(yard.text(report.attempt, Stream::Stdout), lines("line"));
    assert_eq!(yard.text(report.attempt, Stream::Stderr), lines("error"));
    let effects = std::fs::read_to_string(yard.path("work/effects")).unwrap();
    assert_eq!(effects, format!("{task}\n"));
    assert_eq!(yard.starts(task), 1);
    std::fs::remove_file(yard.path("work/effects")).unwrap();
    yard.until_tidy(1).await;
    program.signal(Signal::TERM);
    assert!(program.ended().await.success());
    yard.until_tidy(0).await;
}

#[tokio::test]
async fn what_runs_is_in_the_inventory_takes_its_slot_and_obeys_the_next_agent() {
    let yard = Yard::new(1, 0).await;
    let program = yard.start(&[]);
    let task = yard
        .server
        .dispatch(script("echo begun; exec sleep 1000"))
        .await;
    let begun = yard.server.until_begun(task).await;
    program.kill().await;
    let program = yard.start(&[]);
    let hello = |heard: &Heard| {
        let mut hellos = heard
            .events
            .iter()
            .filter_map(|message| match &message.event {
                WorkerEvent::Hello(hello) if hello.boots == 2 => Some(hello.inventory.clone()),
                _ => None,
            });
        hellos.next_back()
    };
    let inventory = yard.server.until("the second hello", hello).await;
    assert!(
        matches!(inventory[..], [item] if item.attempt == begun.attempt && item.phase == AttemptPhase::Running),
        "{inventory:?}"
    );
    // The one slot is taken.
    let next = yard.server.dispatch(definition("true")).await;
    let ended = yard.server.dispatch(definition("true")).await;
    let attempts = vec![begun.attempt];
    yard.server.tell(ControlCommand::Stop { attempts }).await;
    let report = yard.server.until_applied(task).await;
    assert_eq!(report.exit, Some(Exit::Signal(9)));
    assert_eq!(outcome(&report).0, FailureReason::Cancelled);
    for later in [next, ended] {
        let later = yard.server.until_applied(later).await;
        assert!(
            later.started_at.unwrap() >= report.ended_at.unwrap(),
            "it waited for the slot"
        );
    }
    drop(program);
}

#[tokio::test]
async fn what_ended_without_an_agent_is_reported_as_it_ended() {
    let yard = Yard::new(3, 0).await;
    let program = yard.start(&[]);
    let mut tasks = Vec::new();
    for ending in ["exit 3", "kill -SEGV $$", "echo said; true"] {
        let task = yard
            .server
            .dispatch(script(&format!("{GATE}{ending}")))
            .await;
        tasks.push(task);
    }
    let mut attempts = Vec::new();
    for task in &tasks {
        attempts.push(yard.server.until_begun(*task).await.attempt);
    }
    program.kill().await;
    yard.open_gate();
    until(|| {
        attempts
            .iter()
            .all(|attempt| processes_of(*attempt).is_empty())
    })
    .await
    .unwrap();
    let gone = scitq_shared::now();
    // Also its keeper may be gone by then: the ends are in the journals.
    let mut keepers = yard.keepers();
    assert_eq!(keepers.len(), 1);
    signal(keepers.remove(0), Signal::KILL);
    let _program = yard.start(&[]);
    let exits = [Exit::Code(3), Exit::Signal(11), Exit::Code(0)];
    for (task, exit) in tasks.iter().zip(exits) {
        let report = yard.server.until_applied(*task).await;
        assert_eq!(report.exit, Some(exit));
        assert_eq!(report.outcome, Some(Outcome::of_exit(exit)));
        assert!(
            report.ended_at.unwrap() <= gone,
            "the time of its end, not of its report"
        );
        assert!(report.usage.is_some());
        assert_eq!(yard.starts(*task), 1);
    }
    assert_eq!(yard.text(attempts[2], Stream::Stdout), "begun\nsaid\n");
    yard.until_tidy(1).await;
}

#[tokio::test]
async fn an_agent_killed_in_the_middle_of_many_short_tasks_runs_none_twice() {
    let yard = Yard::new(8, 8).await;
    let mut program = yard.start(&[]);
    // The server of this test dispatches nothing anew: what is returned or given back stays out.
    let mut tasks = BTreeSet::new();
    for round in 1..=6 {
        for _ in 0..60 {
            let text = "echo $SCITQ_TASK_ID; echo $SCITQ_TASK_ID >> ../effects";
            tasks.insert(yard.server.dispatch(script(text)).await);
        }
        let some = |heard: &Heard| (heard.count("ended") >= round * 20).then_some(());
        yard.server.until("some ends", some).await;
        program.kill().await;
        program = yard.start(&[]);
        yard.server.until_hello(round + 1).await;
    }
    let settled = |heard: &Heard| {
        let mut open = tasks.clone();
        for message in &heard.events {
            match &message.event {
                WorkerEvent::Ended(report) if heard.applied.contains(&report.attempt) => {
                    open.remove(&report.task);
                }
                WorkerEvent::Released { report, .. } => drop(open.remove(&report.task)),
                WorkerEvent::Returned { task, .. } => drop(open.remove(task)),
                _ => {}
            }
        }
        open.is_empty().then_some(())
    };
    yard.server.until("all are settled", settled).await;
    let effects = std::fs::read_to_string(yard.path("work/effects")).unwrap();
    let ran: Vec<&str> = effects.lines().collect();
    let once: BTreeSet<&str> = ran.iter().copied().collect();
    assert_eq!(ran.len(), once.len(), "none ran twice");
    {
        let heard = yard.server.heard.lock().unwrap();
        let ended = heard.reports("ended");
        let of = |reason: FailureReason| {
            let with = |report: &&AttemptReport| matches!(&report.outcome, Some(Outcome::Failed { reason: found, .. }) if *found == reason);
            ended.iter().filter(with).count()
        };
        assert_eq!(
            of(FailureReason::AgentRestarted),
            0,
            "the keeper lived all the time"
        );
        for report in &ended {
            assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
            let said = heard.text(report.attempt, Stream::Stdout);
            assert_eq!(
                String::from_utf8(said).unwrap(),
                format!("{}\n", report.task)
            );
        }
        let succeeded: BTreeSet<String> =
            ended.iter().map(|report| report.task.to_string()).collect();
        let ran: BTreeSet<String> = once.iter().map(ToString::to_string).collect();
        assert_eq!(succeeded, ran, "each effect is in the history");
        // Some of what waited was given back, which is no loss.
        eprintln!(
            "{} of {} ran, {} returned",
            ran.len(),
            tasks.len(),
            heard.count("returned")
        );
    }
    std::fs::remove_file(yard.path("work/effects")).unwrap();
    yard.until_tidy(1).await;
}

#[tokio::test]
async fn a_killed_keeper_costs_the_attempts_it_had_and_no_more() {
    let yard = Yard::new(2, 0).await;
    let program = yard.start(&[]);
    let text = "echo begun; sleep 1000 & env -i sleep 1000 & sleep 1000";
    let task = yard.server.dispatch(script(text)).await;
    let attempt = yard.server.until_begun(task).await.attempt;
    until(|| processes_of(attempt).len() == 3).await.unwrap();
    let keepers = yard.keepers();
    // With the agent alive.
    signal(keepers[0], Signal::KILL);
    let report = yard.server.until_applied(task).await;
    assert_eq!((report.attempt, report.exit), (attempt, None));
    let (reason, detail) = outcome(&report);
    assert!(
        reason == FailureReason::AgentRestarted && detail.contains("keeper"),
        "{detail}"
    );
    until(|| processes_of(attempt).is_empty()).await.unwrap();
    assert_eq!(yard.text(attempt, Stream::Stdout), "begun\n");
    // Another one is made for what follows.
    let next = yard.server.dispatch(definition("echo next")).await;
    yard.server.until_applied(next).await;
    assert!(!yard.keepers().contains(&keepers[0]));

    // And with both gone.
    let task = yard.server.dispatch(script(text)).await;
    let attempt = yard.server.until_begun(task).await.attempt;
    program.kill().await;
    signal(yard.keepers()[0], Signal::KILL);
    assert!(!processes_of(attempt).is_empty());
    let _program = yard.start(&[]);
    let report = yard.server.until_applied(task).await;
    assert_eq!(outcome(&report).0, FailureReason::AgentRestarted);
    until(|| processes_of(attempt).is_empty()).await.unwrap();
    yard.until_tidy(1).await;
}

#[tokio::test]
async fn what_a_stopped_keeper_had_not_claimed_is_given_back_and_never_runs() {
    let yard = Yard::new(2, 0).await;
    let program = yard.start(&[]);
    let first = yard.server.dispatch(script(GATE)).await;
    let running = yard.server.until_begun(first).await.attempt;
    let keeper = yard.keepers()[0];
    signal(keeper, Signal::STOP);
    let task = yard.server.dispatch(script("echo $$ >> ../effects")).await;
    let announced = |heard: &Heard| {
        heard
            .reports("started")
            .into_iter()
            .find(|it| it.task == task)
    };
    let attempt = yard
        .server
        .until("its announced start", announced)
        .await
        .attempt;
    // Handed over, for all that the agent can do about it: its directory is complete.
    let journal = yard.path(&format!("state/attempts/{attempt}/journal.unclaimed"));
    until(|| std::fs::metadata(&journal).is_ok_and(|it| it.len() > 0))
        .await
        .unwrap();
    until(|| yard.path(&format!("work/{attempt}/temp")).exists())
        .await
        .unwrap();
    program.kill().await;
    let program = yard.start(&[]);
    let released = |heard: &Heard| {
        heard
            .reports("released")
            .into_iter()
            .find(|it| it.task == task)
    };
    let report = yard.server.until("its return", released).await;
    assert_eq!((report.attempt, report.started_at), (attempt, None));
    // The keeper wakes with the order of the first agent in its ears.
    signal(keeper, Signal::CONT);
    yard.open_gate();
    let report = yard.server.until_applied(first).await;
    assert_eq!(
        (report.attempt, report.outcome),
        (running, Some(Outcome::Succeeded))
    );
    let next = yard.server.dispatch(definition("true")).await;
    yard.server.until_applied(next).await;
    assert!(!yard.path("work/effects").exists(), "it never ran");
    yard.until_tidy(1).await;
    drop(program);
}

#[tokio::test]
async fn a_replaced_program_keeps_its_old_keeper_for_what_runs_there() {
    let yard = Yard::new(2, 0).await;
    // The same program in another file is another program.
    let (old, new) = (yard.path("worker"), yard.path("worker.new"));
    std::fs::copy(own_program(), &old).unwrap();
    std::fs::copy(own_program(), &new).unwrap();
    let program = Program::start(yard.command(&old));
    let task = yard
        .server
        .dispatch(script(&format!("{GATE} exit 5")))
        .await;
    let attempt = yard.server.until_begun(task).await.attempt;
    let first = yard.keepers();
    program.kill().await;
    std::fs::rename(&new, &old).unwrap();
    let program = Program::start(yard.command(&old));
    yard.server.until_hello(2).await;
    let other = yard
        .server
        .dispatch(script("echo begun; cut -d' ' -f4 /proc/$$/stat"))
        .await;
    let report = yard.server.until_applied(other).await;
    let parent = yard.text(report.attempt, Stream::Stdout);
    let parent: i32 = parent.lines().nth(1).unwrap().parse().unwrap();
    assert!(!first.contains(&parent), "a keeper of the new program");
    assert_eq!(yard.keepers().len(), 2);
    yard.open_gate();
    let report = yard.server.until_applied(task).await;
    assert_eq!(
        (report.attempt, report.exit),
        (attempt, Some(Exit::Code(5)))
    );
    program.signal(Signal::TERM);
    assert!(program.ended().await.success());
    yard.until_tidy(0).await;
}

#[tokio::test]
async fn a_restart_on_purpose_is_the_same_process_with_the_new_program() {
    let yard = Yard::new(1, 1).await;
    let (file, new) = (yard.path("worker"), yard.path("worker.new"));
    std::fs::copy(own_program(), &file).unwrap();
    std::fs::copy(own_program(), &new).unwrap();
    let program = Program::start(yard.command(&file));
    let task = yard
        .server
        .dispatch(script(&format!("{GATE} echo after")))
        .await;
    let attempt = yard.server.until_begun(task).await.attempt;
    let waiting = yard.server.dispatch(definition("true")).await;
    let accepted = |heard: &Heard| {
        heard
            .reports("accepted")
            .into_iter()
            .find(|it| it.task == waiting)
    };
    yard.server.until("one waits", accepted).await;
    std::fs::rename(&new, &file).unwrap();
    let inode =
        |path: &std::path::Path| std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
    let running = format!("/proc/{}/exe", program.pid());
    let running = std::path::Path::new(&running);
    assert_ne!(inode(running), inode(&file));
    yard.server.tell(ControlCommand::Restart { boots: 1 }).await;
    yard.server.until_hello(2).await;
    assert_eq!(
        inode(running),
        inode(&file),
        "the same process, the new program"
    );
    let released = |heard: &Heard| {
        heard
            .reports("released")
            .into_iter()
            .find(|it| it.task == waiting)
    };
    yard.server
        .until("what waited was given back", released)
        .await;
    // A request for an earlier start has been met.
    yard.server.tell(ControlCommand::Restart { boots: 1 }).await;
    yard.open_gate();
    let report = yard.server.until_applied(task).await;
    assert_eq!(
        (report.attempt, report.outcome),
        (attempt, Some(Outcome::Succeeded))
    );
    assert_eq!(yard.text(attempt, Stream::Stdout), "begun\nafter\n");

    // A program that cannot run is not put in its place.
    let broken = yard.path("worker.broken");
    std::fs::write(&broken, "\u{7f}ELF, but no more").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&broken, mode).unwrap();
    std::fs::rename(&broken, &file).unwrap();
    yard.server.tell(ControlCommand::Restart { boots: 2 }).await;
    // What comes before it is tried is given back.
    let settled = |heard: &Heard, next: TaskId| {
        let of = |kind: &str| {
            heard
                .reports(kind)
                .into_iter()
                .any(|report| report.task == next)
        };
        (of("ended") || of("released")).then(|| of("ended"))
    };
    loop {
        let next = yard.server.dispatch(definition("echo still here")).await;
        if yard
            .server
            .until("a task or its return", |heard| settled(heard, next))
            .await
        {
            break;
        }
    }
    assert_eq!(yard.server.heard.lock().unwrap().count("hello"), 2);
    drop(program);
}

#[tokio::test]
async fn a_worker_that_is_told_to_leave_leaves_what_runs() {
    let yard = Yard::new(1, 1).await;
    let leave = [("SCITQ_WORKER_DRAIN_TIMEOUT", "0")];
    let program = yard.start(&leave);
    let task = yard
        .server
        .dispatch(script(&format!("{GATE} echo after; exit 4")))
        .await;
    let attempt = yard.server.until_begun(task).await.attempt;
    let waiting = yard.server.dispatch(definition("true")).await;
    let accepted = |heard: &Heard| {
        heard
            .reports("accepted")
            .into_iter()
            .find(|it| it.task == waiting)
    };
    yard.server.until("one waits", accepted).await;
    program.signal(Signal::TERM);
    assert!(program.ended().await.success());
    let released = |heard: &Heard| (heard.count("released") == 1).then_some(());
    yard.server
        .until("what waited is given back", released)
        .await;
    assert_eq!(
        yard.server.heard.lock().unwrap().count("goodbye"),
        0,
        "something runs"
    );
    assert_eq!(yard.keepers().len(), 1);
    let program = yard.start(&leave);
    yard.server.until_hello(2).await;
    yard.open_gate();
    let report = yard.server.until_applied(task).await;
    assert_eq!(
        (report.attempt, report.exit),
        (attempt, Some(Exit::Code(4)))
    );
    assert_eq!(yard.text(attempt, Stream::Stdout), "begun\nafter\n");
    // With nothing left it is a proper end.
    yard.until_tidy(1).await;
    program.signal(Signal::TERM);
    assert!(program.ended().await.success());
    assert_eq!(yard.server.heard.lock().unwrap().count("goodbye"), 1);
    yard.until_tidy(0).await;
}

#[tokio::test]
async fn a_worker_that_is_told_to_stop_after_a_while_asks_tasks_to_end() {
    let yard = Yard::new(1, 0).await;
    let program = yard.start(&[
        ("SCITQ_WORKER_DRAIN_TIMEOUT", "0"),
        ("SCITQ_WORKER_ON_DRAIN_TIMEOUT", "stop"),
    ]);
    let text = "trap 'echo asked; exit 0' TERM; echo begun; while true; do sleep 0.05; done";
    let task = yard.server.dispatch(script(text)).await;
    let attempt = yard.server.until_begun(task).await.attempt;
    program.signal(Signal::TERM);
    assert!(program.ended().await.success());
    let report = yard.server.until_applied(task).await;
    assert_eq!(report.exit, Some(Exit::Code(0)));
    let (reason, detail) = outcome(&report);
    assert!(
        reason == FailureReason::AgentRestarted && detail.contains("stopped"),
        "{detail}"
    );
    assert_eq!(yard.text(attempt, Stream::Stdout), "begun\nasked\n");
    yard.until_tidy(0).await;
}

#[tokio::test]
async fn signals_let_tasks_end_and_a_second_one_ends_them() {
    let yard = Yard::new(2, 0).await;
    let program = yard.start(&[]);
    let task = yard.server.dispatch(script(GATE)).await;
    yard.server.until_begun(task).await;
    program.signal(Signal::TERM);
    yard.open_gate();
    assert!(program.ended().await.success());
    let report = yard.server.until_applied(task).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded));

    let program = yard.start(&[]);
    let task = yard.server.dispatch(script("echo begun; sleep 1000")).await;
    let attempt = yard.server.until_begun(task).await.attempt;
    program.signal(Signal::INT);
    program.signal(Signal::TERM);
    assert!(program.ended().await.success());
    yard.server.until_ended(task).await;
    assert!(processes_of(attempt).is_empty());
    yard.until_tidy(0).await;
}

#[tokio::test]
async fn a_closed_terminal_and_an_agents_group_take_no_task_with_them() {
    let yard = Yard::new(1, 0).await;
    let program = yard.start(&[]);
    let task = yard
        .server
        .dispatch(script(&format!("{GATE} exit 6")))
        .await;
    let attempt = yard.server.until_begun(task).await.attempt;
    let group = rustix::process::Pid::from_raw(program.pid()).unwrap();
    rustix::process::kill_process_group(group, Signal::KILL).unwrap();
    program.ended().await;
    for asked in [Signal::HUP, Signal::INT, Signal::TERM] {
        signal(yard.keepers()[0], asked);
    }
    let _program = yard.start(&[]);
    yard.server.until_hello(2).await;
    yard.open_gate();
    let report = yard.server.until_applied(task).await;
    assert_eq!(
        (report.attempt, report.exit),
        (attempt, Some(Exit::Code(6)))
    );
}

#[tokio::test]
async fn tasks_of_other_users_and_long_paths_are_adopted_as_well() {
    let parent = tempfile::Builder::new()
        .prefix(&"x".repeat(120))
        .tempdir()
        .unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(parent.path(), open).unwrap();
    // Sockets have addresses of 108 bytes.
    let yard = Yard::below(parent.path(), 1, 0).await;
    let program = yard.start(&[]);
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("not as root: no other users are tried");
    }
    let definition = TaskDefinition {
        uid: root.then_some(65_534),
        gid: root.then_some(65_534),
        ..script(
            "echo begun; id -u; cat /proc/$$/oom_score_adj; while ! test -e go; do sleep 0.05; done",
        )
    };
    let task = yard.server.dispatch(definition).await;
    let attempt = yard.server.until_begun(task).await.attempt;
    program.kill().await;
    let _program = yard.start(&[]);
    yard.server.until_hello(2).await;
    std::fs::write(yard.path(&format!("work/{attempt}/go")), "").unwrap();
    let report = yard.server.until_applied(task).await;
    assert_eq!(
        (report.attempt, report.outcome.clone()),
        (attempt, Some(Outcome::Succeeded))
    );
    let text = yard.text(attempt, Stream::Stdout);
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let user = if root {
        65_534
    } else {
        rustix::process::geteuid().as_raw()
    };
    assert_eq!(text, format!("begun\n{user}\n{own}"));
    yard.until_tidy(1).await;
}
