//! Giving back the disk space of what will be cut out of a very long stream, while its task still writes.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::FallocateFlags;

/// Space is given back in steps of this many bytes.
const STEP: u64 = 16 * 1024 * 1024;
/// Holes begin and end at multiples of this, which every file system's blocks divide.
const BLOCK: u64 = 64 * 1024;

/// The part of a stream of this length that no longer length brings back into what is kept, beyond what was given back
/// before; none while that is little.
pub(super) fn hole(length: u64, cap_bytes: u64, given_back_to: u64) -> Option<(u64, u64)> {
    let from = cap_bytes.max(given_back_to).next_multiple_of(BLOCK);
    let tail = scitq_shared::output::tail_bytes(cap_bytes);
    let to = length.saturating_sub(tail) / BLOCK * BLOCK;
    (to >= from.saturating_add(STEP)).then_some((from, to))
}

/// Gives the space back; the length of the file stays.
pub(super) fn punch(file: &Path, (from, to): (u64, u64)) -> io::Result<()> {
    let file = File::options().write(true).open(file)?;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, flags, from, to - from).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use scitq_shared::output::StreamEnd;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn holes_lie_in_what_is_cut() {
        assert_eq!(hole(60 * MIB, 64 * MIB, 0), None);
        assert_eq!(hole(87 * MIB, 64 * MIB, 0), None);
        assert_eq!(hole(88 * MIB, 64 * MIB, 0), Some((64 * MIB, 80 * MIB)));
        assert_eq!(
            hole(1000 * MIB + 5, 64 * MIB, 80 * MIB),
            Some((80 * MIB, 992 * MIB))
        );
        for length in [100 * MIB + 77, 5_000 * MIB + 1] {
            for cap in [0, 1, 3 * MIB + 1, 64 * MIB] {
                let cut = StreamEnd::of(length, cap).cut.unwrap();
                let (from, to) = hole(length, cap, 0).unwrap();
                assert!(cut.from <= from && to <= cut.to, "{length} {cap}");
            }
        }
    }
}
