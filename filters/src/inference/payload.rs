use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;

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
    pieces: SmallVec<[Bytes; 2]>,
    /// Pieces before this one have been consumed.
    front: usize,
    len: usize,
}

impl Payload {
    /// Makes an empty rope.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes an empty rope with room for a number of pieces.
    pub fn with_capacity(pieces: usize) -> Self {
        Self {
            pieces: SmallVec::with_capacity(pieces),
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
        self.pieces[self.front..].iter()
    }

    /// Adds a piece at the end.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push(piece);
        }
    }

    /// Adds the pieces of another rope at the end.
    pub fn append(&mut self, other: &Self) {
        self.len += other.len;
        self.pieces.extend(other.pieces().cloned());
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
        let mut head = Self::new();
        while head.len < at {
            let piece = &mut self.pieces[self.front];
            let wanted = at - head.len;
            if piece.len() <= wanted {
                let piece = std::mem::take(piece);
                self.front += 1;
                head.push(piece);
            } else {
                head.push(piece.split_to(wanted));
            }
        }
        self.len -= at;
        Some(head)
    }

    /// Returns the bytes in one piece; copies only where there are several.
    pub fn to_bytes(&self) -> Bytes {
        match &self.pieces[self.front..] {
            [] => Bytes::new(),
            [only] => only.clone(),
            pieces => {
                let mut whole = BytesMut::with_capacity(self.len);
                pieces
                    .iter()
                    .for_each(|piece| whole.extend_from_slice(piece));
                whole.freeze()
            }
        }
    }
}

impl Buf for Payload {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.get(self.front).map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slot, piece) in slices.iter_mut().zip(&self.pieces[self.front..]) {
            *slot = IoSlice::new(piece);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.len, "advanced past the end of a payload");
        self.len -= count;
        while count > 0 {
            let piece = &mut self.pieces[self.front];
            if piece.len() > count {
                piece.advance(count);
                return;
            }
            count -= piece.len();
            // The piece is let go of at once: it may be the last holder of a large buffer.
            *piece = Bytes::new();
            self.front += 1;
        }
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        let mut payload = Self::new();
        payload.push(bytes);
        payload
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
        self.len == other.len
            && self
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
