//! The settings file that the measured programs read.

use std::path::Path;

use scitq_shared::settings::QueueType;
use toml::{Table, Value};

/// Name of the worker in all measurements.
pub const WORKER: &str = "bench";

/// What is set other than by default.
#[derive(Debug)]
pub struct Configuration<'a> {
    /// Slots of the worker.
    pub concurrency: u16,
    /// Tasks it keeps ready beyond those.
    pub prefetch: u16,
    /// Broker and database, where they are services of their own.
    pub services: Option<Services<'a>>,
}

/// Broker and database as services of their own.
#[derive(Debug)]
pub struct Services<'a> {
    /// The broker's address.
    pub broker_url: &'a str,
    /// Kind of the batches' queues.
    pub queue_type: QueueType,
    /// The database's address.
    pub database_url: &'a str,
    /// Where the worker keeps its state and its tasks work.
    pub worker_directory: &'a Path,
}

impl Configuration<'_> {
    /// The file's text.
    pub fn to_toml(&self) -> String {
        let mut worker = table([
            ("name", WORKER.into()),
            ("concurrency", i64::from(self.concurrency).into()),
            ("prefetch", i64::from(self.prefetch).into()),
        ]);
        let mut all = Table::new();
        if let Some(services) = &self.services {
            for name in ["state", "work"] {
                let path = services.worker_directory.join(name);
                worker.insert(
                    format!("{name}_directory"),
                    path.to_string_lossy().into_owned().into(),
                );
            }
            let broker = table([
                ("url", services.broker_url.into()),
                ("queue_type", services.queue_type.as_str().into()),
            ]);
            all.insert("broker".to_owned(), broker.into());
            let database = table([("url", services.database_url.into())]);
            all.insert("database".to_owned(), database.into());
        }
        all.insert("worker".to_owned(), worker.into());
        all.to_string()
    }
}

fn table<const N: usize>(entries: [(&str, Value); N]) -> Table {
    entries
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use scitq_shared::settings::{Loader, Settings};

    use super::*;

    fn read(text: &str) -> Settings {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("bench.toml");
        std::fs::write(&file, text).unwrap();
        let nothing: [(&str, &str); 0] = [];
        let loader = Loader::new().config(Some(file)).environment(nothing);
        loader.load().unwrap().settings
    }

    #[test]
    fn the_programs_understand_the_file() {
        let services = Services {
            broker_url: "amqp://guest:guest@127.0.0.1:1/v",
            queue_type: QueueType::Quorum,
            database_url: "postgres://scitq@127.0.0.1:2/d",
            worker_directory: Path::new("/somewhere/with \"quotes\""),
        };
        let configuration = Configuration {
            concurrency: 7,
            prefetch: 9,
            services: Some(services),
        };
        let settings = read(&configuration.to_toml());
        assert_eq!(settings.worker.name.as_str(), WORKER);
        assert_eq!(
            (settings.worker.concurrency, settings.worker.prefetch),
            (7, 9)
        );
        assert_eq!(
            settings.worker.work_directory,
            PathBuf::from("/somewhere/with \"quotes\"/work")
        );
        assert_eq!(settings.broker.queue_type, QueueType::Quorum);
        assert_eq!(
            settings.broker.url.expose(),
            "amqp://guest:guest@127.0.0.1:1/v"
        );
        assert_eq!(
            settings.database.url.expose(),
            "postgres://scitq@127.0.0.1:2/d"
        );
    }

    #[test]
    fn the_embedded_pair_chooses_its_own_places() {
        let configuration = Configuration {
            concurrency: 2,
            prefetch: 0,
            services: None,
        };
        let text = configuration.to_toml();
        assert!(
            !text.contains("directory") && !text.contains("url"),
            "{text}"
        );
        assert_eq!(read(&text).worker.concurrency, 2);
    }
}
