//! Names that people give to batches and workers.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The batch of a task that names none, as in scitq 1.
pub const DEFAULT_BATCH: &str = "Default";

/// Longest percent-encoded name in bytes: AMQP names end at 255 bytes and the topology adds a prefix.
pub const MAX_ENCODED_NAME_BYTES: usize = 200;

/// Kept as they are in encoded names. Everything else is encoded, dots included, because they separate the words of
/// routing keys.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// A batch's or worker's name as one word of a queue name or routing key: percent-encoded.
pub fn encode_name(name: &str) -> String {
    utf8_percent_encode(name, ENCODED).to_string()
}

/// Why a name cannot be used. The text says the rule and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No character at all, or white space only.
    #[error("must not be empty")]
    Empty,
    /// White space at an end, which nobody sees in a table.
    #[error("must not begin or end with white space")]
    OuterWhiteSpace,
    /// A character that would break paths, tables or terminals.
    #[error("must not contain {0} (allowed is every printable character but '/')")]
    Character(String),
    /// Longer than the broker's names allow.
    #[error(
        "is too long: {0} bytes when percent-encoded, at most {MAX_ENCODED_NAME_BYTES} are allowed"
    )]
    TooLong(usize),
}

fn check(name: &str) -> Result<(), NameError> {
    if name.trim().is_empty() {
        return Err(NameError::Empty);
    }
    if name.trim() != name {
        return Err(NameError::OuterWhiteSpace);
    }
    if let Some(bad) = name
        .chars()
        .find(|c| *c == '/' || c.is_control() || is_direction_mark(*c))
    {
        return Err(NameError::Character(format!("{bad:?}")));
    }
    let encoded = encode_name(name).len();
    if encoded > MAX_ENCODED_NAME_BYTES {
        return Err(NameError::TooLong(encoded));
    }
    Ok(())
}

/// Characters that turn the direction of writing: they make a name look like another one.
fn is_direction_mark(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

macro_rules! checked_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schemars(with = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks the name's rules: not empty, no `/`, no control characters, at most 200 bytes percent-encoded.
            pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
                let name = name.into();
                check(&name)?;
                Ok(Self(name))
            }

            /// The name as its user wrote it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_name!(
    /// Name of a batch: a series of tasks that is steered as one, and the queue that its workers listen to.
    BatchName
);
checked_name!(
    /// Name of a worker: what the server knows it by, over restarts.
    WorkerName
);

impl Default for BatchName {
    fn default() -> Self {
        Self(DEFAULT_BATCH.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_names() {
        let table: &[(&str, Result<(), NameError>)] = &[
            ("Default", Ok(())),
            ("étude nº 7.b#*", Ok(())),
            ("", Err(NameError::Empty)),
            ("  ", Err(NameError::Empty)),
            (" a", Err(NameError::OuterWhiteSpace)),
            ("a/b", Err(NameError::Character("'/'".into()))),
            ("a\u{1b}[31m", Err(NameError::Character("'\\u{1b}'".into()))),
            ("a\nb", Err(NameError::Character("'\\n'".into()))),
            (
                "a\u{202e}b",
                Err(NameError::Character("'\\u{202e}'".into())),
            ),
        ];
        for (name, expected) in table {
            assert_eq!(
                BatchName::new(*name).map(|_| ()),
                expected.clone(),
                "{name:?}"
            );
        }
        assert_eq!(BatchName::new("x".repeat(200)).map(|_| ()), Ok(()));
        assert_eq!(
            BatchName::new("x".repeat(201)),
            Err(NameError::TooLong(201))
        );
        assert_eq!(BatchName::new(".".repeat(67)), Err(NameError::TooLong(201)));
    }

    #[test]
    fn encoding_keeps_names_apart_and_leaves_no_pattern_characters() {
        let names = ["a.b", "a%2Eb", "a b", "a#b", "a*b", "é"];
        let encoded: std::collections::BTreeSet<String> =
            names.iter().map(|n| encode_name(n)).collect();
        assert_eq!(encoded.len(), names.len());
        for name in &encoded {
            assert!(
                name.is_ascii() && !name.contains(['.', '#', '*', ' ', '/']),
                "{name}"
            );
        }
    }
}
