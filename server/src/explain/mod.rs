//! Why a task is where it is, in words: decided from what the database and this server know, without asking anybody.

mod words;

use scitq_shared::api::{BatchView, ExecutionView, Reason, TaskExplanation, TaskView, WorkerView};
use scitq_shared::task::TaskStatus;

use words::{count, shell, since, these};

/// As many tasks as are looked at of those that come before a pending one: more are "more than".
pub const MOST_AHEAD: u64 = 10_000;
/// As many requirements as are named.
pub const MOST_REQUIREMENTS: usize = 20;
/// As many workers as are told of one by one.
const MOST_WORKERS: usize = 10;

/// All that an explanation is made of.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The task.
    pub task: TaskView,
    /// Its batch; none when it is gone in this very moment.
    pub batch: Option<BatchView>,
    /// All workers.
    pub workers: Vec<WorkerView>,
    /// Some of the tasks that it waits for, with their statuses: at most [`MOST_REQUIREMENTS`].
    pub requirements: Vec<(i64, String)>,
    /// Its newest execution.
    pub newest: Option<ExecutionView>,
    /// How many pending tasks of its batch are dispatched before it, at most [`MOST_AHEAD`] and one.
    pub ahead: u64,
    /// What this server cannot reach, in words.
    pub not_ready: Vec<String>,
}

/// Explains the status of a task. There is at least one reason.
pub fn explain(facts: &Facts) -> TaskExplanation {
    let task = &facts.task;
    let mut reasons = match task.status.parse() {
        Ok(TaskStatus::Waiting) => waiting(facts),
        Ok(TaskStatus::Pending) => pending(facts),
        Ok(TaskStatus::Assigned) => assigned(facts),
        Ok(TaskStatus::Accepted) => accepted(facts),
        Ok(TaskStatus::Running) => running(facts),
        _ => over(facts),
    };
    let moves = task
        .status
        .parse()
        .is_ok_and(|status: TaskStatus| !status.is_final());
    if moves {
        let not_ready = facts.not_ready.iter();
        reasons.extend(not_ready.map(|what| reason("server_not_ready", what.clone())));
    }
    TaskExplanation {
        task_id: task.task_id,
        status: task.status.clone(),
        reasons,
    }
}

fn reason(code: &str, text: impl Into<String>) -> Reason {
    Reason {
        code: code.to_owned(),
        text: text.into(),
        remedy: None,
    }
}

fn with_remedy(code: &str, text: impl Into<String>, remedy: impl Into<String>) -> Reason {
    Reason {
        remedy: Some(remedy.into()),
        ..reason(code, text)
    }
}

fn waiting(facts: &Facts) -> Vec<Reason> {
    let missing = facts.task.missing_requirements;
    let named: Vec<String> = facts
        .requirements
        .iter()
        .map(|(id, status)| format!("{id} ({status})"))
        .collect();
    let more = usize::try_from(missing)
        .unwrap_or(0)
        .saturating_sub(named.len());
    let mut reasons = vec![reason(
        "waits_for_tasks",
        format!(
            "it waits for the success of {}",
            these("task", &named, more)
        ),
    )];
    let ended = |status: &str| {
        status
            .parse()
            .is_ok_and(|it: TaskStatus| it.is_final() && it != TaskStatus::Succeeded)
    };
    let ended: Vec<String> = facts
        .requirements
        .iter()
        .filter(|(_, status)| ended(status))
        .map(|(id, status)| format!("{id} ({status})"))
        .collect();
    if !ended.is_empty() {
        reasons.push(reason(
            "requirement_failed",
            format!(
                "{} will not succeed by itself: this one waits until it has",
                these("task", &ended, 0)
            ),
        ));
    }
    reasons
}

fn pending(facts: &Facts) -> Vec<Reason> {
    let mut reasons = paused_batch(facts);
    reasons.extend(places(facts));
    match facts.ahead {
        0 => {}
        more if more > MOST_AHEAD => reasons.push(reason(
            "others_first",
            format!("more than {MOST_AHEAD} pending tasks of higher priority, or submitted earlier, are dispatched before it"),
        )),
        ahead => reasons.push(reason(
            "others_first",
            format!("{} of higher priority, or submitted earlier, {} dispatched before it", count(ahead, "pending task"), if ahead == 1 { "is" } else { "are" }),
        )),
    }
    if let Some(last) = &facts.newest {
        let why = last
            .failure_detail
            .as_deref()
            .unwrap_or("it was given back");
        reasons.push(reason(
            "tried_before",
            format!(
                "its last attempt, execution {} on worker {}, is {}: {why}",
                last.execution_id, last.worker, last.status
            ),
        ));
    }
    if reasons.is_empty() {
        reasons.push(reason(
            "next",
            "nothing is in its way: it is dispatched next",
        ));
    }
    reasons
}

fn assigned(facts: &Facts) -> Vec<Reason> {
    let batch = &facts.task.batch;
    let queued = facts
        .batch
        .as_ref()
        .and_then(|it| it.tasks.get("assigned").copied())
        .unwrap_or(1);
    let others = u64::try_from(queued - 1).unwrap_or(0);
    let mut reasons = vec![reason(
        "in_queue",
        match others {
            0 => format!("it is in the queue of batch {batch}, alone: the next free slot takes it"),
            others => format!(
                "it is in the queue of batch {batch} with {}: workers take them in order as slots become free",
                count(others, "other task")
            ),
        },
    )];
    reasons.extend(places(facts));
    reasons
}

fn accepted(facts: &Facts) -> Vec<Reason> {
    let Some(held) = &facts.newest else {
        return vec![reason(
            "held_by_worker",
            "a worker holds it and has not started it",
        )];
    };
    let name = &held.worker;
    let mut reasons = vec![reason(
        "held_by_worker",
        format!(
            "worker {name} holds it since {} and has not started it",
            since(held.accepted_at)
        ),
    )];
    let Some(worker) = facts.workers.iter().find(|it| it.name == *name) else {
        return reasons;
    };
    if let Some(away) = away(worker) {
        reasons.push(away);
    } else if facts.task.weight > 1 {
        let weight = facts.task.weight.min(worker.concurrency);
        reasons.push(reason(
            "slots_taken",
            format!(
                "it takes {weight} of the {} slots of worker {name}; {} there {} running",
                worker.concurrency,
                count(u64::try_from(worker.running).unwrap_or(0), "execution"),
                if worker.running == 1 { "is" } else { "are" }
            ),
        ));
    } else {
        reasons.push(taken(
            worker.running,
            worker.concurrency.into(),
            &format!("worker {name}"),
        ));
    }
    reasons
}

fn running(facts: &Facts) -> Vec<Reason> {
    let Some(execution) = &facts.newest else {
        return vec![reason("runs", "it runs")];
    };
    let name = &execution.worker;
    let began = execution.started_at.unwrap_or(execution.accepted_at);
    let mut reasons = vec![if facts.task.uploading {
        reason(
            "uploads",
            format!("its process has ended on worker {name}; its output is being stored"),
        )
    } else {
        reason(
            "runs",
            format!("it runs on worker {name} since {}", since(began)),
        )
    }];
    let worker = facts.workers.iter().find(|it| it.name == *name);
    // A pause or a drain does not concern what runs.
    let silent =
        worker.filter(|it| !matches!(it.status.as_str(), "running" | "paused" | "draining"));
    reasons.extend(silent.and_then(away));
    reasons
}

fn over(facts: &Facts) -> Vec<Reason> {
    let status = facts.task.status.as_str();
    match (&facts.newest, status) {
        (_, "paused") => vec![reason(
            "held",
            "it is held: it is not dispatched until it is released",
        )],
        (_, "debug") => vec![reason(
            "held",
            "it is held for debugging: it is not dispatched",
        )],
        (None, _) => vec![reason(
            status,
            format!("it has {status}", status = past(status)),
        )],
        (Some(last), _) => {
            let ended = last.ended_at.map(|at| format!(" ended at {}", since(at)));
            let why = match (&last.failure_detail, last.exit_code) {
                (Some(detail), _) => format!(": {detail}"),
                (None, Some(code)) if code != 0 => format!(" with exit code {code}"),
                _ => String::new(),
            };
            let text = format!(
                "it has {}: execution {} on worker {}{}{why}",
                past(status),
                last.execution_id,
                last.worker,
                ended.unwrap_or_default()
            );
            let mut reasons = vec![reason(status, text)];
            if status == "failed" {
                let retry = facts.task.retry;
                reasons.push(reason(
                    "no_retries",
                    match retry {
                        0 => "it was to be tried once".to_owned(),
                        retry => format!(
                            "all its {} are used",
                            count(u64::try_from(retry).unwrap_or(0), "retry")
                        ),
                    },
                ));
            }
            reasons
        }
    }
}

fn past(status: &str) -> &str {
    match status {
        "cancelled" => "been cancelled",
        other => other,
    }
}

fn paused_batch(facts: &Facts) -> Vec<Reason> {
    let paused = facts.batch.as_ref().filter(|batch| batch.paused);
    let paused = paused.map(|batch| {
        let name = &batch.batch;
        let text = match &batch.pause_reason {
            Some(why) => format!("batch {name} is paused: {why}"),
            None => format!("batch {name} is paused"),
        };
        with_remedy(
            "batch_paused",
            text,
            format!("scitq-ctl batch resume {}", shell(name)),
        )
    });
    paused.into_iter().collect()
}

/// Why no worker of the batch takes it now; nothing when one has a free slot.
fn places(facts: &Facts) -> Vec<Reason> {
    let batch = &facts.task.batch;
    let ours: Vec<&WorkerView> = facts
        .workers
        .iter()
        .filter(|it| it.batch == *batch)
        .collect();
    if ours.is_empty() {
        let elsewhere = facts.workers.len() as u64;
        let (text, remedy) = match facts.workers.first() {
            None => (
                format!("there is no worker: none has ever come for batch {batch}"),
                "scitq-worker, on any machine that reaches the broker".to_owned(),
            ),
            Some(one) => (
                format!(
                    "no worker works for batch {batch}; {} for other batches",
                    if elsewhere == 1 {
                        "one works".to_owned()
                    } else {
                        format!("{elsewhere} work")
                    }
                ),
                format!(
                    "scitq-ctl worker update {} --batch {}",
                    shell(&one.name),
                    shell(batch)
                ),
            ),
        };
        return vec![with_remedy("no_worker", text, remedy)];
    }
    let (here, absent): (Vec<&WorkerView>, Vec<&WorkerView>) =
        ours.into_iter().partition(|it| it.status == "running");
    if here.is_empty() {
        let mut reasons: Vec<Reason> = absent
            .iter()
            .take(MOST_WORKERS)
            .filter_map(|it| away(it))
            .collect();
        let more = absent.len().saturating_sub(MOST_WORKERS) as u64;
        if more > 0 {
            reasons.push(reason(
                "workers_away",
                format!(
                    "{} of batch {batch} more {} away",
                    count(more, "worker"),
                    if more == 1 { "is" } else { "are" }
                ),
            ));
        }
        return reasons;
    }
    let slots: i64 = here.iter().map(|it| i64::from(it.concurrency)).sum();
    let busy: i64 = here
        .iter()
        .map(|it| it.running.min(it.concurrency.into()))
        .sum();
    if busy < slots {
        return Vec::new();
    }
    let whose = match here.as_slice() {
        [one] => format!("worker {}", one.name),
        all => format!("{} workers of batch {batch}", all.len()),
    };
    vec![taken(busy, slots, &whose)]
}

fn taken(busy: i64, slots: i64, whose: &str) -> Reason {
    if slots == 0 {
        return with_remedy(
            "slots_taken",
            format!("{whose} has no slots: its concurrency is 0"),
            "scitq-ctl worker update NAME --concurrency N",
        );
    }
    if busy < slots {
        return reason(
            "slots_taken",
            format!("{busy} of the {slots} slots of {whose} are taken: it starts in this moment"),
        );
    }
    let slots = u64::try_from(slots).unwrap_or(0);
    let text = match slots {
        1 => format!("the slot of {whose} is taken"),
        slots => format!("all {slots} slots of {whose} are taken"),
    };
    reason("slots_taken", text)
}

/// Why a worker takes nothing.
fn away(worker: &WorkerView) -> Option<Reason> {
    let name = &worker.name;
    let code = "workers_away";
    match worker.status.as_str() {
        "running" => None,
        "paused" => Some(with_remedy(
            code,
            match &worker.pause_reason {
                Some(why) => format!("worker {name} is paused: {why}"),
                None => format!("worker {name} is paused"),
            },
            format!("scitq-ctl worker update {} --resume", shell(name)),
        )),
        "draining" => Some(reason(
            code,
            format!("worker {name} is draining: it finishes what runs and takes nothing new"),
        )),
        "offline" => Some(with_remedy(
            code,
            match worker.lost_at {
                Some(at) => format!(
                    "worker {name} was declared lost at {}; what it ran is dispatched anew",
                    since(at)
                ),
                None => format!(
                    "worker {name} is offline: it was last heard of at {}, and what it runs may still run",
                    since(worker.last_contact_at)
                ),
            },
            match worker.lost_at {
                Some(_) => format!("start worker {name} again, or another one"),
                None => format!(
                    "start worker {name} again; if it is gone for good: scitq-ctl worker lost {}",
                    shell(name)
                ),
            },
        )),
        other => Some(reason(code, format!("worker {name} is {other}"))),
    }
}

#[cfg(test)]
mod tests;
