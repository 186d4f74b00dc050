//! The summary for people: figures of both pairs beside each other.

mod table;

use std::fmt::Write as _;

use crate::figure::{Bound, Figure, Unit};
use crate::measure::memory::{MemoryAt, mebibytes};
use crate::pair::Pair;
use crate::processes::UsageBetween;
use crate::report::Report;

/// The share of all processors that may go elsewhere before a figure counts as disturbed. The client is part of it.
const DISTURBED: f64 = 0.1;

/// Everything worth reading, as text.
pub fn summary(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "\nscitq on {} cores of {}, Linux {}, {:.0} GiB, files on {}; worker: concurrency {}, prefetch {}; {} queues{}\n\n",
        machine.cores,
        machine.processor,
        machine.kernel,
        mebibytes(machine.memory_bytes) / 1024.0,
        machine.file_system,
        report.concurrency,
        report.prefetch,
        report.queue_type,
        if machine.debug_build {
            "; DEBUG BUILD"
        } else {
            ""
        },
    );
    text += &figures(report);
    for measured in &report.pairs {
        let end_to_end = measured
            .throughput
            .as_ref()
            .and_then(|all| all.middle_run());
        let end_to_end = end_to_end.map(|run| ("end to end", run.seconds, &run.cpu));
        let bulk = measured.bulk.as_ref();
        let bulk = bulk.map(|bulk| ("bulk submission", bulk.seconds(), &bulk.cpu));
        for (what, seconds, cpu) in end_to_end.into_iter().chain(bulk) {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "\n{}, {what}: processor seconds of {seconds:.1} s × {} cores{}\n",
                measured.pair,
                machine.cores,
                disturbance(cpu, seconds, machine.cores)
            );
            text += &usage(cpu);
        }
        if !measured.memory.is_empty() {
            let _ = writeln!(
                text,
                "\n{}: resident memory when idle, MiB\n",
                measured.pair
            );
            text += &memory(&measured.memory);
        }
    }
    for failure in &report.failures {
        let _ = writeln!(text, "\nFAILED: {failure}");
    }
    text + "\n"
}

fn figures(report: &Report) -> String {
    let figures = report.figures();
    let mut names: Vec<&str> = Vec::new();
    for (_, figure) in &figures {
        if !names.contains(&figure.name.as_str()) {
            names.push(&figure.name);
        }
    }
    let pairs: Vec<Pair> = report.pairs.iter().map(|measured| measured.pair).collect();
    let cell = |name: &str, pair: Option<Pair>| {
        let found = figures
            .iter()
            .find(|(of, figure)| *of == pair && figure.name == name);
        found.map_or_else(String::new, |(_, figure)| figure_text(figure))
    };
    let mut columns: Vec<Option<Pair>> = pairs.into_iter().map(Some).collect();
    if report.spawn.is_some() {
        columns.insert(0, None);
    }
    let head = columns.iter().map(|column| match column {
        Some(pair) => pair.to_string(),
        None => "the machine".to_owned(),
    });
    let mut rows = vec![std::iter::once(String::new()).chain(head).collect()];
    for name in names {
        let cells = columns.iter().map(|column| cell(name, *column));
        rows.push(std::iter::once(name.to_owned()).chain(cells).collect());
    }
    table::aligned(&rows)
}

fn figure_text(figure: &Figure) -> String {
    let value = number(figure.value, figure.unit);
    let unit = figure.unit.text();
    let asked = match figure.bound {
        Some(Bound::AtLeast(bound)) => format!("≥ {}", number(bound, Unit::PerSecond)),
        Some(Bound::Below(bound)) => format!("< {}", number(bound, Unit::PerSecond)),
        None => return format!("{value} {unit}"),
    };
    let verdict = if figure.passed == Some(true) {
        "PASS"
    } else {
        "FAIL"
    };
    format!("{value} {unit} ({asked}: {verdict})")
}

/// Rates as whole numbers with separated thousands, others with one decimal.
fn number(value: f64, unit: Unit) -> String {
    if unit != Unit::PerSecond {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A warning if much of the machine went elsewhere.
fn disturbance(usage: &UsageBetween, seconds: f64, cores: u16) -> String {
    let share = usage.elsewhere_seconds / (seconds * f64::from(cores));
    if share < DISTURBED {
        return String::new();
    }
    format!("; DISTURBED: {:.0} % of them went elsewhere", share * 100.0)
}

fn usage(usage: &UsageBetween) -> String {
    let mut rows = vec![
        ["", "user", "kernel", "its children", "all"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for program in &usage.programs {
        let seconds = [
            program.user_seconds,
            program.system_seconds,
            program.children_seconds,
            program.total(),
        ];
        let seconds = seconds.map(|seconds| format!("{seconds:.2}"));
        rows.push(
            std::iter::once(program.program.clone())
                .chain(seconds)
                .collect(),
        );
    }
    let elsewhere = format!("{:.2}", usage.elsewhere_seconds);
    let none = String::new;
    rows.push(vec![
        "elsewhere".to_owned(),
        none(),
        none(),
        none(),
        elsewhere,
    ]);
    table::aligned(&rows)
}

fn memory(moments: &[MemoryAt]) -> String {
    let head = [
        "after",
        "process",
        "resident",
        "of these its own data",
        "peak before",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for moment in moments {
        for process in &moment.processes {
            let memory = &process.memory;
            let bytes = [memory.resident_bytes, memory.own_bytes, memory.peak_bytes];
            let bytes = bytes.map(|bytes| format!("{:.1}", mebibytes(bytes)));
            let names = [moment.after, process.role.text()].map(str::to_owned);
            rows.push(names.into_iter().chain(bytes).collect());
        }
    }
    table::aligned(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        for (value, text) in [
            (0.4, "0"),
            (999.0, "999"),
            (1000.0, "1,000"),
            (123_456.0, "123,456"),
            (1_234_567.8, "1,234,568"),
        ] {
            assert_eq!(number(value, Unit::PerSecond), text);
        }
        assert_eq!(number(12.345, Unit::Milliseconds), "12.3");
    }

    #[test]
    fn much_work_elsewhere_is_told() {
        let usage = |elsewhere_seconds| UsageBetween {
            programs: Vec::new(),
            elsewhere_seconds,
        };
        assert_eq!(disturbance(&usage(1.9), 10.0, 2), "");
        let told = disturbance(&usage(5.0), 10.0, 2);
        assert_eq!(told, "; DISTURBED: 25 % of them went elsewhere");
    }

    #[test]
    fn a_figure_says_what_is_asked_and_whether_it_is_met() {
        let figure = Figure::new("x", 1936.0, Unit::PerSecond);
        assert_eq!(figure_text(&figure), "1,936 /s");
        let good = figure.clone().asked(Bound::AtLeast(700.0));
        assert_eq!(figure_text(&good), "1,936 /s (≥ 700: PASS)");
        let bad = Figure::new("x", 70.25, Unit::Mebibytes).asked(Bound::Below(64.0));
        assert_eq!(figure_text(&bad), "70.2 MiB (< 64: FAIL)");
    }
}
