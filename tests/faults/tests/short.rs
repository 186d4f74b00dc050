//! The short form of `make faults`: each fault once, with few tasks.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long anything but the whole may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// The program as a user calls it.
fn faults(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scitq-faults"));
    command.args(arguments).stdin(Stdio::null());
    command
}

#[test]
fn every_fault_once() {
    let ran = faults(&["--short", "--lanes", "4", "-o", "json"])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
    let cases = report["cases"].as_array().unwrap();
    let with = |result: &str| cases.iter().filter(|case| case["result"] == result).count();
    eprintln!(
        "seed {}: {} passed, {} not run",
        report["seed"],
        with("passed"),
        with("not_run")
    );
    assert!(ran.status.success(), "{report:#}");
    assert!(with("passed") > 0, "{report:#}");
    // What passes has really done something to a system that worked.
    for case in cases.iter().filter(|case| case["result"] == "passed") {
        assert!(case["injected"].as_u64().unwrap() > 0, "{case:#}");
        assert!(case["tasks"].as_u64().unwrap() >= 12, "{case:#}");
    }
}

#[test]
fn mistakes_are_told() {
    let ran = faults(&["--only", "broker-kil"]).output().unwrap();
    assert_eq!(ran.status.code(), Some(2));
    let told = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(
        told.contains("there is no such case") && told.contains("broker-kill"),
        "{told}"
    );
    let listed = faults(&["--list"]).output().unwrap();
    assert!(listed.status.success());
    assert!(String::from_utf8_lossy(&listed.stdout).contains("worker-destroyed"));
}

/// What a process has in the directory of temporary files.
fn left_by(pid: u32) -> Vec<PathBuf> {
    let prefix = format!("scitq-test-{pid}-");
    let entries = fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    ours.map(|entry| entry.path()).collect()
}

#[test]
fn an_interrupt_leaves_nothing_behind() {
    let mut child = faults(&["--only", "network-cut"]).spawn().unwrap();
    let pid = child.id();
    let until = Instant::now() + PATIENCE;
    let under_way = || left_by(pid).iter().any(|path| path.join("ledger").exists());
    while !under_way() {
        assert!(Instant::now() < until, "no task starts");
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        sleep(Duration::from_millis(50));
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(left_by(pid), Vec::<PathBuf>::new());
    let mark = format!("scitq-test-{pid}-");
    for process in fs::read_dir("/proc").unwrap().flatten() {
        // Gone meanwhile, or not a process.
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        assert!(!command.contains(&mark), "{command}");
    }
}
