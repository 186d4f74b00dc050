//! Starting an attempt: directory, journal, work directory, and the order to a keeper. Blocking; runs beside the agent.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use scitq_shared::execution::FailureReason;
use scitq_shared::output::Stream;

use super::environment::{self, environment};
use super::users::{self, Switch};
use super::work_directory::WorkDirectories;
use super::{Site, StartFailure, command, lookup, work_directory};
use crate::agent::core::{AttemptEnd, Execution};
use crate::attempt::directory;
use crate::attempt::journal::{self, NotExecuted, Step};
use crate::keeper::{Kept, StartOrder, User};

/// How many keepers are tried, one after the other, when they go before they have read an order.
const MOST_TRIES: u32 = 3;

/// An attempt that was handed to a keeper.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) kept: Kept,
    pub(crate) order: StartOrder,
    /// True when the work directory may be used for another attempt.
    pub(crate) same_user: bool,
}

/// Prepares it and hands it over, or says why it cannot be started.
pub(crate) fn launch(site: &Site, execution: &Execution) -> Result<Launched, StartFailure> {
    let attempt = execution.report.attempt;
    let kept = site.keepers.take(attempt).map_err(|error| {
        let what = "start the keeper of its tasks in";
        fault(what, &site.attempts.of(attempt), &error)
    })?;
    let directory = begin(site, execution, kept.keeper())
        .map_err(|error| fault("keep the attempt in", &site.attempts.of(attempt), &error))?;
    let definition = &execution.message.definition;
    let words = command::words(definition)?;
    let switch = users::switch(definition.uid, definition.gid)?;
    let work = site.work.take(attempt).map_err(|error| {
        WorkDirectories::remove(&site.work.path(attempt));
        fault("make the work directory", &site.work.path(attempt), &error)
    })?;
    let prepared = prepare(site, execution, (&directory, &work), words, switch.as_ref());
    // Kept for the case that the keeper is gone before it has read this.
    let started = prepared.and_then(|order| match kept.start(&order) {
        Ok(()) => Ok((kept, order)),
        Err(error) => {
            tracing::info!(%attempt, %error, "the keeper takes no order: another one is made");
            drop(kept);
            Ok((launch_again(site, &order)?, order))
        }
    });
    match started {
        Ok((kept, order)) => Ok(Launched {
            kept,
            order,
            same_user: switch.is_none(),
        }),
        Err(failure) => {
            site.put_away(attempt, switch.is_none());
            Err(failure)
        }
    }
}

/// Hands an attempt over again, whose keeper went without having claimed it.
pub(crate) fn launch_again(site: &Site, order: &StartOrder) -> Result<Kept, StartFailure> {
    let directory = site.attempts.of(order.attempt);
    let again = || {
        let kept = site.keepers.take(order.attempt)?;
        // First, so that the next agent looks for it there.
        let keeper = kept.keeper().into();
        journal::append_apart(&directory, &Step::HandedOver { keeper })?;
        kept.start(order)?;
        Ok(kept)
    };
    let mut tries = 0;
    loop {
        tries += 1;
        match again() {
            Err(error) if tries == MOST_TRIES => {
                return Err(fault(
                    "ask the keeper to start",
                    &order.work_directory,
                    &error,
                ));
            }
            Err(_) => {}
            Ok(kept) => return Ok(kept),
        }
    }
}

fn begin(site: &Site, execution: &Execution, keeper: &str) -> io::Result<PathBuf> {
    let directory = site.attempts.make(execution.report.attempt)?;
    let step = Step::Accepted {
        report: std::borrow::Cow::Borrowed(&execution.report),
        definition: std::borrow::Cow::Borrowed(&execution.message.definition),
        keeper: keeper.into(),
    };
    journal::write(&mut journal::open_new(&directory)?, &step)?;
    Ok(directory)
}

fn prepare(
    site: &Site,
    execution: &Execution,
    (directory, work): (&Path, &Path),
    words: Vec<OsString>,
    switch: Option<&Switch>,
) -> Result<StartOrder, StartFailure> {
    let program = words
        .first()
        .map_or_else(Default::default, OsString::as_os_str);
    let file = lookup::find(program, &site.base.path, work)?;
    let variables = environment(
        &site.base,
        &environment::Attempt {
            report: &execution.report,
            worker: site.worker.as_str(),
            work_directory: work,
            home: switch.map(|switch| switch.home.as_deref().unwrap_or(work.as_os_str())),
            cpu: environment::cpu(site.cores, execution.concurrency),
        },
    );
    let entry = |(name, value): (&str, OsString)| {
        let mut entry = OsString::from(name);
        entry.push("=");
        entry.push(value);
        entry
    };
    if let Some(switch) = switch {
        give_to(switch, directory, work)
            .map_err(|error| fault("give to the task's user", work, &error))?;
    }
    Ok(StartOrder {
        attempt: execution.report.attempt,
        file,
        words,
        environment: variables.into_iter().map(entry).collect(),
        work_directory: work.to_owned(),
        user: switch.map(|switch| User {
            uid: switch.uid,
            gid: switch.gid,
        }),
    })
}

/// The work directory, and the files of the output: `/dev/stdout` is opened anew by those who write to it.
fn give_to(switch: &Switch, directory: &Path, work: &Path) -> io::Result<()> {
    let give = |path: &Path| std::os::unix::fs::chown(path, Some(switch.uid), Some(switch.gid));
    give(work)?;
    for inner in work_directory::INNER {
        give(&work.join(inner))?;
    }
    for stream in [Stream::Stdout, Stream::Stderr] {
        give(&directory::stream_file(directory, stream))?;
    }
    Ok(())
}

/// The worker could not do its part.
pub(crate) fn fault(what: &str, path: &Path, error: &io::Error) -> StartFailure {
    let (reason, detail) = scitq_shared::fault::of_worker(what, path, error);
    StartFailure::new(reason, detail)
}

/// The end of an attempt whose program could not be executed.
pub(crate) fn never_executed(why: &NotExecuted) -> AttemptEnd {
    let error = io::Error::from_raw_os_error(why.error);
    AttemptEnd {
        ended_at: why.at,
        exit: None,
        outcome: not_executed(&why.file, &error).into(),
        usage: None,
        stdout_bytes: 0,
        stderr_bytes: 0,
    }
}

/// Why a program that is there could not be executed.
fn not_executed(file: &Path, error: &io::Error) -> StartFailure {
    let shown = file.display();
    let (reason, detail) = match error.raw_os_error() {
        Some(libc::EACCES) => (
            FailureReason::NotExecutable,
            format!("{shown} may not be executed: {error}"),
        ),
        Some(libc::ENOEXEC) => {
            let detail = format!(
                "{shown} is neither a program nor a script with an interpreter line (#!…): {error}"
            );
            (FailureReason::NotExecutable, detail)
        }
        Some(libc::ENOENT) => (
            FailureReason::StartFailed,
            format!("{shown} is there, but the interpreter or loader that it names is not"),
        ),
        Some(libc::E2BIG) => (
            FailureReason::StartFailed,
            format!("the command and its environment are longer than the system allows: {error}"),
        ),
        _ => (
            FailureReason::StartFailed,
            format!("{shown} could not be started: {error}"),
        ),
    };
    StartFailure::new(reason, detail)
}
