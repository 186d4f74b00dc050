//! Captured output: streams, compressed chunks and the cut in the middle of very long streams.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::task::text_enum;

/// Longest uncompressed chunk, in bytes. Bounds what one message or one read takes in memory.
pub const MAX_CHUNK_BYTES: usize = 256 * 1024;

/// Default cap of what is kept of one stream, in bytes.
pub const DEFAULT_STREAM_CAP_BYTES: u64 = 64 * 1024 * 1024;

text_enum! {
    /// The two streams of a process.
    Stream {
        /// Standard output.
        Stdout = "stdout",
        /// Standard error.
        Stderr = "stderr",
    }
}

/// The part of a stream that was not kept: bytes `from` up to but not including `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cut {
    /// First byte that is missing.
    pub from: u64,
    /// First byte that is there again.
    pub to: u64,
}

impl Cut {
    /// How many bytes are missing.
    pub fn length(self) -> u64 {
        self.to.saturating_sub(self.from)
    }
}

/// Where a stream ended: its length as written by the task, and what was cut out of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StreamEnd {
    /// Bytes that the task wrote.
    pub length: u64,
    /// Bytes in the middle that were not kept, where the stream was longer than the cap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
}

impl StreamEnd {
    /// What is kept of a stream of this length under a cap: its first `cap` bytes, and the last [`tail_bytes`] of one that
    /// is longer.
    pub fn of(length: u64, cap: u64) -> Self {
        let to = length.saturating_sub(tail_bytes(cap));
        let cut = (to > cap).then_some(Cut { from: cap, to });
        Self { length, cut }
    }

    /// Bytes that are kept.
    pub fn kept(self) -> u64 {
        self.length.saturating_sub(self.cut.map_or(0, Cut::length))
    }
}

/// How much of the end of a stream is kept that is longer than its cap, besides the cap's bytes at its beginning: an
/// eighth of the cap. It is known, and sent, when the task has ended; all up to the cap is sent while it runs.
pub fn tail_bytes(cap: u64) -> u64 {
    cap / 8
}

text_enum! {
    /// How a chunk's bytes are stored.
    Encoding {
        /// As they are; used where compression does not make them smaller.
        Raw = "raw",
        /// One zstd frame.
        Zstd = "zstd",
    }
}

/// A piece of a stream, packed for the way and for the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Length of the uncompressed bytes, at most [`MAX_CHUNK_BYTES`].
    pub length: u32,
    /// How `data` is packed.
    pub encoding: Encoding,
    /// The packed bytes.
    pub data: Vec<u8>,
}

/// Why a packed chunk cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// Longer than a chunk may be.
    #[error("a chunk of {0} bytes is longer than the {MAX_CHUNK_BYTES} bytes allowed")]
    TooLong(u64),
    /// The frame is damaged, or holds another number of bytes than said.
    #[error("a packed chunk is damaged: {0}")]
    Damaged(String),
}

impl Chunk {
    /// Packs at most [`MAX_CHUNK_BYTES`] bytes.
    pub fn pack(bytes: &[u8]) -> Result<Self, ChunkError> {
        let length = u32::try_from(bytes.len())
            .ok()
            .filter(|_| bytes.len() <= MAX_CHUNK_BYTES);
        let length = length.ok_or(ChunkError::TooLong(bytes.len() as u64))?;
        // Level 1: 500 MB/s and more, and the next levels gain little on logs. Short texts do not shrink at all.
        let packed = if bytes.len() < 128 {
            None
        } else {
            zstd::bulk::compress(bytes, 1).ok()
        };
        Ok(match packed {
            Some(data) if data.len() < bytes.len() => Self {
                length,
                encoding: Encoding::Zstd,
                data,
            },
            _ => Self {
                length,
                encoding: Encoding::Raw,
                data: bytes.to_vec(),
            },
        })
    }

    /// The bytes again. Never yields more than [`MAX_CHUNK_BYTES`], whatever a hostile frame says.
    pub fn unpack(&self) -> Result<Vec<u8>, ChunkError> {
        if self.length as usize > MAX_CHUNK_BYTES {
            return Err(ChunkError::TooLong(u64::from(self.length)));
        }
        let bytes = match self.encoding {
            Encoding::Raw => self.data.clone(),
            Encoding::Zstd => zstd::bulk::decompress(&self.data, self.length as usize)
                .map_err(|error| ChunkError::Damaged(error.to_string()))?,
        };
        if bytes.len() == self.length as usize {
            Ok(bytes)
        } else {
            Err(ChunkError::Damaged(format!(
                "it holds {} bytes instead of {}",
                bytes.len(),
                self.length
            )))
        }
    }
}

/// Serialises bytes as base64 text in JSON.
pub mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use serde::{Deserialize as _, Deserializer, Serializer};

    /// Writes base64.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(bytes))
    }

    /// Reads base64.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        BASE64
            .decode(text.as_bytes())
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ends_of_streams() {
        let end = |length, cut: Option<(u64, u64)>| StreamEnd {
            length,
            cut: cut.map(|(from, to)| Cut { from, to }),
        };
        // The tail of a cap of 80 is 10 bytes long.
        let table = [
            (80, 80, None),
            (90, 80, None),
            (91, 80, Some((80, 81))),
            (1000, 80, Some((80, 990))),
            (8, 7, Some((7, 8))),
        ];
        for (length, cap, cut) in table {
            assert_eq!(StreamEnd::of(length, cap), end(length, cut));
        }
        assert_eq!(StreamEnd::of(100, 0).kept(), 0);
    }

    #[test]
    fn hostile_frames_are_refused() {
        let bomb = Chunk {
            length: 100,
            encoding: Encoding::Zstd,
            data: zstd::bulk::compress(&vec![0; 1_000_000], 1).unwrap(),
        };
        assert!(matches!(bomb.unpack(), Err(ChunkError::Damaged(_))));
        let short = Chunk {
            length: 100,
            encoding: Encoding::Zstd,
            data: zstd::bulk::compress(&[0; 99], 1).unwrap(),
        };
        assert!(matches!(short.unpack(), Err(ChunkError::Damaged(_))));
        let long = Chunk {
            length: u32::MAX,
            encoding: Encoding::Raw,
            data: vec![],
        };
        assert_eq!(long.unpack(), Err(ChunkError::TooLong(u64::from(u32::MAX))));
        assert_eq!(
            Chunk::pack(&vec![0; MAX_CHUNK_BYTES + 1]),
            Err(ChunkError::TooLong(262_145))
        );
    }

    proptest! {
        #[test]
        fn chunks_round_trip(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(Chunk::pack(&bytes).unwrap().unpack().unwrap(), bytes);
        }

        #[test]
        fn the_cap_and_the_tail_are_kept(length in 0u64..1 << 40, cap in 0u64..1 << 30) {
            prop_assert_eq!(StreamEnd::of(length, cap).kept(), length.min(cap + tail_bytes(cap)));
        }
    }
}
