use std::{
    collections::{VecDeque, vec_deque},
    io::IoSlice,
};

use bytes::{Buf, Bytes, BytesMut};

/// A rope: bytes in several pieces that are shared, not copied.
///
/// A merged tensor is the list of its members' pieces, and goes to the socket as that list.
/// Reading it as a [`Buf`] consumes it from the front. Empty pieces are never kept.
///
/// ```text
/// caller 1: [ header | 3072 bytes ] --.
/// caller 2: [ header | 3072 bytes ] --+--> Payload [ 3072 | 3072 | 3072 ]
/// caller 3: [ header | 3072 bytes ] --'
/// ```
#[derive(Clone, Default)]
pub struct Payload {
    /// Never empty while there is a `rest`.
    first: Bytes,
    /// Most payloads are one piece, and many lie in the queues.
    #[expect(
        clippy::box_collection,
        reason = "a pointer in place of four words: every tensor and every future holds payloads"
    )]
    rest: Option<Box<VecDeque<Bytes>>>,
    len: usize,
}

struct Pieces<'a> {
    first: Option<&'a Bytes>,
    rest: vec_deque::Iter<'a, Bytes>,
}

impl Payload {
    /// Makes an empty rope.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes an empty rope with room for a number of pieces.
    pub fn with_capacity(pieces: usize) -> Self {
        let rest = (pieces > 1).then(|| Box::new(VecDeque::with_capacity(pieces - 1)));
        Self {
            rest,
            ..Self::default()
        }
    }

    /// Returns how many bytes are left.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Tells whether no bytes are left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Goes through the pieces that are left.
    pub fn pieces(&self) -> impl ExactSizeIterator<Item = &Bytes> {
        Pieces {
            first: (!self.first.is_empty()).then_some(&self.first),
            rest: self.rest.as_deref().map(VecDeque::iter).unwrap_or_default(),
        }
    }

    /// Adds a piece at the end.
    pub fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        self.len += piece.len();
        if self.first.is_empty() {
            self.first = piece;
        } else {
            self.rest.get_or_insert_default().push_back(piece);
        }
    }

    /// Adds the pieces of another rope at the end.
    pub fn append(&mut self, other: &Self) {
        other.pieces().for_each(|piece| self.push(piece.clone()));
    }

    /// Shares the bytes `start..end` as a rope of its own, or returns `None` where the range
    /// reaches past the end.
    pub fn slice(&self, start: usize, end: usize) -> Option<Self> {
        if start > end || end > self.len {
            return None;
        }
        let mut slice = Self::new();
        let mut offset = 0;
        for piece in self.pieces() {
            let from = start.max(offset);
            let to = end.min(offset + piece.len());
            if from < to {
                slice.push(piece.slice(from - offset..to - offset));
            }
            offset += piece.len();
            if offset >= end {
                break;
            }
        }
        Some(slice)
    }

    /// Cuts the first `at` bytes off as a rope of their own, or returns `None`, and changes
    /// nothing, where there are fewer. Many cuts in a row cost one walk over the pieces.
    pub fn split_to(&mut self, at: usize) -> Option<Self> {
        if at > self.len {
            return None;
        }
        if at == self.len {
            return Some(std::mem::take(self));
        }
        let mut head = Self::new();
        while head.len < at {
            let wanted = at - head.len;
            head.push(if self.first.len() <= wanted {
                self.take_first()
            } else {
                self.len -= wanted;
                self.first.split_to(wanted)
            });
        }
        Some(head)
    }

    /// Goes through the bytes in blocks of a kilobyte, which do not depend on how they are cut into
    /// pieces: a hasher tells two writes from one.
    pub fn blocks(&self, mut each: impl FnMut(&[u8])) {
        if self.first.len() == self.len {
            // Most are one piece, and nothing is carried over.
            self.first.chunks(BLOCK).for_each(each);
            return;
        }
        let mut carried = [0; BLOCK];
        let mut len = 0;
        for piece in self.pieces() {
            let mut rest = &piece[..];
            if len > 0 {
                let (head, tail) = rest.split_at(rest.len().min(BLOCK - len));
                carried[len..len + head.len()].copy_from_slice(head);
                len += head.len();
                rest = tail;
                if len < BLOCK {
                    continue;
                }
                each(&carried);
            }
            let whole = rest.chunks_exact(BLOCK);
            let tail = whole.remainder();
            whole.for_each(&mut each);
            carried[..tail.len()].copy_from_slice(tail);
            len = tail.len();
        }
        if len > 0 {
            each(&carried[..len]);
        }
    }

    /// Tells whether the bytes are these.
    pub fn is(&self, mut bytes: &[u8]) -> bool {
        self.len == bytes.len()
            && self.pieces().all(|piece| {
                let (head, rest) = bytes.split_at(piece.len());
                bytes = rest;
                head == piece
            })
    }

    /// Returns the bytes in one piece; copies only where there are several.
    pub fn to_bytes(&self) -> Bytes {
        if self.first.len() == self.len {
            return self.first.clone();
        }
        let mut whole = BytesMut::with_capacity(self.len);
        self.pieces()
            .for_each(|piece| whole.extend_from_slice(piece));
        whole.freeze()
    }

    /// Takes the first piece; the next one moves up. What is taken is let go of at once: it may be
    /// the last holder of a large buffer.
    fn take_first(&mut self) -> Bytes {
        let next = self
            .rest
            .as_mut()
            .and_then(|rest| rest.pop_front())
            .unwrap_or_default();
        let first = std::mem::replace(&mut self.first, next);
        self.len -= first.len();
        first
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a Bytes;

    fn next(&mut self) -> Option<&'a Bytes> {
        self.first.take().or_else(|| self.rest.next())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = usize::from(self.first.is_some()) + self.rest.len();
        (len, Some(len))
    }
}

impl ExactSizeIterator for Pieces<'_> {}

impl Buf for Payload {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        &self.first
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slot, piece) in slices.iter_mut().zip(self.pieces()) {
            *slot = IoSlice::new(piece);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.len, "advanced past the end of a payload");
        while count > 0 {
            if self.first.len() > count {
                self.first.advance(count);
                self.len -= count;
                return;
            }
            count -= self.take_first().len();
        }
    }
}

impl From<Bytes> for Payload {
    #[inline]
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            return Self::new();
        }
        Self {
            len: bytes.len(),
            first: bytes,
            rest: None,
        }
    }
}

impl FromIterator<Bytes> for Payload {
    fn from_iter<I: IntoIterator<Item = Bytes>>(pieces: I) -> Self {
        let mut payload = Self::new();
        pieces.into_iter().for_each(|piece| payload.push(piece));
        payload
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        if self.len != other.len {
            return false;
        }
        // Byte by byte is ten times as slow, and most are one piece.
        if self.first.len() == self.len {
            return other.is(&self.first);
        }
        other.first.len() == other.len && self.is(&other.first)
            || self
                .pieces()
                .flat_map(|piece| piece.iter())
                .eq(other.pieces().flat_map(|piece| piece.iter()))
    }
}

impl Eq for Payload {}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Payload({} bytes in {} pieces)",
            self.len,
            self.pieces().len()
        )
    }
}

/// Bytes of a block.
const BLOCK: usize = 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rope(pieces: &[Vec<u8>]) -> (Payload, Vec<u8>) {
        let rope = pieces.iter().cloned().map(Bytes::from).collect();
        (rope, pieces.concat())
    }

    proptest! {
        #[test]
        fn how_bytes_are_cut_does_not_change_their_blocks(
            len in 0..4 * BLOCK,
            cuts in prop::collection::vec(0..4 * BLOCK, 0..6),
        ) {
            let bytes: Bytes = (0..len).map(|index| (index % 251) as u8).collect();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(len)).chain([0, len]).collect();
            cuts.sort_unstable();
            let rope: Payload = cuts.windows(2).map(|pair| bytes.slice(pair[0]..pair[1])).collect();
            let blocks = |payload: &Payload| {
                let mut blocks = Vec::new();
                payload.blocks(|block| blocks.push(block.to_vec()));
                blocks
            };
            let whole = Payload::from(bytes.clone());
            prop_assert_eq!(blocks(&rope), blocks(&whole));
            prop_assert_eq!(blocks(&whole).concat(), bytes.to_vec());
            prop_assert!(blocks(&whole).iter().rev().skip(1).all(|block| block.len() == BLOCK));
        }

        #[test]
        fn a_rope_reads_as_its_bytes(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..9),
            cuts in prop::collection::vec(0_usize..40, 0..6),
        ) {
            let (mut rope, mut bytes) = rope(&pieces);
            prop_assert_eq!(rope.to_bytes(), &bytes);
            prop_assert_eq!(rope.len(), bytes.len());
            for cut in cuts {
                prop_assert_eq!(rope.slice(cut, bytes.len()).map(|rope| rope.to_bytes().to_vec()),
                    bytes.get(cut..).map(<[u8]>::to_vec));
                match rope.split_to(cut) {
                    Some(head) => {
                        let rest = bytes.split_off(cut);
                        prop_assert_eq!(head.to_bytes(), &bytes);
                        bytes = rest;
                    }
                    None => prop_assert!(cut > bytes.len()),
                }
                prop_assert_eq!(rope.to_bytes(), &bytes);
            }
            let whole = Payload::from(Bytes::from(bytes.clone()));
            prop_assert_eq!(&rope, &whole);
            prop_assert_eq!(&whole, &rope);
            prop_assert!(rope.is(&bytes));
            let mut read = vec![0; bytes.len()];
            rope.copy_to_slice(&mut read);
            prop_assert_eq!(read, bytes);
            prop_assert!(rope.is_empty());
        }
    }
}
