//! The end of a run: waiting until all is over, and looking at everything.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use chrono::{DateTime, Utc};
use futures::{StreamExt as _, TryStreamExt as _};
use scitq_shared::api::ExecutionView;
use scitq_shared::output::Stream;
use tokio::time::{Instant, sleep};

use crate::api::Api;
use crate::broker;
use crate::judge::{Evidence, Findings, Rules, Verdict, judge};
use crate::processes;
use crate::series::Series;
use crate::system::{System, entries};
use crate::task;

/// How long what follows a series may take: the last output, messages, processes that are just ending.
const PATIENCE: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Requests for output at once.
const AT_ONCE: usize = 4;

/// A finished series.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) verdict: Verdict,
    pub(crate) executions: Vec<ExecutionView>,
    /// When the server knew that all tasks were over.
    pub(crate) over_at: DateTime<Utc>,
}

/// Waits for the end of a series and looks at what came of its tasks.
pub(crate) async fn accept_tasks(
    api: &Api,
    series: &Series,
    tasks: &[i64],
    rules: Rules,
) -> anyhow::Result<Accepted> {
    let waited = series.over(tasks).await;
    let over_at = Utc::now();
    let (executions, by_status) = if waited.is_ok() {
        completed(api, tasks).await?
    } else {
        (api.executions().await?, api.progress(tasks).await?.tasks)
    };
    let evidence = Evidence {
        tasks: tasks.to_vec(),
        by_status,
        ledger: series.ledger.ids()?,
        executions,
    };
    let mut verdict = judge(&evidence, rules);
    if let Err(error) = waited {
        verdict.findings.insert(0, format!("{error:#}"));
    }
    verdict
        .findings
        .extend(check_output(api, &evidence.executions).await?);
    for mismatch in api.mismatches().await? {
        verdict.findings.push(format!(
            "the counters agree with the tasks; {} of batch {}: the counter says {}, there are {}",
            mismatch.status, mismatch.batch, mismatch.counter, mismatch.tasks
        ));
    }
    Ok(Accepted {
        verdict,
        executions: evidence.executions,
        over_at,
    })
}

/// Waits until the output of all that succeeded is in the database, within reason: what is not is found later.
async fn completed(
    api: &Api,
    tasks: &[i64],
) -> anyhow::Result<(Vec<ExecutionView>, std::collections::BTreeMap<String, i64>)> {
    let until = Instant::now() + PATIENCE;
    loop {
        let executions = api.executions().await?;
        let open = |it: &ExecutionView| {
            let over = ["succeeded", "released", "lost", "failed", "cancelled"];
            !over.contains(&it.status.as_str()) || (it.status == "succeeded" && !it.output_complete)
        };
        if !executions.iter().any(open) || Instant::now() > until {
            return Ok((executions, api.progress(tasks).await?.tasks));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Compares the output of every execution that succeeded with what its task writes.
async fn check_output(api: &Api, executions: &[ExecutionView]) -> anyhow::Result<Vec<String>> {
    let succeeded = executions.iter().filter(|it| it.status == "succeeded");
    let streams = succeeded.flat_map(|it| [(it, Stream::Stdout), (it, Stream::Stderr)]);
    let compare = |(execution, stream): (&ExecutionView, Stream)| {
        let (task, id) = (execution.task_id, execution.execution_id);
        async move {
            let found = api.output(id, stream.as_str()).await?;
            Ok::<_, anyhow::Error>(difference(&task::output(task, stream), &found).map(
                |difference| {
                    format!(
                        "the {} of task {task} (execution {id}): {difference}",
                        stream.as_str()
                    )
                },
            ))
        }
    };
    // Collected first: a stream of borrowing closures is more than the compiler can follow.
    let comparisons: Vec<_> = streams.map(compare).collect();
    let found: Vec<Option<String>> = futures::stream::iter(comparisons)
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    let mut findings = Findings::default();
    for finding in found.into_iter().flatten() {
        findings.add("output", finding);
    }
    Ok(findings.all())
}

/// Where two outputs differ, in words.
fn difference(expected: &[u8], found: &[u8]) -> Option<String> {
    if expected == found {
        return None;
    }
    let same = expected
        .iter()
        .zip(found)
        .take_while(|(one, other)| one == other)
        .count();
    let lengths = format!("{} bytes expected, {} found", expected.len(), found.len());
    Some(format!("{lengths}, the same up to byte {same}"))
}

/// Ends a system whose series are over, and makes sure that nothing is left of it: no message, no directory, no process.
pub(crate) async fn accept_end(system: &mut System<'_>) -> Vec<String> {
    let mut findings = Vec::new();
    let mut note = |what: anyhow::Result<()>| {
        if let Err(error) = what {
            findings.push(format!("{error:#}"));
        }
    };
    note(drained(system).await.context("with the workers running"));
    note(system.stop_workers().await);
    note(
        drained(system)
            .await
            .context("after the workers have ended"),
    );
    note(system.stop_servers().await);
    for name in system.worker_names() {
        let directory = system.worker_directory(&name);
        note(empty(&directory.join("state/attempts")));
        note(empty(&directory.join("work")));
    }
    note(no_processes(system.place.root()).await);
    findings
}

/// Waits until no queue holds a message.
async fn drained(system: &System<'_>) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let mut queues = broker::queues(&system.services.broker).await?;
        queues.retain(|(_, messages)| *messages > 0);
        if queues.is_empty() {
            return Ok(());
        }
        // What was put aside stays there for ever.
        let rejected = queues.iter().any(|(name, _)| name == "scitq.rejected");
        if rejected || Instant::now() > until {
            bail!("all queues are empty in the end; messages are left: {queues:?}");
        }
        sleep(LOOK_EVERY).await;
    }
}

fn empty(directory: &Path) -> anyhow::Result<()> {
    let left = entries(directory);
    let names: BTreeSet<String> = left
        .iter()
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    anyhow::ensure!(
        names.is_empty(),
        "{} is empty in the end; left: {names:?}",
        directory.display()
    );
    Ok(())
}

/// Waits until no process of a directory is left.
pub(crate) async fn no_processes(directory: &Path) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let found = processes::of(directory);
        if found.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            let commands: Vec<_> = found.into_iter().map(|process| process.command).collect();
            bail!("no process is left in the end; left: {commands:?}");
        }
        sleep(LOOK_EVERY).await;
    }
}

/// The directories of a worker that has ended are empty.
pub(crate) fn no_directories(state: &Path, work: &Path) -> anyhow::Result<()> {
    empty(&state.join("attempts"))?;
    empty(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_found_wherever_they_are() {
        assert_eq!(difference(b"same", b"same"), None);
        for (found, place) in [(&b"samx"[..], 3), (b"sam", 3), (b"samee", 4), (b"", 0)] {
            let told = difference(b"same", found).unwrap();
            assert!(told.ends_with(&format!("byte {place}")), "{told}");
        }
    }

    #[tokio::test]
    async fn what_is_left_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert!(empty(path).is_ok() && empty(&path.join("never made")).is_ok());
        std::fs::write(path.join("left"), "").unwrap();
        assert!(empty(path).unwrap_err().to_string().contains("left"));
        assert!(no_processes(path).await.is_ok());
    }
}
