use std::path::PathBuf;

/// Why the settings cannot be used. Every text names the key and where it stands; values of addresses are not shown.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file that cannot be read.
    #[error("cannot read the settings file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that is no TOML.
    #[error("the settings file {} is not valid TOML: {reason}", path.display())]
    NotToml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// A key that does not exist.
    #[error("unknown setting {key:?} in {origin} (known there: {known})")]
    UnknownKey {
        /// The key, with its section.
        key: String,
        /// File, environment variable or flag.
        origin: String,
        /// The keys that exist in that section.
        known: String,
    },
    /// A value that does not fit.
    #[error("setting {key:?} in {origin} {rule}")]
    Invalid {
        /// The key, with its section.
        key: String,
        /// File, environment variable or flag.
        origin: String,
        /// What is wrong with it.
        rule: String,
    },
}
