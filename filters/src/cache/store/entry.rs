use std::sync::Arc;

use bytes::Bytes;

use super::{Sent, counted::Counted, size::of_page};
use crate::{
    cache::{
        frame::Frame,
        key::{self, Cut, Kept, Question, Row, Strong},
    },
    inference::Payload,
};

/// An answer to a row, with all that the row is known by.
///
/// ```text
/// blob: [ row, or its digest | output 0 | output 1 | ... | ends of the outputs, if several ]
/// ```
#[derive(Debug)]
pub(in crate::cache) struct Entry {
    question: Arc<Counted<Question>>,
    frame: Arc<Counted<Frame>>,
    blob: Bytes,
    row_len: u32,
    kept: Kept,
    /// Parts of [`PART`] bytes of question and frame that it takes on.
    parts: u16,
    /// Whether it was asked for since it was last looked at by its tenant's quota.
    pub(super) touched: bool,
    /// The memory that it takes, which is asked for often.
    bytes: u32,
    /// A digest of its caller's name; 0 where callers are not told apart.
    pub(super) tenant: u32,
    /// Moments are microseconds from the store's beginning.
    stored: u64,
    expires: u64,
}

/// An entry that was found.
#[derive(Clone, Debug)]
pub(in crate::cache) struct Found {
    pub(in crate::cache) frame: Arc<Counted<Frame>>,
    blob: Bytes,
    row_len: u32,
    /// Microseconds from the store's beginning.
    pub(in crate::cache) stored: u64,
}

/// When an entry is made, for how long and for whom.
#[derive(Clone, Copy, Debug)]
pub(in crate::cache) struct Term {
    pub(in crate::cache) stored: u64,
    pub(in crate::cache) expires: u64,
    pub(in crate::cache) tenant: u32,
}

impl Entry {
    /// Copies a row and the answer to it; `None` where they are longer than 4 GiB.
    pub(in crate::cache) fn new<'a>(
        question: Arc<Counted<Question>>,
        sent: &Sent,
        frame: Arc<Counted<Frame>>,
        outputs: impl ExactSizeIterator<Item = &'a Payload> + Clone,
        term: Term,
    ) -> Option<Self> {
        let contents: usize = outputs.clone().map(Payload::len).sum();
        let ends = if outputs.len() > 1 {
            outputs.len() * END
        } else {
            0
        };
        let (row, strong) = (sent.row.iter(), sent.strong.as_ref());
        let len = Strong::len(strong, row.clone()) + contents + ends;
        u32::try_from(len).ok()?;
        let mut blob = Vec::with_capacity(len);
        Strong::write(strong, row, &mut blob);
        let kept = match strong {
            Some(_) => Kept::Digest,
            None => Kept::Whole,
        };
        let row_len = u32::try_from(blob.len()).ok()?;
        let several = outputs.len() > 1;
        let mut table = Vec::with_capacity(ends);
        for output in outputs {
            for piece in output.pieces() {
                blob.extend_from_slice(piece);
            }
            if several {
                table.extend_from_slice(&u32::try_from(blob.len()).ok()?.to_le_bytes());
            }
        }
        blob.extend_from_slice(&table);
        let share = Counted::take_on(&question) + Counted::take_on(&frame);
        let parts = u16::try_from(share / PART).unwrap_or(u16::MAX);
        // Its node of the list with digest and links, its bytes, and what counts who shares them.
        let node = of_page(size_of::<Self>() + LINKS);
        let bytes = node + of_page(blob.len()) + of_page(SHARED) + usize::from(parts) * PART;
        Some(Self {
            parts,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            question,
            frame,
            blob: blob.into(),
            row_len,
            kept,
            touched: false,
            tenant: term.tenant,
            stored: term.stored,
            expires: term.expires,
        })
    }

    /// Tells whether it is the answer to a row.
    pub(in crate::cache) fn is_of(
        &self,
        cut: &Cut<'_>,
        row: usize,
        strong: Option<&Strong>,
    ) -> bool {
        let bytes = self.row_bytes();
        cut.asks(&self.question) && Strong::is(strong, cut.of(row), self.kept, bytes)
    }

    /// Tells whether its time is over.
    pub(super) fn is_expired(&self, now: u64) -> bool {
        self.expires <= now
    }

    /// Returns the moment at which it was made.
    pub(super) fn stored(&self) -> u64 {
        self.stored
    }

    /// Returns how long it has been there, in microseconds.
    pub(super) fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.stored)
    }

    pub(super) fn found(&self) -> Found {
        Found {
            frame: self.frame.clone(),
            blob: self.blob.clone(),
            row_len: self.row_len,
            stored: self.stored,
        }
    }

    /// Returns what was asked, unless only a digest of it was kept.
    pub(super) fn asked(&self) -> Option<(Arc<Counted<Question>>, Row)> {
        if self.kept == Kept::Digest {
            return None;
        }
        // The outputs are not kept from going.
        let row = Bytes::copy_from_slice(self.row_bytes());
        let row = key::read(&row, self.question.inputs())?;
        Some((self.question.clone(), row))
    }

    /// Returns the memory that it takes but for its slot in the table, with its share of what it has
    /// in common with others.
    pub(super) fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// Returns its share of question and frame, which others may hold, too.
    pub(super) fn share(&self) -> usize {
        usize::from(self.parts) * PART
    }

    fn row_bytes(&self) -> &[u8] {
        self.blob.get(..self.row_len as usize).unwrap_or_default()
    }
}

impl Found {
    /// Returns the contents of an output.
    pub(in crate::cache) fn output(&self, index: usize) -> Option<Payload> {
        let outputs = self.frame.outputs();
        let whole = self.blob.len();
        if outputs <= 1 {
            return Some(self.blob.slice(self.row_len as usize..).into());
        }
        let table = whole.checked_sub(outputs * END)?;
        let end = |index: usize| {
            let at = table + index * END;
            let (end, _) = self.blob.get(at..)?.split_first_chunk()?;
            usize::try_from(u32::from_le_bytes(*end)).ok()
        };
        let from = match index.checked_sub(1) {
            Some(before) => end(before)?,
            None => self.row_len as usize,
        };
        let to = end(index)?;
        (from <= to && to <= table).then(|| self.blob.slice(from..to).into())
    }
}

/// So the share of an entry that holds 4 MiB of headers alone is one of two bytes.
const PART: usize = 64;
/// Bytes of an output's end.
const END: usize = size_of::<u32>();
/// The list keeps a digest and two links with each entry.
const LINKS: usize = 3 * size_of::<usize>();
/// `Bytes` that are shared keep a pointer, a capacity and a count beside.
const SHARED: usize = 3 * size_of::<usize>();
