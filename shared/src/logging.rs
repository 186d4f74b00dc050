//! Starting the log, alike in every program.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::settings::{LogFormat, LogSettings, SettingsError};

/// Starts the log on standard error. Call it once, before anything is logged.
pub fn start(settings: &LogSettings) -> Result<(), SettingsError> {
    let filter = EnvFilter::try_new(&settings.level).map_err(|error| SettingsError::Invalid {
        key: "log.level".to_owned(),
        origin: "the settings".to_owned(),
        rule: format!("cannot be used: {error}"),
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
