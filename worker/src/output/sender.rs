//! Publishes output and heartbeats, on a connection of its own: what is much must not hold up what is urgent.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use scitq_broker::topology::{self, EVENTS_EXCHANGE};
use scitq_broker::{Broker, BrokerError, Channel, Message, PublishFailure};
use scitq_shared::ids::{AttemptId, Epoch, IncarnationId};
use scitq_shared::names::WorkerName;
use scitq_shared::output::Chunk;
use scitq_shared::protocol::{Heartbeat, OutputMessage, PROTOCOL_VERSION, encode};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::book::Piece;
use super::{Output, STREAMS, piece};
use crate::agent::core::Input;
use crate::agent::shell::Told;
use crate::attempt::directory;

/// Reading and packing more than this is done beside, not between other things.
const LITTLE: u64 = 32 * 1024;
/// Waits after a refusal, first and longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Between two connections.
const PAUSE: Duration = Duration::from_millis(200);

/// Runs beside the agent for as long as the worker lives.
pub(crate) struct Sender {
    pub(crate) broker: Broker,
    pub(crate) worker: WorkerName,
    pub(crate) incarnation: IncarnationId,
    pub(crate) output: Output,
    pub(crate) heartbeats: mpsc::Receiver<Box<Heartbeat>>,
    /// Highest epoch that the worker has seen.
    pub(crate) epoch: watch::Receiver<Epoch>,
    pub(crate) tell: mpsc::Sender<Told>,
}

impl Sender {
    /// Runs until it is dropped.
    pub(crate) async fn run(mut self) {
        let name = format!("scitq-worker {} output", self.worker);
        loop {
            let report = |error: &BrokerError, next: Duration| {
                tracing::debug!(%error, ?next, "output waits for the broker");
            };
            let connection = self.broker.connect_until_ready(&name, report).await;
            let error = match self.session(&connection).await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            tracing::debug!(%error, "the connection for output ended, a new one is made");
            connection.close().await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn session(
        &mut self,
        connection: &scitq_broker::Connection,
    ) -> Result<std::convert::Infallible, BrokerError> {
        let channel = connection.channel().await?;
        channel.declare(&topology::base_topology()).await?;
        let mut under_way = UnderWay {
            output: self.output.clone(),
            pieces: BTreeMap::new(),
            confirmations: FuturesUnordered::new(),
        };
        let mut back_off: Option<(Instant, Duration)> = None;
        let closed = channel.closed();
        tokio::pin!(closed);
        loop {
            if back_off.is_none_or(|(until, _)| until <= Instant::now()) {
                self.publish_ready(&channel, &mut under_way).await?;
            }
            let resume = back_off
                .map(|(until, _)| until)
                .filter(|until| *until > Instant::now());
            tokio::select! {
                error = &mut closed => return Err(error),
                Some((piece, outcome)) = under_way.confirmations.next(), if !under_way.confirmations.is_empty() => {
                    under_way.settle(&piece, outcome.is_ok());
                    match outcome {
                        Ok(()) => back_off = None,
                        Err(PublishFailure::Lost(error)) => return Err(error),
                        // Full, or being declared anew: later.
                        Err(_) => back_off = Some(longer(back_off)),
                    }
                    self.finish(piece.attempt).await;
                }
                () = self.output.book.something_to_send(), if resume.is_none() => {}
                () = async { if let Some(until) = resume { tokio::time::sleep_until(until).await } }, if resume.is_some() => {}
                Some(heartbeat) = self.heartbeats.recv() => self.beat(&channel, &heartbeat).await?,
            }
        }
    }

    /// Publishes pieces until enough is under way or nothing is left.
    async fn publish_ready(
        &self,
        channel: &Channel,
        under_way: &mut UnderWay,
    ) -> Result<(), BrokerError> {
        while let Some(piece) = self.output.book.next_piece() {
            // From here on it is settled whatever happens: by its confirmation, or with the session.
            under_way
                .pieces
                .insert((piece.attempt, piece.stream), piece);
            match self.read(&piece).await {
                Ok(chunk) => {
                    let confirmation = channel.publish(self.message(&piece, chunk)).await?;
                    under_way
                        .confirmations
                        .push(Box::pin(async move { (piece, confirmation.await) }));
                }
                Err(error) => {
                    under_way.settle(&piece, false);
                    self.output.book.forget(piece.attempt);
                    // Gone with its attempt, in the normal case: the server has all of it.
                    if error.kind() != std::io::ErrorKind::NotFound {
                        tracing::error!(attempt = %piece.attempt, %error, "output cannot be read and is left out");
                    }
                }
            }
        }
        Ok(())
    }

    async fn read(&self, piece: &Piece) -> std::io::Result<Chunk> {
        let directory = directory::of(&self.output.attempts, piece.attempt);
        let file = directory::stream_file(&directory, STREAMS[piece.stream]);
        let (offset, bytes) = (
            piece.offset,
            usize::try_from(piece.bytes).map_err(std::io::Error::other)?,
        );
        if piece.bytes <= LITTLE {
            return piece::pack(&file, offset, bytes);
        }
        let packed = tokio::task::spawn_blocking(move || piece::pack(&file, offset, bytes)).await;
        packed.map_err(std::io::Error::other)?
    }

    fn message(&self, piece: &Piece, chunk: Chunk) -> Message {
        let stream = STREAMS[piece.stream];
        let message = OutputMessage {
            version: PROTOCOL_VERSION,
            worker: self.worker.clone(),
            incarnation: self.incarnation,
            epoch: *self.epoch.borrow(),
            attempt: piece.attempt,
            task: piece.task,
            stream,
            offset: piece.offset,
            length: chunk.length,
            encoding: chunk.encoding,
            data: chunk.data,
        };
        Message::new(
            EVENTS_EXCHANGE,
            format!("output.{stream}"),
            encode(&message),
        )
    }

    async fn beat(&self, channel: &Channel, heartbeat: &Heartbeat) -> Result<(), BrokerError> {
        let key = format!(
            "heartbeat.{}",
            topology::worker_routing_key(self.worker.as_str())
        );
        let mut message = Message::new(EVENTS_EXCHANGE, key, encode(heartbeat));
        message.persistent = false;
        message.mandatory = false;
        // The next one comes soon; nobody waits for this one.
        drop(channel.publish(message).await?);
        Ok(())
    }

    async fn finish(&self, attempt: AttemptId) {
        if self.output.book.finish(attempt) {
            // The agent is gone only when everything ends.
            let _ = self.tell.send(Input::OutputSent { attempt }.into()).await;
        }
    }
}

fn longer(back_off: Option<(Instant, Duration)>) -> (Instant, Duration) {
    let now = Instant::now();
    match back_off {
        // One of many that were refused together.
        Some(current) if current.0 > now => current,
        Some((_, wait)) => {
            let wait = (wait * 2).min(BACK_OFF.1);
            (now + wait, wait)
        }
        None => (now + BACK_OFF.0, BACK_OFF.0),
    }
}

type Outcome = (Piece, Result<(), PublishFailure>);

/// Pieces whose confirmation is outstanding. When the connection goes, they count as not sent.
struct UnderWay {
    output: Output,
    pieces: BTreeMap<(AttemptId, usize), Piece>,
    confirmations: FuturesUnordered<BoxFuture<'static, Outcome>>,
}

impl UnderWay {
    fn settle(&mut self, piece: &Piece, stored: bool) {
        if self.pieces.remove(&(piece.attempt, piece.stream)).is_some() {
            self.output.book.settle(piece, stored);
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        for piece in self.pieces.values() {
            self.output.book.settle(piece, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_once_per_wait() {
        let first = longer(None);
        assert_eq!(first.1, BACK_OFF.0);
        assert_eq!(longer(Some(first)).1, first.1, "others of the same burst");
        let past = Instant::now();
        assert_eq!(longer(Some((past, BACK_OFF.0))).1, BACK_OFF.0 * 2);
        assert_eq!(longer(Some((past, BACK_OFF.1))).1, BACK_OFF.1);
    }
}
