use std::collections::VecDeque;

/// A list in order that tells how many stand before an entry.
///
/// ```text
/// chunks:  [a b c] [d e] [f g h i]      rank of g: 3 + 2 + 1
/// ```
///
/// Entries lie in chunks, so that to put one between others moves a few hundred bytes at most. What
/// comes in order is added at the end, and what is taken from the front moves nothing.
#[derive(Debug)]
pub(super) struct Sorted<K> {
    /// None of them is empty.
    chunks: VecDeque<VecDeque<(K, usize)>>,
    len: usize,
    /// The chunk that was emptied last: it serves the next.
    spare: VecDeque<(K, usize)>,
}

impl<K: Ord + Copy> Sorted<K> {
    pub(super) fn new() -> Self {
        Self {
            chunks: VecDeque::new(),
            len: 0,
            spare: VecDeque::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds an entry; no two have the same key.
    pub(super) fn insert(&mut self, key: K, value: usize) {
        self.len += 1;
        let at = self.chunk(&key);
        // Behind all others it goes to the last chunk.
        let at = match self.chunks.get(at) {
            Some(_) => at,
            None => at.saturating_sub(1),
        };
        let Some(chunk) = self.chunks.get_mut(at) else {
            let mut chunk = std::mem::take(&mut self.spare);
            chunk.push_back((key, value));
            self.chunks.push_back(chunk);
            return;
        };
        let within = chunk.partition_point(|(other, _)| *other < key);
        if chunk.len() < MOST {
            chunk.insert(within, (key, value));
            return;
        }
        let mut behind = match within == chunk.len() {
            // In order: chunks stay full.
            true => std::mem::take(&mut self.spare),
            false => chunk.split_off(MOST / 2),
        };
        match within.checked_sub(chunk.len()) {
            Some(within) => behind.insert(within, (key, value)),
            None => chunk.insert(within, (key, value)),
        }
        self.chunks.insert(at + 1, behind);
    }

    /// Takes an entry out; tells whether it was there.
    pub(super) fn remove(&mut self, key: &K) -> bool {
        let at = self.chunk(key);
        let Some(chunk) = self.chunks.get_mut(at) else {
            return false;
        };
        let Ok(within) = chunk.binary_search_by(|(other, _)| other.cmp(key)) else {
            return false;
        };
        chunk.remove(within);
        self.len -= 1;
        if chunk.is_empty()
            && let Some(empty) = self.chunks.remove(at)
        {
            self.spare = empty;
        }
        true
    }

    /// Returns how many stand before a key.
    pub(super) fn rank(&self, key: &K) -> usize {
        let at = self.chunk(key);
        let before: usize = self.chunks.iter().take(at).map(VecDeque::len).sum();
        let within = self
            .chunks
            .get(at)
            .map_or(0, |chunk| chunk.partition_point(|(other, _)| other < key));
        before + within
    }

    pub(super) fn first(&self) -> Option<(K, usize)> {
        self.chunks.front()?.front().copied()
    }

    pub(super) fn last(&self) -> Option<(K, usize)> {
        self.chunks.back()?.back().copied()
    }

    /// Returns the first entry that does not stand before a key.
    pub(super) fn first_from(&self, key: &K) -> Option<(K, usize)> {
        let chunk = self.chunks.get(self.chunk(key))?;
        let within = chunk.partition_point(|(other, _)| other < key);
        chunk.get(within).copied()
    }

    /// Returns the last entry that stands before a key.
    pub(super) fn last_before(&self, key: &K) -> Option<(K, usize)> {
        let at = self.chunk(key);
        let within = self
            .chunks
            .get(at)
            .map_or(0, |chunk| chunk.partition_point(|(other, _)| other < key));
        match within.checked_sub(1) {
            Some(within) => self.chunks.get(at)?.get(within).copied(),
            None => self.chunks.get(at.checked_sub(1)?)?.back().copied(),
        }
    }

    /// Returns the first chunk that does not end before a key.
    fn chunk(&self, key: &K) -> usize {
        self.chunks
            .partition_point(|chunk| chunk.back().is_some_and(|(last, _)| last < key))
    }
}

/// Entries of a chunk: to move half of them takes less than to look for one in memory.
const MOST: usize = 128;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_what_a_tree_would_be(
            keys in prop::collection::vec((0..600_u32, prop::bool::weighted(0.7)), 0..1500),
            in_order in any::<bool>(),
        ) {
            let (mut sorted, mut tree) = (Sorted::new(), BTreeMap::new());
            for (at, (key, inserts)) in keys.into_iter().enumerate() {
                let key = if in_order && inserts { 1000 + at as u32 } else { key };
                match inserts && !tree.contains_key(&key) {
                    true => {
                        sorted.insert(key, at);
                        tree.insert(key, at);
                    }
                    false => {
                        let key = if in_order { *tree.keys().next().unwrap_or(&0) } else { key };
                        prop_assert_eq!(sorted.remove(&key), tree.remove(&key).is_some());
                    }
                }
                prop_assert_eq!(sorted.len(), tree.len());
                prop_assert_eq!(sorted.rank(&key), tree.range(..key).count());
                let pair = |(key, at): (&u32, &usize)| (*key, *at);
                prop_assert_eq!(sorted.first(), tree.first_key_value().map(pair));
                prop_assert_eq!(sorted.last(), tree.last_key_value().map(pair));
                prop_assert_eq!(sorted.first_from(&key), tree.range(key..).next().map(pair));
                prop_assert_eq!(sorted.last_before(&key), tree.range(..key).next_back().map(pair));
            }
            prop_assert!(sorted.chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= MOST));
        }
    }
}
