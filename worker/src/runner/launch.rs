//! Starting an attempt: directory, journal, work directory, process. Blocking; runs beside the agent.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use scitq_shared::execution::FailureReason;
use scitq_shared::output::Stream;

use super::environment::{self, environment};
use super::process::Process;
use super::spawn::{Program, spawn, spawn_as};
use super::users::{self, Switch};
use super::work_directory::WorkDirectories;
use super::{Site, StartFailure, command, lookup, work_directory};
use crate::agent::core::Execution;
use crate::attempt::directory;
use crate::attempt::journal::{self, Step};

/// A started attempt.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) process: Process,
    pub(crate) work_directory: PathBuf,
    /// True when the work directory may be used for another attempt.
    pub(crate) same_user: bool,
}

/// Starts it, or says why it could not be started.
pub(crate) fn launch(site: &Site, execution: &Execution) -> Result<Launched, StartFailure> {
    let attempt = execution.report.attempt;
    let (directory, mut journal) = begin(site, execution)
        .map_err(|error| fault("keep the attempt in", &site.attempts.of(attempt), &error))?;
    let definition = &execution.message.definition;
    let words = command::words(definition)?;
    let switch = users::switch(definition.uid, definition.gid)?;
    let work = site
        .work
        .take(attempt)
        .map_err(|error| fault("make the work directory", &site.work.path(attempt), &error))?;
    let place = Place {
        directory: &directory,
        work: &work,
    };
    let started = start(
        site,
        execution,
        &place,
        &words,
        switch.as_ref(),
        &mut journal,
    );
    let process = match started {
        Ok(process) => process,
        Err(failure) => {
            if switch.is_none() {
                site.work.give_back(&work);
            } else {
                WorkDirectories::remove(&work);
            }
            return Err(failure);
        }
    };
    if let Err(error) = journal::write(
        &mut journal,
        &Step::Process(process.identity(&site.boot_id)),
    ) {
        // The process runs and will be reported; only a restart of the agent in the meantime would have needed this.
        tracing::warn!(%attempt, %error, "the process of an attempt could not be recorded");
    }
    Ok(Launched {
        process,
        work_directory: work,
        same_user: switch.is_none(),
    })
}

fn begin(site: &Site, execution: &Execution) -> io::Result<(PathBuf, File)> {
    let directory = site.attempts.make(execution.report.attempt)?;
    let step = Step::Accepted {
        report: std::borrow::Cow::Borrowed(&execution.report),
        definition: std::borrow::Cow::Borrowed(&execution.message.definition),
    };
    let mut journal = journal::open(&directory)?;
    journal::write(&mut journal, &step)?;
    Ok((directory, journal))
}

/// The two directories of an attempt.
struct Place<'a> {
    directory: &'a Path,
    work: &'a Path,
}

fn start(
    site: &Site,
    execution: &Execution,
    place: &Place<'_>,
    words: &[std::ffi::OsString],
    switch: Option<&Switch>,
    journal: &mut File,
) -> Result<Process, StartFailure> {
    let Place { directory, work } = *place;
    let program = words
        .first()
        .map_or_else(Default::default, std::ffi::OsString::as_os_str);
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
    let (stdout, stderr) = (
        directory::stream_file(directory, Stream::Stdout),
        directory::stream_file(directory, Stream::Stderr),
    );
    let program = Program {
        file: &file,
        words,
        environment: &variables,
        work_directory: work,
        stdout: &stdout,
        stderr: &stderr,
    };
    if let Some(switch) = switch {
        give_to(switch, place).map_err(|error| fault("give to the task's user", work, &error))?;
    }
    journal::write(journal, &Step::Starting)
        .map_err(|error| fault("keep the attempt in", directory, &error))?;
    let spawned = match switch {
        None => spawn(&program),
        Some(switch) => spawn_as(&program, switch),
    };
    let pid = spawned.map_err(|error| not_started(&file, &error))?;
    Process::watch(pid).map_err(|error| {
        StartFailure::new(
            FailureReason::WorkerFault,
            format!("the worker cannot watch the process: {error}"),
        )
    })
}

/// The work directory, and the files of the output: `/dev/stdout` is opened anew by those who write to it.
fn give_to(switch: &Switch, place: &Place<'_>) -> io::Result<()> {
    let give = |path: &Path| std::os::unix::fs::chown(path, Some(switch.uid), Some(switch.gid));
    give(place.work)?;
    for inner in work_directory::INNER {
        give(&place.work.join(inner))?;
    }
    for stream in [Stream::Stdout, Stream::Stderr] {
        give(&directory::stream_file(place.directory, stream))?;
    }
    Ok(())
}

fn fault(what: &str, path: &Path, error: &io::Error) -> StartFailure {
    StartFailure::new(
        FailureReason::WorkerFault,
        format!("the worker cannot {what} {}: {error}", path.display()),
    )
}

fn not_started(file: &Path, error: &io::Error) -> StartFailure {
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
