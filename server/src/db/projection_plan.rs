//! What a projection comes to for each task and each attempt.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use scitq_shared::execution::{Exit, Outcome};
use scitq_shared::ids::{AttemptId, ExecutionId, TaskId};
use scitq_shared::output::StreamEnd;
use scitq_shared::transition::AttemptState;

use super::rows::AttemptRow;
use super::task_state::attempt_word;
use super::value::{number, text, time_text};
use super::{AttemptChange, DbError, Loaded, TaskChange};

fn refused(reason: String) -> DbError {
    DbError::Refused { reason }
}

/// Joins the changes of each task into one. Refuses what does not follow from where the task stands.
pub(super) fn tasks(
    loaded: &Loaded,
    changes: Vec<TaskChange>,
) -> Result<BTreeMap<TaskId, TaskChange>, DbError> {
    let mut joined: BTreeMap<TaskId, TaskChange> = BTreeMap::new();
    for change in changes {
        let stands = match (joined.get(&change.task), loaded.tasks.get(&change.task)) {
            (Some(before), _) => before.to,
            (None, Some(task)) => task.state,
            (None, None) => {
                return Err(refused(format!(
                    "task {} was to change and is not there",
                    change.task
                )));
            }
        };
        if stands != change.from {
            return Err(refused(format!(
                "task {} was to leave {:?}, but is in {stands:?}",
                change.task, change.from
            )));
        }
        match joined.entry(change.task) {
            Entry::Vacant(entry) => {
                entry.insert(change);
            }
            Entry::Occupied(mut entry) => {
                let before = entry.get_mut();
                before.to = change.to;
                before.retries_left = change.retries_left;
                before.meet_requirements |= change.meet_requirements;
                before.moved_by = change.moved_by.or(before.moved_by);
            }
        }
    }
    Ok(joined)
}

/// Joins the changes of each attempt into one row, later ones over earlier ones. Left out is what cannot be written: an
/// attempt without a report that is not known, and one whose task is not there.
pub(super) fn attempts(
    loaded: &Loaded,
    changes: &[AttemptChange],
) -> Result<BTreeMap<AttemptId, AttemptRow>, DbError> {
    let mut rows: BTreeMap<AttemptId, AttemptRow> = BTreeMap::new();
    for change in changes {
        if change.state == AttemptState::Unknown {
            return Err(refused(format!(
                "attempt {} was to become unknown",
                change.attempt
            )));
        }
        let known = loaded.attempts.get(&change.attempt);
        let task = known
            .map(|known| known.task)
            .or(change.report.as_ref().map(|report| report.task));
        if task.is_none_or(|task| !loaded.tasks.contains_key(&task)) {
            continue;
        }
        let row = row(change);
        match rows.entry(change.attempt) {
            Entry::Vacant(entry) => {
                entry.insert(row);
            }
            Entry::Occupied(mut entry) => overlay(entry.get_mut(), row),
        }
    }
    Ok(rows)
}

/// The execution that a changed task shows as its newest: that of the attempt which moved it, or had its dispatch.
pub(super) fn execution_of(
    change: &TaskChange,
    rows: &BTreeMap<AttemptId, AttemptRow>,
    ids: &BTreeMap<AttemptId, ExecutionId>,
) -> Option<ExecutionId> {
    let named = change
        .to
        .attempt()
        .or(change.moved_by)
        .or(change.from.attempt());
    let attempt = named.or_else(|| {
        let dispatch = change.from.dispatch()?.to_string();
        let fits = |row: &AttemptRow| {
            row.task_id == Some(change.task.0)
                && row.dispatch_id.as_deref() == Some(dispatch.as_str())
        };
        rows.iter()
            .find(|(_, row)| fits(row))
            .map(|(attempt, _)| *attempt)
    })?;
    ids.get(&attempt).copied()
}

fn row(change: &AttemptChange) -> AttemptRow {
    let report = change.report.as_ref();
    let outcome = match report.and_then(|report| report.outcome.as_ref()) {
        Some(Outcome::Failed { reason, detail }) => Some((*reason, detail.as_str())),
        Some(Outcome::Succeeded) | None => None,
    };
    let failure = change
        .failure
        .as_ref()
        .map(|(reason, detail)| (*reason, detail.as_str()))
        .or(outcome);
    let exit = report.and_then(|report| report.exit);
    let usage = report.and_then(|report| report.usage);
    let stdout = report
        .and_then(|report| report.stdout)
        .or_else(|| silent(change));
    let stderr = report
        .and_then(|report| report.stderr)
        .or_else(|| silent(change));
    let cut = |end: Option<StreamEnd>| end.and_then(|end| end.cut);
    AttemptRow {
        attempt_id: change.attempt.to_string(),
        state: attempt_word(change.state),
        task_id: report.map(|report| report.task.0),
        batch: report.map(|report| text(report.batch.as_str())),
        worker: text(change.worker.as_str()),
        incarnation: change.incarnation.to_string(),
        dispatch_id: report.map(|report| report.dispatch.to_string()),
        epoch: report.map(|report| report.dispatch_epoch.0),
        revision: report.map(|report| report.revision.0),
        announced_sequence: number(change.announced_sequence),
        queued_at: report.map(|report| time_text(report.queued_at)),
        accepted_at: report.map(|report| time_text(report.accepted_at)),
        started_at: report.and_then(|report| report.started_at).map(time_text),
        ended_at: report.and_then(|report| report.ended_at).map(time_text),
        exit_code: exit.and_then(|exit| {
            if let Exit::Code(code) = exit {
                Some(code)
            } else {
                None
            }
        }),
        signal: exit.and_then(|exit| {
            if let Exit::Signal(signal) = exit {
                Some(signal)
            } else {
                None
            }
        }),
        failure_reason: failure.map(|(reason, _)| reason.as_str()),
        failure_detail: failure.map(|(_, detail)| text(detail)),
        user_cpu_ms: usage.map(|usage| number(usage.user_cpu_ms)),
        system_cpu_ms: usage.map(|usage| number(usage.system_cpu_ms)),
        peak_memory_bytes: usage.map(|usage| number(usage.peak_memory_bytes)),
        memory_source: usage.map(|usage| usage.memory_source.as_str()),
        stdout_length: stdout.map(|end| number(end.length)),
        stdout_cut_from: cut(stdout).map(|cut| number(cut.from)),
        stdout_cut_to: cut(stdout).map(|cut| number(cut.to)),
        stderr_length: stderr.map(|end| number(end.length)),
        stderr_cut_from: cut(stderr).map(|cut| number(cut.from)),
        stderr_cut_to: cut(stderr).map(|cut| number(cut.to)),
        complete: false,
    }
}

/// The end of a stream of an attempt that is over and never ran. A lost one may still have run, and come back with it.
fn silent(change: &AttemptChange) -> Option<StreamEnd> {
    let report = change.report.as_ref()?;
    let ran = report.started_at.is_some() || change.state == AttemptState::Lost;
    (change.state.is_over() && !ran).then(StreamEnd::default)
}

/// Lays what a later change knows over an earlier one of the same attempt. Nothing known is forgotten.
fn overlay(row: &mut AttemptRow, new: AttemptRow) {
    macro_rules! fill {
        ($($field:ident),+ $(,)?) => { $( if new.$field.is_some() { row.$field = new.$field; } )+ };
    }
    row.state = new.state;
    if matches!(
        row.state,
        "accepted" | "running" | "uploading" | "succeeded"
    ) {
        // It was lost and is taken back, or did not fail after all.
        (row.failure_reason, row.failure_detail) = (None, None);
    }
    if row.announced_sequence == 0 {
        row.announced_sequence = new.announced_sequence;
    }
    fill!(
        task_id,
        batch,
        dispatch_id,
        epoch,
        revision,
        queued_at,
        accepted_at,
        started_at,
        ended_at,
        exit_code,
        signal,
        failure_reason,
        failure_detail,
        user_cpu_ms,
        system_cpu_ms,
        peak_memory_bytes,
        memory_source,
        stdout_length,
        stdout_cut_from,
        stdout_cut_to,
        stderr_length,
        stderr_cut_from,
        stderr_cut_to,
    );
}
