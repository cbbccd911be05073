//! `BYTES` contents as a repeated field, an element each, and back.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use outrigger_filters::inference::Payload;

use super::Fault;
use crate::codec::{
    oip_grpc::rope::COPY_UP_TO,
    protobuf::{Put, Source, Value, nested_len},
};

/// Canonical `BYTES` contents being made: short elements are copied, long ones shared.
#[derive(Debug)]
pub(super) struct Strings {
    contents: Payload,
    small: BytesMut,
}

impl Strings {
    /// Begins contents of which `small` bytes are copied.
    pub(super) fn new(small: usize) -> Self {
        Self {
            contents: Payload::new(),
            small: BytesMut::with_capacity(small),
        }
    }

    /// Returns how many bytes of an element are not shared: those of its length among them.
    pub(super) fn small_len(element: usize) -> usize {
        if element > COPY_UP_TO {
            LENGTH
        } else {
            LENGTH + element
        }
    }

    pub(super) fn push(&mut self, source: &Source<'_>, element: Range<usize>) -> Result<(), Fault> {
        self.small
            .put_u32_le(u32::try_from(element.len()).map_err(|_| Fault::TooLong)?);
        if element.len() > COPY_UP_TO {
            self.contents.push(self.small.split().freeze());
            self.contents.push(source.share(element));
        } else {
            self.small
                .extend_from_slice(source.bytes().get(element).unwrap_or_default());
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Payload {
        self.contents.push(self.small.freeze());
        self.contents
    }
}

/// Reads all fields `number` of the message at `range` into canonical contents, and counts them.
/// The message has nothing else in it but what `other` takes.
pub(super) fn read(
    source: &mut Source<'_>,
    range: Range<usize>,
    number: u32,
    mut other: impl FnMut(u32, Value) -> Result<(), Fault>,
) -> Result<(usize, Payload), Fault> {
    let mut count = 0;
    let mut small = 0;
    let mut fields = source.fields(range.clone());
    while let Some(field) = fields.next()? {
        match field.value {
            Value::Bytes(element) if field.number == number => {
                count += 1;
                small += Strings::small_len(element.len());
            }
            value => other(field.number, value)?,
        }
    }
    source.make(small).ok_or(Fault::TooLong)?;
    let mut strings = Strings::new(small);
    let mut fields = source.fields(range);
    while let Some(field) = fields.next()? {
        match field.value {
            Value::Bytes(element) if field.number == number => strings.push(source, element)?,
            _ => {}
        }
    }
    Ok((count, strings.finish()))
}

/// Writes canonical contents as fields `number`, one for each of `elements` elements.
pub(super) fn write(number: u32, elements: usize, data: &Payload) -> Result<Payload, Fault> {
    let mut fields = Payload::new();
    let mut small = BytesMut::new();
    if data.pieces().len() <= 1 {
        let data = data.to_bytes();
        small.reserve(fields_len(number, elements, &data)?);
        let mut rest = &*data;
        for _ in 0..elements {
            let (element, behind) = split_element(rest).ok_or(Fault::Length)?;
            small.put_head(number, element.len());
            if element.len() > COPY_UP_TO {
                fields.push(small.split().freeze());
                fields.push(data.slice_ref(element));
            } else {
                small.extend_from_slice(element);
            }
            rest = behind;
        }
    } else {
        let mut rest = data.clone();
        for _ in 0..elements {
            let element = take_element(&mut rest).ok_or(Fault::Length)?;
            small.put_head(number, element.len());
            for piece in element.pieces() {
                if piece.len() > COPY_UP_TO {
                    fields.push(small.split().freeze());
                    fields.push(piece.clone());
                } else {
                    small.extend_from_slice(piece);
                }
            }
        }
        if !rest.is_empty() {
            return Err(Fault::Length);
        }
    }
    fields.push(small.freeze());
    Ok(fields)
}

/// Splits the first element off, or returns `None` where there is no whole one.
pub(in crate::codec) fn split_element(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = data.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)
}

/// Returns the small bytes of the fields, having walked over all of the contents.
fn fields_len(number: u32, elements: usize, data: &Bytes) -> Result<usize, Fault> {
    let mut len = 0;
    let mut rest = &**data;
    for _ in 0..elements {
        let (element, behind) = split_element(rest).ok_or(Fault::Length)?;
        len += nested_len(number, element.len());
        if element.len() > COPY_UP_TO {
            len -= element.len();
        }
        rest = behind;
    }
    if rest.is_empty() {
        Ok(len)
    } else {
        Err(Fault::Length)
    }
}

fn take_element(rest: &mut Payload) -> Option<Payload> {
    let mut prefix = [0; LENGTH];
    let len = rest.split_to(LENGTH)?;
    let bytes = len.pieces().flat_map(|piece| piece.iter());
    prefix
        .iter_mut()
        .zip(bytes)
        .for_each(|(to, from)| *to = *from);
    rest.split_to(usize::try_from(u32::from_le_bytes(prefix)).ok()?)
}

/// The bytes before an element that say its length.
pub(super) const LENGTH: usize = 4;
