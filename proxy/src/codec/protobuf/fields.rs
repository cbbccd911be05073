use std::ops::Range;

use super::Wire;

/// Goes through the fields of a message that stands somewhere in a larger one.
///
/// All positions count from the beginning of the outermost message.
#[derive(Clone, Debug)]
pub(in crate::codec) struct Fields<'a> {
    /// The outermost message up to the end of this one.
    bytes: &'a [u8],
    at: usize,
}

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
        }
    }

    /// Returns the next field, or `None` at the end of the message.
    #[inline]
    pub(in crate::codec) fn next(&mut self) -> Result<Option<Field>, Wire> {
        if self.at >= self.bytes.len() {
            return Ok(None);
        }
        let start = self.at;
        let (number, kind) = self.key()?;
        let value = match kind {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(self.take(8)?),
            2 => Value::Bytes(self.delimited()?),
            3 => {
                self.skip_group(number)?;
                Value::Group
            }
            4 => return Err(Wire::Group),
            5 => Value::Fixed32(self.take(4)?),
            _ => return Err(Wire::Key),
        };
        Ok(Some(Field {
            number,
            value,
            span: start..self.at,
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

    #[inline]
    fn key(&mut self) -> Result<(u32, u32), Wire> {
        let key = u32::try_from(self.varint()?).map_err(|_| Wire::Key)?;
        match key >> 3 {
            0 => Err(Wire::Key),
            number => Ok((number, key & 7)),
        }
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Wire> {
        let bytes = self.bytes.get(self.at..).unwrap_or_default();
        match bytes.first() {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(bytes),
        }
    }

    fn long_varint(&mut self, bytes: &[u8]) -> Result<u64, Wire> {
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

    #[inline]
    fn delimited(&mut self) -> Result<Range<usize>, Wire> {
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
            let (number, kind) = self.key()?;
            match kind {
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
                    *open.get_mut(depth).ok_or(Wire::Group)? = number;
                    depth += 1;
                }
                4 => {
                    depth -= 1;
                    if open.get(depth) != Some(&number) {
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

/// 64 bits in groups of seven.
const MAX_VARINT: usize = 10;

/// Groups within groups; no proto3 message has any, so this is only for unknown fields.
const MAX_GROUPS: usize = 32;
