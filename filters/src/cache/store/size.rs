//! What memory is taken by what is asked for.

/// Returns how many bytes an allocation of so many really takes.
///
/// Steps of 16 bytes to 128, from there four classes to each doubling: 160, 192, 224, 256, 320 ….
/// Exact for
/// - mimalloc (which the binary uses) to 512 KiB; more comes in slices of 64 KiB, one of which also
///   holds the description of the page;
/// - jemalloc to 512 KiB; more goes on with four to a doubling, up to an eighth over what is said
///   here.
///
/// glibc has no classes: a chunk is `len + 8` in steps of 16, at least 32, which is up to 16 bytes
/// more than what is said here for small ones, and less for those of more than 128.
///
/// Blocks that are free in pages of their class are not counted: no allocator says how many.
pub(in crate::cache) const fn allocated(len: usize) -> usize {
    match len {
        // Empty vectors and boxes ask for nothing.
        0 => 0,
        1..=128 => len.next_multiple_of(16),
        129..=CLASSES => len.next_multiple_of(1 << ((len - 1).ilog2() - 2)),
        _ => match len.checked_add(PAGE) {
            Some(len) if len <= isize::MAX as usize => len.next_multiple_of(SLICE),
            // No allocator can give this.
            _ => len,
        },
    }
}

/// Returns how many bytes a hash table (`hashbrown`, also that of `std` and of `lru`) takes, with
/// slots of so many bytes, after holding at most so many entries that came and went.
///
/// A table is full with 7/8 of its buckets, but entries that go leave graves behind. When no
/// bucket is left that was never used, a table that is more than half full is doubled, and only
/// one that is at most half full is swept in place. A cache is always full, and comes to that
/// within ten times its entries: its table has room for twice what it held at most.
pub(in crate::cache) const fn table(entries_high_water: usize, slot: usize) -> usize {
    if entries_high_water == 0 {
        return 0;
    }
    let room = entries_high_water.saturating_mul(2);
    let buckets = match room {
        0..4 => 4,
        4..8 => 8,
        8..15 => 16,
        _ => (room.saturating_mul(8) / 7).next_power_of_two(),
    };
    // A control byte for each bucket, and those of the first group again behind the last.
    let slots = buckets.saturating_mul(slot).next_multiple_of(GROUP);
    allocated(slots.saturating_add(buckets + GROUP))
}

/// The largest of mimalloc's classes: an eighth of its largest kind of page, 4 MiB.
const CLASSES: usize = 512 << 10;
/// What mimalloc takes from the system at least.
const SLICE: usize = 64 << 10;
/// What mimalloc notes of a page, at its beginning.
const PAGE: usize = 256;
/// Control bytes that `hashbrown` looks at in one go, with SSE2; 8 without.
const GROUP: usize = 16;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_those_of_the_classes() {
        for (len, taken) in [
            (0, 0),
            (1, 16),
            (16, 16),
            (17, 32),
            (100, 112),
            (128, 128),
            (129, 160),
            (161, 192),
            (256, 256),
            (257, 320),
            (3 << 10, 3 << 10),
            ((3 << 10) + 1, 3584),
            (CLASSES, CLASSES),
            (CLASSES + 1, CLASSES + SLICE),
            ((1 << 20) - PAGE, 1 << 20),
            (1 << 20, (1 << 20) + SLICE),
        ] {
            assert_eq!(allocated(len), taken, "{len}");
        }
        assert_eq!(allocated(usize::MAX), usize::MAX);
    }

    #[test]
    fn a_table_has_the_room_that_a_table_of_std_takes() {
        let mut entries = HashMap::new();
        let mut oldest = 0_u64;
        for high_water in [1, 3, 4, 7, 14, 28, 100, 448, 449, 700, 1000] {
            let newest = oldest + high_water;
            entries.extend((oldest..newest).map(|key| (key, 0_u64)));
            for key in newest..newest + 60 * high_water {
                entries.remove(&(key - high_water));
                entries.insert(key, 0);
            }
            oldest = newest + 59 * high_water;
            // A capacity is 7/8 of the buckets of 16 bytes and one.
            let buckets = entries.capacity() * 8 / 7;
            let taken = table(high_water as usize, 16);
            assert!(
                taken >= buckets.next_power_of_two() * 17,
                "{high_water}: {buckets} buckets, {taken} bytes"
            );
            entries = HashMap::new();
        }
        assert_eq!(table(0, 16), 0);
        assert_eq!(table(1792, 16), allocated(4096 * 17 + 16));
    }

    proptest! {
        #[test]
        fn what_is_taken_is_never_less_and_at_most_a_quarter_more(len in 0_usize..4 << 20) {
            let taken = allocated(len);
            prop_assert!(taken >= len);
            if len <= 128 {
                prop_assert!(taken < len + 16);
            } else {
                // Just over a power of two is the worst: 129 bytes take 160.
                prop_assert!(taken <= len + len / 4 + PAGE * usize::from(len > CLASSES));
            }
        }

        #[test]
        fn a_longer_one_takes_no_less(len in 0_usize..2 << 20, more in 0_usize..1 << 16) {
            prop_assert!(allocated(len) <= allocated(len + more));
            prop_assert!(table(len, 16) <= table(len + more, 16));
        }

        #[test]
        fn what_is_taken_is_a_size_of_its_own(len in 0_usize..=CLASSES) {
            prop_assert_eq!(allocated(allocated(len)), allocated(len));
        }

        #[test]
        fn a_slot_of_a_table_is_never_forgotten(entries in 1_usize..1 << 20, slot in 1_usize..200) {
            let taken = table(entries, slot);
            // Twice the entries are at least 7/16 of the buckets, and the class adds a quarter.
            prop_assert!(taken >= 2 * entries * (slot + 1));
            prop_assert!(taken <= (2 * entries + 8) * 16 / 7 * (slot + 1) * 5 / 4 + SLICE);
        }
    }
}
