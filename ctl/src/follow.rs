//! Printing the output of an execution.

use clap::Args;
use scitq_shared::api::ExecutionView;
use scitq_shared::execution::ExecutionStatus;
use scitq_shared::output::Stream;

use crate::client::Client;
use crate::failure::Failure;
use crate::screen::Screen;
use crate::stream::{Sink, copy};

/// What is printed, and how.
#[derive(Clone, Debug, Default, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub struct OutputOptions {
    /// Only what was written to standard output
    #[arg(long)]
    pub stdout: bool,
    /// Only what was written to standard error
    #[arg(long)]
    pub stderr: bool,
    /// Go on printing what is written until it has ended
    #[arg(short = 'F', long)]
    pub follow: bool,
    /// Give a terminal the very bytes that were written; without it, control characters are shown as ^[
    #[arg(long)]
    pub raw: bool,
}

impl OutputOptions {
    fn streams(&self) -> Vec<Stream> {
        match (self.stdout, self.stderr) {
            (true, false) => vec![Stream::Stdout],
            (false, true) => vec![Stream::Stderr],
            _ => vec![Stream::Stdout, Stream::Stderr],
        }
    }
}

/// Prints what an execution wrote: its standard output to ours, its standard error to ours. With both, and unless it
/// is followed, first the one, then the other.
///
/// An execution that is over is read to its end, also when the last of its output is still on the way: whoever waited
/// for a task gets all that it wrote.
pub async fn print(
    client: &Client,
    screen: &Screen,
    execution: ExecutionView,
    options: &OutputOptions,
) -> Result<(), Failure> {
    let sink = |stream| Sink::new(stream, screen, options.raw);
    match options.streams().as_slice() {
        [one, other] if options.follow => {
            // the first failure ends both: a reader that has gone reads neither
            futures::future::try_join(
                copy(client, screen, execution.clone(), *one, true, sink(*one)),
                copy(client, screen, execution, *other, true, sink(*other)),
            )
            .await
            .map(|_| ())
        }
        streams => {
            for stream in streams {
                let to_its_end = options.follow || rest_is_on_its_way(&execution);
                copy(
                    client,
                    screen,
                    execution.clone(),
                    *stream,
                    to_its_end,
                    sink(*stream),
                )
                .await?;
            }
            Ok(())
        }
    }
}

fn rest_is_on_its_way(execution: &ExecutionView) -> bool {
    let over = execution
        .status
        .parse()
        .is_ok_and(ExecutionStatus::is_final);
    over && !execution.output_complete
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_streams_unless_one_is_named() {
        let named = |stdout, stderr| {
            OutputOptions {
                stdout,
                stderr,
                ..Default::default()
            }
            .streams()
        };
        assert_eq!(named(false, false), [Stream::Stdout, Stream::Stderr]);
        assert_eq!(named(true, true), [Stream::Stdout, Stream::Stderr]);
        assert_eq!(named(true, false), [Stream::Stdout]);
        assert_eq!(named(false, true), [Stream::Stderr]);
    }
}
