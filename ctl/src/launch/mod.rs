//! `launch`: handing in tasks.

mod keys;
mod lines;
pub mod options;
mod requests;
mod submit;

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use scitq_shared::api::CreatedTask;
use scitq_shared::submit::SubmitTask;

use self::keys::Keys;
use self::options::TaskOptions;
use self::requests::{Requests, default_limit};
use crate::client::Client;
use crate::execution;
use crate::failure::{EXIT_INTERRUPTED, Failure};
use crate::follow::OutputOptions;
use crate::screen::Screen;
use crate::task;
use crate::text::count;

/// The long text of `launch --help`.
pub const HELP: &str = "\
Hand in tasks

The words behind the options are the command: they reach the process byte for byte, and no shell is between unless \
--shell asks for one. Put -- before the first word when it begins with a dash.

With --from, many tasks are handed in at once, one a line:
- a line is a command, as it would be typed (quotes group words; with --shell the line is the script);
- a line that begins with { is a JSON object with the fields of a task, such as {\"command\": \"sort a\", \"retry\": 2};
- a line that begins with # is a comment, and blank lines are skipped.
Options given here hold for every line that does not say otherwise. A line that cannot be used is told by its number, \
and then nothing is handed in.

A launch whose answer got lost is repeated without creating any task twice.";

/// Arguments of `launch`.
#[derive(Clone, Debug, Args)]
pub struct LaunchArguments {
    /// What holds for each task.
    #[command(flatten)]
    task: TaskOptions,
    /// Read tasks from this file, one a line; - is standard input
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "words",
        help_heading = "What to do"
    )]
    from: Option<PathBuf>,
    /// Print the tasks that would be handed in, a JSON object a line (which --from reads), and hand in nothing
    #[arg(short = 't', long, help_heading = "What to do")]
    dry_run: bool,
    /// Wait until the tasks are over, as `task wait` does, with its exit codes
    #[arg(long, conflicts_with = "dry_run", help_heading = "What to do")]
    wait: bool,
    /// Print what the task writes until it is over, as `task output --follow` does; exit code as with --wait
    #[arg(long, conflicts_with_all = ["dry_run", "from"], help_heading = "What to do")]
    follow: bool,
    /// The command, word by word
    #[arg(
        value_name = "WORD",
        required_unless_present = "from",
        trailing_var_arg = true
    )]
    words: Vec<OsString>,
}

/// Hands in tasks.
pub async fn run(
    arguments: LaunchArguments,
    client: &Client,
    screen: &Screen,
) -> Result<ExitCode, Failure> {
    if arguments.follow && screen.json() {
        return Err(
            Failure::usage("--follow prints what the task writes, which is no JSON")
                .remedy("leave out -o json, or use --wait"),
        );
    }
    let mut keys = Keys::new(
        arguments.task.idempotency_key.clone(),
        arguments.from.is_some(),
    );
    let mut requests = Requests::new(default_limit(), arguments.from.clone());
    let mut dry = String::new();
    let mut add = |line: usize, task: SubmitTask| {
        if arguments.dry_run {
            dry.push_str(&requests::json(&task)?);
            dry.push('\n');
            return Ok(());
        }
        requests.push(line, &keys.give(task))
    };
    match &arguments.from {
        Some(file) => read(file, &arguments.task, screen, &mut add)?,
        None => add(0, arguments.task.task_of(&arguments.words)?)?,
    }
    if arguments.dry_run {
        screen.print_bytes(dry.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let created = submit::submit(client, screen, requests, &keys).await?;
    match created.as_slice() {
        [one] if arguments.follow => follow(one, client, screen).await,
        _ => {
            show(&created, !arguments.wait, screen)?;
            if !arguments.wait {
                return Ok(ExitCode::SUCCESS);
            }
            let selection = task::wait::tasks(created.iter().map(|task| task.task_id).collect());
            task::wait::finish(&selection, client, screen).await
        }
    }
}

fn read(
    file: &Path,
    options: &TaskOptions,
    screen: &Screen,
    add: &mut impl FnMut(usize, SubmitTask) -> Result<(), Failure>,
) -> Result<(), Failure> {
    if file.as_os_str() == "-" {
        if std::io::stdin().is_terminal() {
            screen.note("reading commands from the terminal, one a line; Ctrl-D ends them");
        }
        return lines::read(&mut std::io::stdin().lock(), "standard input", options, add);
    }
    let name = file.display().to_string();
    let opened =
        File::open(file).map_err(|error| Failure::usage(format!("cannot read {name}: {error}")))?;
    let mut reader: BufReader<File> = BufReader::with_capacity(256 * 1024, opened);
    lines::read(&mut reader as &mut dyn BufRead, &name, options, add)
}

/// Shows what was created; for one task also what can be done next.
fn show(created: &[CreatedTask], hint: bool, screen: &Screen) -> Result<(), Failure> {
    if screen.json() {
        return screen.value(&created);
    }
    screen.line(&summary(created))?;
    if let ([one], true) = (created, hint && screen.stdout_is_terminal) {
        screen.note(&format!(
            "follow it with: scitq-ctl task output {} --follow",
            one.task_id
        ));
    }
    Ok(())
}

/// What was created, in a line.
fn summary(created: &[CreatedTask]) -> String {
    let batches: std::collections::BTreeSet<&str> =
        created.iter().map(|task| task.batch.as_str()).collect();
    let batches: Vec<&str> = batches.into_iter().collect();
    let place = match batches.as_slice() {
        [one] => format!("in batch {}", crate::text::one_line(one)),
        _ => format!("in {} batches", batches.len()),
    };
    if let [one] = created {
        let verb = if one.created {
            "created"
        } else {
            "was there already, by its idempotency key,"
        };
        return format!("task {} {verb} {place}", one.task_id);
    }
    let ids = created.iter().map(|task| task.task_id);
    let range = match (ids.clone().min(), ids.max()) {
        (Some(first), Some(last)) => format!(" (ids {first} to {last})"),
        _ => String::new(),
    };
    let new = created.iter().filter(|task| task.created).count();
    let old = match created.len() - new {
        0 => String::new(),
        old => format!("; {old} were there already, by their idempotency keys"),
    };
    format!("{} created {place}{range}{old}", count(new, "task"))
}

/// Prints what the task writes until it is over, then how it ended.
async fn follow(
    created: &CreatedTask,
    client: &Client,
    screen: &Screen,
) -> Result<ExitCode, Failure> {
    let id = created.task_id;
    // standard output belongs to the task
    screen.note(&summary(std::slice::from_ref(created)));
    let options = OutputOptions {
        follow: true,
        ..Default::default()
    };
    tokio::select! {
        printed = task::output::print(id, &options, client, screen) => printed?,
        _ = tokio::signal::ctrl_c() => {
            screen.note(&format!("interrupted; task {id} goes on, `scitq-ctl task output {id} --follow` follows it again"));
            return Ok(ExitCode::from(EXIT_INTERRUPTED));
        }
    }
    let selection = task::wait::tasks(vec![id]);
    let (progress, code) = task::wait::until_over(&selection, None, client, screen).await?;
    if progress.is_some_and(|progress| progress.succeeded == 1) && screen.verbose {
        let newest = task::get(client, id).await?.execution_id;
        if let Some(execution_id) = newest {
            let execution = execution::get(client, execution_id).await?;
            screen.note(&format!("task {id} succeeded on {}", execution.worker));
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (i64, &'static str, bool);

    fn created(tasks: &[Row]) -> Vec<CreatedTask> {
        let view = |(task_id, batch, created): &Row| CreatedTask {
            task_id: *task_id,
            batch: (*batch).to_owned(),
            status: "pending".to_owned(),
            created: *created,
        };
        tasks.iter().map(view).collect()
    }

    #[test]
    fn summaries() {
        let table: [(&[Row], &str); 5] = [
            (&[(12, "Default", true)], "task 12 created in batch Default"),
            (
                &[(12, "b", false)],
                "task 12 was there already, by its idempotency key, in batch b",
            ),
            (
                &[(3, "b", true), (4, "b", true)],
                "2 tasks created in batch b (ids 3 to 4)",
            ),
            (
                &[(3, "b", true), (9, "c", false)],
                "1 task created in 2 batches (ids 3 to 9); 1 were there already, by their idempotency keys",
            ),
            (&[(1, "a\u{1b}[2J", true)], "task 1 created in batch a^[[2J"),
        ];
        for (tasks, expected) in table {
            assert_eq!(summary(&created(tasks)), expected);
        }
    }
}
