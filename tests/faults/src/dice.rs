//! Random numbers that a seed reproduces, today and with any version of any library.

/// A generator (`SplitMix64`). Two with the same seed say the same.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator for one purpose, so that what one purpose takes does not change what another gets.
    pub(crate) fn of(seed: u64, purpose: &str) -> Self {
        let mixed = purpose.bytes().fold(seed, |so_far, byte| {
            (so_far ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self::new(mixed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from `low` up to and including `high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    /// A number from 0 to half of another one.
    pub(crate) fn below_half(&mut self, number: usize) -> usize {
        let half = number as u64 / 2;
        // No larger than the number it came from.
        usize::try_from(self.between(0, half)).unwrap_or(0)
    }

    pub(crate) fn shuffle<T>(&mut self, things: &mut [T]) {
        for place in (1..things.len()).rev() {
            let other = self.between(0, place as u64);
            things.swap(place, usize::try_from(other).unwrap_or(place));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_the_same_for_ever() {
        let mut dice = Dice::new(7);
        assert_eq!(
            [dice.next(), dice.next()],
            [7_191_089_600_892_374_487, 309_689_372_594_955_804]
        );
        let mut one = Dice::of(7, "one");
        assert_ne!(one.next(), Dice::of(7, "two").next());
        assert!((0..1000).all(|_| (3..=5).contains(&one.between(3, 5))));
    }

    #[test]
    fn shuffling_loses_nothing() {
        let mut things: Vec<u32> = (0..100).collect();
        Dice::new(1).shuffle(&mut things);
        assert_ne!(things, (0..100).collect::<Vec<u32>>());
        things.sort_unstable();
        assert_eq!(things, (0..100).collect::<Vec<u32>>());
    }
}
