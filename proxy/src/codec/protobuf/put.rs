use bytes::{BufMut, BytesMut};

/// The wire types that this codec writes.
#[derive(Clone, Copy, Debug)]
pub(in crate::codec) enum Kind {
    Varint = 0,
    Fixed64 = 1,
    Bytes = 2,
}

/// Writes keys, varints and texts.
pub(in crate::codec) trait Put {
    /// Writes a varint.
    fn put_varint(&mut self, value: u64);

    /// Writes a field's number and wire type.
    fn put_key(&mut self, number: u32, kind: Kind);

    /// Writes the key and the length of a field whose bytes follow.
    fn put_head(&mut self, number: u32, len: usize);

    /// Writes a text, unless it is empty.
    fn put_text(&mut self, number: u32, text: &str);
}

impl Put for BytesMut {
    #[inline]
    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.put_u8(value as u8);
    }

    #[inline]
    fn put_key(&mut self, number: u32, kind: Kind) {
        self.put_varint(u64::from(number << 3 | kind as u32));
    }

    #[inline]
    fn put_head(&mut self, number: u32, len: usize) {
        self.put_key(number, Kind::Bytes);
        self.put_varint(len as u64);
    }

    #[inline]
    fn put_text(&mut self, number: u32, text: &str) {
        if !text.is_empty() {
            self.put_head(number, text.len());
            self.extend_from_slice(text.as_bytes());
        }
    }
}

/// Returns the bytes of a varint.
#[inline]
pub(in crate::codec) fn varint_len(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

/// Returns the bytes of a field's key.
#[inline]
pub(in crate::codec) fn key_len(number: u32) -> usize {
    varint_len(u64::from(number) << 3)
}

/// Returns the bytes of a field of `len` bytes with its key and length.
#[inline]
pub(in crate::codec) fn nested_len(number: u32, len: usize) -> usize {
    key_len(number) + varint_len(len as u64) + len
}

/// Returns the bytes of a text field, which is left out when empty.
#[inline]
pub(in crate::codec) fn text_len(number: u32, text: &str) -> usize {
    if text.is_empty() {
        0
    } else {
        nested_len(number, text.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_varints_length_is_what_is_written() {
        for bit in 0..64 {
            for value in [(1_u64 << bit) - 1, 1 << bit, u64::MAX >> bit] {
                let mut written = BytesMut::new();
                written.put_varint(value);
                assert_eq!(written.len(), varint_len(value), "{value}");
            }
        }
    }
}
