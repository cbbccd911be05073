use base64::Engine;
use outrigger_filters::inference::{Datatype, Shape};
use smallvec::SmallVec;

use super::{Malformed, Strings, parse::BASE64, string};

/// Appends the texts of the elements of `data`, with commas between them.
///
/// Floats are written as the shortest text that reads back bit-equal in their own type, but for the
/// payload of what is no number.
pub fn write_flat(
    datatype: Datatype,
    data: &[u8],
    strings: Strings,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let elements = match datatype.size() {
        Some(size) => data.len() / size,
        None => usize::MAX,
    };
    let mut source = Source::new(datatype, data, strings, usize::MAX, out);
    source.put(elements, out)?;
    source.end()
}

/// Appends the texts of the rows of `data`, nested as the shape says, with commas between them.
pub fn write_rows(
    datatype: Datatype,
    shape: &Shape,
    data: &[u8],
    strings: Strings,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    write_within(datatype, shape, data, strings, usize::MAX, out)
}

/// Does the same up to a length of `out`, give or take some elements.
pub(super) fn write_within(
    datatype: Datatype,
    shape: &Shape,
    data: &[u8],
    strings: Strings,
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let mut source = Source::new(datatype, data, strings, limit, out);
    nest(shape, data.len(), out, |elements, out| {
        source.put_within(elements, out)
    })?;
    source.end()
}

/// Appends what is no text as an object `{"b64": "..."}`.
pub fn put_b64(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"b64\":\"");
    let begin = out.len();
    let len = bytes.len().div_ceil(3) * 4;
    out.resize(begin + len, 0);
    let room = out.get_mut(begin..).unwrap_or_default();
    BASE64
        .encode_slice(bytes, room)
        .expect("four bytes for each three");
    out.extend_from_slice(b"\"}");
}

/// Writes the brackets and commas of rows of a shape; `run` appends so many elements each time it
/// is called. `len` is that of the contents, of which the brackets may be a small multiple.
pub(super) fn nest(
    shape: &Shape,
    len: usize,
    out: &mut Vec<u8>,
    mut run: impl FnMut(usize, &mut Vec<u8>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let dimensions = shape.dimensions();
    let elements = shape.elements().ok_or(Malformed::Count)?;
    // Behind a dimension of zero there is nothing to be written.
    let depth = dimensions.iter().position(|dimension| *dimension == 0);
    let dimensions = depth
        .and_then(|depth| dimensions.get(..=depth))
        .unwrap_or(dimensions);
    let [outer @ .., inner] = dimensions else {
        return run(1, out);
    };
    let Some((rows, between)) = outer.split_first() else {
        return run(elements, out);
    };
    let size = |dimension: &i64| usize::try_from(*dimension).map_err(|_| Malformed::Count);
    let inner = size(inner)?;
    // After how many of the innermost arrays one that is further out is full, the outermost first.
    let mut spans: SmallVec<[usize; 8]> = SmallVec::new();
    let mut runs = 1_usize;
    let mut brackets = 1_usize;
    for dimension in between.iter().rev() {
        runs = runs
            .checked_mul(size(dimension)?)
            .ok_or(Malformed::TooLong)?;
        spans.push(runs);
        brackets += 1;
    }
    let runs = runs.checked_mul(size(rows)?).ok_or(Malformed::TooLong)?;
    if runs.saturating_mul(brackets) > MAX_NESTING.saturating_mul(len.saturating_add(16)) {
        return Err(Malformed::TooLong);
    }
    for index in 0..runs {
        if index > 0 {
            out.push(b',');
        }
        for span in &spans {
            if index % span == 0 {
                out.push(b'[');
            }
        }
        out.push(b'[');
        run(inner, out)?;
        out.push(b']');
        for span in &spans {
            if (index + 1) % span == 0 {
                out.push(b']');
            }
        }
    }
    Ok(())
}

/// Elements that are not yet written.
#[derive(Debug)]
struct Source<'a> {
    datatype: Datatype,
    rest: &'a [u8],
    strings: Strings,
    /// How long all that is written may be.
    limit: usize,
    /// How many have been written.
    count: usize,
}

impl<'a> Source<'a> {
    fn new(
        datatype: Datatype,
        data: &'a [u8],
        strings: Strings,
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Self {
        let expected = match datatype.size() {
            Some(size) => data.len() / size * (size * 2 + 2),
            None => data.len(),
        };
        out.reserve(expected.min(limit));
        Self {
            datatype,
            rest: data,
            strings,
            limit,
            count: 0,
        }
    }

    /// Appends the next elements as long as all is no longer than it may be.
    fn put_within(&mut self, elements: usize, out: &mut Vec<u8>) -> Result<(), Malformed> {
        if self.limit == usize::MAX {
            return self.put(elements, out);
        }
        // One text may be long by itself.
        let few = if self.datatype == Datatype::Bytes {
            1
        } else {
            FEW
        };
        let mut left = elements;
        loop {
            let now = left.min(few);
            self.put(now, out)?;
            if out.len() > self.limit {
                return Err(Malformed::Limit);
            }
            left -= now;
            if left == 0 {
                return Ok(());
            }
            out.push(b',');
        }
    }

    /// Appends the next elements, with commas between them.
    fn put(&mut self, elements: usize, out: &mut Vec<u8>) -> Result<(), Malformed> {
        match self.datatype {
            Datatype::Bool => self.fixed(elements, out, |[byte], out| {
                out.extend_from_slice(if byte == 0 { b"false" } else { b"true" });
            }),
            Datatype::Uint8 => self.integers(elements, out, u8::from_le_bytes),
            Datatype::Uint16 => self.integers(elements, out, u16::from_le_bytes),
            Datatype::Uint32 => self.integers(elements, out, u32::from_le_bytes),
            Datatype::Uint64 => self.integers(elements, out, u64::from_le_bytes),
            Datatype::Int8 => self.integers(elements, out, i8::from_le_bytes),
            Datatype::Int16 => self.integers(elements, out, i16::from_le_bytes),
            Datatype::Int32 => self.integers(elements, out, i32::from_le_bytes),
            Datatype::Int64 => self.integers(elements, out, i64::from_le_bytes),
            // Every half is an FP32, whose text reads back as that half.
            Datatype::Fp16 => self.floats(elements, out, |bytes| half(u16::from_le_bytes(bytes))),
            Datatype::Bf16 => self.floats(elements, out, |bytes: [u8; 2]| {
                f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
            }),
            Datatype::Fp32 => self.floats(elements, out, f32::from_le_bytes),
            Datatype::Fp64 => self.floats(elements, out, f64::from_le_bytes),
            Datatype::Bytes => self.texts(elements, out),
        }
    }

    /// Checks that no elements are left.
    fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed::Count)
        }
    }

    fn fixed<const N: usize>(
        &mut self,
        elements: usize,
        out: &mut Vec<u8>,
        mut put: impl FnMut([u8; N], &mut Vec<u8>),
    ) -> Result<(), Malformed> {
        let len = elements.checked_mul(N).ok_or(Malformed::Count)?;
        let (now, rest) = self.rest.split_at_checked(len).ok_or(Malformed::Count)?;
        let (chunks, _) = now.as_chunks::<N>();
        for (index, element) in chunks.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            put(*element, out);
        }
        self.rest = rest;
        self.count += elements;
        Ok(())
    }

    fn integers<const N: usize, I: itoa::Integer>(
        &mut self,
        elements: usize,
        out: &mut Vec<u8>,
        read: impl Fn([u8; N]) -> I,
    ) -> Result<(), Malformed> {
        let mut buffer = itoa::Buffer::new();
        self.fixed(elements, out, |element, out| {
            out.extend_from_slice(buffer.format(read(element)).as_bytes());
        })
    }

    fn floats<const N: usize, F: zmij::Float + Into<f64> + Copy>(
        &mut self,
        elements: usize,
        out: &mut Vec<u8>,
        read: impl Fn([u8; N]) -> F,
    ) -> Result<(), Malformed> {
        let mut buffer = zmij::Buffer::new();
        self.fixed(elements, out, |element, out| {
            let number = read(element);
            let wide: f64 = number.into();
            out.extend_from_slice(if wide.is_finite() {
                buffer.format_finite(number).as_bytes()
            } else if wide.is_nan() {
                b"NaN"
            } else if wide > 0.0 {
                b"Infinity"
            } else {
                b"-Infinity"
            });
        })
    }

    fn texts(&mut self, elements: usize, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let counted = elements != usize::MAX;
        for index in 0..elements {
            if !counted && self.rest.is_empty() {
                return Ok(());
            }
            if index > 0 {
                out.push(b',');
            }
            let (prefix, rest) = self.rest.split_first_chunk().ok_or(Malformed::Count)?;
            let len = usize::try_from(u32::from_le_bytes(*prefix)).map_err(|_| Malformed::Count)?;
            let (element, rest) = rest.split_at_checked(len).ok_or(Malformed::Count)?;
            match (self.strings, std::str::from_utf8(element)) {
                (Strings::Plain | Strings::Either, Ok(text)) => string::put_string(text, out),
                (Strings::Plain, Err(_)) => return Err(Malformed::NotText { index: self.count }),
                (Strings::Either | Strings::Base64, _) => put_b64(element, out),
            }
            self.rest = rest;
            self.count += 1;
        }
        Ok(())
    }
}

/// Widens a half, which changes nothing.
fn half(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let power = u32::from(bits >> 10 & 0x1f);
    let fraction = u32::from(bits & 0x3ff);
    let magnitude = match power {
        0 => fraction as f32 / (1 << 24) as f32,
        0x1f => f32::from_bits(0xff << 23 | fraction << 13),
        _ => f32::from_bits((power + 112) << 23 | fraction << 13),
    };
    f32::from_bits(sign | magnitude.to_bits())
}

/// Elements that are written before anybody looks how long the text has become.
const FEW: usize = 1024;

/// Brackets for each byte of contents: more dimensions of one than anybody has.
const MAX_NESTING: usize = 32;
