//! What memory is taken by what is asked for.

/// Returns how many bytes an allocation of so many really takes, if it need not be aligned: that of
/// bytes.
///
/// Steps of 16 bytes to 128, from there four classes to each doubling: 160, 192, 224, 256, 320 ….
/// - mimalloc 3, which the binary uses: exact, but that 8 bytes and fewer take 8 where they are not
///   aligned. Behind 512 KiB come steps of 64 KiB, 256 KiB, 1 MiB and 4 MiB.
/// - jemalloc: exact from 9 bytes to 512 KiB; it goes on with four classes to each doubling, up to
///   a quarter over what is said here.
/// - glibc has no classes: a chunk is `len + 8` in steps of 16, at least 32. That is up to 16
///   bytes more than what is said here for small ones, and less from some hundred bytes on.
///
/// What is free in the pages of a class is not counted ([`of_page`] does in part).
pub(in crate::cache) const fn allocated(len: usize) -> usize {
    match len {
        // Empty vectors and boxes ask for nothing.
        0 => 0,
        1..=128 => len.next_multiple_of(16),
        129..=CLASSES => len.next_multiple_of(1 << ((len - 1).ilog2() - 2)),
        MORE_THAN_ANY.. => len,
        _ => {
            let step = match len {
                0..=0x1f_ffff => 64 << 10,
                0x20_0000..=0x7f_ffff => 256 << 10,
                0x80_0000..=0x1ff_ffff => 1 << 20,
                _ => 4 << 20,
            };
            len.next_multiple_of(step)
        }
    }
}

/// Returns how many bytes an allocation of so many takes that must be aligned: that of anything but
/// bytes, boxes of words above all.
///
/// mimalloc knows that powers of two to 4 KiB lie as they must. For all else it asks for as much
/// more as may be lost, so that what fills its class takes the next one: a box of 48 bytes takes 64,
/// and one of 96 takes 112 (measured: all of 20000, but for what finds a block that bytes have left).
pub(in crate::cache) const fn aligned(len: usize, alignment: usize) -> usize {
    let taken = allocated(len);
    if len == 0 || taken.is_power_of_two() && taken <= NATURAL && alignment <= len {
        taken
    } else {
        allocated(len.saturating_add(alignment - 1))
    }
}

/// Returns the part of its page that one of many allocations of so many bytes takes, what is left at
/// the page's end shared out: 18 of 3584 bytes go into 64 KiB, and a kilobyte is left.
///
/// By mimalloc 3: pages of 64 KiB to 10 KiB, of 512 KiB to 84 KiB, and one for each beyond. Blocks
/// that are free in a page are not counted: no allocator says how many.
pub(in crate::cache) const fn of_page(len: usize) -> usize {
    let class = allocated(len);
    let page = match class {
        0 => return 0,
        1..=SMALL => SMALL_PAGE,
        _ if class <= MEDIUM => MEDIUM_PAGE,
        _ => return class,
    };
    page.div_ceil((page - NOTES) / class)
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
    aligned(slots.saturating_add(buckets + GROUP), GROUP)
}

/// The largest of mimalloc's classes: an eighth of its largest kind of page, 4 MiB.
const CLASSES: usize = 512 << 10;
/// The largest allocations of a small page, and of a medium one; and the pages.
const SMALL: usize = 10 << 10;
const MEDIUM: usize = 84 << 10;
const SMALL_PAGE: usize = 64 << 10;
const MEDIUM_PAGE: usize = 512 << 10;
/// What mimalloc notes at the beginning of a page.
const NOTES: usize = 256;
/// The largest power of two of which mimalloc knows how it lies.
const NATURAL: usize = 4096;
/// No allocator can give this.
const MORE_THAN_ANY: usize = isize::MAX as usize;
/// Control bytes that `hashbrown` looks at in one go, with SSE2; 8 without.
const GROUP: usize = 16;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_left_of_a_page_is_shared_out() {
        for (len, taken) in [
            (0, 0),
            (100, 113),
            (3500, 3641),
            (4096, 4370),
            (20 << 10, 20_972),
            (1 << 20, 1 << 20),
        ] {
            assert_eq!(of_page(len), taken, "{len}");
        }
        assert!(
            (1..200_000).all(|len| (allocated(len)..=len * 4 / 3 + 4096).contains(&of_page(len)))
        );
    }

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
            (CLASSES + 1, 576 << 10),
            (1 << 20, 1 << 20),
            ((1 << 20) + 1, (1 << 20) + (64 << 10)),
            ((2 << 20) + 1, (2 << 20) + (256 << 10)),
            ((9 << 20) + 1, 10 << 20),
            (33 << 20, 36 << 20),
        ] {
            assert_eq!(allocated(len), taken, "{len}");
        }
        assert_eq!(allocated(usize::MAX), usize::MAX);
    }

    #[test]
    fn what_fills_its_class_takes_the_next_where_it_is_aligned() {
        for (len, taken) in [
            (0, 0),
            (40, 48),
            (48, 64),
            (56, 64),
            (64, 64),
            (96, 112),
            (112, 128),
            (160, 192),
            (256, 256),
            (320, 384),
            (4096, 4096),
            (8184, 8192),
            (8192, 10240),
        ] {
            assert_eq!(aligned(len, 8), taken, "{len}");
        }
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
        assert_eq!(table(1792, 16), 80 << 10);
    }

    proptest! {
        #[test]
        fn what_is_taken_is_never_less_and_at_most_a_quarter_more(len in 0_usize..64 << 20) {
            let taken = allocated(len);
            prop_assert!(taken >= len);
            if len <= 128 {
                prop_assert!(taken < len + 16);
            } else {
                // Just over a power of two is the worst: 129 bytes take 160.
                prop_assert!(taken <= len + len / 4);
            }
        }

        #[test]
        fn a_longer_one_takes_no_less(len in 0_usize..2 << 20, more in 0_usize..1 << 16) {
            prop_assert!(allocated(len) <= allocated(len + more));
            prop_assert!(table(len, 16) <= table(len + more, 16));
            prop_assert!(allocated(len) <= aligned(len, 8));
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
            prop_assert!(taken <= (2 * entries + 8) * 16 / 7 * (slot + 1) * 5 / 4 + 64);
        }
    }
}
