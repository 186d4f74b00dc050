//! The short form of `make faults`: each fault once, with few tasks.

use std::process::{Command, Stdio};

use serde_json::Value;

/// Where the results are told when the test is asked what it did.
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
