//! What must be true after a series, decided from what was found.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use scitq_shared::api::ExecutionView;

use crate::task::Effect;

/// How many of the same kind of finding are told one by one.
const TOLD: usize = 5;

/// What was found after a series.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    /// All tasks that were submitted.
    pub(crate) tasks: Vec<i64>,
    /// Number of tasks by status, as the server tells it.
    pub(crate) by_status: BTreeMap<String, i64>,
    /// Every effect, in order.
    pub(crate) ledger: Vec<i64>,
    /// Every execution.
    pub(crate) executions: Vec<ExecutionView>,
}

/// What it comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Tasks that did not succeed or had no effect.
    pub(crate) lost: usize,
    /// Tasks that had their effect more than once.
    pub(crate) doubled: usize,
    /// Attempts that were declared lost: each may have doubled an effect.
    pub(crate) declared_lost: usize,
    /// What is wrong: what was expected, and what was found.
    pub(crate) findings: Vec<String>,
}

/// What a series may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Attempts may fail (and be repeated) only where the effect comes last.
    pub(crate) effect: Effect,
    /// Whether a task may have its effect once more for each of its attempts that was declared lost: only where a worker
    /// was really destroyed. Elsewhere declaring a running attempt lost is itself the defect.
    pub(crate) workers_destroyed: bool,
}

impl Rules {
    /// Every effect once.
    pub(crate) const ONCE: Self = Self {
        effect: Effect::First,
        workers_destroyed: false,
    };
}

/// Judges a series.
pub(crate) fn judge(evidence: &Evidence, rules: Rules) -> Verdict {
    let mut told = Findings::default();
    let tasks: BTreeSet<i64> = evidence.tasks.iter().copied().collect();
    if tasks.len() != evidence.tasks.len() {
        told.add(
            "submitted",
            "a task was created twice or a key was mistaken for another's",
        );
    }
    let wanted = BTreeMap::from([(
        "succeeded".to_owned(),
        i64::try_from(tasks.len()).unwrap_or(i64::MAX),
    )]);
    if evidence.by_status != wanted {
        let found = &evidence.by_status;
        told.add(
            "status",
            format!("all {} tasks succeed; by status: {found:?}", tasks.len()),
        );
    }

    let mut effects: BTreeMap<i64, usize> = BTreeMap::new();
    for id in &evidence.ledger {
        if tasks.contains(id) {
            *effects.entry(*id).or_default() += 1;
        } else {
            told.add(
                "ledger",
                format!("task {id} had an effect and was never submitted"),
            );
        }
    }
    let mut attempts: BTreeMap<i64, Vec<&ExecutionView>> = BTreeMap::new();
    for execution in &evidence.executions {
        if tasks.contains(&execution.task_id) {
            attempts
                .entry(execution.task_id)
                .or_default()
                .push(execution);
        } else {
            told.add(
                "history",
                format!(
                    "execution {} is of a task that nobody submitted",
                    execution.execution_id
                ),
            );
        }
    }

    let mut verdict = Verdict::default();
    for task in &tasks {
        let attempts = attempts.get(task).map_or(&[][..], Vec::as_slice);
        let with = |status: &str| attempts.iter().filter(|it| it.status == status).count();
        let (succeeded, lost) = (with("succeeded"), with("lost"));
        let started = attempts.iter().filter(|it| it.started_at.is_some()).count();
        let effects = effects.get(task).copied().unwrap_or(0);
        verdict.declared_lost += lost;
        verdict.lost += usize::from(effects == 0 || succeeded == 0);
        verdict.doubled += usize::from(effects > 1);
        if effects == 0 {
            told.add(
                "no effect",
                format!("task {task} has an effect; it had none"),
            );
        }
        let allowed = 1 + if rules.workers_destroyed { lost } else { 0 };
        if effects > allowed {
            told.add(
                "doubled",
                format!("task {task} has its effect {allowed} times at most; it had it {effects} times, with {lost} attempts declared lost ({})", history(attempts)),
            );
        }
        if effects > started {
            told.add(
                "history",
                format!("the history of task {task} tells of every start; {effects} happened, {started} are told ({})", history(attempts)),
            );
        }
        if succeeded != 1 {
            told.add(
                "succeeded",
                format!(
                    "task {task} succeeds by one execution; it did by {succeeded} ({})",
                    history(attempts)
                ),
            );
        }
        for attempt in attempts {
            if let Err(finding) = check_attempt(attempt, rules.effect) {
                told.add(
                    "execution",
                    format!(
                        "execution {} of task {task} {finding}",
                        attempt.execution_id
                    ),
                );
            }
        }
    }
    verdict.findings = told.all();
    verdict
}

/// One execution by itself.
fn check_attempt(attempt: &ExecutionView, effect: Effect) -> Result<(), String> {
    match attempt.status.as_str() {
        "succeeded" if !attempt.output_complete => {
            Err("has succeeded, but its output is not complete".to_owned())
        }
        "succeeded" if attempt.ended_at < attempt.started_at || attempt.started_at.is_none() => {
            Err(format!(
                "runs from {:?} to {:?}",
                attempt.started_at, attempt.ended_at
            ))
        }
        "succeeded" | "released" | "lost" | "cancelled" => Ok(()),
        "failed" if effect == Effect::Last => Ok(()),
        status => Err(format!(
            "is {status} ({}: {})",
            attempt.failure_reason.as_deref().unwrap_or("no reason"),
            attempt.failure_detail.as_deref().unwrap_or("no detail")
        )),
    }
}

fn history(attempts: &[&ExecutionView]) -> String {
    if attempts.is_empty() {
        return "no execution".to_owned();
    }
    let words = attempts
        .iter()
        .map(|it| format!("{} on {}", it.status, it.worker));
    words.collect::<Vec<_>>().join(", ")
}

/// Findings by kind, of which only the first few are told.
#[derive(Debug, Default)]
pub(crate) struct Findings(BTreeMap<&'static str, (Vec<String>, usize)>);

impl Findings {
    pub(crate) fn add(&mut self, kind: &'static str, finding: impl Display) {
        let (told, more) = self.0.entry(kind).or_default();
        if told.len() < TOLD {
            told.push(finding.to_string());
        } else {
            *more += 1;
        }
    }

    pub(crate) fn all(self) -> Vec<String> {
        let mut all = Vec::new();
        for (kind, (told, more)) in self.0 {
            all.extend(told);
            if more > 0 {
                all.push(format!("… and {more} more of the same kind ({kind})"));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn execution(id: i64, task: i64, status: &str) -> ExecutionView {
        let started = (status != "released").then_some("2026-01-01T00:00:00Z");
        serde_json::from_value(json!({
            "execution_id": id, "attempt_id": "a", "task_id": task, "batch": "Default", "worker": "w1",
            "incarnation": "i", "dispatch_id": "d", "epoch": 1, "revision": 1, "status": status,
            "uploading": false, "latest": true, "command": "true", "shell": null, "container": null,
            "container_options": null, "input": [], "output": null, "resource": [],
            "queued_at": "2026-01-01T00:00:00Z", "accepted_at": "2026-01-01T00:00:00Z",
            "started_at": started, "ended_at": "2026-01-01T00:00:01Z", "exit_code": 0, "signal": null,
            "failure_reason": null, "failure_detail": null, "user_cpu_ms": null, "system_cpu_ms": null,
            "peak_memory_bytes": null, "memory_source": null, "stdout_bytes": 0, "stderr_bytes": 0,
            "stdout_cut": null, "stderr_cut": null, "output_complete": true
        }))
        .unwrap()
    }

    const DESTROYED: Rules = Rules {
        workers_destroyed: true,
        ..Rules::ONCE
    };
    const LAST: Rules = Rules {
        effect: Effect::Last,
        ..DESTROYED
    };

    /// Three tasks; the second one was released once, the third one lost once after its effect.
    fn sound() -> Evidence {
        Evidence {
            tasks: vec![1, 2, 3],
            by_status: BTreeMap::from([("succeeded".to_owned(), 3)]),
            ledger: vec![1, 3, 2, 3],
            executions: vec![
                execution(1, 1, "succeeded"),
                execution(2, 2, "released"),
                execution(3, 2, "succeeded"),
                execution(4, 3, "lost"),
                execution(5, 3, "succeeded"),
            ],
        }
    }

    #[test]
    fn a_sound_series_is_accepted() {
        let verdict = judge(&sound(), DESTROYED);
        assert_eq!(verdict.findings, Vec::<String>::new());
        assert_eq!(
            (verdict.lost, verdict.doubled, verdict.declared_lost),
            (0, 1, 1)
        );
    }

    #[test]
    fn a_lost_attempt_excuses_nothing_where_no_worker_was_destroyed() {
        let findings = judge(&sound(), Rules::ONCE).findings;
        assert!(
            findings.len() == 1 && findings[0].contains("task 3 has its effect 1 times at most"),
            "{findings:?}"
        );
    }

    /// A change for the worse, and words of what must be found.
    type Breach = (fn(&mut Evidence), &'static str);

    #[test]
    fn everything_that_is_wrong_is_found() {
        let breaches: &[Breach] = &[
            (
                |it| it.ledger.retain(|id| *id != 1),
                "task 1 has an effect; it had none",
            ),
            (|it| it.ledger.push(2), "it had it 2 times"),
            (|it| it.ledger.push(3), "2 times at most; it had it 3 times"),
            (
                |it| it.ledger.push(9),
                "task 9 had an effect and was never submitted",
            ),
            (|it| it.tasks.push(3), "created twice"),
            (
                |it| {
                    it.by_status =
                        BTreeMap::from([("succeeded".to_owned(), 2), ("failed".to_owned(), 1)]);
                },
                "all 3 tasks",
            ),
            (
                |it| it.executions.push(execution(6, 1, "succeeded")),
                "task 1 succeeds by one execution; it did by 2",
            ),
            (
                |it| it.executions.retain(|e| e.task_id != 1),
                "no execution",
            ),
            (
                |it| it.executions.push(execution(6, 9, "succeeded")),
                "of a task that nobody submitted",
            ),
            (
                |it| it.executions[0].output_complete = false,
                "output is not complete",
            ),
            (
                |it| {
                    it.executions[0].ended_at = it.executions[0]
                        .started_at
                        .map(|t| t - chrono::TimeDelta::seconds(1));
                },
                "runs from",
            ),
            (
                |it| it.executions.push(execution(6, 1, "failed")),
                "is failed",
            ),
            (
                |it| it.executions.push(execution(6, 1, "running")),
                "is running",
            ),
            (
                |it| it.executions.retain(|e| e.status != "lost"),
                "it had it 2 times",
            ),
        ];
        for (breach, words) in breaches {
            let mut evidence = sound();
            breach(&mut evidence);
            let findings = judge(&evidence, DESTROYED).findings;
            assert!(
                findings.iter().any(|it| it.contains(words)),
                "{words}: {findings:#?}"
            );
        }
    }

    #[test]
    fn attempts_may_fail_only_before_an_effect_that_comes_last() {
        let mut evidence = sound();
        evidence.executions.push(execution(6, 1, "failed"));
        assert_eq!(judge(&evidence, LAST).findings, Vec::<String>::new());
        evidence.ledger.push(1);
        assert!(!judge(&evidence, LAST).findings.is_empty());
    }

    #[test]
    fn many_of_a_kind_are_summed_up() {
        let mut findings = Findings::default();
        for number in 0..20 {
            findings.add("kind", number);
        }
        findings.add("other", "x");
        let all = findings.all();
        assert_eq!(all.len(), TOLD + 2);
        assert_eq!(all[TOLD], "… and 15 more of the same kind (kind)");
    }
}
