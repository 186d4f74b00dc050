//! Errors as their reader needs them: what happened, what to do about it, and the exit code.

use std::io;
use std::process::ExitCode;

use scitq_shared::api::Problem;

/// Some tasks failed or were cancelled, or something on this side went wrong.
pub const EXIT_FAILED: u8 = 1;
/// The command or its data cannot be used as they are.
pub const EXIT_USAGE: u8 = 2;
/// The server cannot be reached, or could not do it.
pub const EXIT_SERVER: u8 = 3;
/// The time given with `--for` is up.
pub const EXIT_TIMED_OUT: u8 = 4;
/// Interrupted by Ctrl-C.
pub const EXIT_INTERRUPTED: u8 = 130;

/// The text on exit codes that `--help` shows.
pub const EXIT_CODES: &str = "Exit codes:
  0    done; with waiting: all tasks succeeded
  1    some tasks failed or were cancelled (or a fault on this side, such as a full disk)
  2    the command or its data cannot be used: usage, unknown id, rejected field
  3    the server cannot be reached within --timeout, or could not do it
  4    the time given with --for is up
  130  interrupted by Ctrl-C (tasks go on)";

/// Who has to act.
#[derive(Debug)]
pub enum Kind {
    /// The user: the command or its data cannot be used.
    Usage,
    /// The user: the server says why in the answer.
    Rejected(Rejection),
    /// Whoever runs the server: it does not answer.
    Unreachable {
        /// True when a request may have reached it all the same.
        reached: bool,
    },
    /// Whoever runs the server: it answers with a fault.
    ServerFault,
    /// Something on this side failed, such as writing a file.
    Local,
    /// Whoever read our output has gone, as `head` does: not an error.
    OutputClosed,
}

/// An answer of status 4xx.
#[derive(Debug)]
pub struct Rejection {
    /// HTTP status.
    pub status: u16,
    /// What the server says about it, where it does.
    pub problem: Option<Box<Problem>>,
}

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Who has to act.
    pub kind: Kind,
    /// What happened, without a full stop.
    pub message: String,
    /// What to do, without a full stop.
    pub remedy: Option<String>,
}

impl Failure {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            remedy: None,
        }
    }

    /// The command or its data cannot be used.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// The server does not answer; `reached` when a request may have reached it all the same.
    pub fn unreachable(message: impl Into<String>, reached: bool) -> Self {
        Self::new(Kind::Unreachable { reached }, message)
    }

    /// The server answers with a fault, or with something that cannot be understood.
    pub fn server_fault(message: impl Into<String>) -> Self {
        Self::new(Kind::ServerFault, message)
    }

    /// Something on this side failed.
    pub fn local(message: impl Into<String>) -> Self {
        Self::new(Kind::Local, message)
    }

    /// The server refuses the request.
    pub fn rejected(rejection: Rejection, message: impl Into<String>) -> Self {
        Self::new(Kind::Rejected(rejection), message)
    }

    /// Writing to standard output failed.
    pub fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Kind::OutputClosed, "the reader of the output has gone");
        }
        Self::local(format!("cannot write the output: {error}"))
    }

    /// Adds what to do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Adds what to do when the thing that was asked for does not exist.
    #[must_use]
    pub fn remedy_when_missing(self, remedy: &str) -> Self {
        if self.status() == Some(404) {
            self.remedy(remedy)
        } else {
            self
        }
    }

    /// The HTTP status of a refusal.
    pub fn status(&self) -> Option<u16> {
        match &self.kind {
            Kind::Rejected(rejection) => Some(rejection.status),
            _ => None,
        }
    }

    /// What the server says about a refusal.
    pub fn problem(&self) -> Option<&Problem> {
        match &self.kind {
            Kind::Rejected(rejection) => rejection.problem.as_deref(),
            _ => None,
        }
    }

    /// The exit code for it.
    pub fn exit_code(&self) -> ExitCode {
        match self.kind {
            Kind::Usage | Kind::Rejected(_) => ExitCode::from(EXIT_USAGE),
            Kind::Unreachable { .. } | Kind::ServerFault => ExitCode::from(EXIT_SERVER),
            Kind::Local => ExitCode::from(EXIT_FAILED),
            Kind::OutputClosed => ExitCode::SUCCESS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gone_reader_is_no_error() {
        let gone = Failure::output(&io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(matches!(gone.kind, Kind::OutputClosed));
        assert_eq!(gone.exit_code(), ExitCode::SUCCESS);
        let full = Failure::output(&io::Error::from(io::ErrorKind::StorageFull));
        assert!(matches!(full.kind, Kind::Local), "{full:?}");
        assert_ne!(full.exit_code(), ExitCode::SUCCESS);
    }

    #[test]
    fn only_a_missing_thing_gets_the_hint_where_to_look() {
        let refusal = |status| {
            Failure::rejected(
                Rejection {
                    status,
                    problem: None,
                },
                "x",
            )
        };
        assert_eq!(
            refusal(404).remedy_when_missing("look").remedy.as_deref(),
            Some("look")
        );
        assert_eq!(refusal(422).remedy_when_missing("look").remedy, None);
    }
}
