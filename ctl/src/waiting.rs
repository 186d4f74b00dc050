//! Waiting until tasks are over: the server answers when something changed, nothing is polled.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use scitq_shared::api::{BatchView, Page, Progress, TaskView};

use crate::batch::show;
use crate::client::{Call, Client};
use crate::failure::Failure;
use crate::screen::Screen;
use crate::text::by_status;

/// Longest wait that is asked of the server.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// How often progress is told in lines.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// A question is not repeated sooner, however quickly tasks end.
const NOT_MORE_OFTEN: Duration = Duration::from_millis(100);
/// Most tasks that one question is about.
const TASKS_AT_ONCE: usize = 1000;
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

impl Selection {
    /// Parts that are waited for one after the other.
    fn parts(&self) -> Vec<Self> {
        match self {
            Self::Batch(_) => vec![self.clone()],
            Self::Tasks(ids) => ids
                .chunks(TASKS_AT_ONCE)
                .map(|ids| Self::Tasks(ids.to_vec()))
                .collect(),
        }
    }

    /// How many tasks these are as far as we know: a batch's number is the server's to tell.
    fn known_tasks(&self) -> i64 {
        match self {
            Self::Batch(_) => 0,
            Self::Tasks(ids) => i64::try_from(ids.len()).unwrap_or(i64::MAX),
        }
    }
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

/// Waits for one part of the selection after the other, so that no question is about more tasks than the server looks
/// at with ease. Tasks begin in the order of their ids, so the sum is close to the truth while it grows.
async fn until_over(
    client: &Client,
    screen: &Screen,
    selection: &Selection,
    bar: &ProgressBar,
) -> Result<Progress, Failure> {
    let mut waiting = Waiting {
        client,
        screen,
        bar,
        before: Progress::of(BTreeMap::new()),
        behind: 0,
        told: None,
        told_idle: None,
    };
    let parts = selection.parts();
    waiting.behind = parts.iter().skip(1).map(Selection::known_tasks).sum();
    for (number, part) in parts.iter().enumerate() {
        let over = waiting.part(part).await?;
        waiting.before = sum(&waiting.before, &over);
        waiting.behind -= parts.get(number + 1).map_or(0, Selection::known_tasks);
    }
    Ok(waiting.before)
}

struct Waiting<'a> {
    client: &'a Client,
    screen: &'a Screen,
    bar: &'a ProgressBar,
    /// Of the parts that are over.
    before: Progress,
    /// Number of tasks in the parts that come.
    behind: i64,
    /// The last thing that was said about tasks that are held.
    told: Option<&'static str>,
    /// The last thing that was said about a batch of which nothing runs.
    told_idle: Option<String>,
}

impl Waiting<'_> {
    async fn part(&mut self, part: &Selection) -> Result<Progress, Failure> {
        let mut now = progress(self.client, part, Duration::ZERO, 0).await?;
        let mut moves = false;
        loop {
            if !moves {
                self.tell_idle(part, &now).await?;
            }
            let missing = part.known_tasks() - now.total;
            if missing > 0 {
                return Err(Failure::usage(match (part.known_tasks(), missing) {
                    (1, _) => "the task does not exist".to_owned(),
                    (all, _) => format!("{missing} of {all} tasks do not exist"),
                })
                .remedy("`scitq-ctl task list` shows the tasks"));
            }
            if now.over >= now.total {
                return Ok(now);
            }
            self.tell(&now);
            let (wait, seen_over) = next_question(&now, self.screen);
            let asked = Instant::now();
            let before = std::mem::replace(
                &mut now,
                progress(self.client, part, wait, seen_over).await?,
            );
            moves = now.over > before.over;
            // a server that stops answers early; the next question finds it gone, or another one
            if asked.elapsed() < NOT_MORE_OFTEN && now.over < now.total {
                tokio::time::sleep(NOT_MORE_OFTEN).await;
            }
        }
    }

    /// Says when nothing runs because a batch is paused, or has no workers; once for each.
    async fn tell_idle(&mut self, part: &Selection, now: &Progress) -> Result<(), Failure> {
        if !idles(now) {
            return Ok(());
        }
        let Some(name) = self.idle_batch(part).await? else {
            return Ok(());
        };
        let batch: BatchView = self.client.get(&["batches", &name], &[]).await?;
        let text = if batch.paused {
            format!("batch {name} is {}", show::state(&batch))
        } else if batch.workers == 0 {
            format!(
                "no worker works for batch {name} now: `scitq-ctl worker update WORKER --batch BATCH` gives it one"
            )
        } else {
            return Ok(());
        };
        if self.told_idle.as_ref() != Some(&text) {
            self.bar.suspend(|| self.screen.note(&text));
            self.told_idle = Some(text);
        }
        Ok(())
    }

    /// The batch of what is pending, or of one of the tasks that are.
    async fn idle_batch(&self, part: &Selection) -> Result<Option<String>, Failure> {
        let ids = match part {
            Selection::Batch(name) => return Ok(Some(name.clone())),
            Selection::Tasks(ids) => ids,
        };
        let ids: Vec<String> = ids
            .iter()
            .take(IDS_IN_ADDRESS)
            .map(i64::to_string)
            .collect();
        let query = [
            ("id", ids.join(",")),
            ("status", "pending".to_owned()),
            ("limit", "1".to_owned()),
        ];
        let page: Page<TaskView> = self.client.get(&["tasks"], &query).await?;
        Ok(page.items.into_iter().next().map(|task| task.batch))
    }

    fn tell(&mut self, now: &Progress) {
        let all = sum(&self.before, now);
        let total = all.total + self.behind;
        self.bar.set_length(u64::try_from(total).unwrap_or(0));
        self.bar.set_position(u64::try_from(all.over).unwrap_or(0));
        self.bar.set_message(by_status(&all.tasks));
        if self.screen.verbose && !self.screen.stderr_is_terminal {
            let by_status = by_status(&all.tasks);
            self.screen.note(&format!(
                "{} of {total} tasks are over: {by_status}",
                all.over
            ));
        }
        if let Some(held) = held(now).filter(|held| self.told != Some(*held)) {
            self.told = Some(held);
            self.bar.suspend(|| self.screen.note(held));
        }
    }
}

fn sum(one: &Progress, other: &Progress) -> Progress {
    let mut tasks = one.tasks.clone();
    for (status, number) in &other.tasks {
        *tasks.entry(status.clone()).or_insert(0) += number;
    }
    Progress::of(tasks)
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

/// True when tasks wait for a worker, and none of the others is with one.
fn idles(progress: &Progress) -> bool {
    let count = |status: &str| progress.tasks.get(status).copied().unwrap_or(0);
    count("pending") > 0 && count("assigned") + count("accepted") + count("running") == 0
}

/// What is said when none of the tasks that are left goes on by itself, or perhaps not.
fn held(progress: &Progress) -> Option<&'static str> {
    let count = |status: &str| progress.tasks.get(status).copied().unwrap_or(0);
    let (waiting, paused) = (count("waiting"), count("paused") + count("debug"));
    if waiting + paused == 0 || progress.over + waiting + paused < progress.total {
        None
    } else if waiting > 0 {
        Some(
            "the tasks that are left wait for other tasks to succeed: where one of those has failed, they do not go on",
        )
    } else {
        Some("the tasks that are left are held (paused or debug): they do not go on by themselves")
    }
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
        assert!(
            held(&of(&[("waiting", 2), ("failed", 1)]))
                .unwrap()
                .contains("wait for other tasks")
        );
        assert!(
            held(&of(&[("paused", 1), ("debug", 1)]))
                .unwrap()
                .contains("paused or debug")
        );
        for going_on in [
            &[("waiting", 2), ("running", 1)][..],
            &[("paused", 2), ("pending", 1)],
            &[("failed", 2)],
            &[],
        ] {
            assert_eq!(held(&of(going_on)), None, "{going_on:?}");
        }
    }

    #[test]
    fn what_waits_for_a_worker_idles() {
        assert!(idles(&of(&[("pending", 2), ("succeeded", 1)])));
        for moving in [
            &[("pending", 2), ("running", 1)][..],
            &[("pending", 2), ("assigned", 1)],
            &[("waiting", 2)],
            &[],
        ] {
            assert!(!idles(&of(moving)), "{moving:?}");
        }
    }

    #[test]
    fn long_selections_are_asked_for_in_parts() {
        let parts = Selection::Tasks((1..=2500).collect()).parts();
        let lengths: Vec<i64> = parts.iter().map(Selection::known_tasks).collect();
        assert_eq!(lengths, [1000, 1000, 500]);
        assert_eq!(
            Selection::Batch("b".to_owned()).parts(),
            [Selection::Batch("b".to_owned())]
        );
        let all = sum(
            &of(&[("failed", 1), ("succeeded", 2)]),
            &of(&[("succeeded", 3)]),
        );
        assert_eq!(all, of(&[("failed", 1), ("succeeded", 5)]));
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
