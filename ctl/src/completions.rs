//! `completions`: scripts that let a shell complete our commands.

use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::failure::Failure;
use crate::screen::Screen;

/// The long text of `completions --help`.
pub const HELP: &str = "\
Print a completion script for a shell

bash: scitq-ctl completions bash > ~/.local/share/bash-completion/completions/scitq-ctl
zsh:  scitq-ctl completions zsh > a file named _scitq-ctl in a directory of $fpath
fish: scitq-ctl completions fish > ~/.config/fish/completions/scitq-ctl.fish";

/// Arguments of `completions`.
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
