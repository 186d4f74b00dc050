//! How long a worker may be silent, as people write it.

use scitq_shared::worker::{Lease, MAX_LOST_AFTER_SECONDS};

/// Reads a lease: a time such as `90s`, `45m`, `2h` or `1d`, or `default`. A bare number is refused: whoever means hours
/// and writes `2` would have the worker's tasks run twice. How short it may be is for the server to say.
pub fn parse(text: &str) -> Result<Lease, String> {
    if text == "default" {
        return Ok(Lease::Default);
    }
    let wrong = || {
        format!(
            "{text:?} is no time such as 90s, 45m, 2h or 1d (with its unit), nor default; the longest is {}d",
            MAX_LOST_AFTER_SECONDS / 86_400
        )
    };
    let split = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let seconds = number
        .parse()
        .ok()
        .and_then(|number: i64| number.checked_mul(factor));
    seconds
        .filter(|seconds| (1..=i64::from(MAX_LOST_AFTER_SECONDS)).contains(seconds))
        .map(Lease::Seconds)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_people() {
        let table = [
            ("90s", 90),
            ("45m", 2700),
            ("1min", 60),
            ("2h", 7200),
            ("3d", 259_200),
        ];
        for (text, seconds) in table {
            assert_eq!(parse(text), Ok(Lease::Seconds(seconds)), "{text}");
        }
        assert_eq!(parse("default"), Ok(Lease::Default));
        for text in [
            "",
            "h",
            "1",
            "90",
            "0s",
            "-5m",
            "2 h",
            "1w",
            "99999999999d",
            "4000d",
            "1.5h",
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains("2h"), "{text}: {error}");
        }
    }
}
