//! `execution list`.

use clap::Args;
use scitq_shared::execution::ExecutionStatus;

use super::{COLUMNS, cells};
use crate::client::Client;
use crate::failure::Failure;
use crate::paging::{self, ListArguments};
use crate::screen::Screen;

/// Arguments of `execution list`.
#[derive(Clone, Debug, Args)]
pub struct ListExecutions {
    /// Only those of this task
    #[arg(short, long, value_name = "ID")]
    task: Option<i64>,
    /// Only those of this batch
    #[arg(short, long, value_name = "BATCH")]
    batch: Option<String>,
    /// Only those with one of these statuses, separated by commas
    #[arg(short, long, value_name = "STATUS", value_delimiter = ',')]
    status: Vec<ExecutionStatus>,
    /// Only those on this worker
    #[arg(short, long, value_name = "WORKER")]
    worker: Option<String>,
    /// Only the newest execution of each task
    #[arg(long)]
    latest: bool,
    /// How much is shown.
    #[command(flatten)]
    list: ListArguments,
}

impl ListExecutions {
    fn filter(&self) -> Vec<(&'static str, String)> {
        let statuses: Vec<&str> = self.status.iter().map(|status| status.as_str()).collect();
        let mut filter = Vec::new();
        filter.extend(self.task.map(|task| ("task", task.to_string())));
        filter.extend(self.batch.clone().map(|batch| ("batch", batch)));
        filter.extend((!statuses.is_empty()).then(|| ("status", statuses.join(","))));
        filter.extend(self.worker.clone().map(|worker| ("worker", worker)));
        filter.extend(self.latest.then(|| ("latest", "true".to_owned())));
        filter
    }
}

/// Shows executions.
pub async fn run(
    arguments: &ListExecutions,
    client: &Client,
    screen: &Screen,
) -> Result<(), Failure> {
    let filter = arguments.filter();
    paging::show(
        client,
        screen,
        &["executions"],
        &filter,
        &arguments.list,
        &COLUMNS,
        cells,
    )
    .await
}
