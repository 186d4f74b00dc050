use scitq_shared::ids::Epoch;
use scitq_shared::protocol::TaskMessage;
use tokio_util::sync::CancellationToken;

use super::consume::Consumed;
use crate::db::{Database, Restorations};
use crate::patience::patiently;

/// Takes in the task of a message if a restored database does not know it, as dispatched by the message (D12). What has
/// become of the dispatch is for others to say. Into a database that was not restored nothing is taken in.
///
/// Waits as long as the database is away; `Consumed::Database` is the message's fault.
pub async fn import_unknown(
    database: &Database,
    epoch: Epoch,
    restorations: &Restorations,
    message: &TaskMessage,
    stop: &CancellationToken,
) -> Result<(), Consumed> {
    if !restorations.may_import(message.epoch, message.task) {
        return Ok(());
    }
    let imported = patiently!(
        stop,
        "the import of unknown tasks",
        database.import(epoch, vec![message.clone()]).await
    )?;
    for task in imported {
        tracing::info!(%task, batch = %message.batch, "the restored database does not know this task: it is taken in");
    }
    Ok(())
}
