//! Messages on a stream: a length, a kind, and fields one after the other. Everything read is bounded and checked.

/// Longest frame: the longest command with its environment, with room. The system takes no more than 2 MiB by default.
pub(super) const MOST_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of the length before each frame.
const LENGTH_BYTES: usize = 4;

/// Why what was received is no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    /// A length that no message has.
    #[error("a message of {0} bytes is not between 1 and {MOST_BYTES}")]
    Length(usize),
    /// The message ends before its last field, or goes on behind it.
    #[error("a message of kind {0} is cut or too long")]
    Fields(u8),
    /// A field that does not hold what it must.
    #[error("a message of kind {0} holds something else than it must")]
    Content(u8),
    /// A kind that this program does not know.
    #[error("a message of the unknown kind {0}")]
    Kind(u8),
}

/// Writes one frame.
pub(super) struct FrameWriter<'a> {
    into: &'a mut Vec<u8>,
    begin: usize,
}

impl<'a> FrameWriter<'a> {
    /// A frame of this kind at the end of `into`.
    pub(super) fn new(into: &'a mut Vec<u8>, kind: u8) -> Self {
        let begin = into.len();
        into.extend_from_slice(&[0; LENGTH_BYTES]);
        into.push(kind);
        Self { into, begin }
    }

    pub(super) fn number(&mut self, number: u64) -> &mut Self {
        self.into.extend_from_slice(&number.to_le_bytes());
        self
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64);
        self.into.extend_from_slice(bytes);
        self
    }

    pub(super) fn list<'b>(&mut self, items: impl ExactSizeIterator<Item = &'b [u8]>) -> &mut Self {
        self.number(items.len() as u64);
        for item in items {
            self.bytes(item);
        }
        self
    }

    /// Completes the frame; an error leaves nothing of it.
    pub(super) fn end(self) -> Result<(), FrameError> {
        let length = self.into.len() - self.begin - LENGTH_BYTES;
        match u32::try_from(length) {
            Ok(prefix) if length <= MOST_BYTES => {
                self.into[self.begin..self.begin + LENGTH_BYTES]
                    .copy_from_slice(&prefix.to_le_bytes());
                Ok(())
            }
            _ => {
                self.into.truncate(self.begin);
                Err(FrameError::Length(length))
            }
        }
    }
}

/// The fields of a received frame.
pub(super) struct Fields<'a> {
    pub(super) kind: u8,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn number(&mut self) -> Result<u64, FrameError> {
        let (number, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(FrameError::Fields(self.kind))?;
        self.rest = rest;
        Ok(u64::from_le_bytes(*number))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], FrameError> {
        let length = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        let (bytes, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(FrameError::Fields(self.kind))?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, FrameError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| FrameError::Content(self.kind))
    }

    pub(super) fn list(&mut self) -> Result<Vec<Vec<u8>>, FrameError> {
        let count = self.number()?;
        // Each item has its own length before it: a lie about their number ends here, not in an allocation.
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(self.bytes()?.to_vec());
        }
        Ok(items)
    }

    /// True when no field is left.
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// That was all.
    pub(super) fn end(self) -> Result<(), FrameError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(FrameError::Fields(self.kind))
        }
    }
}

/// Frames out of the pieces in which a stream brings them.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    buffer: Vec<u8>,
    begin: usize,
}

impl FrameReader {
    /// Takes in what was read.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.begin == self.buffer.len() {
            self.buffer.clear();
            // A long message is rare, and who reads it is to stay small.
            self.buffer.shrink_to(64 * 1024);
        } else if self.begin > 0 {
            self.buffer.drain(..self.begin);
        }
        self.begin = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete frame, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<Fields<'_>>, FrameError> {
        let Some((prefix, rest)) = self.buffer[self.begin..].split_first_chunk() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*prefix) as usize;
        if length == 0 || length > MOST_BYTES {
            return Err(FrameError::Length(length));
        }
        let Some((frame, _)) = rest.split_at_checked(length) else {
            return Ok(None);
        };
        self.begin += LENGTH_BYTES + length;
        Ok(frame
            .split_first()
            .map(|(kind, rest)| Fields { kind: *kind, rest }))
    }
}
