//! Sizes, times and texts as people read them.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeZone, Utc};
use scitq_shared::task::TaskStatus;

/// Shown where there is no value.
pub const NONE: &str = "-";

/// A number of bytes with a binary unit, three digits or so: `0 B`, `1023 B`, `1.5 KiB`, `64.0 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    let mut divisor: u128 = 1024;
    let tenths = |divisor: u128| (u128::from(bytes) * 10 + divisor / 2) / divisor;
    // 1023.95 and more would be shown as 1024.0: the next unit says it better
    while tenths(divisor) >= 10_240 && unit + 1 < UNITS.len() {
        divisor *= 1024;
        unit += 1;
    }
    let tenths = tenths(divisor);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A time span: `12 ms`, `3.4 s`, `5 min 6 s`, `2 h 3 min`, `4 d 5 h`. Negative ones (clocks that differ) count as 0.
pub fn duration(milliseconds: i64) -> String {
    let milliseconds = milliseconds.max(0);
    let seconds = milliseconds / 1000;
    match seconds {
        0 => format!("{milliseconds} ms"),
        1..60 => format!("{}.{} s", seconds, milliseconds % 1000 / 100),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A time in the zone of this machine, to the second.
pub fn time(at: DateTime<Utc>) -> String {
    time_in(at, &chrono::Local)
}

fn time_in<Z: TimeZone>(at: DateTime<Utc>, zone: &Z) -> String
where
    Z::Offset: std::fmt::Display,
{
    at.with_timezone(zone)
        .format("%Y-%m-%d %H:%M:%S")
        .to_string()
}

/// A time where there may be none.
pub fn time_or_none(at: Option<DateTime<Utc>>) -> String {
    at.map_or_else(|| NONE.to_owned(), time)
}

/// A text where there may be none.
pub fn or_none(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty())
        .unwrap_or(NONE)
        .to_owned()
}

/// Several texts on one line.
pub fn list_or_none(list: &[String]) -> String {
    or_none(Some(&list.join(" ")))
}

/// A number with its noun: `1 task`, `2 tasks`.
pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Numbers of tasks by status in the order of a task's life: `3 pending, 1 failed`.
pub fn by_status(tasks: &BTreeMap<String, i64>) -> String {
    let known = TaskStatus::ALL.iter().filter_map(|status| {
        tasks
            .get(status.as_str())
            .map(|number| format!("{number} {status}"))
    });
    // a newer server may know more statuses
    let unknown = tasks
        .iter()
        .filter(|(status, _)| status.parse::<TaskStatus>().is_err())
        .map(|(status, number)| format!("{number} {status}"));
    or_none(Some(&known.chain(unknown).collect::<Vec<_>>().join(", ")))
}

/// One line of text that no terminal takes for a command and no table breaks on: line ends and tabs as `\n` and `\t`,
/// other control characters as `^[`, marks that turn the direction of writing as `\u{202e}`.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => line.push_str("\\n"),
            '\t' => line.push_str("\\t"),
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                line.extend(c.escape_unicode());
            }
            c if c.is_control() => line.push_str(&caret(c)),
            c => line.push(c),
        }
    }
    line
}

/// The visible form of a control character: `^[` for those below the space and DEL, `\x9b` for the upper ones.
pub fn caret(control: char) -> String {
    match u32::from(control) {
        code @ 0..32 => format!("^{}", char::from_u32(code + 64).unwrap_or('?')),
        127 => "^?".to_owned(),
        code => format!("\\x{code:02x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let table = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (64 << 20, "64.0 MiB"),
            (950 << 20, "950.0 MiB"),
            (1000 << 20, "1000.0 MiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, text) in table {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn durations() {
        let table = [
            (-5, "0 ms"),
            (999, "999 ms"),
            (1000, "1.0 s"),
            (59_999, "59.9 s"),
            (61_000, "1 min 1 s"),
            (7_380_000, "2 h 3 min"),
            (363_600_000, "4 d 5 h"),
        ];
        for (milliseconds, text) in table {
            assert_eq!(duration(milliseconds), text, "{milliseconds}");
        }
    }

    #[test]
    fn times_are_shown_in_the_zone_of_the_reader() {
        let zone = chrono::FixedOffset::east_opt(2 * 3600).unwrap();
        let at = Utc.with_ymd_and_hms(2026, 7, 1, 23, 5, 6).unwrap();
        assert_eq!(time_in(at, &zone), "2026-07-02 01:05:06");
    }

    #[test]
    fn control_characters_lose_their_power() {
        assert_eq!(
            one_line("a\nb\tc\u{1b}[2J\u{7f}\u{9b}31m"),
            "a\\nb\\tc^[[2J^?\\x9b31m"
        );
        assert_eq!(one_line("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(one_line("déjà"), "déjà");
    }

    #[test]
    fn statuses_come_in_the_order_of_life() {
        let tasks = [("succeeded", 5), ("aborted", 1), ("pending", 3)];
        let tasks = tasks
            .map(|(status, number)| (status.to_owned(), number))
            .into();
        assert_eq!(by_status(&tasks), "3 pending, 5 succeeded, 1 aborted");
        assert_eq!(by_status(&BTreeMap::new()), "-");
    }

    #[test]
    fn counts() {
        assert_eq!(count(1, "task"), "1 task");
        assert_eq!(count(0, "task"), "0 tasks");
    }
}
