//! From a definition to the words of a process.

use std::ffi::OsString;

use scitq_shared::command;
use scitq_shared::definition::TaskDefinition;
use scitq_shared::execution::FailureReason;

use super::StartFailure;

/// The words of the process: the command's own, or the shell with the command as its script.
pub(crate) fn words(definition: &TaskDefinition) -> Result<Vec<OsString>, StartFailure> {
    match &definition.shell {
        Some(shell) => {
            let nul = definition.command.contains('\0') || shell.contains('\0');
            if nul || shell.is_empty() {
                let detail = "the command or its shell cannot be passed to a process: it is empty or contains NUL";
                return Err(StartFailure::new(FailureReason::StartFailed, detail));
            }
            Ok(vec![
                shell.into(),
                "-c".into(),
                definition.command.clone().into(),
            ])
        }
        None => command::split(&definition.command).map_err(|error| {
            StartFailure::new(
                FailureReason::StartFailed,
                format!("the command cannot be read: {error}"),
            )
        }),
    }
}
