//! `worker update`.

use clap::{ArgGroup, Args};
use reqwest::Method;
use scitq_shared::api::WorkerView;
use scitq_shared::names::BatchName;
use scitq_shared::worker::Lease;
use serde::Serialize;

use super::{WHERE_TO_LOOK, lease, show};
use crate::client::{Call, Client};
use crate::failure::Failure;
use crate::screen::Screen;

/// Arguments of `worker update`.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("change").required(true).multiple(true))]
pub struct UpdateArguments {
    /// Name of the worker
    pub name: String,
    /// How many tasks of weight 1 run at once; 0 takes no work
    #[arg(long, value_name = "SLOTS", group = "change")]
    pub concurrency: Option<u16>,
    /// How many tasks are kept ready beyond those running
    #[arg(long, value_name = "TASKS", group = "change")]
    pub prefetch: Option<u16>,
    /// Work for this batch from now on
    #[arg(short, long, value_name = "BATCH", group = "change")]
    pub batch: Option<BatchName>,
    /// Start no new task
    #[arg(long, group = "change", conflicts_with = "resume")]
    pub pause: bool,
    /// Start tasks again
    #[arg(long, group = "change")]
    pub resume: bool,
    /// How long it may be silent before what it runs is lost and dispatched anew, such as 30m, 2h or 1d; `default`: as the server's settings say
    #[arg(long, value_name = "TIME", group = "change", value_parser = lease::parse)]
    pub lost_after: Option<Lease>,
}

/// What is sent: only what changes.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Change {
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<BatchName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefetch: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost_after_seconds: Option<Lease>,
}

impl UpdateArguments {
    fn change(&self) -> Change {
        Change {
            batch: self.batch.clone(),
            concurrency: self.concurrency,
            prefetch: self.prefetch,
            paused: (self.pause || self.resume).then_some(self.pause),
            lost_after_seconds: self.lost_after,
        }
    }
}

/// Changes a worker, and shows it as it is then.
pub async fn run(
    arguments: &UpdateArguments,
    client: &Client,
    screen: &Screen,
) -> Result<(), Failure> {
    let parts = ["workers", arguments.name.as_str()];
    let call = Call::json(Method::PATCH, &parts, &arguments.change())?;
    let worker: WorkerView = client
        .call(&call)
        .await
        .map_err(|failure| failure.remedy_when_missing(WHERE_TO_LOOK))?;
    if screen.json() {
        screen.value(&worker)
    } else {
        screen.table(&show::properties(&worker))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(words: &[&str]) -> Result<String, clap::Error> {
        #[derive(clap::Parser)]
        struct Update {
            #[command(flatten)]
            arguments: UpdateArguments,
        }
        let words = ["update", "w"].iter().chain(words);
        let update = <Update as clap::Parser>::try_parse_from(words)?;
        Ok(serde_json::to_string(&update.arguments.change()).unwrap())
    }

    #[test]
    fn only_changes_are_sent() {
        assert_eq!(change(&["--pause"]).unwrap(), r#"{"paused":true}"#);
        assert_eq!(
            change(&["--resume", "--prefetch", "0"]).unwrap(),
            r#"{"prefetch":0,"paused":false}"#
        );
        assert_eq!(change(&["-b", "a b"]).unwrap(), r#"{"batch":"a b"}"#);
        assert_eq!(
            change(&["--lost-after", "2h"]).unwrap(),
            r#"{"lost_after_seconds":7200}"#
        );
        assert_eq!(
            change(&["--lost-after", "default"]).unwrap(),
            r#"{"lost_after_seconds":null}"#
        );
    }

    #[test]
    fn changes_that_make_no_sense_are_refused() {
        for words in [
            &[][..],
            &["--pause", "--resume"],
            &["--batch", "a/b"],
            &["--concurrency", "-1"],
            &["--lost-after", "soon"],
        ] {
            assert!(change(words).is_err(), "{words:?}");
        }
    }
}
