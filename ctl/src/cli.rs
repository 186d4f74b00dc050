//! The grammar of the command line.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::client::Client;
use crate::failure::{EXIT_CODES, Failure};
use crate::screen::Screen;
use crate::server_url::{DEFAULT_SERVER, ServerUrl};
use crate::{batch, completions, config, execution, launch, maintenance, task, up, worker};

/// scitq distributes heavy shell commands ("tasks") over workers and keeps the history of every execution.
///
/// To begin: `scitq-ctl up` starts everything on this machine, `scitq-ctl launch echo 'Hello world!'` hands in a task,
/// `scitq-ctl task list` shows what became of it.
#[derive(Debug, Parser)]
#[command(name = "scitq-ctl", version, propagate_version = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: GlobalArguments,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct GlobalArguments {
    /// Address of the server
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "SCITQ_SERVER",
        hide_env_values = true,
        default_value = DEFAULT_SERVER
    )]
    pub server: String,
    /// How long to ride out a server that cannot be reached or says that it is busy; 0 gives up at once
    #[arg(
        long,
        global = true,
        value_name = "SECONDS",
        env = "SCITQ_TIMEOUT",
        default_value_t = 30
    )]
    pub timeout: u64,
    /// How results are shown
    #[arg(
        short = 'o',
        long,
        global = true,
        value_name = "FORMAT",
        default_value = "table"
    )]
    pub format: Format,
    /// Leave out the headings of tables
    #[arg(short = 'H', long, global = true)]
    pub no_header: bool,
    /// Tell progress also where no progress bar can be drawn
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// How results are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned tables for people.
    Table,
    /// The objects of the REST interface.
    Json,
}

/// All commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Hand in tasks
    #[command(long_about = launch::HELP)]
    Launch(Box<launch::LaunchArguments>),
    /// Look at tasks, their output, and wait for them
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Look at batches: series of tasks that are steered as one
    #[command(subcommand)]
    Batch(batch::BatchCommand),
    /// Look at executions: the attempts to run tasks
    #[command(subcommand)]
    Execution(execution::ExecutionCommand),
    /// Look at workers and change them
    #[command(subcommand)]
    Worker(worker::WorkerCommand),
    /// Look at the settings
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Check the database's counters and repair them
    #[command(subcommand)]
    Maintenance(maintenance::MaintenanceCommand),
    /// Print a completion script for a shell
    #[command(long_about = completions::HELP)]
    Completions(completions::CompletionsArguments),
    /// Run server and worker in one process, with everything they need
    Up(up::UpArgs),
}

impl Cli {
    /// Does what the command says.
    pub async fn run(self, screen: &Screen) -> Result<ExitCode, Failure> {
        let global = self.global;
        let client = || {
            let server = ServerUrl::parse(&global.server)?;
            Client::new(server, Duration::from_secs(global.timeout), screen.notice())
        };
        match self.command {
            Command::Launch(arguments) => launch::run(*arguments, &client()?, screen).await,
            Command::Task(command) => command.run(&client()?, screen).await,
            Command::Batch(command) => command.run(&client()?, screen).await,
            Command::Execution(command) => command.run(&client()?, screen).await,
            Command::Worker(command) => command.run(&client()?, screen).await,
            Command::Config(command) => command.run(screen),
            Command::Maintenance(command) => command.run(&client()?, screen).await,
            Command::Completions(arguments) => arguments.run(screen),
            Command::Up(arguments) => up::run(arguments)
                .await
                .map_err(|error| Failure::local(format!("{error:#}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    fn each_command(
        command: &clap::Command,
        path: &str,
        visit: &mut dyn FnMut(&clap::Command, &str),
    ) {
        let path = format!("{path} {}", command.get_name());
        visit(command, &path);
        for below in command
            .get_subcommands()
            .filter(|below| below.get_name() != "help")
        {
            each_command(below, &path, visit);
        }
    }

    #[test]
    fn every_command_and_every_option_is_documented() {
        let mut seen = 0;
        let mut command = Cli::command();
        command.build();
        each_command(&command, "", &mut |command, path| {
            seen += 1;
            assert!(command.get_about().is_some(), "{path} has no description");
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{path}: {} has no description",
                    argument.get_id()
                );
            }
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains("Usage:"), "{path}");
        });
        assert!(seen >= 25, "only {seen} commands seen");
    }
}
