use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use figment::error::Kind;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::{Settings, SettingsError};

/// Where settings files are looked for unless `--config` names one.
const DIRECTORY: &str = "/etc/scitq";

/// Environment variables with our prefix that are no settings: the command line's, and those given to tasks.
const NOT_SETTINGS: &[&str] = &[
    "SCITQ_SERVER",
    "SCITQ_TIMEOUT",
    "SCITQ_TOKEN",
    "SCITQ_CONFIG",
    "SCITQ_TASK_ID",
    "SCITQ_EXECUTION_ID",
    "SCITQ_BATCH",
    "SCITQ_WORKER",
    "SCITQ_KEEPER",
];

/// Collects the sources of the settings and loads them.
#[derive(Debug, Default)]
pub struct Loader {
    defaults: Vec<(String, serde_json::Value)>,
    config: Option<PathBuf>,
    directory: Option<PathBuf>,
    environment: Option<Vec<(OsString, OsString)>>,
    flags: Vec<(String, String, serde_json::Value)>,
}

/// Settings, and where each comes from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings in force.
    pub settings: Settings,
    /// For each key (`section.key`) that is not a built-in default: the file, variable or flag that set it.
    pub origins: BTreeMap<String, String>,
}

impl Loader {
    /// Loads the files of `/etc/scitq`, and this process's environment.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads this file instead of those in `/etc/scitq`. It must exist.
    #[must_use]
    pub fn config(mut self, file: Option<PathBuf>) -> Self {
        self.config = file;
        self
    }

    /// Replaces a built-in default, as `scitq-ctl up` does for its data directory.
    #[must_use]
    pub fn default_value(mut self, key: &str, value: impl Into<serde_json::Value>) -> Self {
        self.defaults.push((key.to_owned(), value.into()));
        self
    }

    /// A value given by a flag, named as the user typed it; `None` sets nothing.
    #[must_use]
    pub fn flag(
        mut self,
        key: &str,
        flag: &str,
        value: Option<impl Into<serde_json::Value>>,
    ) -> Self {
        if let Some(value) = value {
            self.flags
                .push((key.to_owned(), flag.to_owned(), value.into()));
        }
        self
    }

    /// Another directory than `/etc/scitq`, for tests.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Other variables than this process's, for tests.
    #[must_use]
    pub fn environment(
        mut self,
        variables: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
    ) -> Self {
        self.environment = Some(
            variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        );
        self
    }

    /// Loads and checks everything.
    pub fn load(self) -> Result<Loaded, SettingsError> {
        let mut figment = Figment::new();
        for (key, value) in &self.defaults {
            figment = figment.merge(Source::one("a built-in default", key, to_figment(value)));
        }
        for path in self.files()? {
            figment = figment.merge(read_file(&path)?);
        }
        let shape = shape();
        let variables = self
            .environment
            .unwrap_or_else(|| std::env::vars_os().collect());
        for (name, value) in variables {
            if let Some(source) = variable(&shape, &name, &value)? {
                figment = figment.merge(source);
            }
        }
        for (key, flag, value) in &self.flags {
            figment = figment.merge(Source::one(
                &format!("the flag {flag}"),
                key,
                to_figment(value),
            ));
        }
        let settings: Settings = figment
            .extract()
            .map_err(|error| explain(&figment, &error))?;
        let origin = |key: &str| {
            figment
                .find_metadata(key)
                .map(|metadata| metadata.name.to_string())
        };
        settings
            .check()
            .map_err(|(key, rule)| SettingsError::Invalid {
                key: key.to_owned(),
                origin: origin(key).unwrap_or_else(|| "the built-in defaults".to_owned()),
                rule,
            })?;
        let keys = shape
            .iter()
            .flat_map(|(section, keys)| keys.keys().map(move |key| format!("{section}.{key}")));
        let origins = keys
            .filter_map(|key| origin(&key).map(|origin| (key, origin)))
            .collect();
        Ok(Loaded { settings, origins })
    }

    fn files(&self) -> Result<Vec<PathBuf>, SettingsError> {
        if let Some(file) = &self.config {
            return Ok(vec![file.clone()]);
        }
        let directory = self
            .directory
            .clone()
            .unwrap_or_else(|| PathBuf::from(DIRECTORY));
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => {
                return Err(SettingsError::Unreadable {
                    path: directory,
                    source,
                });
            }
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry
                .map_err(|source| SettingsError::Unreadable {
                    path: directory.clone(),
                    source,
                })?
                .path();
            if path
                .extension()
                .is_some_and(|extension| extension == "toml")
            {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}

/// Values from one place, with the words for it.
struct Source {
    origin: String,
    values: Dict,
}

impl Source {
    fn one(origin: &str, key: &str, value: Value) -> Self {
        let mut values = Dict::new();
        match key.split_once('.') {
            Some((section, key)) => {
                values.insert(
                    section.to_owned(),
                    Value::from(Dict::from([(key.to_owned(), value)])),
                );
            }
            None => {
                values.insert(key.to_owned(), value);
            }
        }
        Self {
            origin: origin.to_owned(),
            values,
        }
    }
}

impl Provider for Source {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}

fn to_figment(value: &serde_json::Value) -> Value {
    Value::serialize(value).unwrap_or_else(|_| Value::from(value.to_string()))
}

fn read_file(path: &Path) -> Result<Source, SettingsError> {
    let text = std::fs::read_to_string(path).map_err(|source| SettingsError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let values: Dict =
        figment::providers::Toml::from_str_of(&text).map_err(|reason| SettingsError::NotToml {
            path: path.to_owned(),
            reason,
        })?;
    Ok(Source {
        origin: format!("the file {}", path.display()),
        values,
    })
}

/// Parses TOML text into figment's values, with the reason in words when it is none. Never shows the text itself
/// beyond the line that toml quotes.
trait FromStrOf {
    fn from_str_of(text: &str) -> Result<Dict, String>;
}

impl FromStrOf for figment::providers::Toml {
    fn from_str_of(text: &str) -> Result<Dict, String> {
        use figment::providers::Format;
        Self::from_str::<Dict>(text).map_err(|error| error.message().trim().to_owned())
    }
}

/// The sections and their keys, with their default values: what an environment variable may name.
fn shape() -> BTreeMap<String, BTreeMap<String, serde_json::Value>> {
    let value = serde_json::to_value(Settings::default()).unwrap_or_default();
    serde_json::from_value(value).unwrap_or_default()
}

/// The setting that an environment variable names; `None` for variables that are not ours.
fn variable(
    shape: &BTreeMap<String, BTreeMap<String, serde_json::Value>>,
    name: &OsString,
    value: &OsString,
) -> Result<Option<Source>, SettingsError> {
    let Some(name) = name
        .to_str()
        .filter(|name| name.starts_with("SCITQ_") && !NOT_SETTINGS.contains(name))
    else {
        return Ok(None);
    };
    let origin = format!("the environment variable {name}");
    let lower = name["SCITQ_".len()..].to_ascii_lowercase();
    let (section, key) = lower.split_once('_').unwrap_or((&lower, ""));
    let full = format!("{section}.{key}");
    let Some(keys) = shape.get(section) else {
        return Err(SettingsError::UnknownKey {
            key: full,
            origin,
            known: join(shape.keys()),
        });
    };
    let Some(default) = keys.get(key) else {
        return Err(SettingsError::UnknownKey {
            key: full,
            origin,
            known: join(keys.keys()),
        });
    };
    let invalid = |rule: &str| SettingsError::Invalid {
        key: full.clone(),
        origin: origin.clone(),
        rule: rule.to_owned(),
    };
    let text = value
        .to_str()
        .ok_or_else(|| invalid("is not valid UTF-8"))?;
    let value = match default {
        serde_json::Value::Number(_) => Value::from(
            text.trim()
                .parse::<u64>()
                .map_err(|_| invalid("must be a number, 0 or more"))?,
        ),
        serde_json::Value::Bool(_) => Value::from(
            text.trim()
                .parse::<bool>()
                .map_err(|_| invalid("must be true or false"))?,
        ),
        _ => Value::from(text),
    };
    Ok(Some(Source::one(&origin, &full, value)))
}

fn join<'a>(words: impl Iterator<Item = &'a String>) -> String {
    words.map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn explain(figment: &Figment, error: &figment::Error) -> SettingsError {
    let mut path = error.path.join(".");
    let origin_of = |key: &str| {
        figment
            .find_metadata(key)
            .map(|metadata| metadata.name.to_string())
    };
    let origin = |path: &str| {
        let own = error
            .metadata
            .as_ref()
            .map(|metadata| metadata.name.to_string());
        own.or_else(|| origin_of(path))
            .unwrap_or_else(|| "the settings".to_owned())
    };
    match &error.kind {
        Kind::UnknownField(field, known) => {
            if path.split('.').next_back() != Some(field.as_str()) {
                path = if path.is_empty() {
                    field.clone()
                } else {
                    format!("{path}.{field}")
                };
            }
            let origin = origin_of(&path).unwrap_or_else(|| origin(&path));
            SettingsError::UnknownKey {
                key: path,
                origin,
                known: known.join(", "),
            }
        }
        Kind::InvalidType(_, wanted) => SettingsError::Invalid {
            origin: origin(&path),
            key: path,
            rule: format!("has the wrong type: {wanted} is wanted"),
        },
        Kind::Message(message) => SettingsError::Invalid {
            origin: origin(&path),
            key: path,
            rule: format!("cannot be used: {message}"),
        },
        other => SettingsError::Invalid {
            origin: origin(&path),
            key: path,
            rule: format!("cannot be used: {other}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: [(&str, &str); 0] = [];

    fn loader(directory: &Path, variables: &[(&str, &str)]) -> Loader {
        Loader::new()
            .directory(directory)
            .environment(variables.iter().copied())
    }

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    #[test]
    fn defaults_without_any_source() {
        let loaded = Loader::new()
            .directory("/nonexistent")
            .environment(NOTHING)
            .load()
            .unwrap();
        assert_eq!(loaded.settings, Settings::default());
        assert!(loaded.origins.is_empty());
    }

    #[test]
    fn later_sources_win() {
        let files = directory(&[
            (
                "a.toml",
                "[server]\nlisten = '127.0.0.1:1'\nhttp_threads = 1\n[worker]\nprefetch = 1\n",
            ),
            ("b.toml", "[server]\nlisten = '127.0.0.1:2'\n"),
            ("ignored.txt", "nonsense"),
        ]);
        let variables = [
            ("SCITQ_WORKER_PREFETCH", "7"),
            ("SCITQ_WORKER_NAME", "42"),
            ("SCITQ_WORKER_DRAIN_TIMEOUT", "30"),
            ("SCITQ_SERVER", "http://x"),
            ("HOME", "/"),
        ];
        let loaded = loader(files.path(), &variables)
            .flag("worker.prefetch", "--prefetch", Some(9))
            .load()
            .unwrap();
        assert_eq!(loaded.settings.server.listen.port(), 2);
        assert_eq!(loaded.settings.server.http_threads, 1);
        assert_eq!(loaded.settings.worker.prefetch, 9);
        assert_eq!(loaded.settings.worker.name.as_str(), "42");
        assert_eq!(loaded.settings.worker.drain_timeout.seconds(), Some(30));
        assert_eq!(loaded.origins["worker.prefetch"], "the flag --prefetch");
        assert_eq!(
            loaded.origins["worker.name"],
            "the environment variable SCITQ_WORKER_NAME"
        );
        assert!(
            loaded.origins["server.listen"].ends_with("b.toml"),
            "{:?}",
            loaded.origins
        );
        let named = loader(files.path(), &[])
            .config(Some(files.path().join("a.toml")))
            .load()
            .unwrap();
        assert_eq!(named.settings.server.listen.port(), 1);
    }

    #[test]
    fn errors_name_key_and_place() {
        type Row = (
            &'static str,
            &'static [(&'static str, &'static str)],
            &'static [&'static str],
        );
        let table: &[Row] = &[
            (
                "[server]\nlisten_on = 1",
                &[],
                &[
                    "unknown setting \"server.listen_on\"",
                    "a.toml",
                    "listen, http_threads",
                ],
            ),
            (
                "[sever]\nlisten = ''",
                &[],
                &["unknown setting \"sever\"", "a.toml", "broker, database"],
            ),
            (
                "[server]\nlisten = 5",
                &[],
                &["\"server.listen\"", "a.toml", "wrong type"],
            ),
            (
                "[server]\nlisten = 'here'",
                &[],
                &["\"server.listen\"", "a.toml", "invalid socket address"],
            ),
            (
                "[worker]\nname = 'a/b'",
                &[],
                &["\"worker.name\"", "a.toml", "must not contain '/'"],
            ),
            (
                "[worker]\nconcurrency = 70000",
                &[],
                &["\"worker.concurrency\"", "a.toml"],
            ),
            (
                "[worker]\nstatus = 'evicted'",
                &[],
                &[
                    "\"worker.status\"",
                    "a.toml",
                    "must be running or paused, not evicted",
                ],
            ),
            (
                "[worker]\ndrain_timeout = 'soon'",
                &[],
                &[
                    "\"worker.drain_timeout\"",
                    "a.toml",
                    "a number of seconds or \"none\"",
                ],
            ),
            (
                "[worker]\non_drain_timeout = 'kill'",
                &[],
                &["\"worker.on_drain_timeout\"", "a.toml", "leave"],
            ),
            (
                "",
                &[("SCITQ_WORKER_DRAIN_TIMEOUT", "-5")],
                &[
                    "\"worker.drain_timeout\"",
                    "SCITQ_WORKER_DRAIN_TIMEOUT",
                    "seconds",
                ],
            ),
            (
                "[database]\npool_size = 1",
                &[],
                &[
                    "\"database.pool_size\"",
                    "a.toml",
                    "must be between 2 and 100, not 1",
                ],
            ),
            (
                "[broker]\nqueue_type = 'fast'",
                &[],
                &["\"broker.queue_type\"", "a.toml", "classic"],
            ),
            ("not toml", &[], &["a.toml", "not valid TOML"]),
            (
                "",
                &[("SCITQ_WORKER_COLOUR", "red")],
                &["unknown setting \"worker.colour\"", "SCITQ_WORKER_COLOUR"],
            ),
            (
                "",
                &[("SCITQ_COLOUR", "red")],
                &["unknown setting", "SCITQ_COLOUR", "broker, database"],
            ),
            (
                "",
                &[("SCITQ_WORKER_PREFETCH", "many")],
                &[
                    "\"worker.prefetch\"",
                    "SCITQ_WORKER_PREFETCH",
                    "must be a number",
                ],
            ),
        ];
        for (text, variables, parts) in table {
            let files = directory(&[("a.toml", text)]);
            let error = loader(files.path(), variables)
                .load()
                .unwrap_err()
                .to_string();
            for part in *parts {
                assert!(error.contains(part), "{error:?} should contain {part:?}");
            }
        }
        let missing = Loader::new()
            .config(Some("/nonexistent/x.toml".into()))
            .environment(NOTHING)
            .load()
            .unwrap_err();
        assert!(
            missing
                .to_string()
                .contains("cannot read the settings file /nonexistent/x.toml"),
            "{missing}"
        );
    }

    /// The sample file is valid, names every key that has one default for all machines, and holds the defaults.
    #[test]
    fn the_sample_file_holds_the_defaults() {
        let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/scitq.toml");
        let loaded = Loader::new()
            .config(Some(sample.into()))
            .environment(NOTHING)
            .load()
            .unwrap();
        assert_eq!(loaded.settings, Settings::default());
        let keys = shape().into_iter().flat_map(|(section, keys)| {
            keys.into_keys().map(move |key| format!("{section}.{key}"))
        });
        let missing: Vec<String> = keys
            .filter(|key| !loaded.origins.contains_key(key))
            .collect();
        assert_eq!(missing, ["worker.concurrency", "worker.name"]);
    }

    #[test]
    fn secrets_are_masked_when_shown() {
        let variables = [
            ("SCITQ_BROKER_URL", "amqp://u:s3cret@h/"),
            ("SCITQ_DATABASE_URL", "postgres://u:s3cret@h/d"),
        ];
        let loaded = loader(Path::new("/nonexistent"), &variables)
            .load()
            .unwrap();
        let shown = serde_json::to_string(&loaded.settings).unwrap() + &format!("{loaded:?}");
        assert!(!shown.contains("s3cret"), "{shown}");
        assert_eq!(loaded.settings.broker.url.expose(), "amqp://u:s3cret@h/");
    }
}
