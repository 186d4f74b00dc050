//! `completions`: scripts that let a shell complete our commands.

use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::failure::Failure;
use crate::screen::Screen;

/// Arguments of `completions`.
///
/// For bash: `scitq-ctl completions bash > ~/.local/share/bash-completion/completions/scitq-ctl`
#[derive(Clone, Debug, Args)]
pub struct CompletionsArguments {
    /// The shell
    pub shell: Shell,
}

impl CompletionsArguments {
    /// Prints the script.
    pub fn run(self, screen: &Screen) -> Result<ExitCode, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "scitq-ctl", &mut script);
        screen.print_bytes(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}
