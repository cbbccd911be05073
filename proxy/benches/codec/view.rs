//! What decoding costs at the least: where the parts of a request stand, read by hand.

use bytes::Bytes;

/// The parts of a request with one raw input, most of them borrowed.
#[derive(Debug)]
#[expect(dead_code, reason = "it is measured, not used")]
pub(crate) struct View<'a> {
    model: &'a [u8],
    id: &'a [u8],
    name: &'a [u8],
    datatype: &'a [u8],
    shape: &'a [u8],
    data: Bytes,
}

impl<'a> View<'a> {
    /// Reads a message of length-delimited fields; nothing is checked that need not be.
    pub(crate) fn of(message: &'a Bytes) -> Option<Self> {
        let (mut model, mut id, mut input, mut data) = (&[][..], &[][..], &[][..], &[][..]);
        let mut rest = &**message;
        while let Some(number) = field(&mut rest) {
            let (number, value) = number?;
            match number {
                1 => model = value,
                3 => id = value,
                5 => input = value,
                7 => data = value,
                _ => {}
            }
        }
        let (mut name, mut datatype, mut shape) = (&[][..], &[][..], &[][..]);
        while let Some(field) = field(&mut input) {
            let (number, value) = field?;
            match number {
                1 => name = value,
                2 => datatype = value,
                3 => shape = value,
                _ => {}
            }
        }
        Some(Self {
            model,
            id,
            name,
            datatype,
            shape,
            data: message.slice_ref(data),
        })
    }
}

/// Takes the next field: its number and its bytes.
#[expect(clippy::option_option, reason = "the end, and what is no field")]
fn field<'a>(rest: &mut &'a [u8]) -> Option<Option<(u8, &'a [u8])>> {
    let (&key, behind) = rest.split_first()?;
    *rest = behind;
    let mut len = 0;
    let mut shift = 0;
    loop {
        let Some((&byte, behind)) = rest.split_first() else {
            return Some(None);
        };
        *rest = behind;
        len |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
        shift += 7;
    }
    let Some((value, behind)) = rest.split_at_checked(len) else {
        return Some(None);
    };
    *rest = behind;
    Some(Some((key >> 3, value)))
}
