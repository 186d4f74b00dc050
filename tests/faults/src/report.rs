//! The table at the end.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::outcome::{Ended, Outcome};

/// Everything that was tried by one call.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) cases: Vec<Outcome>,
}

impl Report {
    /// How many cases failed.
    pub(crate) fn failed(&self) -> usize {
        self.count(Ended::Failed)
    }

    fn count(&self, result: Ended) -> usize {
        self.cases
            .iter()
            .filter(|outcome| outcome.result == result)
            .count()
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header([
            "fault",
            "result",
            "times",
            "tasks",
            "lost",
            "doubled",
            "declared lost",
            "running then",
            "first task after",
            "series after",
            "took",
        ]);
        for outcome in &self.cases {
            table.add_row(row(outcome));
        }
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut text = format!("{table}\n");
        for outcome in &self.cases {
            for finding in &outcome.findings {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{}: {finding}", outcome.case);
            }
            if let Some(logs) = &outcome.logs {
                let _ = writeln!(
                    text,
                    "{}: logs are kept in {}",
                    outcome.case,
                    logs.display()
                );
            }
        }
        let (passed, not_run) = (self.count(Ended::Passed), self.count(Ended::NotRun));
        let _ = write!(
            text,
            "seed {}: {passed} passed, {} failed, {not_run} not run",
            self.seed,
            self.failed()
        );
        text
    }
}

fn row(outcome: &Outcome) -> Vec<String> {
    let result = match outcome.result {
        Ended::Passed => "passed",
        Ended::Failed => "FAILED",
        Ended::NotRun => "not run",
    };
    let seconds =
        |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |it| format!("{it:.1} s"));
    let mut row = vec![outcome.case.clone(), result.to_owned()];
    if outcome.result == Ended::NotRun {
        return row;
    }
    row.extend([
        outcome.injected.to_string(),
        outcome.tasks.to_string(),
        outcome.lost.to_string(),
        outcome.doubled.to_string(),
        outcome.declared_lost.to_string(),
        outcome
            .running_then
            .map_or_else(|| "-".to_owned(), |it| format!("{it:.1}")),
        seconds(outcome.first_task_seconds),
        seconds(outcome.series_seconds),
        seconds(Some(outcome.took_seconds)),
    ]);
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_tells_what_failed_and_how_to_repeat_it() {
        let passed = Outcome {
            case: "worker-stop".to_owned(),
            result: Ended::Passed,
            tasks: 300,
            ..Outcome::default()
        };
        let failed = Outcome {
            case: "broker-kill".to_owned(),
            findings: vec!["task 7 has an effect; it had none".to_owned()],
            logs: Some("/tmp/kept".into()),
            ..Outcome::default()
        };
        let waiting = Outcome {
            case: "worker-kill".to_owned(),
            result: Ended::NotRun,
            ..Outcome::default()
        };
        let report = Report {
            seed: 7,
            cases: vec![passed, failed, waiting],
        };
        let text = report.text();
        for part in [
            "FAILED",
            "broker-kill: task 7 has an effect; it had none",
            "broker-kill: logs are kept in /tmp/kept",
            "seed 7: 1 passed, 1 failed, 1 not run",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(report.failed(), 1);
    }
}
