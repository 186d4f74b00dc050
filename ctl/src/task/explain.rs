//! `task explain`.

use scitq_shared::api::TaskExplanation;

use crate::client::Client;
use crate::failure::Failure;
use crate::screen::Screen;
use crate::text;

/// The long text of `task explain --help`.
pub const HELP: &str = "\
Say why a task is not running, or what became of it

Each reason stands on its own line, the most important one first, with a command that changes it where there is one. With \
-o json each has a word for programs, too.";

/// Prints the reasons.
pub async fn run(id: i64, client: &Client, screen: &Screen) -> Result<(), Failure> {
    let explanation: TaskExplanation = client
        .get(&["tasks", &id.to_string(), "explanation"], &[])
        .await
        .map_err(|failure| failure.remedy_when_missing("`scitq-ctl task list` shows the tasks"))?;
    if screen.json() {
        return screen.value(&explanation);
    }
    screen.line(&format!("task {id} is {}:", explanation.status))?;
    for reason in &explanation.reasons {
        screen.line(&format!("- {}", text::one_line(&reason.text)))?;
        if let Some(remedy) = &reason.remedy {
            screen.line(&format!("  remedy: {}", text::one_line(remedy)))?;
        }
    }
    Ok(())
}
