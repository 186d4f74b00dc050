//! How long a worker may be silent, as people write it.

use std::str::FromStr;

use scitq_shared::worker::MAX_LOST_AFTER_SECONDS;

/// A lease: seconds of silence, or what the server's settings say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// So many seconds.
    Seconds(u32),
    /// As the server's settings say.
    Default,
}

impl Lease {
    /// As the REST interface takes it.
    pub fn seconds(self) -> Option<u32> {
        match self {
            Self::Seconds(seconds) => Some(seconds),
            Self::Default => None,
        }
    }
}

impl FromStr for Lease {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "default" {
            return Ok(Self::Default);
        }
        let wrong = || {
            format!(
                "{text:?} is no time such as 90s, 45m, 2h or 1d, nor default; it must be between 2s and {}d",
                MAX_LOST_AFTER_SECONDS / 86_400
            )
        };
        let split = text
            .find(|character: char| !character.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let factor = match unit {
            "" | "s" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return Err(wrong()),
        };
        let seconds = number
            .parse()
            .ok()
            .and_then(|number: u32| number.checked_mul(factor));
        seconds
            .filter(|seconds| (2..=MAX_LOST_AFTER_SECONDS).contains(seconds))
            .map(Self::Seconds)
            .ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_people() {
        let table = [
            ("90", Some(90)),
            ("90s", Some(90)),
            ("45m", Some(2700)),
            ("1min", Some(60)),
            ("2h", Some(7200)),
            ("3d", Some(259_200)),
        ];
        for (text, seconds) in table {
            assert_eq!(text.parse::<Lease>().unwrap().seconds(), seconds, "{text}");
        }
        assert_eq!("default".parse(), Ok(Lease::Default));
        for text in [
            "",
            "h",
            "1",
            "-5m",
            "2 h",
            "1w",
            "99999999999d",
            "4000d",
            "1.5h",
        ] {
            let error = text.parse::<Lease>().unwrap_err();
            assert!(error.contains("2h"), "{text}: {error}");
        }
    }
}
