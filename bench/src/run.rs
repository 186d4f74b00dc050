//! The course of all measurements.

use std::process::ExitCode;

use anyhow::Context as _;

use crate::measure::{bulk, latency, memory, output, spawn, throughput};
use crate::options::{Options, Section};
use crate::pair::Pair;
use crate::programs::Programs;
use crate::report::{PairReport, Report};
use crate::say;
use crate::show;
use crate::system::System;

/// Measures what is wanted, shows it, and writes it. What fails is told at the end and does not stop the rest.
pub async fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let programs = if options.wants_systems() {
        let names = options.pairs().into_iter().flat_map(|pair| match pair {
            Pair::Embedded => &["scitq-ctl"][..],
            Pair::Rabbitmq => &["scitq-server", "scitq-worker"],
        });
        let names: Vec<&str> = names.copied().collect();
        Some(Programs::find(options.programs.as_deref(), &names)?)
    } else {
        None
    };
    let mut report = Report::new(options);
    if report.machine.debug_build {
        say("this is a debug build: its figures say nothing about scitq");
    }
    if options.wants(Section::Spawn) {
        match spawn::measure(options).await {
            Ok(spawn) => report.spawn = Some(spawn),
            Err(error) => fail(&mut report, &format!("xargs: {error:#}")),
        }
    }
    for pair in options.pairs() {
        let Some(programs) = &programs else { break };
        say(format!("{pair}: starting"));
        match System::start(pair, options, programs).await {
            Ok(system) => measure_pair(system, options, &mut report).await,
            Err(error) => fail(&mut report, &format!("{pair} did not start: {error:#}")),
        }
    }
    print!("{}", show::summary(&report));
    let path = report.write(&options.results)?;
    say(format!("all figures are in {}", path.display()));
    let good = if options.check {
        report.passed()
    } else {
        report.failures.is_empty()
    };
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn fail(report: &mut Report, failure: &str) {
    say(format!("FAILED: {failure}"));
    report.failures.push(failure.to_owned());
}

async fn measure_pair(system: System, options: &Options, report: &mut Report) {
    let pair = system.pair;
    let mut measured = PairReport::new(pair);
    let outcome = sections(&system, options, &mut measured).await;
    report.pairs.push(measured);
    match outcome {
        Ok(()) => {
            if let Err(error) = system.stop().await {
                fail(report, &format!("{pair} did not stop: {error:#}"));
            }
        }
        Err(error) => {
            let words = system.last_words();
            fail(report, &format!("{pair}: {error:#}\n{words}"));
        }
    }
}

/// What needs an idle system comes first; what leaves many tasks behind comes late.
async fn sections(
    system: &System,
    options: &Options,
    measured: &mut PairReport,
) -> anyhow::Result<()> {
    rest(system, options, memory::START, measured).await?;
    if options.wants(Section::Latency) {
        let latency = latency::measure(system, options).await;
        measured.latency = Some(latency.context("latency")?);
        rest(system, options, "latency", measured).await?;
    }
    if options.wants(Section::Throughput) {
        let throughput = throughput::measure(system, options).await;
        measured.throughput = Some(throughput.context("throughput")?);
        rest(system, options, "throughput", measured).await?;
    }
    if options.wants(Section::Output) {
        let output = output::measure(system, options).await;
        measured.output = output.context("output")?;
        rest(system, options, "output", measured).await?;
    }
    if options.wants(Section::Bulk) {
        let bulk = bulk::measure(system, options).await;
        measured.bulk = Some(bulk.context("bulk submission")?);
        rest(system, options, "bulk submission", measured).await?;
    }
    Ok(())
}

/// Notes the memory, if that is wanted.
async fn rest(
    system: &System,
    options: &Options,
    after: &'static str,
    measured: &mut PairReport,
) -> anyhow::Result<()> {
    if options.wants(Section::Memory) {
        let memory = memory::measure(system, after).await;
        measured.memory.push(memory.context("memory")?);
    }
    Ok(())
}
