//! Values on their way into the database and out of it.

use chrono::{DateTime, NaiveDateTime, SubsecRound, Utc};
use scitq_shared::Timestamp;

use super::DbError;

/// Text that both databases take: PostgreSQL stores no NUL, so it becomes the character that stands for unreadable ones.
pub(super) fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// A time that both databases take: microseconds, and a year of four digits whatever a worker's clock says.
pub(super) fn time(time: Timestamp) -> NaiveDateTime {
    let earliest = DateTime::<Utc>::UNIX_EPOCH;
    let latest =
        DateTime::<Utc>::from_timestamp(253_402_300_799, 0).unwrap_or(DateTime::<Utc>::MAX_UTC);
    time.clamp(earliest, latest).naive_utc().trunc_subsecs(6)
}

/// A time as text inside JSON, in the very form that diesel stores in SQLite, so that both compare as text.
pub(super) fn time_text(value: Timestamp) -> String {
    time(value).format("%F %T%.f").to_string()
}

/// A number as the databases hold it. Beyond their range it is cut to the largest, which nothing real reaches.
pub(super) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A count or offset read back; never negative in rows of ours.
pub(super) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// Reads a value that was written as text; `column` is named when it cannot be read.
pub(super) fn parse<T>(column: &str, text: &str) -> Result<T, DbError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error| DbError::Corrupt {
        reason: format!("{column} is {text:?}: {error}"),
    })
}

/// Reads a list or a map that was written as JSON; `column` is named when it cannot be read.
pub(super) fn json<T: serde::de::DeserializeOwned>(column: &str, text: &str) -> Result<T, DbError> {
    serde_json::from_str(text).map_err(|error| DbError::Corrupt {
        reason: format!("{column} is {text:?}: {error}"),
    })
}

/// Writes a list or a map as JSON.
pub(super) fn to_json<T: serde::Serialize>(value: &T) -> String {
    #[expect(
        clippy::expect_used,
        reason = "only texts, numbers, lists and maps with text keys are written: JSON takes them all"
    )]
    serde_json::to_string(value).expect("lists and maps of texts are valid JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_values_are_made_storable() {
        assert_eq!(text("a\0b"), "a\u{fffd}b");
        assert_eq!(time_text(DateTime::<Utc>::MAX_UTC), "9999-12-31 23:59:59");
        assert_eq!(time_text(DateTime::<Utc>::MIN_UTC), "1970-01-01 00:00:00");
        let nanos = DateTime::<Utc>::from_timestamp(0, 123_456_789).unwrap();
        assert_eq!(time_text(nanos), "1970-01-01 00:00:00.123456");
        assert_eq!(number(u64::MAX), i64::MAX);
    }
}
