//! A measured figure and what is asked of it.

use serde::Serialize;

/// A figure of the summary.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// What was measured. Equal names stand in one row of the summary.
    pub name: String,
    /// The value.
    pub value: f64,
    /// Its unit.
    pub unit: Unit,
    /// What is asked of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<Bound>,
    /// Whether it is that; absent where nothing is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passed: Option<bool>,
}

/// Unit of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Things in a second.
    PerSecond,
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
    /// 1,048,576 bytes.
    Mebibytes,
}

impl Unit {
    /// Its name for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::PerSecond => "/s",
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
            Self::Mebibytes => "MiB",
        }
    }
}

/// What is asked of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// This much or more.
    AtLeast(f64),
    /// Less than this.
    Below(f64),
}

impl Bound {
    /// True if the value is what is asked.
    pub fn admits(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::Below(bound) => value < bound,
        }
    }
}

impl Figure {
    /// A figure of which nothing is asked.
    pub fn new(name: impl Into<String>, value: f64, unit: Unit) -> Self {
        Self {
            name: name.into(),
            value,
            unit,
            bound: None,
            passed: None,
        }
    }

    /// Says what is asked of it.
    #[must_use]
    pub fn asked(mut self, bound: Bound) -> Self {
        self.bound = Some(bound);
        self.passed = Some(bound.admits(self.value));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_judge() {
        let rate = |value| Figure::new("rate", value, Unit::PerSecond).asked(Bound::AtLeast(700.0));
        assert_eq!(rate(700.0).passed, Some(true));
        assert_eq!(rate(699.9).passed, Some(false));
        let memory =
            |value| Figure::new("memory", value, Unit::Mebibytes).asked(Bound::Below(30.0));
        assert_eq!(memory(29.9).passed, Some(true));
        assert_eq!(memory(30.0).passed, Some(false));
        assert_eq!(memory(f64::NAN).passed, Some(false));
    }
}
