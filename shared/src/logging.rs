//! Starting the log, alike in every program.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::settings::{LogFormat, LogSettings, SettingsError};

/// Put before what the settings say, so that they may say otherwise. lapin logs whole messages that came back, and with
/// them the commands of tasks; actix tells of every thread that it starts.
const QUIET: &str = "lapin=off,actix_server=warn";

/// Starts the log on standard error. Call it once, before anything is logged.
pub fn start(settings: &LogSettings) -> Result<(), SettingsError> {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", settings.level)).map_err(|error| {
        SettingsError::Invalid {
            key: "log.level".to_owned(),
            origin: "the settings".to_owned(),
            rule: format!("cannot be used: {error}"),
        }
    })?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match settings.format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(())
}
