use super::size;

/// How often rows were asked for lately, roughly and in little memory: a TinyLFU sketch.
///
/// A count-min sketch of four rows of 4-bit counters, halved now and then so that the past fades
/// (Einziger, Friedman and Manes, "TinyLFU", ACM Transactions on Storage 13(4), 2017). As in
/// Caffeine all four counters of a hash lie in one block of 64 bytes, which costs one cache miss;
/// unlike there only the lowest of the four are raised ("conservative update"), so that a scan
/// lifts the estimates of others less.
///
/// ```text
///              one block: 128 counters of 4 bits
///         word 0   1   2   3   4   5   6   7
///             [ row 0 | row 1 | row 2 | row 3 ]      estimate = the least of four
///                 ^     ^         ^ ^
///                 one counter of 32 in each row
/// ```
///
/// An estimate is never below the number of touches since the last halving, up to [`MOST`]. The
/// sketch of `n` entries takes `8 * n` bytes, where `n` is rounded up to a power of two.
#[derive(Clone, Debug, Default)]
pub(super) struct Frequency {
    /// Nothing, or a power of two of them.
    blocks: Vec<Block>,
    /// Touches that raised a counter since the last halving, and half of those before.
    additions: usize,
}

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Block([u64; WORDS]);

/// Where the counters of a hash are.
#[derive(Debug)]
struct Place {
    block: usize,
    /// The word and the shift of each row's counter.
    counters: [(usize, u32); ROWS],
}

impl Frequency {
    /// Makes room for the counts of so many entries; what was counted stays.
    ///
    /// It never shrinks: a store that holds fewer entries for a while soon holds more again.
    pub(super) fn ensure(&mut self, entries: usize) {
        let wanted = entries.div_ceil(ENTRIES).max(LEAST).next_power_of_two();
        if wanted <= self.blocks.len() {
            return;
        }
        let mut blocks = Vec::with_capacity(wanted);
        blocks.extend_from_slice(&self.blocks);
        blocks.resize(self.blocks.len().max(1), Block::EMPTY);
        // A block's hashes go to blocks of the same lower bits: each of these starts with the
        // counts of all, which are too high for none of them to be too low.
        while blocks.len() < wanted {
            blocks.extend_from_within(..);
        }
        self.blocks = blocks;
    }

    /// Counts that a row was asked for; nothing is counted before there is room.
    pub(super) fn touch(&mut self, hash: u64) {
        if self.blocks.is_empty() {
            return;
        }
        let place = self.place(hash);
        let block = &mut self.blocks[place.block];
        let least = block.least(&place);
        if least == MOST {
            return;
        }
        for &(word, shift) in &place.counters {
            if block.counter(word, shift) == least {
                block.0[word] += 1 << shift;
            }
        }
        self.additions += 1;
        if self.additions >= PERIOD * ENTRIES * self.blocks.len() {
            self.halve();
        }
    }

    /// Returns about how often a row was asked for lately, at most [`MOST`].
    pub(super) fn estimate(&self, hash: u64) -> u8 {
        if self.blocks.is_empty() {
            return 0;
        }
        let place = self.place(hash);
        self.blocks[place.block].least(&place)
    }

    /// Whether the candidate is worth more than the victim whose place it would take.
    ///
    /// Ties go to the victim: a scan of rows that are asked for once moves nothing. A candidate
    /// that is asked for often and loses nevertheless is let in once in [`LUCK`] times, as in
    /// Caffeine: a victim whose counters were driven up by colliding hashes could otherwise hold
    /// its place, and with it the whole main part, for ever.
    pub(super) fn admits(&self, candidate: u64, victim: u64) -> bool {
        let frequency = self.estimate(candidate);
        if frequency > self.estimate(victim) {
            return true;
        }
        frequency >= WARM && mixed(candidate ^ self.additions as u64).is_multiple_of(LUCK)
    }

    /// Returns how many bytes the counters take.
    pub(super) fn bytes(&self) -> usize {
        size::aligned(
            self.blocks.capacity() * size_of::<Block>(),
            align_of::<Block>(),
        )
    }

    /// Halves every counter.
    fn halve(&mut self) {
        for word in self.blocks.iter_mut().flat_map(|block| &mut block.0) {
            *word = (*word >> 1) & LOWER_BITS;
        }
        self.additions /= 2;
    }

    /// Finds the counters of a hash; there must be blocks.
    fn place(&self, hash: u64) -> Place {
        let mixed = mixed(hash);
        Place {
            block: (mixed as usize) & (self.blocks.len() - 1),
            counters: std::array::from_fn(|row| {
                // Five bits from above those that choose the block: which of two words, and
                // which of its 16 counters.
                let bits = mixed >> (64 - 5 * (row + 1));
                (2 * row + (bits & 1) as usize, 4 * (bits >> 1 & 15) as u32)
            }),
        }
    }
}

impl Block {
    const EMPTY: Self = Self([0; WORDS]);

    fn counter(&self, word: usize, shift: u32) -> u8 {
        (self.0[word] >> shift & u64::from(MOST)) as u8
    }

    fn least(&self, place: &Place) -> u8 {
        let [a, b, c, d] = place
            .counters
            .map(|(word, shift)| self.counter(word, shift));
        a.min(b).min(c.min(d))
    }
}

/// Spreads a hash anew: its own bits have chosen the shard already, so that in one shard some of
/// them are the same for all.
fn mixed(hash: u64) -> u64 {
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 32)
}

/// The highest estimate, and the highest value of 4 bits: who is asked for 15 times within a
/// period is hot, however much hotter others are.
pub(super) const MOST: u8 = 15;
/// Counters that a hash has, as in Caffeine: each has two of a block's words to itself.
const ROWS: usize = 4;
/// Words in a block, which is a cache line.
const WORDS: usize = 8;
/// Entries for which a block has room: 16 counters each, as in Caffeine.
const ENTRIES: usize = 8;
/// Blocks that a sketch has at least: with fewer, each halving would come after so few touches
/// that nothing is learned from them.
const LEAST: usize = 8;
/// Additions for each entry after which counts are halved. The paper and Caffeine take ten; five
/// cost half a point of hits under a Zipf stream and one beside a scan (`simulation.rs`), and a hot
/// set that has shifted is found again in five caches full of requests, not seven. As the entries
/// are rounded up, five are five to ten.
const PERIOD: usize = 5;
/// The estimate from which a candidate that lost is let in by luck (Caffeine's).
const WARM: u8 = 6;
/// One in so many of these is (Caffeine's).
const LUCK: u64 = 128;
/// The bits of counters that were shifted, without those that came from the neighbour.
const LOWER_BITS: u64 = 0x7777_7777_7777_7777;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::random::Random;

    fn room(entries: usize) -> Frequency {
        let mut frequency = Frequency::default();
        frequency.ensure(entries);
        frequency
    }

    #[test]
    fn nothing_is_allocated_nor_counted_before_there_is_room() {
        let mut frequency = Frequency::default();
        frequency.touch(1);
        assert_eq!((frequency.estimate(1), frequency.bytes()), (0, 0));
        assert!(!frequency.admits(1, 2));
    }

    #[test]
    fn an_entry_takes_eight_bytes() {
        assert_eq!(room(1).bytes(), 512);
        assert_eq!(room(100).bytes(), 1024);
        // The next class, for the sake of the alignment.
        assert_eq!(room(1000).bytes(), 10 * 1024);
        assert_eq!(size_of::<Block>(), 64);
    }

    #[test]
    fn counts_stop_at_the_most() {
        let mut frequency = room(64);
        for _ in 0..100 {
            frequency.touch(7);
        }
        assert_eq!(frequency.estimate(7), MOST);
        assert_eq!(frequency.additions, usize::from(MOST));
    }

    #[test]
    fn aging_halves_what_was_counted() {
        let mut frequency = room(64);
        for _ in 0..12 {
            frequency.touch(7);
        }
        let mut random = Random::new(1);
        while frequency.additions != PERIOD * 64 - 1 {
            frequency.touch(random.next());
        }
        let before = frequency.estimate(7);
        while frequency.additions != PERIOD * 64 / 2 {
            frequency.touch(random.next());
        }
        assert_eq!(frequency.estimate(7), before / 2);
    }

    #[test]
    fn a_candidate_must_have_been_asked_for_more_often() {
        let mut frequency = room(64);
        for _ in 0..3 {
            frequency.touch(1);
            frequency.touch(2);
        }
        assert!(!frequency.admits(1, 2) && !frequency.admits(2, 1));
        frequency.touch(1);
        assert!(frequency.admits(1, 2) && !frequency.admits(2, 1));
    }

    #[test]
    fn a_warm_candidate_gets_in_at_last() {
        let mut frequency = room(1024);
        for _ in 0..MOST {
            frequency.touch(1);
        }
        for _ in 0..WARM {
            frequency.touch(2);
        }
        let mut random = Random::new(2);
        let admitted = (0..5000)
            .filter(|_| {
                frequency.touch(random.next());
                frequency.admits(2, 1)
            })
            .count();
        // One in 128 is expected, 39 of 5000; a cold one has no luck.
        assert!((15..80).contains(&admitted), "{admitted}");
        assert!((0..5000).all(|n| !frequency.admits(random.next() ^ n, 1)));
    }

    #[test]
    fn few_estimates_are_too_high() {
        // As many rows as there is room for: eight share a block on average, and two of them meet
        // in one counter of a row with a chance of 1/32. That all four counters of a row are
        // shared is rare, whichever bits of the hashes the shard has in common.
        for fixed in [0, u64::MAX << 56, 0xff] {
            let mut frequency = room(4096);
            let mut random = Random::new(3);
            let touches = [1, 2, 3, 4].into_iter().cycle().take(4096);
            let rows: Vec<(u64, u8)> = touches
                .map(|touches| (random.next() | fixed, touches))
                .collect();
            for &(hash, touches) in &rows {
                (0..touches).for_each(|_| frequency.touch(hash));
            }
            let high = rows
                .iter()
                .filter(|&&(hash, touches)| frequency.estimate(hash) > touches)
                .count();
            assert!(high < 4096 / 50, "{high} of 4096");
        }
    }

    #[test]
    fn a_scan_lifts_strangers_but_little() {
        let mut frequency = room(4096);
        let mut random = Random::new(4);
        // As many as fit between two halvings, each new: 40 a block, one or two a counter.
        for _ in 0..(PERIOD * 4096 - 1) {
            frequency.touch(random.next());
        }
        let sum: u32 = (0..1000)
            .map(|_| u32::from(frequency.estimate(random.next())))
            .sum();
        assert!(sum < 1500, "{sum} / 1000");
    }

    #[test]
    fn a_hot_row_is_told_from_a_scan() {
        let mut frequency = room(1024);
        let mut random = Random::new(5);
        let hot: Vec<_> = (0..256).map(|_| random.next()).collect();
        for n in 0..50_000 {
            frequency.touch(hot[n % 256]);
            frequency.touch(random.next());
        }
        let lost = (0..10_000)
            .filter(|n| frequency.admits(random.next(), hot[n % 256]))
            .count();
        assert!(lost < 10, "{lost} of 10000");
    }

    proptest! {
        #[test]
        fn no_estimate_is_below_the_count(
            seed: u64,
            touches in prop::collection::vec(0_u64..50, 0..64 * PERIOD),
            growth in prop::option::of((0_usize..64 * PERIOD, 64_usize..5000)),
        ) {
            let hashed = |row| Random::new(seed ^ row).next();
            let mut frequency = room(64);
            let mut counts = HashMap::new();
            for (n, &row) in touches.iter().enumerate() {
                if let Some((at, entries)) = growth && n == at {
                    frequency.ensure(entries);
                }
                frequency.touch(hashed(row));
                *counts.entry(row).or_insert(0_u64) += 1;
            }
            for (&row, &count) in &counts {
                prop_assert!(u64::from(frequency.estimate(hashed(row))) >= count.min(15));
            }
        }

        #[test]
        fn growing_changes_no_estimate(seed: u64, rows in 1_u64..300, entries in 0_usize..5000) {
            let hashed = |row| Random::new(seed ^ row).next();
            let mut frequency = room(64);
            (0..rows).for_each(|row| frequency.touch(hashed(row)));
            let mut grown = frequency.clone();
            grown.ensure(entries);
            for row in 0..rows + 50 {
                prop_assert_eq!(grown.estimate(hashed(row)), frequency.estimate(hashed(row)));
            }
        }
    }
}
