//! Copying one stream of an execution to the screen.

use std::io::Write as _;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use scitq_shared::api::{CutView, ExecutionView};
use scitq_shared::output::Stream;

use crate::client::{Client, cause};
use crate::execution;
use crate::failure::Failure;
use crate::harmless::Harmless;
use crate::position::Position;
use crate::screen::Screen;
use crate::text::size;

/// Pause before a stream that broke is opened anew, so that one that breaks at once does not spin.
const REOPEN_AFTER: Duration = Duration::from_millis(200);

/// Where a stream goes: our own stream of the same name.
#[derive(Debug)]
pub struct Sink {
    stream: Stream,
    terminal: bool,
    harmless: Option<Harmless>,
    line_begun: bool,
}

impl Sink {
    /// A sink for a stream. On a terminal control characters are made harmless unless `raw`.
    pub fn new(stream: Stream, screen: &Screen, raw: bool) -> Self {
        let terminal = match stream {
            Stream::Stdout => screen.stdout_is_terminal,
            Stream::Stderr => screen.stderr_is_terminal,
        };
        let harmless = (terminal && !raw).then(Harmless::default);
        Self {
            stream,
            terminal,
            harmless,
            line_begun: false,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match &mut self.harmless {
            Some(harmless) => {
                let shown = harmless.piece(bytes);
                self.put(&shown)
            }
            None => self.put(bytes),
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let Some(last) = bytes.last() else {
            return Ok(());
        };
        self.line_begun = *last != b'\n';
        let written = match self.stream {
            Stream::Stdout => {
                let mut out = std::io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
            Stream::Stderr => std::io::stderr().lock().write_all(bytes),
        };
        written.map_err(|error| Failure::output(&error))
    }

    /// Marks the part that was not kept: in its place on a terminal, else on standard error, where it cannot be taken
    /// for output of the task.
    fn cut(&mut self, cut: CutView, screen: &Screen) -> Result<(), Failure> {
        let length = size(cut.to.saturating_sub(cut.from));
        if !self.terminal {
            let CutView { from, to } = cut;
            screen.note(&format!(
                "[… {length} of {} not kept: bytes {from} to {to} …]",
                self.stream
            ));
            return Ok(());
        }
        let begun = self
            .harmless
            .as_mut()
            .map(Harmless::end)
            .unwrap_or_default();
        self.put(&begun)?;
        let before = if self.line_begun { "\n" } else { "" };
        self.put(format!("{before}[… {length} not kept …]\n").as_bytes())
    }

    fn end(&mut self) -> Result<(), Failure> {
        let begun = self
            .harmless
            .as_mut()
            .map(Harmless::end)
            .unwrap_or_default();
        self.put(&begun)
    }
}

/// Copies a stream from its beginning to its end, or, when it is not followed, to what is stored by now. A connection
/// that breaks is opened anew where it broke; nothing is printed twice.
pub async fn copy(
    client: &Client,
    screen: &Screen,
    mut execution: ExecutionView,
    stream: Stream,
    follow: bool,
    mut sink: Sink,
) -> Result<(), Failure> {
    let id = execution.execution_id.to_string();
    let parts = ["executions", id.as_str(), "output", stream.as_str()];
    let mut position = Position::default();
    let mut broken_since: Option<Instant> = None;
    loop {
        let mut query = vec![("offset", position.offset().to_string())];
        query.extend(follow.then(|| ("follow", "true".to_owned())));
        let answer = client.open(&parts, &query).await?;
        let told = answer
            .headers()
            .get("scitq-cut")
            .and_then(|value| read_cut(value.to_str().ok()?));
        let mut pieces = answer.bytes_stream();
        let broken = loop {
            match pieces.next().await {
                Some(Ok(bytes)) => {
                    broken_since = None;
                    // While an execution is followed its cut comes to be, before anything behind it is sent.
                    if follow && !execution.output_complete {
                        execution = execution::get(client, execution.execution_id).await?;
                    }
                    let split = position.advance(bytes.len(), told.or(cut_of(&execution, stream)));
                    sink.write(&bytes[..split.before])?;
                    if let Some(cut) = split.cut {
                        sink.cut(cut, screen)?;
                        sink.write(&bytes[split.before..])?;
                    }
                }
                Some(Err(error)) => break Some(cause(&error)),
                None => break None,
            }
        };
        let Some(why) = broken else {
            if follow && !execution.output_complete {
                execution = execution::get(client, execution.execution_id).await?;
            }
            if let Some(cut) = position.end(told.or(cut_of(&execution, stream))) {
                sink.cut(cut, screen)?;
            }
            return sink.end();
        };
        if broken_since.get_or_insert_with(Instant::now).elapsed() >= client.patience() {
            return Err(client.gave_up(&why, true));
        }
        tokio::time::sleep(REOPEN_AFTER).await;
    }
}

fn cut_of(execution: &ExecutionView, stream: Stream) -> Option<CutView> {
    match stream {
        Stream::Stdout => execution.stdout_cut,
        Stream::Stderr => execution.stderr_cut,
    }
}

/// Reads `from-to`.
fn read_cut(text: &str) -> Option<CutView> {
    let (from, to) = text.trim().split_once('-')?;
    Some(CutView {
        from: from.parse().ok()?,
        to: to.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_read() {
        assert_eq!(
            read_cut("33554432-1000"),
            Some(CutView {
                from: 33_554_432,
                to: 1000
            })
        );
        for text in ["", "5", "a-b", "-1-5"] {
            assert_eq!(read_cut(text), None, "{text}");
        }
    }
}
