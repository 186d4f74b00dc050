//! What a bare task finds around it.

use std::collections::BTreeMap;

use scitq_e2e::{Pair, Setup, System, WORKER};

on_both_pairs!(
    the_environment_is_clean_and_documented,
    a_task_leads_its_own_session,
    the_work_directory_is_its_own,
    other_users_when_root,
    nothing_is_left_of_a_task,
);

async fn text_of(system: &System, words: &[&str]) -> String {
    let task = system.launch(words.iter().copied()).await;
    system.succeeded(&[task]).await;
    String::from_utf8(system.output(task, "stdout").await).expect("text")
}

async fn the_environment_is_clean_and_documented(pair: Pair) {
    let system = pair.start_with(Setup::concurrency(1)).await;
    let task = system.launch(["--batch", "Default", "env", "-0"]).await;
    system.succeeded(&[task]).await;
    let output = String::from_utf8(system.output(task, "stdout").await).expect("text");
    let variables: BTreeMap<&str, &str> = output
        .split_terminator('\0')
        .map(|variable| variable.split_once('=').expect("a pair"))
        .collect();
    let names: Vec<&str> = variables.keys().copied().collect();
    assert_eq!(
        names,
        [
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
            "TEMP"
        ]
    );
    let execution = system.execution(task).await;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    for (name, expected) in [
        ("SCITQ_TASK_ID", task.to_string().as_str()),
        (
            "SCITQ_EXECUTION_ID",
            execution["attempt_id"].as_str().expect("a UUID"),
        ),
        ("SCITQ_BATCH", "Default"),
        ("SCITQ_WORKER", WORKER),
        ("CPU", cores.to_string().as_str()),
        ("LANG", "C.UTF-8"),
        ("HOME", system.directory().to_str().expect("text")),
    ] {
        assert_eq!(variables[name], expected, "{name}");
    }
    for name in ["INPUT", "OUTPUT", "RESOURCE", "TEMP"] {
        assert!(
            variables[name].starts_with('/') && !variables[name].ends_with('/'),
            "{name}: {}",
            variables[name]
        );
    }
}

async fn a_task_leads_its_own_session(pair: Pair) {
    let system = pair.start().await;
    let stat = text_of(
        &system,
        &["cut", "-d", " ", "-f", "1,5,6", "/proc/self/stat"],
    )
    .await;
    let numbers: Vec<&str> = stat.split_whitespace().collect();
    let [process, group, session] = numbers.as_slice() else {
        panic!("{stat}")
    };
    assert_eq!((process, process), (group, session), "{stat}");
    // Standard input is empty, and nothing but the three streams is open (3 is ls's own).
    assert_eq!(
        text_of(&system, &["readlink", "/proc/self/fd/0"]).await,
        "/dev/null\n"
    );
    assert_eq!(
        text_of(&system, &["ls", "/proc/self/fd"]).await,
        "0\n1\n2\n3\n"
    );
    // Signals work as usual; 32 and 33 are glibc's own, which its posix_spawn leaves ignored.
    let signals = text_of(
        &system,
        &["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"],
    )
    .await;
    for line in signals.lines() {
        let (_, mask) = line.split_once('\t').expect("a mask");
        let mask = u64::from_str_radix(mask, 16).expect("a mask");
        assert_eq!(mask & !0x1_8000_0000, 0, "{signals}");
    }
}

async fn the_work_directory_is_its_own(pair: Pair) {
    let system = pair.start().await;
    let script = "pwd -P; for d in \"$INPUT\" \"$OUTPUT\" \"$RESOURCE\" \"$TEMP\"; do \
                  test -d \"$d\" && touch \"$d/x\" && dirname \"$(cd \"$d\"; pwd -P)\" || exit 9; done; touch here; ls";
    let first = text_of(&system, &["--shell", script]).await;
    let second = text_of(&system, &["--shell", script]).await;
    let directory = |text: &str| text.lines().next().map(str::to_owned).expect("a line");
    assert_ne!(directory(&first), directory(&second));
    for text in [first, second] {
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1..5].iter().all(|line| *line == lines[0]), "{text}");
        assert_eq!(
            lines[5..],
            ["here", "input", "output", "resource", "temp"],
            "{text}"
        );
    }
}

async fn other_users_when_root(pair: Pair) {
    let system = pair.start().await;
    let launch = ["--uid", "65534", "--gid", "65533", "--shell"];
    let script = "id -u; id -g; id -G; touch mine \"$TEMP/mine\" && stat -c %u:%g mine";
    let task = system.launch(launch.iter().chain(&[script]).copied()).await;
    if rustix::process::getuid().is_root() {
        system.succeeded(&[task]).await;
        let output = String::from_utf8(system.output(task, "stdout").await).expect("text");
        assert_eq!(output, "65534\n65533\n65533\n65534:65533\n");
    } else {
        system.over(&[task]).await;
        let execution = system.execution(task).await;
        assert_eq!(execution["failure_reason"], "unsupported", "{execution}");
        let detail = execution["failure_detail"].as_str().expect("a text");
        assert!(detail.contains("root"), "{detail}");
    }
}

async fn nothing_is_left_of_a_task(pair: Pair) {
    let system = pair.start().await;
    // A process that a task leaves behind neither holds the task up nor stays.
    let text = text_of(&system, &["--shell", "sleep 1000 & echo $!; pwd"]).await;
    let lines: Vec<&str> = text.lines().collect();
    let process = std::path::Path::new("/proc").join(lines[0]);
    scitq_e2e::eventually("the process left behind is gone", || async {
        let state = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
        (state.is_empty() || state.contains(") Z ")).then_some(())
    })
    .await;
    scitq_e2e::eventually("the work directory is gone", || async {
        (!std::path::Path::new(lines[1]).exists()).then_some(())
    })
    .await;
}
