//! `config`: the settings of server and workers on this machine.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use scitq_shared::settings::{Loaded, Loader};

use crate::failure::Failure;
use crate::screen::Screen;
use crate::table::{Column, Table};

/// What to do with settings.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show the settings in force here, secrets masked, and where each comes from
    ///
    /// Settings are read as scitq-server and scitq-worker read them when they are started in this environment:
    /// built-in defaults, then /etc/scitq/*.toml (or --config), then `SCITQ_SECTION_KEY` variables. No server is asked.
    Show {
        /// Read this file instead of those in /etc/scitq
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

impl ConfigCommand {
    /// Does it.
    pub fn run(self, screen: &Screen) -> Result<ExitCode, Failure> {
        let Self::Show { config } = self;
        let loaded = Loader::new()
            .config(config)
            .load()
            .map_err(|error| Failure::usage(error.to_string()))?;
        if screen.json() {
            let origins = &loaded.origins;
            screen
                .value(&serde_json::json!({ "settings": loaded.settings, "origins": origins }))?;
        } else {
            screen.table(&table(&loaded)?)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn table(loaded: &Loaded) -> Result<Table, Failure> {
    // Settings mask their secrets when they are serialised: nothing else may be shown here.
    let settings = serde_json::to_value(&loaded.settings)
        .map_err(|error| Failure::local(format!("cannot show the settings: {error}")))?;
    let mut table = Table::new([
        Column::words("SETTING"),
        Column::words("VALUE"),
        Column::words("FROM"),
    ]);
    let sections = settings.as_object().into_iter().flatten();
    for (section, values) in sections {
        for (key, value) in values.as_object().into_iter().flatten() {
            let name = format!("{section}.{key}");
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            let origin = loaded
                .origins
                .get(&name)
                .map_or("built-in default", String::as_str)
                .to_owned();
            table.row([name, value, origin]);
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_shown_with_its_origin_and_no_secret() {
        let variables = [
            ("SCITQ_BROKER_URL", "amqp://u:s3cret@h/"),
            ("SCITQ_WORKER_PREFETCH", "3"),
        ];
        let loaded = Loader::new()
            .directory("/nonexistent")
            .environment(variables)
            .load()
            .unwrap();
        let shown = table(&loaded).unwrap().render(false, true);
        assert!(!shown.contains("s3cret"), "{shown}");
        let line = |key: &str| {
            let line = shown
                .lines()
                .find(|line| line.starts_with(key))
                .unwrap_or_default();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            line("worker.prefetch"),
            "worker.prefetch 3 the environment variable SCITQ_WORKER_PREFETCH"
        );
        assert_eq!(
            line("server.listen"),
            "server.listen 127.0.0.1:5000 built-in default"
        );
        assert!(line("broker.url").contains("amqp://u:****@h/"), "{shown}");
    }
}
