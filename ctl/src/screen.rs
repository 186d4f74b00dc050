//! What the user sees: results on standard output, everything else on standard error.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;

use crate::cli::{Format, GlobalArguments};
use crate::client::Notice;
use crate::failure::{Failure, Kind};
use crate::table::Table;
use crate::text::one_line;

/// How and where results are shown.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Screen {
    /// Tables for people, or JSON.
    pub format: Format,
    /// Whether tables have a line of headings.
    pub header: bool,
    /// Whether progress is told where no bar can be drawn.
    pub verbose: bool,
    /// Whether standard output is a terminal.
    pub stdout_is_terminal: bool,
    /// Whether standard error is a terminal.
    pub stderr_is_terminal: bool,
}

impl Screen {
    /// Looks where the output goes.
    pub fn new(global: &GlobalArguments) -> Self {
        Self {
            format: global.format,
            header: !global.no_header,
            verbose: global.verbose,
            stdout_is_terminal: std::io::stdout().is_terminal(),
            stderr_is_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// True when results are shown as JSON.
    pub fn json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints bytes on standard output, as they are.
    pub fn print_bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes)
            .and_then(|()| out.flush())
            .map_err(|error| Failure::output(&error))
    }

    /// Prints a line on standard output.
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        self.print_bytes(format!("{text}\n").as_bytes())
    }

    /// Prints a value as JSON on standard output.
    pub fn value<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        let json = serde_json::to_string_pretty(value)
            .map_err(|error| Failure::local(format!("cannot write JSON: {error}")))?;
        self.line(&json)
    }

    /// Prints a table on standard output, cut to the width of a terminal.
    pub fn table(&self, table: &Table) -> Result<(), Failure> {
        self.print_bytes(
            table
                .render(self.stdout_is_terminal, self.header)
                .as_bytes(),
        )
    }

    /// Says something on standard error. A closed one is nobody's loss.
    pub fn note(&self, text: &str) {
        note(text);
    }

    /// How requests tell that they wait for the server.
    pub fn notice(&self) -> Notice {
        Arc::new(|text| note(&format!("scitq-ctl: {text}")))
    }

    /// Reports why a command failed, and answers with its exit code.
    pub fn failure(&self, failure: &Failure) -> ExitCode {
        if !matches!(failure.kind, Kind::OutputClosed) {
            note(&format!("error: {}", failure.message));
            if let Some(remedy) = &failure.remedy {
                note(&format!("  {remedy}"));
            }
        }
        failure.exit_code()
    }
}

fn note(text: &str) {
    let harmless: Vec<String> = text.split('\n').map(one_line).collect();
    // Nothing can be said about an error stream that does not take anything.
    let _ = writeln!(std::io::stderr().lock(), "{}", harmless.join("\n"));
}
