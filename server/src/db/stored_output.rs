use scitq_shared::ids::AttemptId;
use scitq_shared::output::{Chunk, StreamEnd};

/// How much of an execution's output is in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputState {
    /// The attempt that the output is stored under.
    pub attempt: AttemptId,
    /// True when the attempt is over.
    pub over: bool,
    /// True when it is over and all kept output of both streams is stored: nothing more will come.
    pub complete: bool,
    /// Standard output.
    pub stdout: StreamState,
    /// Standard error.
    pub stderr: StreamState,
}

/// How much of a stream is in the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamState {
    /// Offset behind the last stored byte; there may be a gap before it.
    pub stored_end: u64,
    /// Where the stream ends, once that is known.
    pub end: Option<StreamEnd>,
}

/// A stored piece of a stream. The pieces of a stream do not overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredChunk {
    /// Where in the stream it begins, in bytes.
    pub offset: u64,
    /// The bytes, packed.
    pub chunk: Chunk,
}
