//! Everything that was measured, as it is written to the results.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use chrono::{DateTime, SubsecRound as _, Utc};
use scitq_shared::settings::QueueType;
use serde::Serialize;

use crate::figure::Figure;
use crate::machine::Machine;
use crate::measure::bulk::{self, Bulk};
use crate::measure::latency::{self, Latency};
use crate::measure::memory::{self, MemoryAt};
use crate::measure::output::{self, Output};
use crate::measure::spawn::{self, Spawn};
use crate::measure::throughput::{self, Throughput};
use crate::options::Options;
use crate::pair::Pair;

/// One call of this program.
#[derive(Debug, Serialize)]
pub struct Report {
    /// When it began.
    pub began_at: DateTime<Utc>,
    /// Where it ran.
    pub machine: Machine,
    /// Slots of the worker.
    pub concurrency: u16,
    /// Tasks it kept ready beyond those.
    pub prefetch: u16,
    /// Kind of the batches' queues on RabbitMQ.
    pub queue_type: QueueType,
    /// What xargs can do.
    pub spawn: Option<Spawn>,
    /// Each pair.
    pub pairs: Vec<PairReport>,
    /// What could not be measured, and why.
    pub failures: Vec<String>,
}

/// What was measured on one pair.
#[derive(Debug, Serialize)]
pub struct PairReport {
    /// The pair.
    pub pair: Pair,
    /// Latencies.
    pub latency: Option<Latency>,
    /// Tasks end to end.
    pub throughput: Option<Throughput>,
    /// Bulk submission.
    pub bulk: Option<Bulk>,
    /// Memory after the start and after each section.
    pub memory: Vec<MemoryAt>,
    /// Tasks that print a lot.
    pub output: Vec<Output>,
}

impl Report {
    /// A report with nothing in it yet.
    pub fn new(options: &Options) -> Self {
        Self {
            began_at: Utc::now().trunc_subsecs(0),
            machine: Machine::describe(),
            concurrency: options.concurrency,
            prefetch: options.prefetch,
            queue_type: options.queue_type,
            spawn: None,
            pairs: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Every figure of the summary, with its pair where it has one.
    pub fn figures(&self) -> Vec<(Option<Pair>, Figure)> {
        let spawn = self.spawn.iter().flat_map(spawn::figures);
        let spawn = spawn.map(|figure| (None, figure));
        let pairs = self.pairs.iter().flat_map(|report| {
            let figures = report.figures().into_iter();
            figures.map(|figure| (Some(report.pair), figure))
        });
        spawn.chain(pairs).collect()
    }

    /// True if everything was measured and no figure misses what is asked.
    pub fn passed(&self) -> bool {
        let missed = |(_, figure): &(Option<Pair>, Figure)| figure.passed == Some(false);
        self.failures.is_empty() && !self.figures().iter().any(missed)
    }

    /// Writes it to a new file in this directory, named by the time, and tells which.
    pub fn write(&self, directory: &Path) -> anyhow::Result<PathBuf> {
        #[derive(Serialize)]
        struct Written<'a> {
            #[serde(flatten)]
            report: &'a Report,
            figures: Vec<WrittenFigure>,
        }
        #[derive(Serialize)]
        struct WrittenFigure {
            #[serde(skip_serializing_if = "Option::is_none")]
            pair: Option<Pair>,
            #[serde(flatten)]
            figure: Figure,
        }
        let figures = self.figures().into_iter();
        let written = Written {
            report: self,
            figures: figures
                .map(|(pair, figure)| WrittenFigure { pair, figure })
                .collect(),
        };
        let json = serde_json::to_vec_pretty(&written).context("cannot write JSON")?;
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let name = self.began_at.format("%Y-%m-%dT%H-%M-%SZ.json");
        let path = directory.join(name.to_string());
        std::fs::write(&path, json).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl PairReport {
    /// A report with nothing in it yet.
    pub fn new(pair: Pair) -> Self {
        Self {
            pair,
            latency: None,
            throughput: None,
            bulk: None,
            memory: Vec::new(),
            output: Vec::new(),
        }
    }

    fn figures(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        figures.extend(
            self.throughput
                .iter()
                .flat_map(|throughput| throughput::figures(throughput, self.pair)),
        );
        figures.extend(self.bulk.iter().flat_map(bulk::figures));
        figures.extend(self.latency.iter().flat_map(latency::figures));
        figures.extend(memory::figures(&self.memory));
        figures.extend(output::figures(&self.output));
        figures
    }
}
