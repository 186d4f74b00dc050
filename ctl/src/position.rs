//! Where a reader of a stream is, and where the cut falls.

use scitq_shared::api::CutView;

/// Position of a reader in the task's own bytes. Pure: no bytes are kept, none are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    at: u64,
}

/// How received bytes fall around a cut: the first `before` of them stand before it; the cut follows them when it is
/// there; the others stand behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Number of bytes before the cut.
    pub before: usize,
    /// The cut, when it lies before the end of these bytes.
    pub cut: Option<CutView>,
}

impl Position {
    /// A reader that begins at an offset.
    pub fn new(offset: u64) -> Self {
        Self { at: offset }
    }

    /// The offset to go on from.
    pub fn offset(self) -> u64 {
        self.at
    }

    /// Moves over received bytes, of a stream that skips its cut.
    pub fn advance(&mut self, length: usize, cut: Option<CutView>) -> Split {
        let bytes = length as u64;
        match cut.filter(|cut| cut.from < cut.to) {
            Some(cut) if self.at < cut.to && self.at.saturating_add(bytes) > cut.from => {
                // the reader may begin inside the cut: then nothing stands before it
                let before = cut.from.saturating_sub(self.at);
                self.at = cut.to + (bytes - before);
                // before <= bytes, which came from a usize
                Split {
                    before: usize::try_from(before).unwrap_or(length),
                    cut: Some(cut),
                }
            }
            _ => {
                self.at += bytes;
                Split {
                    before: length,
                    cut: None,
                }
            }
        }
    }

    /// At the end of the stream: the cut, when it is the last of it.
    pub fn end(&mut self, cut: Option<CutView>) -> Option<CutView> {
        let cut = cut.filter(|cut| cut.from <= self.at && self.at < cut.to)?;
        self.at = cut.to;
        Some(cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUT: CutView = CutView { from: 10, to: 100 };

    #[test]
    fn the_cut_is_met_once_wherever_the_pieces_end() {
        for first in 0..=30_usize {
            let mut position = Position::default();
            let mut before = 0;
            let mut cuts = 0;
            for length in [first, 30 - first] {
                let split = position.advance(length, Some(CUT));
                if cuts == 0 {
                    before += split.before;
                }
                cuts += usize::from(split.cut.is_some());
            }
            assert_eq!(
                (before, cuts, position.offset()),
                (10, 1, 120),
                "first piece of {first}"
            );
            assert_eq!(position.end(Some(CUT)), None);
        }
    }

    #[test]
    fn a_cut_at_the_very_end_is_met_at_the_end() {
        let mut position = Position::default();
        assert_eq!(
            position.advance(10, Some(CUT)),
            Split {
                before: 10,
                cut: None
            }
        );
        assert_eq!(position.end(Some(CUT)), Some(CUT));
        assert_eq!(position.end(Some(CUT)), None);
    }

    #[test]
    fn a_reader_may_begin_inside_or_behind_the_cut() {
        let mut inside = Position::new(50);
        assert_eq!(
            inside.advance(5, Some(CUT)),
            Split {
                before: 0,
                cut: Some(CUT)
            }
        );
        assert_eq!(inside.offset(), 105);
        let mut behind = Position::new(100);
        assert_eq!(
            behind.advance(5, Some(CUT)),
            Split {
                before: 5,
                cut: None
            }
        );
        assert_eq!(behind.offset(), 105);
    }
}
