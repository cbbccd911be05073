//! Which rows are asked for in one call.

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

/// Composes the merged calls for so many rows, of which a call may have no more than `most`:
/// small ones and large ones in order, backwards, and mixed, so that rows meet other neighbours at
/// other places. None has less than two rows.
pub(super) fn compositions(rows: usize, most: usize, seed: u64) -> Vec<Vec<usize>> {
    let full = rows.min(most);
    let mut sizes = vec![2, 3, rows / 2, full];
    sizes.retain(|size| (2..=full).contains(size));
    sizes.sort_unstable();
    sizes.dedup();
    let in_order: Vec<usize> = (0..rows).collect();
    let backwards: Vec<usize> = (0..rows).rev().collect();
    let mut calls = Vec::new();
    for size in &sizes {
        calls.extend(in_order.chunks(*size).map(<[usize]>::to_vec));
    }
    if full > 0 {
        calls.extend(backwards.chunks(full).map(<[usize]>::to_vec));
    }
    let mut mixed = in_order;
    let mut random = SmallRng::seed_from_u64(seed);
    for last in (1..mixed.len()).rev() {
        mixed.swap(last, random.random_range(0..=last));
    }
    let mut rest = &mixed[..];
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (call, behind) = rest.split_at(rest.len().min(*size));
        calls.push(call.to_vec());
        rest = behind;
    }
    calls.retain(|call| call.len() > 1);
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_asked_for_in_calls_of_every_size() {
        let calls = compositions(16, 128, 1);
        for size in [2, 3, 8, 16] {
            let held = |row| {
                calls
                    .iter()
                    .any(|call| call.len() == size && call.contains(&row))
            };
            // The last of sixteen rows is left over by calls of three in order.
            assert!((0..15).all(held), "{size}");
        }
        assert!(calls.contains(&(0..16).collect()));
        assert!(calls.contains(&(0..16).rev().collect()));
        assert_eq!(calls, compositions(16, 128, 1));
        assert_ne!(calls, compositions(16, 128, 2));
    }

    #[test]
    fn no_call_is_larger_than_the_model_allows_nor_smaller_than_two() {
        for rows in 0..20 {
            for most in 0..20 {
                for call in compositions(rows, most, 7) {
                    assert!((2..=most).contains(&call.len()), "{rows} {most} {call:?}");
                    assert!(call.iter().all(|row| *row < rows));
                }
            }
        }
        assert!(compositions(16, 1, 1).is_empty());
        assert!(compositions(1, 16, 1).is_empty());
        assert_eq!(compositions(2, 16, 1).len(), 3);
    }
}
