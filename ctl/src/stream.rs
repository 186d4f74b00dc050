//! Copying one stream of an execution to the screen.

use std::io::Write;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use reqwest::Response;
use scitq_shared::api::{CutView, ExecutionView};
use scitq_shared::execution::ExecutionStatus;
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

/// A connection that held for this long was no part of an outage.
const STABLE_AFTER: Duration = Duration::from_secs(5);

/// Where a stream goes: our own stream of the same name.
pub struct Sink {
    stream: Stream,
    out: Box<dyn Write + Send>,
    terminal: bool,
    harmless: Option<Harmless>,
    line_begun: bool,
}

impl Sink {
    /// A sink for a stream. On a terminal control characters are made harmless unless `raw`.
    pub fn new(stream: Stream, screen: &Screen, raw: bool) -> Self {
        match stream {
            Stream::Stdout => Self::to(
                Box::new(std::io::stdout()),
                stream,
                screen.stdout_is_terminal,
                raw,
            ),
            Stream::Stderr => Self::to(
                Box::new(std::io::stderr()),
                stream,
                screen.stderr_is_terminal,
                raw,
            ),
        }
    }

    fn to(out: Box<dyn Write + Send>, stream: Stream, terminal: bool, raw: bool) -> Self {
        let harmless = (terminal && !raw).then(Harmless::default);
        Self {
            stream,
            out,
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
        let written = self.out.write_all(bytes).and_then(|()| self.out.flush());
        written.map_err(|error| Failure::output(&error))
    }

    /// Marks the part that was not kept: in its place on a terminal. Elsewhere the mark is answered, to be told on
    /// standard error, where it cannot be taken for output of the task.
    fn cut(&mut self, cut: CutView) -> Result<Option<String>, Failure> {
        let length = size(cut.to.saturating_sub(cut.from));
        if !self.terminal {
            let CutView { from, to } = cut;
            return Ok(Some(format!(
                "[… {length} of {} not kept: bytes {from} to {to} …]",
                self.stream
            )));
        }
        self.end()?;
        let before = if self.line_begun { "\n" } else { "" };
        self.put(format!("{before}[… {length} not kept …]\n").as_bytes())?;
        Ok(None)
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
/// that breaks, or a server that stops, is ridden out: the stream goes on where it was, nothing is printed twice.
pub async fn copy(
    client: &Client,
    screen: &Screen,
    execution: ExecutionView,
    stream: Stream,
    follow: bool,
    sink: Sink,
) -> Result<(), Failure> {
    let id = execution.execution_id.to_string();
    let parts = ["executions", id.as_str(), "output", stream.as_str()];
    let mut copying = Copying {
        client,
        screen,
        execution,
        stream,
        follow,
        sink,
        position: Position::default(),
    };
    let mut broken_since: Option<Instant> = None;
    loop {
        let mut query = vec![("offset", copying.position.offset().to_string())];
        query.extend(follow.then(|| ("follow", "true".to_owned())));
        let before = copying.position;
        let answer = client.open(&parts, &query).await?;
        let opened = Instant::now();
        let Some(why) = copying.until_broken(answer).await? else {
            return copying.sink.end();
        };
        if copying.position != before || opened.elapsed() >= STABLE_AFTER {
            broken_since = None;
        }
        if broken_since.get_or_insert_with(Instant::now).elapsed() >= client.patience() {
            return Err(client.gave_up(&why, true, true));
        }
        tokio::time::sleep(REOPEN_AFTER).await;
    }
}

/// A stream on its way.
struct Copying<'a> {
    client: &'a Client,
    screen: &'a Screen,
    execution: ExecutionView,
    stream: Stream,
    follow: bool,
    sink: Sink,
    position: Position,
}

impl Copying<'_> {
    /// Copies what an answer brings. Answers why it ended too early, or nothing when all is there.
    async fn until_broken(&mut self, answer: Response) -> Result<Option<String>, Failure> {
        // An answer that was opened before the execution's end may have been ended by a server that stopped, and by
        // the time that server or another one is back the execution may be over: only the next answer has the rest.
        let over_at_opening = self.is_over();
        let told = answer
            .headers()
            .get("scitq-cut")
            .and_then(|value| read_cut(value.to_str().ok()?));
        let mut pieces = answer.bytes_stream();
        while let Some(piece) = pieces.next().await {
            let bytes = match piece {
                Ok(bytes) => bytes,
                Err(error) => return Ok(Some(cause(&error))),
            };
            self.look().await?;
            let split = self.position.advance(bytes.len(), told.or(self.cut()));
            self.sink.write(&bytes[..split.before])?;
            if let Some(cut) = split.cut {
                self.mark(cut)?;
                self.sink.write(&bytes[split.before..])?;
            }
        }
        self.look().await?;
        if self.follow && !over_at_opening && !self.has_all() {
            return Ok(Some("stopped".to_owned()));
        }
        if let Some(cut) = self.position.end(told.or(self.cut())) {
            self.mark(cut)?;
        }
        Ok(None)
    }

    fn mark(&mut self, cut: CutView) -> Result<(), Failure> {
        if let Some(mark) = self.sink.cut(cut)? {
            self.screen.note(&mark);
        }
        Ok(())
    }

    /// Looks at an execution that is followed, until all is known of it: its cut comes to be, before anything behind
    /// it is sent, and its end before the answer's end, unless the server stops.
    async fn look(&mut self) -> Result<(), Failure> {
        if self.follow && !self.execution.output_complete {
            self.execution = execution::get(self.client, self.execution.execution_id).await?;
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.execution
            .status
            .parse()
            .is_ok_and(ExecutionStatus::is_final)
    }

    /// True when the execution is over and its stream is known to end where we are.
    fn has_all(&self) -> bool {
        let length = match self.stream {
            Stream::Stdout => self.execution.stdout_bytes,
            Stream::Stderr => self.execution.stderr_bytes,
        };
        let at = i64::try_from(self.position.offset()).unwrap_or(i64::MAX);
        self.is_over() && self.execution.output_complete && at >= length
    }

    fn cut(&self) -> Option<CutView> {
        match self.stream {
            Stream::Stdout => self.execution.stdout_cut,
            Stream::Stderr => self.execution.stderr_cut,
        }
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

    #[derive(Clone, Default)]
    struct Shared(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn through_a_sink(terminal: bool, raw: bool) -> (Vec<u8>, Option<String>) {
        let out = Shared::default();
        let mut sink = Sink::to(Box::new(out.clone()), Stream::Stdout, terminal, raw);
        sink.write(b"a\x1b[2J\xc3").unwrap();
        let mark = sink
            .cut(CutView {
                from: 6,
                to: 6 + (950 << 20),
            })
            .unwrap();
        sink.write(b"b\n").unwrap();
        sink.end().unwrap();
        let bytes = out.0.lock().unwrap().clone();
        (bytes, mark)
    }

    #[test]
    fn on_a_terminal_output_is_harmless_and_the_cut_marked_in_its_place() {
        let (shown, mark) = through_a_sink(true, false);
        assert_eq!(
            String::from_utf8(shown).unwrap(),
            "a^[[2J\\xc3\n[… 950.0 MiB not kept …]\nb\n"
        );
        assert_eq!(mark, None);
        let (raw, _) = through_a_sink(true, true);
        assert!(raw.starts_with(b"a\x1b[2J\xc3\n[") && raw.ends_with(b"]\nb\n"));
    }

    #[test]
    fn piped_output_is_the_very_bytes() {
        let (piped, mark) = through_a_sink(false, false);
        assert_eq!(piped, b"a\x1b[2J\xc3b\n");
        assert_eq!(
            mark.unwrap(),
            "[… 950.0 MiB of stdout not kept: bytes 6 to 996147206 …]"
        );
    }
}
