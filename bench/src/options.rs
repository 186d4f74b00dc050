//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use scitq_shared::settings::QueueType;

use crate::pair::Pair;

/// Measures scitq on this machine: speed, latency and memory, on both pairs of broker and database.
///
/// Nothing else should use the processors meanwhile; how much did is part of the report.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Options {
    /// Measure only these sections
    #[arg(long, value_enum, value_name = "SECTION", num_args = 1.., value_delimiter = ',')]
    pub only: Vec<Section>,
    /// Measure only this pair of broker and database
    #[arg(long, value_enum)]
    pub pair: Option<Pair>,
    /// Tasks (and processes of xargs) of one run end to end
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub tasks: u32,
    /// Runs whose median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repeat: u32,
    /// Slots of the worker
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub concurrency: u16,
    /// Tasks that the worker keeps ready beyond those running
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(0..=10_000))]
    pub prefetch: u16,
    /// Kind of the batches' queues on RabbitMQ: classic or quorum
    #[arg(long, default_value_t = QueueType::Classic)]
    pub queue_type: QueueType,
    /// Tasks of the bulk submission
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub bulk_tasks: u32,
    /// Tasks in one request of the bulk submission
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub request_tasks: u32,
    /// Single submissions whose latency is measured
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub latency_samples: u32,
    /// Bytes that a task of the output section prints
    #[arg(long, default_value_t = 1_000_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub output_bytes: u64,
    /// Where scitq-ctl, scitq-server and scitq-worker are [default: beside this program]
    #[arg(long, value_name = "DIRECTORY")]
    pub programs: Option<PathBuf>,
    /// Where the results are written as JSON
    #[arg(long, value_name = "DIRECTORY", default_value = "bench/results")]
    pub results: PathBuf,
    /// Exit with 1 if a figure misses its floor
    #[arg(long)]
    pub check: bool,
}

/// A part of the measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Section {
    /// Starting processes with xargs, to compare with
    Spawn,
    /// Submission to start of the process, on an idle system
    Latency,
    /// Many `true` tasks end to end
    Throughput,
    /// Submitting many tasks that no worker takes
    Bulk,
    /// Resident memory, idle after the start and after the other sections
    Memory,
    /// Tasks that print a lot
    Output,
}

impl Options {
    /// True if the section is to be measured.
    pub fn wants(&self, section: Section) -> bool {
        self.only.is_empty() || self.only.contains(&section)
    }

    /// True if anything is to be measured that needs scitq running.
    pub fn wants_systems(&self) -> bool {
        Section::value_variants()
            .iter()
            .any(|section| *section != Section::Spawn && self.wants(*section))
    }

    /// The pairs to measure.
    pub fn pairs(&self) -> Vec<Pair> {
        match self.pair {
            Some(pair) => vec![pair],
            None => Pair::value_variants().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options, clap::Error> {
        Options::try_parse_from(std::iter::once(&"scitq-bench").chain(words))
    }

    #[test]
    fn everything_is_measured_by_default() {
        let options = parse(&[]).unwrap();
        assert!(
            Section::value_variants()
                .iter()
                .all(|section| options.wants(*section))
        );
        assert_eq!(options.pairs(), [Pair::Embedded, Pair::Rabbitmq]);
        assert!(options.wants_systems());
    }

    #[test]
    fn sections_can_be_chosen() {
        let options = parse(&["--only", "spawn,bulk", "--pair", "rabbitmq"]).unwrap();
        assert!(options.wants(Section::Spawn) && options.wants(Section::Bulk));
        assert!(!options.wants(Section::Latency));
        assert_eq!(options.pairs(), [Pair::Rabbitmq]);
        assert!(!parse(&["--only", "spawn"]).unwrap().wants_systems());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for words in [
            ["--tasks", "0"],
            ["--repeat", "0"],
            ["--only", "speed"],
            ["--pair", "mysql"],
            ["--concurrency", "0"],
            ["--queue-type", "stream"],
        ] {
            assert!(parse(&words).is_err(), "{words:?}");
        }
    }
}
