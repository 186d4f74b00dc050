//! What a task of a series does: `task.sh`, and what it must have written.

use std::fmt::Write as _;

use scitq_shared::output::Stream;

/// The script that every task runs.
pub(crate) const SCRIPT: &str = include_str!("task.sh");

/// What the two streams begin and end with when there is anything on them: bytes that are no text, and no line end.
const BEGIN: &[u8] = b"\0\xff\x80\r";
const END: &[u8] = b"end";

/// When a task's effect happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Before all else: every start shows.
    First,
    /// When all else has been done: an attempt that fails has had no effect.
    Last,
}

impl Effect {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Last => "last",
        }
    }
}

/// How many lines a task writes to a stream. The same in `task.sh`.
fn lines(task: i64, stream: Stream) -> i64 {
    let salt = match stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
    };
    let mixed = (task * 2_654_435_761 + salt * 40_503) % 1_000_003;
    let (class, rest) = (mixed % 100, mixed / 100);
    match class {
        0..30 => 0,
        30..75 => 1 + rest % 40,
        75..95 => 200 + rest % 1800,
        _ => 8000 + rest % 8000,
    }
}

/// What a task writes to a stream.
pub(crate) fn output(task: i64, stream: Stream) -> Vec<u8> {
    let word = match stream {
        Stream::Stdout => "out",
        Stream::Stderr => "err",
    };
    let lines = lines(task, stream);
    if lines == 0 {
        return Vec::new();
    }
    let mut text = String::new();
    for line in 1..=lines {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{task} {word} {line:08}");
    }
    [BEGIN, text.as_bytes(), END].concat()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_script_writes_what_is_expected() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("task.sh"), SCRIPT).unwrap();
        let mut sizes = Vec::new();
        for task in 1..=60 {
            let effect = if task % 2 == 0 {
                Effect::First
            } else {
                Effect::Last
            };
            let ran = Command::new("sh")
                .arg(path("task.sh"))
                .args([path("ledger"), path("ended")])
                .args([effect.word(), "0"])
                .env("SCITQ_TASK_ID", task.to_string())
                .output()
                .unwrap();
            assert!(ran.status.success(), "{ran:?}");
            assert!(ran.stdout == output(task, Stream::Stdout), "task {task}");
            assert!(ran.stderr == output(task, Stream::Stderr), "task {task}");
            sizes.push(ran.stdout.len());
        }
        assert!(
            sizes.contains(&0) && sizes.iter().any(|size| *size > 100_000),
            "{sizes:?}"
        );
        let ids: Vec<String> = (1..=60).map(|task| format!("{task}\n")).collect();
        for file in ["ledger", "ended"] {
            assert_eq!(std::fs::read_to_string(path(file)).unwrap(), ids.concat());
        }
    }
}
