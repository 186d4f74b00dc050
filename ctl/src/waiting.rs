//! Waiting until tasks are over: the server answers when something changed, nothing is polled.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use scitq_shared::api::Progress;

use crate::client::{Call, Client};
use crate::failure::Failure;
use crate::screen::Screen;
use crate::text::by_status;

/// Longest wait that is asked of the server.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// How often progress is told in lines.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// A progress bar is not drawn more often, however quickly tasks end.
const BAR_EVERY: Duration = Duration::from_millis(100);
/// More ids than these do not go into an address.
const IDS_IN_ADDRESS: usize = 100;

/// Whose progress it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// These tasks, each once.
    Tasks(Vec<i64>),
    /// All tasks of a batch.
    Batch(String),
}

/// How waiting ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All tasks are over.
    Over(Progress),
    /// The time was up first.
    TimedOut,
    /// The user interrupted it.
    Interrupted,
}

/// Asks how far tasks are. The server answers when more than `seen_over` of them are over, when all are, or when
/// `wait` is up.
pub async fn progress(
    client: &Client,
    selection: &Selection,
    wait: Duration,
    seen_over: i64,
) -> Result<Progress, Failure> {
    let mut query = vec![
        ("wait", wait.as_secs().to_string()),
        ("seen_over", seen_over.to_string()),
    ];
    let parts = ["progress"];
    match selection {
        Selection::Batch(batch) => query.push(("batch", batch.clone())),
        Selection::Tasks(ids) if ids.len() <= IDS_IN_ADDRESS => {
            let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
            query.push(("id", ids.join(",")));
        }
        Selection::Tasks(ids) => {
            let body = serde_json::json!({ "task_ids": ids });
            let call = Call {
                query: &query,
                waits: wait,
                ..Call::json(Method::POST, &parts, &body)?
            };
            return client.call(&call).await;
        }
    }
    client
        .call(&Call {
            waits: wait,
            ..Call::get(&parts, &query)
        })
        .await
}

/// Waits until all tasks are over, the time is up, or the user presses Ctrl-C. Draws a bar on a terminal; elsewhere
/// tells a line every ten seconds, if asked to.
pub async fn wait(
    client: &Client,
    screen: &Screen,
    selection: &Selection,
    limit: Option<Duration>,
) -> Result<Ending, Failure> {
    let bar = if screen.stderr_is_terminal {
        bar()
    } else {
        ProgressBar::hidden()
    };
    let above_bar = bar.clone();
    let client = if screen.stderr_is_terminal {
        client.with_notice(std::sync::Arc::new(move |text| {
            above_bar.println(format!("scitq-ctl: {text}"));
        }))
    } else {
        client.clone()
    };
    let ending = tokio::select! {
        over = until_over(&client, screen, selection, &bar) => over.map(Ending::Over),
        () = time_is_up(limit) => Ok(Ending::TimedOut),
        _ = tokio::signal::ctrl_c() => Ok(Ending::Interrupted),
    };
    bar.finish_and_clear();
    ending
}

async fn time_is_up(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

async fn until_over(
    client: &Client,
    screen: &Screen,
    selection: &Selection,
    bar: &ProgressBar,
) -> Result<Progress, Failure> {
    let mut told_held = false;
    let mut now = progress(client, selection, Duration::ZERO, 0).await?;
    loop {
        if now.over >= now.total {
            return Ok(now);
        }
        bar.set_length(u64::try_from(now.total).unwrap_or(0));
        bar.set_position(u64::try_from(now.over).unwrap_or(0));
        bar.set_message(by_status(&now.tasks));
        if is_held(&now) && !std::mem::replace(&mut told_held, true) {
            let text = format!(
                "{}: those that are left do not go on by themselves",
                by_status(&now.tasks)
            );
            bar.suspend(|| screen.note(&text));
        }
        let (wait, seen_over) = next_question(&now, screen);
        now = progress(client, selection, wait, seen_over).await?;
        if screen.stderr_is_terminal {
            tokio::time::sleep(BAR_EVERY).await;
        } else if screen.verbose {
            screen.note(&format!(
                "{} of {} tasks are over: {}",
                now.over,
                now.total,
                by_status(&now.tasks)
            ));
        }
    }
}

/// How long the server shall wait, and from how many ended tasks on it shall answer. Where nothing is drawn, only the
/// end of the last task is of interest.
fn next_question(now: &Progress, screen: &Screen) -> (Duration, i64) {
    if screen.stderr_is_terminal {
        (LONGEST_WAIT, now.over)
    } else if screen.verbose {
        (LINE_EVERY, now.total - 1)
    } else {
        (LONGEST_WAIT, now.total - 1)
    }
}

/// True when no task that is left goes on by itself: it is held by a person, or waits for tasks that are not running.
fn is_held(progress: &Progress) -> bool {
    let held: i64 = ["waiting", "paused", "debug"]
        .iter()
        .filter_map(|status| progress.tasks.get(*status))
        .sum();
    held > 0 && progress.over + held == progress.total
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {wide_msg}");
    let bar = ProgressBar::new(0);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_secs(1));
    bar
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
    fn held_is_told_only_when_nothing_goes_on() {
        assert!(is_held(&of(&[("waiting", 2), ("failed", 1)])));
        assert!(is_held(&of(&[("paused", 1), ("debug", 1)])));
        assert!(!is_held(&of(&[("waiting", 2), ("running", 1)])));
        assert!(!is_held(&of(&[("succeeded", 2)])));
        assert!(!is_held(&of(&[])));
    }

    #[test]
    fn without_a_bar_the_server_is_asked_for_the_last_end() {
        let screen = |terminal, verbose| Screen {
            format: crate::cli::Format::Table,
            header: true,
            verbose,
            stdout_is_terminal: false,
            stderr_is_terminal: terminal,
        };
        let now = of(&[("succeeded", 3), ("pending", 7)]);
        assert_eq!(
            next_question(&now, &screen(false, false)),
            (LONGEST_WAIT, 9)
        );
        assert_eq!(next_question(&now, &screen(false, true)), (LINE_EVERY, 9));
        assert_eq!(next_question(&now, &screen(true, false)), (LONGEST_WAIT, 3));
    }
}
