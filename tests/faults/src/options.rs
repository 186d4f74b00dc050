//! The command line.

use clap::{Parser, ValueEnum};

use crate::case::{CASES, Case};

/// Runs series of tasks on the real programs, with RabbitMQ and PostgreSQL of its own, while parts of the system are
/// killed, stopped, cut off or wiped; then checks that nothing was lost, doubled or left behind.
///
/// Standard output gets the table (or JSON), standard error what is being done. The exit code is 0 when nothing failed,
/// 1 when something did, and 130 after Ctrl-C. docs/RELIABILITY.md says what each case is for.
#[derive(Clone, Debug, Parser)]
#[command(name = "scitq-faults", version)]
pub(crate) struct Options {
    /// Only these cases (see --list); all by default
    #[arg(long, value_name = "CASE", num_args = 1.., value_parser = case)]
    pub(crate) only: Vec<Case>,

    /// Decides when what happens to whom; a new one every time by default
    #[arg(long)]
    pub(crate) seed: Option<u64>,

    /// Tasks of a series [default: 300, or 16 with --short]
    #[arg(long, value_parser = clap::value_parser!(u16).range(4..))]
    pub(crate) tasks: Option<u16>,

    /// How often the fault of a series strikes [default: 4, or 1 with --short]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=50))]
    pub(crate) times: Option<u16>,

    /// Few tasks and each fault once, for `make test`; leaves the mixed series out
    #[arg(long)]
    pub(crate) short: bool,

    /// Cases at the same time, each with services of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub(crate) lanes: u16,

    /// List all cases
    #[arg(long)]
    pub(crate) list: bool,

    /// Form of the results
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    pub(crate) output: Form,
}

/// Form of the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// For people
    Table,
    /// One JSON document
    Json,
}

fn case(name: &str) -> Result<Case, String> {
    Case::named(name).ok_or_else(|| {
        let names: Vec<&str> = CASES.iter().map(|description| description.name).collect();
        format!("there is no such case; there are: {}", names.join(", "))
    })
}

impl Options {
    /// Tasks of a series.
    pub(crate) fn tasks(&self) -> usize {
        self.tasks
            .map_or(if self.short { 16 } else { 300 }, usize::from)
    }

    /// How often a fault strikes.
    pub(crate) fn times(&self) -> usize {
        self.times
            .map_or(if self.short { 1 } else { 4 }, usize::from)
    }

    /// What is to be run, in order.
    pub(crate) fn cases(&self) -> Vec<Case> {
        if !self.only.is_empty() {
            return self.only.clone();
        }
        let all = CASES.iter().map(|description| description.case);
        all.filter(|case| !self.short || *case != Case::Mixed)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Options::command().debug_assert();
    }

    #[test]
    fn the_short_form_is_short() {
        let short = Options::parse_from(["scitq-faults", "--short"]);
        assert_eq!((short.tasks(), short.times()), (16, 1));
        assert!(!short.cases().contains(&Case::Mixed));
        let chosen = Options::parse_from([
            "scitq-faults",
            "--only",
            "broker-kill",
            "mixed",
            "--tasks",
            "50",
        ]);
        assert_eq!(chosen.cases().len(), 2);
        assert_eq!((chosen.tasks(), chosen.times()), (50, 4));
        let error = Options::try_parse_from(["scitq-faults", "--only", "nothing"]).unwrap_err();
        assert!(error.to_string().contains("broker-kill"), "{error}");
    }
}
