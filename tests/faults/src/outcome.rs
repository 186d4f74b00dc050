//! What came of a case.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use scitq_shared::api::ExecutionView;
use serde::Serialize;

use crate::acceptance::Accepted;
use crate::judge::Verdict;
use crate::strike::Struck;

/// One case, as it is reported.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Outcome {
    pub(crate) case: String,
    /// Whether it was run, and how it ended.
    pub(crate) result: Ended,
    /// How often something was done to the system.
    pub(crate) injected: usize,
    pub(crate) tasks: usize,
    /// Tasks that did not succeed or had no effect.
    pub(crate) lost: usize,
    /// Tasks that had their effect more than once.
    pub(crate) doubled: usize,
    /// Attempts that were declared lost.
    pub(crate) declared_lost: usize,
    /// How many attempts ran when a fault began, on average.
    pub(crate) running_then: Option<f64>,
    /// Seconds from the end of a fault to the first task that ended after it, the longest one.
    pub(crate) first_task_seconds: Option<f64>,
    /// Seconds from the end of the last fault until the server knew that the series was over.
    pub(crate) series_seconds: Option<f64>,
    /// How long all of it took.
    pub(crate) took_seconds: f64,
    pub(crate) strikes: Vec<Struck>,
    /// What is wrong, or why it was not run.
    pub(crate) findings: Vec<String>,
    /// Where the logs of a failed one are.
    pub(crate) logs: Option<PathBuf>,
}

/// How a case ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ended {
    Passed,
    #[default]
    Failed,
    /// This machine does not allow it.
    NotRun,
}

impl Outcome {
    /// Takes over what was found about tasks.
    pub(crate) fn judged(&mut self, verdict: Verdict) {
        self.lost += verdict.lost;
        self.doubled += verdict.doubled;
        self.declared_lost += verdict.declared_lost;
        self.findings.extend(verdict.findings);
    }

    /// Takes over the faults, and reckons how long it took to recover from them.
    pub(crate) fn struck(&mut self, strikes: Vec<Struck>, accepted: &Accepted) {
        let executions = &accepted.executions;
        self.injected = strikes.len();
        self.running_then = running_then(&strikes, executions);
        let first = strikes
            .iter()
            .filter_map(|it| first_after(it.ended_at, executions));
        self.first_task_seconds = first.reduce(f64::max);
        let last_fault = strikes.iter().map(|it| it.ended_at).max();
        self.series_seconds = last_fault.map(|fault| seconds(fault, accepted.over_at).max(0.0));
        self.strikes = strikes;
    }

    /// Decides how it ended.
    pub(crate) fn decide(&mut self) {
        self.result = if self.findings.is_empty() {
            Ended::Passed
        } else {
            Ended::Failed
        };
    }
}

fn seconds(from: DateTime<Utc>, to: DateTime<Utc>) -> f64 {
    (to - from).as_seconds_f64()
}

fn first_after(moment: DateTime<Utc>, executions: &[ExecutionView]) -> Option<f64> {
    let ended = executions
        .iter()
        .filter(|it| it.status == "succeeded")
        .filter_map(|it| it.ended_at);
    ended
        .filter(|end| *end >= moment)
        .min()
        .map(|end| seconds(moment, end))
}

fn running_then(strikes: &[Struck], executions: &[ExecutionView]) -> Option<f64> {
    let runs = |strike: &Struck, it: &ExecutionView| {
        it.started_at.is_some_and(|start| start <= strike.began_at)
            && it.ended_at.is_none_or(|end| end > strike.began_at)
    };
    let counts = strikes
        .iter()
        .map(|strike| executions.iter().filter(|it| runs(strike, it)).count());
    let sum: usize = counts.sum();
    #[expect(clippy::cast_precision_loss, reason = "numbers of tasks are small")]
    let mean = sum as f64 / strikes.len() as f64;
    (!strikes.is_empty()).then_some(mean)
}
