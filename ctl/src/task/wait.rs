//! `task wait`.

use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgGroup, Args};
use scitq_shared::api::{Progress, TaskView};

use crate::client::Client;
use crate::execution;
use crate::failure::{EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TIMED_OUT, Failure};
use crate::paging::{self, ListArguments, Order};
use crate::screen::Screen;
use crate::text::{by_status, count};
use crate::waiting::{Ending, Selection, wait};

/// How many of the failed tasks are told.
const TOLD: usize = 5;
/// How many ids are asked for at once.
const IDS_AT_ONCE: usize = 200;

/// The long text of `task wait --help`.
pub const HELP: &str = "\
Wait until tasks are over

Shows a progress bar on a terminal; elsewhere, with -v, a line every ten seconds. The exit code says how it ended: 0 \
when all succeeded, 1 when some failed or were cancelled, 2 when a task or the batch does not exist, 3 when the server \
could not be reached, 4 when the time given with --for was up. Ctrl-C ends the waiting with 130; the tasks go on.";

/// Arguments of `task wait`.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("which").required(true))]
pub struct WaitArguments {
    /// Ids of the tasks
    #[arg(value_name = "ID", group = "which", value_parser = clap::value_parser!(i64).range(1..))]
    ids: Vec<i64>,
    /// Wait for all tasks of this batch, also for those that come meanwhile
    #[arg(short, long, value_name = "BATCH", group = "which")]
    batch: Option<String>,
    /// Wait no longer than this
    #[arg(long = "for", value_name = "SECONDS")]
    limit: Option<u64>,
}

/// Waits until tasks are over.
pub async fn run(
    arguments: WaitArguments,
    client: &Client,
    screen: &Screen,
) -> Result<ExitCode, Failure> {
    let selection = match arguments.batch {
        Some(batch) => Selection::Batch(batch),
        None => tasks(arguments.ids),
    };
    let limit = arguments.limit.map(Duration::from_secs);
    let (progress, code) = until_over(&selection, limit, client, screen).await?;
    match progress {
        Some(progress) if screen.json() => screen.value(&progress)?,
        Some(progress) => screen.line(&summary(&progress))?,
        None => {}
    }
    Ok(code)
}

/// Waits without a limit and shows how the tasks ended, unless results are shown as JSON: then the exit code says it.
pub async fn finish(
    selection: &Selection,
    client: &Client,
    screen: &Screen,
) -> Result<ExitCode, Failure> {
    let (progress, code) = until_over(selection, None, client, screen).await?;
    if let (Some(progress), false) = (progress, screen.json()) {
        screen.line(&summary(&progress))?;
    }
    Ok(code)
}

/// These tasks, each once.
pub fn tasks(mut ids: Vec<i64>) -> Selection {
    ids.sort_unstable();
    ids.dedup();
    Selection::Tasks(ids)
}

/// Waits, tells what failed or why waiting ended early, and answers how far the tasks are when they are over, and the
/// exit code.
pub async fn until_over(
    selection: &Selection,
    limit: Option<Duration>,
    client: &Client,
    screen: &Screen,
) -> Result<(Option<Progress>, ExitCode), Failure> {
    let ending = wait(client, screen, selection, limit)
        .await
        .map_err(|failure| failure.remedy_when_missing(where_to_look(selection)))?;
    let again = match selection {
        Selection::Batch(batch) => format!("scitq-ctl task wait --batch '{batch}'"),
        Selection::Tasks(ids) => match ids.as_slice() {
            [one] => format!("scitq-ctl task wait {one}"),
            _ => "scitq-ctl task wait".to_owned(),
        },
    };
    match ending {
        Ending::Over(progress) => {
            if progress.succeeded == progress.total {
                return Ok((Some(progress), ExitCode::SUCCESS));
            }
            tell_failed(selection, client, screen).await?;
            Ok((Some(progress), ExitCode::from(EXIT_FAILED)))
        }
        Ending::TimedOut => {
            screen.note(&format!(
                "the time is up; the tasks go on, `{again}` waits again"
            ));
            Ok((None, ExitCode::from(EXIT_TIMED_OUT)))
        }
        Ending::Interrupted => {
            screen.note(&format!(
                "interrupted; the tasks go on, `{again}` waits again"
            ));
            Ok((None, ExitCode::from(EXIT_INTERRUPTED)))
        }
    }
}

fn where_to_look(selection: &Selection) -> &'static str {
    match selection {
        Selection::Tasks(_) => "`scitq-ctl task list` shows the tasks",
        Selection::Batch(_) => "`scitq-ctl batch list` shows the batches",
    }
}

fn summary(progress: &Progress) -> String {
    let total = usize::try_from(progress.total).unwrap_or(0);
    match (total, progress.succeeded == progress.total) {
        (0, _) => "no tasks".to_owned(),
        (_, true) => format!("{} succeeded", count(total, "task")),
        _ => format!("{}: {}", count(total, "task"), by_status(&progress.tasks)),
    }
}

/// Tells the first few tasks that did not succeed, and why.
async fn tell_failed(
    selection: &Selection,
    client: &Client,
    screen: &Screen,
) -> Result<(), Failure> {
    let mut told = 0;
    for filter in filters(selection) {
        let first = ListArguments::first((TOLD - told) as u64, Order::Asc);
        let mut tasks: Vec<TaskView> = Vec::new();
        let more = paging::fetch(client, &["tasks"], &filter, &first, |task| {
            tasks.push(task);
            Ok(())
        })
        .await?;
        for task in tasks {
            let why = match task.execution_id {
                Some(id) => execution::get(client, id).await?.failure_detail,
                None => None,
            };
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            screen.note(&format!("task {} {}{why}", task.task_id, task.status));
            told += 1;
        }
        if told >= TOLD {
            if more.is_some() {
                screen.note("more: scitq-ctl task list --status failed,cancelled");
            }
            break;
        }
    }
    Ok(())
}

fn filters(selection: &Selection) -> Vec<Vec<(&'static str, String)>> {
    let status = ("status", "failed,cancelled".to_owned());
    match selection {
        Selection::Batch(batch) => vec![vec![("batch", batch.clone()), status]],
        Selection::Tasks(ids) => ids
            .chunks(IDS_AT_ONCE)
            .map(|ids| {
                let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
                vec![("id", ids.join(",")), status.clone()]
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tasks: &[(&str, i64)]) -> Progress {
        Progress::of(
            tasks
                .iter()
                .map(|(status, number)| ((*status).to_owned(), *number))
                .collect(),
        )
    }

    #[test]
    fn summaries() {
        assert_eq!(summary(&of(&[("succeeded", 1)])), "1 task succeeded");
        assert_eq!(
            summary(&of(&[("failed", 2), ("succeeded", 3)])),
            "5 tasks: 3 succeeded, 2 failed"
        );
        assert_eq!(summary(&of(&[])), "no tasks");
    }

    #[test]
    fn each_task_is_asked_for_once() {
        assert_eq!(tasks(vec![3, 1, 3]), Selection::Tasks(vec![1, 3]));
    }
}
