use std::ops::Range;

use bytes::Bytes;
use bytestring::ByteString;
use outrigger_filters::inference::Payload;

use super::Fields;

/// A message being read: hands out slices of it, and counts what they cost.
#[derive(Debug)]
pub(in crate::codec) struct Source<'a> {
    bytes: &'a Bytes,
    items: usize,
    made: usize,
    max_made: usize,
}

/// The fields that a codec does not know, collected in runs of neighbours.
#[derive(Debug, Default)]
pub(in crate::codec) struct Unknown {
    /// Mostly there is nothing, and nothing to be made.
    kept: Option<Payload>,
    run: Range<usize>,
}

impl<'a> Source<'a> {
    pub(in crate::codec) fn new(bytes: &'a Bytes) -> Self {
        Self::within(bytes, MAX_MADE)
    }

    /// Reads a message of which no more than so many bytes may be made, or than it has itself.
    pub(in crate::codec) fn within(bytes: &'a Bytes, max_made: usize) -> Self {
        Self {
            bytes,
            items: 0,
            made: 0,
            max_made: max_made.max(bytes.len()),
        }
    }

    /// Returns the whole message's bytes.
    pub(in crate::codec) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Goes through the fields of the whole message.
    pub(in crate::codec) fn all(&self) -> Fields<'a> {
        self.fields(0..self.bytes.len())
    }

    /// Goes through the fields of the message at `range`.
    pub(in crate::codec) fn fields(&self, range: Range<usize>) -> Fields<'a> {
        Fields::new(self.bytes, range)
    }

    /// Shares the bytes at a range that a reader of this message has returned.
    pub(in crate::codec) fn share(&self, range: Range<usize>) -> Bytes {
        self.bytes.slice(range)
    }

    /// Shares the text at a range, or returns `None` where it is not UTF-8.
    pub(in crate::codec) fn text(&self, range: Range<usize>) -> Option<ByteString> {
        if range.is_empty() {
            return Some(ByteString::new());
        }
        ByteString::try_from(self.share(range)).ok()
    }

    /// Sets the place of a text, of which the last one counts; `None` says that the one before is
    /// not UTF-8. The last one is looked at when it is [taken](Self::text).
    #[inline]
    pub(in crate::codec) fn set_text(
        &self,
        text: &mut Range<usize>,
        place: Range<usize>,
    ) -> Option<()> {
        let before = std::mem::replace(text, place);
        if !before.is_empty() {
            std::str::from_utf8(self.bytes.get(before)?).ok()?;
        }
        Some(())
    }

    /// Counts a thing that takes much more memory than wire; `None` says that it is one too many.
    #[inline]
    pub(in crate::codec) fn count(&mut self) -> Option<()> {
        self.items += 1;
        (self.items <= MAX_ITEMS).then_some(())
    }

    /// Counts bytes that are made from the message instead of shared with it; `None` says that they
    /// are too many, together with those before.
    pub(in crate::codec) fn make(&mut self, len: usize) -> Option<()> {
        self.made = self.made.saturating_add(len);
        (self.made <= self.max_made).then_some(())
    }
}

impl Unknown {
    /// Keeps the field at `span`; `None` says that it is one too many.
    pub(in crate::codec) fn keep(
        &mut self,
        source: &mut Source<'_>,
        span: Range<usize>,
    ) -> Option<()> {
        if self.run.end == span.start {
            self.run.end = span.end;
            return Some(());
        }
        source.count()?;
        self.flush(source);
        self.run = span;
        Some(())
    }

    /// Returns all that was kept.
    #[inline]
    pub(in crate::codec) fn finish(mut self, source: &Source<'_>) -> Payload {
        self.flush(source);
        self.kept.unwrap_or_default()
    }

    #[inline]
    fn flush(&mut self, source: &Source<'_>) {
        if !self.run.is_empty() {
            let piece = source.share(self.run.clone());
            self.kept.get_or_insert_default().push(piece);
        }
    }
}

/// Tensors, parameters, requested outputs and runs of unknown fields in one message.
///
/// Each takes a few hundred bytes of memory but as little as two on the wire; the bound keeps a
/// hostile message under some megabytes above its own size, and is far above what models have.
const MAX_ITEMS: usize = 16_384;

/// Bytes that may be made of a message that is shorter than that, unless its reader says otherwise.
///
/// A varint of one byte becomes an element of eight: a message of 64 MiB, the longest by default,
/// would take half a gigabyte. So one grows to at most what the longest takes anyway, which is far
/// above what is sent as typed integers.
const MAX_MADE: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Wire;

    #[test]
    fn neighbours_are_kept_as_one_piece() -> Result<(), Wire> {
        let bytes = Bytes::from_static(&[0x78, 1, 0x78, 2, 0x08, 1, 0x78, 3]);
        let mut source = Source::new(&bytes);
        let mut fields = source.all();
        let mut unknown = Unknown::default();
        while let Some(field) = fields.next()? {
            if field.number == 15 {
                unknown.keep(&mut source, field.span);
            }
        }
        let kept = unknown.finish(&source);
        assert_eq!(kept.pieces().len(), 2);
        assert_eq!(kept.to_bytes(), [0x78, 1, 0x78, 2, 0x78, 3].as_slice());
        Ok(())
    }
}
