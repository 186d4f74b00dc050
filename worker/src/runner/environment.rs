//! The environment of a bare task: clean, and all of it documented here.
//!
//! | name | value |
//! | --- | --- |
//! | `PATH` | the worker's own, or the usual directories when it has none |
//! | `HOME` | the worker's own; with another user id that user's by `/etc/passwd`, else the work directory |
//! | `LANG` | the worker's own, or `C.UTF-8` |
//! | `INPUT` `OUTPUT` `RESOURCE` `TEMP` | directories of the attempt, without a trailing slash |
//! | `CPU` | cores divided by concurrency, at least 1 |
//! | `SCITQ_TASK_ID` `SCITQ_EXECUTION_ID` `SCITQ_BATCH` `SCITQ_WORKER` | ids and names, the execution as a UUID |
//!
//! The working directory is the attempt's work directory, which holds the four directories. Nothing else of the
//! worker's environment is passed on: a task must not depend on how its worker was started.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use scitq_shared::protocol::AttemptReport;

/// Used when the worker has no PATH.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the worker's own environment contributes.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    pub(crate) path: OsString,
    pub(crate) home: Option<OsString>,
    pub(crate) lang: OsString,
}

impl Base {
    /// Reads it from this process.
    pub(crate) fn of_this_process() -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            path: variable("PATH").unwrap_or_else(|| USUAL_PATH.into()),
            home: variable("HOME"),
            lang: variable("LANG").unwrap_or_else(|| "C.UTF-8".into()),
        }
    }
}

/// What an attempt adds.
pub(crate) struct Attempt<'a> {
    pub(crate) report: &'a AttemptReport,
    pub(crate) worker: &'a str,
    pub(crate) work_directory: &'a Path,
    /// Home of another user than the worker's own.
    pub(crate) home: Option<&'a OsStr>,
    pub(crate) cpu: u32,
}

/// All variables of a task.
pub(crate) fn environment(base: &Base, attempt: &Attempt<'_>) -> Vec<(&'static str, OsString)> {
    let directory = |name: &str| attempt.work_directory.join(name).into_os_string();
    let home = attempt
        .home
        .or(base.home.as_deref())
        .unwrap_or(attempt.work_directory.as_os_str());
    vec![
        ("PATH", base.path.clone()),
        ("HOME", home.to_owned()),
        ("LANG", base.lang.clone()),
        ("INPUT", directory("input")),
        ("OUTPUT", directory("output")),
        ("RESOURCE", directory("resource")),
        ("TEMP", directory("temp")),
        ("CPU", attempt.cpu.to_string().into()),
        ("SCITQ_TASK_ID", attempt.report.task.to_string().into()),
        (
            "SCITQ_EXECUTION_ID",
            attempt.report.attempt.to_string().into(),
        ),
        ("SCITQ_BATCH", attempt.report.batch.as_str().into()),
        ("SCITQ_WORKER", attempt.worker.into()),
    ]
}

/// Cores that each of so many tasks side by side may use, at least 1.
pub(crate) fn cpu(cores: u32, concurrency: u16) -> u32 {
    (cores / u32::from(concurrency.max(1))).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_shared_out() {
        for (cores, concurrency, expected) in
            [(8, 2, 4), (8, 3, 2), (2, 8, 1), (4, 0, 4), (1, 1, 1)]
        {
            assert_eq!(cpu(cores, concurrency), expected, "{cores} {concurrency}");
        }
    }
}
