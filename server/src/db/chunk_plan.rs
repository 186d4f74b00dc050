//! Which bytes of arriving output are new: decided by offset, whatever the boundaries of the pieces.

use std::borrow::Cow;
use std::collections::BTreeMap;

use scitq_shared::ids::AttemptId;
use scitq_shared::output::{Chunk, Stream};

use super::lacking::Span;
use super::{DbError, NewChunk};

/// A stream of an attempt.
pub(super) type StreamKey = (AttemptId, Stream);

/// A chunk to be stored, none of whose bytes is stored yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    /// The stream.
    pub(super) key: StreamKey,
    /// Where in the stream it begins.
    pub(super) offset: u64,
    /// Its bytes, packed.
    pub(super) chunk: Cow<'a, Chunk>,
}

/// The part of a stream that a chunk holds.
fn span(new: &NewChunk) -> Span {
    Span {
        low: new.offset,
        high: new.offset.saturating_add(u64::from(new.chunk.length)),
    }
}

fn bad(new: &NewChunk, reason: String) -> DbError {
    DbError::BadChunk {
        attempt: new.attempt,
        stream: new.stream,
        offset: new.offset,
        reason,
    }
}

/// Makes sure that every chunk can be read back before it is stored.
pub(super) fn verify(chunks: &[NewChunk]) -> Result<(), DbError> {
    for new in chunks {
        if span(new).high > i64::MAX.unsigned_abs() {
            return Err(bad(
                new,
                "its offset is beyond what any stream reaches".to_owned(),
            ));
        }
        new.chunk
            .unpack()
            .map_err(|error| bad(new, error.to_string()))?;
    }
    Ok(())
}

/// For each stream the part that its chunks lie in.
pub(super) fn extents(chunks: &[NewChunk]) -> BTreeMap<StreamKey, Span> {
    let mut extents: BTreeMap<StreamKey, Span> = BTreeMap::new();
    for new in chunks {
        let span = span(new);
        let extent = extents.entry((new.attempt, new.stream)).or_insert(span);
        extent.low = extent.low.min(span.low);
        extent.high = extent.high.max(span.high);
    }
    extents
}

/// Cuts the chunks down to what is not stored: `stored` holds the stored parts of each stream that they may overlap.
/// Of bytes that come twice the first to come are kept.
pub(super) fn plan<'a>(
    chunks: &'a [NewChunk],
    stored: &BTreeMap<StreamKey, Vec<Span>>,
) -> Result<Vec<Piece<'a>>, DbError> {
    let mut covers: BTreeMap<StreamKey, Cover> = BTreeMap::new();
    let mut pieces = Vec::with_capacity(chunks.len());
    for new in chunks {
        let key = (new.attempt, new.stream);
        let cover = covers
            .entry(key)
            .or_insert_with(|| Cover::of(stored.get(&key).map_or(&[], Vec::as_slice)));
        let whole = span(new);
        let lacking = cover.add(whole);
        if lacking.as_slice() == [whole] {
            pieces.push(Piece {
                key,
                offset: new.offset,
                chunk: Cow::Borrowed(&new.chunk),
            });
        } else if !lacking.is_empty() {
            let bytes = new
                .chunk
                .unpack()
                .map_err(|error| bad(new, error.to_string()))?;
            for part in lacking {
                let place =
                    |offset: u64| usize::try_from(offset - new.offset).unwrap_or(usize::MAX);
                let cut = bytes
                    .get(place(part.low)..place(part.high))
                    .unwrap_or_default();
                let chunk = Chunk::pack(cut).map_err(|error| bad(new, error.to_string()))?;
                pieces.push(Piece {
                    key,
                    offset: part.low,
                    chunk: Cow::Owned(chunk),
                });
            }
        }
    }
    Ok(pieces)
}

/// The parts of a stream that are stored: start to end, apart from each other or touching.
#[derive(Debug, Default)]
struct Cover {
    parts: BTreeMap<u64, u64>,
}

impl Cover {
    fn of(spans: &[Span]) -> Self {
        let mut cover = Self::default();
        for span in spans {
            cover.add(*span);
        }
        cover
    }

    /// Adds a part; answers what of it was not there yet, in order.
    fn add(&mut self, new: Span) -> Vec<Span> {
        let mut lacking = Vec::new();
        let mut low = new.low;
        let before = self.parts.range(..=new.low).next_back();
        if let Some((_, &end)) = before {
            low = low.max(end);
        }
        for (&start, &end) in self.parts.range(new.low..new.high) {
            if low < start {
                lacking.push(Span { low, high: start });
            }
            low = low.max(end);
        }
        if low < new.high {
            lacking.push(Span {
                low,
                high: new.high,
            });
        }
        for part in &lacking {
            self.parts.insert(part.low, part.high);
        }
        lacking
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use scitq_shared::ids::TaskId;

    use super::*;

    fn chunk(attempt: AttemptId, offset: u64, bytes: &[u8]) -> NewChunk {
        let chunk = Chunk::pack(bytes).unwrap();
        NewChunk {
            attempt,
            task: TaskId(1),
            stream: Stream::Stdout,
            offset,
            chunk,
        }
    }

    #[test]
    fn damaged_and_impossible_chunks_are_named() {
        let attempt = AttemptId::generate();
        let mut damaged = chunk(attempt, 7, &[b'a'; 1000]);
        damaged.chunk.data.truncate(3);
        assert!(matches!(
            verify(&[damaged]),
            Err(DbError::BadChunk { offset: 7, .. })
        ));
        let far = chunk(attempt, u64::MAX - 1, b"abc");
        assert!(matches!(verify(&[far]), Err(DbError::BadChunk { .. })));
    }

    proptest! {
        /// Random pieces of one text, stored in two rounds, give every covered byte exactly once.
        #[test]
        fn bytes_are_stored_once(
            text in prop::collection::vec(any::<u8>(), 1..400),
            cuts in prop::collection::vec((0usize..400, 0usize..120), 1..30),
            split in 0usize..30,
        ) {
            let attempt = AttemptId::generate();
            let key = (attempt, Stream::Stdout);
            let chunks: Vec<NewChunk> = cuts
                .iter()
                .map(|(low, length)| (low.min(&text.len()).to_owned(), *length))
                .map(|(low, length)| chunk(attempt, low as u64, &text[low..(low + length).min(text.len())]))
                .collect();
            let mut stored: BTreeMap<StreamKey, Vec<Span>> = BTreeMap::new();
            let mut bytes: Vec<Option<u8>> = vec![None; text.len()];
            let split = split.min(chunks.len());
            for round in [&chunks[..split], &chunks[split..]] {
                for piece in plan(round, &stored.clone()).unwrap() {
                    let data = piece.chunk.unpack().unwrap();
                    prop_assert!(!data.is_empty());
                    let low = usize::try_from(piece.offset).unwrap();
                    for (place, byte) in data.iter().enumerate() {
                        prop_assert_eq!(bytes[low + place], None, "byte {} twice", low + place);
                        bytes[low + place] = Some(*byte);
                    }
                    stored.entry(key).or_default().push(Span { low: piece.offset, high: piece.offset + data.len() as u64 });
                }
            }
            for (place, byte) in bytes.iter().enumerate() {
                let covered = chunks.iter().any(|new| (span(new).low..span(new).high).contains(&(place as u64)));
                prop_assert_eq!(*byte, covered.then_some(text[place]));
            }
        }
    }
}
