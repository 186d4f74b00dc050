//! `task list`.

use clap::Args;
use scitq_shared::api::TaskView;
use scitq_shared::task::TaskStatus;

use super::status;
use crate::client::Client;
use crate::failure::Failure;
use crate::launch::options::label;
use crate::paging::{self, ListArguments};
use crate::screen::Screen;
use crate::table::Column;
use crate::text::{or_none, time};

/// Arguments of `task list`.
#[derive(Clone, Debug, Args)]
pub struct ListTasks {
    /// Only those of this batch
    #[arg(short, long, value_name = "BATCH")]
    batch: Option<String>,
    /// Only those with one of these statuses, separated by commas
    #[arg(short, long, value_name = "STATUS", value_delimiter = ',')]
    status: Vec<TaskStatus>,
    /// Only those of this name
    #[arg(short, long, value_name = "NAME")]
    name: Option<String>,
    /// Only those with one of these ids, separated by commas
    #[arg(short, long, value_name = "ID", value_delimiter = ',')]
    id: Vec<i64>,
    /// Only those with this label
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = label)]
    label: Option<(String, String)>,
    /// How much is shown.
    #[command(flatten)]
    list: ListArguments,
}

const COLUMNS: [Column; 7] = [
    Column::number("TASK"),
    Column::words("STATUS"),
    Column::words("BATCH"),
    Column::words("NAME"),
    Column::number("EXECUTION"),
    Column::words("CREATED"),
    Column::long("COMMAND"),
];

impl ListTasks {
    fn filter(&self) -> Vec<(&'static str, String)> {
        let statuses: Vec<&str> = self.status.iter().map(|status| status.as_str()).collect();
        let ids: Vec<String> = self.id.iter().map(i64::to_string).collect();
        let mut filter = Vec::new();
        filter.extend(self.batch.clone().map(|batch| ("batch", batch)));
        filter.extend((!statuses.is_empty()).then(|| ("status", statuses.join(","))));
        filter.extend(self.name.clone().map(|name| ("name", name)));
        filter.extend((!ids.is_empty()).then(|| ("id", ids.join(","))));
        let label = self.label.as_ref();
        filter.extend(label.map(|(key, value)| ("label", format!("{key}={value}"))));
        filter
    }
}

fn cells(task: &TaskView) -> Vec<String> {
    vec![
        task.task_id.to_string(),
        status(task),
        task.batch.clone(),
        or_none(task.name.as_deref()),
        task.execution_id
            .map_or_else(|| or_none(None), |id| id.to_string()),
        time(task.created_at),
        task.command.clone(),
    ]
}

/// Shows tasks.
pub async fn run(arguments: &ListTasks, client: &Client, screen: &Screen) -> Result<(), Failure> {
    let filter = arguments.filter();
    paging::show(
        client,
        screen,
        &["tasks"],
        &filter,
        &arguments.list,
        &COLUMNS,
        cells,
    )
    .await
}
