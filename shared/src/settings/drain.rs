use std::time::Duration;

use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::task::text_enum;

text_enum! {
    /// What becomes of tasks that run for longer than a worker waits for them when it is told to end.
    OnDrainTimeout {
        /// They go on without it, and its next start adopts them.
        Leave = "leave",
        /// They are asked to end, killed if they do not, and reported; the server dispatches them anew.
        Stop = "stop",
    }
}

/// How long a worker that is told to end waits for its running tasks: a number of seconds, or `none`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainTimeout(Option<u64>);

/// The word for no limit.
const NONE: &str = "none";

impl DrainTimeout {
    /// That many seconds; none for as long as it takes.
    pub fn new(seconds: Option<u64>) -> Self {
        Self(seconds)
    }

    /// In seconds; none for as long as it takes.
    pub fn seconds(self) -> Option<u64> {
        self.0
    }

    /// The same as a duration.
    pub fn duration(self) -> Option<Duration> {
        self.0.map(Duration::from_secs)
    }
}

impl Serialize for DrainTimeout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(seconds) => serializer.serialize_u64(seconds),
            None => serializer.serialize_str(NONE),
        }
    }
}

impl<'de> Deserialize<'de> for DrainTimeout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecondsOrNone)
    }
}

struct SecondsOrNone;

impl Visitor<'_> for SecondsOrNone {
    type Value = DrainTimeout;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "a number of seconds or {NONE:?}")
    }

    fn visit_u64<E: serde::de::Error>(self, seconds: u64) -> Result<DrainTimeout, E> {
        Ok(DrainTimeout(Some(seconds)))
    }

    fn visit_i64<E: serde::de::Error>(self, seconds: i64) -> Result<DrainTimeout, E> {
        let seconds = u64::try_from(seconds);
        seconds.map_or_else(
            |_| {
                Err(E::custom(
                    "it must be a number of seconds, 0 or more, or \"none\"",
                ))
            },
            |seconds| Ok(DrainTimeout(Some(seconds))),
        )
    }

    /// Environment variables are text.
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<DrainTimeout, E> {
        let text = text.trim();
        if text == NONE {
            return Ok(DrainTimeout(None));
        }
        let seconds = text.parse();
        seconds.map_or_else(
            |_| Err(E::invalid_value(Unexpected::Str(text), &self)),
            |seconds| Ok(DrainTimeout(Some(seconds))),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_number_or_none() {
        let table = [
            ("\"none\"", Some(None)),
            ("0", Some(Some(0))),
            ("30", Some(Some(30))),
            ("\" 30 \"", Some(Some(30))),
            ("-1", None),
            ("\"soon\"", None),
            ("true", None),
            ("1.5", None),
        ];
        for (text, expected) in table {
            let read = serde_json::from_str::<DrainTimeout>(text);
            assert_eq!(
                read.as_ref().ok().map(|read| read.seconds()),
                expected,
                "{text}"
            );
            match read {
                Ok(read) => {
                    let written = serde_json::to_string(&read).unwrap();
                    assert_eq!(
                        serde_json::from_str::<DrainTimeout>(&written).unwrap(),
                        read
                    );
                }
                Err(error) => assert!(error.to_string().contains("seconds"), "{error}"),
            }
        }
    }
}
