use std::ops::Range;

use super::{Kind, Wire};

/// Goes through the fields of a message that stands somewhere in a larger one.
///
/// All positions count from the beginning of the outermost message.
#[derive(Clone, Debug)]
pub(in crate::codec) struct Fields<'a> {
    /// The outermost message up to the end of this one.
    bytes: &'a [u8],
    at: usize,
    /// Where the field begins whose key was read last.
    start: usize,
}

/// A field's number and wire type as they stand together on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::codec) struct Key(u32);

/// One field: its number, its value, and where it stands with its key.
#[derive(Clone, Debug)]
pub(in crate::codec) struct Field {
    pub(in crate::codec) number: u32,
    pub(in crate::codec) value: Value,
    pub(in crate::codec) span: Range<usize>,
}

/// The value of a field, by wire type.
#[derive(Clone, Debug)]
pub(in crate::codec) enum Value {
    Varint(u64),
    Fixed32(Range<usize>),
    Fixed64(Range<usize>),
    Bytes(Range<usize>),
    Group,
}

impl<'a> Fields<'a> {
    /// Reads the message that stands at `range` of the outermost one.
    pub(in crate::codec) fn new(outermost: &'a [u8], range: Range<usize>) -> Self {
        Self {
            bytes: outermost.get(..range.end).unwrap_or(outermost),
            at: range.start,
            start: range.start,
        }
    }

    /// Returns the next field's key, or `None` at the end of the message. Whoever calls then reads
    /// the value as the key says, or [skips](Self::skip) it.
    #[inline]
    pub(in crate::codec) fn next_key(&mut self) -> Result<Option<Key>, Wire> {
        self.start = self.at;
        match self.bytes.get(self.at) {
            None => Ok(None),
            // Of one byte: all fields up to the fifteenth.
            Some(&byte @ 8..0x80) => {
                self.at += 1;
                Ok(Some(Key(byte.into())))
            }
            Some(_) => self.key().map(Some),
        }
    }

    /// Goes past the value of the field whose key was read last, and returns where the field
    /// stands, key and all.
    pub(in crate::codec) fn skip(&mut self, key: Key) -> Result<Range<usize>, Wire> {
        self.value(key)?;
        Ok(self.start..self.at)
    }

    /// Returns the next field, or `None` at the end of the message.
    #[inline]
    pub(in crate::codec) fn next(&mut self) -> Result<Option<Field>, Wire> {
        let Some(key) = self.next_key()? else {
            return Ok(None);
        };
        let value = self.value(key)?;
        Ok(Some(Field {
            number: key.number(),
            value,
            span: self.start..self.at,
        }))
    }

    /// Returns where the next field, or the next varint, stands.
    pub(in crate::codec) fn position(&self) -> usize {
        self.at
    }

    /// Returns the next varint, for packed lists, or `None` at the end.
    #[inline]
    pub(in crate::codec) fn next_varint(&mut self) -> Result<Option<u64>, Wire> {
        if self.at >= self.bytes.len() {
            return Ok(None);
        }
        self.varint().map(Some)
    }

    fn key(&mut self) -> Result<Key, Wire> {
        let key = self.varint()?;
        match u32::try_from(key) {
            Ok(key @ 8..) => Ok(Key(key)),
            _ => Err(Wire::Key),
        }
    }

    #[inline]
    fn value(&mut self, key: Key) -> Result<Value, Wire> {
        Ok(match key.kind() {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(self.take(8)?),
            2 => Value::Bytes(self.delimited()?),
            3 => {
                self.skip_group(key.number())?;
                Value::Group
            }
            4 => return Err(Wire::Group),
            5 => Value::Fixed32(self.take(4)?),
            _ => return Err(Wire::Key),
        })
    }

    /// Reads a varint.
    #[inline]
    pub(in crate::codec) fn varint(&mut self) -> Result<u64, Wire> {
        match self.bytes.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Wire> {
        let bytes = self.bytes.get(self.at..).unwrap_or_default();
        let mut value = 0;
        for (index, &byte) in bytes.iter().take(MAX_VARINT).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                // The tenth byte has room for the 64th bit only.
                if index + 1 == MAX_VARINT && byte > 1 {
                    return Err(Wire::Varint);
                }
                self.at += index + 1;
                return Ok(value);
            }
        }
        Err(if bytes.len() < MAX_VARINT {
            Wire::Truncated
        } else {
            Wire::Varint
        })
    }

    /// Reads a length, and returns where the bytes stand that follow it.
    #[inline]
    pub(in crate::codec) fn delimited(&mut self) -> Result<Range<usize>, Wire> {
        let len = usize::try_from(self.varint()?).map_err(|_| Wire::Truncated)?;
        self.take(len)
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<Range<usize>, Wire> {
        let start = self.at;
        let end = start.checked_add(len).ok_or(Wire::Truncated)?;
        if end > self.bytes.len() {
            return Err(Wire::Truncated);
        }
        self.at = end;
        Ok(start..end)
    }

    /// Skips to behind the end of a group whose beginning has been read; without recursion, so
    /// that nesting costs no stack.
    fn skip_group(&mut self, number: u32) -> Result<(), Wire> {
        let mut open = [0; MAX_GROUPS];
        open[0] = number;
        let mut depth = 1;
        while depth > 0 {
            let key = self.key()?;
            match key.kind() {
                0 => {
                    self.varint()?;
                }
                1 => {
                    self.take(8)?;
                }
                2 => {
                    self.delimited()?;
                }
                3 => {
                    *open.get_mut(depth).ok_or(Wire::Group)? = key.number();
                    depth += 1;
                }
                4 => {
                    depth -= 1;
                    if open.get(depth) != Some(&key.number()) {
                        return Err(Wire::Group);
                    }
                }
                5 => {
                    self.take(4)?;
                }
                _ => return Err(Wire::Key),
            }
        }
        Ok(())
    }
}

impl Key {
    /// Returns the key of a field whose value is of a kind.
    pub(in crate::codec) const fn new(number: u32, kind: Kind) -> Self {
        Self(number << 3 | kind as u32)
    }

    /// Returns the field's number.
    pub(in crate::codec) const fn number(self) -> u32 {
        self.0 >> 3
    }

    const fn kind(self) -> u32 {
        self.0 & 7
    }
}

/// 64 bits in groups of seven.
const MAX_VARINT: usize = 10;

/// Groups within groups; no proto3 message has any, so this is only for unknown fields.
const MAX_GROUPS: usize = 32;
