use std::sync::Arc;

use scitq_shared::ids::Epoch;
use scitq_shared::protocol::TaskMessage;
use tokio_util::sync::CancellationToken;

use super::consume::Consumed;
use crate::db::{Database, Restorations};
use crate::patience::patiently;

/// Takes in the tasks of these messages that a restored database does not know, as dispatched by them (D12). What has
/// become of the dispatches is for others to say. Of a database that was not restored nothing is taken in.
pub async fn import_unknown(
    database: &Database,
    epoch: Epoch,
    restorations: &Arc<Restorations>,
    mut messages: Vec<TaskMessage>,
    stop: &CancellationToken,
) -> Result<(), Consumed> {
    messages.retain(|message| restorations.may_import(message.epoch, message.task));
    if messages.is_empty() {
        return Ok(());
    }
    let imported = patiently!(
        stop,
        "the import of unknown tasks",
        database.import(epoch, messages.clone()).await
    )?;
    for task in imported {
        tracing::info!(%task, "the restored database did not know this task: it is taken in");
    }
    Ok(())
}
