use scitq_shared::output::StreamEnd;

/// Bytes of a stream: `low` up to but not including `high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    /// First byte.
    pub(super) low: u64,
    /// Behind the last byte.
    pub(super) high: u64,
}

/// The parts of a stream that are kept: all of it, or what lies before and behind the cut. A cut that makes no sense is
/// taken as far as it does.
pub(super) fn kept(end: StreamEnd) -> Vec<Span> {
    let parts = match end.cut {
        None => vec![Span {
            low: 0,
            high: end.length,
        }],
        Some(cut) => {
            let from = cut.from.min(end.length);
            let to = cut.to.clamp(from, end.length);
            vec![
                Span { low: 0, high: from },
                Span {
                    low: to,
                    high: end.length,
                },
            ]
        }
    };
    parts
        .into_iter()
        .filter(|span| span.low < span.high)
        .collect()
}

/// How many bytes of a stream are kept.
pub(super) fn kept_bytes(end: StreamEnd) -> u64 {
    kept(end).iter().map(|span| span.high - span.low).sum()
}

/// The first kept byte that is not stored. `gaps` are the parts before `stored_end` that are not stored, in order.
pub(super) fn first_lacking(end: StreamEnd, gaps: &[Span], stored_end: u64) -> Option<u64> {
    let behind = Span {
        low: stored_end,
        high: u64::MAX,
    };
    let lacking = kept(end).into_iter().flat_map(|kept| {
        let missing = gaps.iter().copied().chain(std::iter::once(behind));
        missing.filter_map(move |gap| {
            let low = gap.low.max(kept.low);
            (low < gap.high.min(kept.high)).then_some(low)
        })
    });
    lacking.min()
}

#[cfg(test)]
mod tests {
    use scitq_shared::output::Cut;

    use super::*;

    fn span(low: u64, high: u64) -> Span {
        Span { low, high }
    }

    #[test]
    fn the_cut_is_not_lacking() {
        let whole = StreamEnd {
            length: 100,
            cut: None,
        };
        let cut = StreamEnd {
            length: 100,
            cut: Some(Cut { from: 30, to: 80 }),
        };
        assert_eq!(first_lacking(whole, &[], 100), None);
        assert_eq!(first_lacking(whole, &[], 99), Some(99));
        assert_eq!(
            first_lacking(whole, &[span(0, 5), span(7, 9)], 100),
            Some(0)
        );
        assert_eq!(first_lacking(whole, &[], 0), Some(0));
        assert_eq!(first_lacking(cut, &[span(30, 80)], 100), None);
        assert_eq!(first_lacking(cut, &[span(20, 80)], 100), Some(20));
        assert_eq!(first_lacking(cut, &[span(30, 90)], 100), Some(80));
        assert_eq!(first_lacking(cut, &[], 30), Some(80));
        assert_eq!(first_lacking(StreamEnd::default(), &[], 0), None);
        assert_eq!(kept_bytes(cut), 50);
    }

    #[test]
    fn a_senseless_cut_does_no_harm() {
        for (from, to) in [(80, 30), (200, 300), (0, u64::MAX), (u64::MAX, 0)] {
            let end = StreamEnd {
                length: 100,
                cut: Some(Cut { from, to }),
            };
            assert!(kept_bytes(end) <= 100, "{from} {to}");
        }
    }
}
