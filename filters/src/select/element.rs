//! The elements of tensors, read and written one by one.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::Value;
use crate::inference::{Datatype, Form, Payload, Tensor};

/// Numbers of a tensor, in the order of its elements.
pub(super) type Numbers = SmallVec<[f64; 16]>;

/// Integers of a tensor, in the order of its elements.
pub(super) type Integers = SmallVec<[i128; 2]>;

/// Reads all elements of a tensor of numbers or truth values, or returns `None` where the contents
/// are not what type and shape say.
pub(super) fn numbers(tensor: &Tensor) -> Option<Numbers> {
    let elements = countable(tensor)?;
    let datatype = tensor.datatype;
    let mut numbers = Numbers::with_capacity(elements);
    let data = tensor.data.to_bytes();
    if tensor.form.is_text() {
        let mut scalars = Scalars(&data);
        while let Some(scalar) = scalars.next()? {
            let Scalar::Word(word) = scalar else {
                return None;
            };
            let number = match word {
                "true" => 1.,
                "false" => 0.,
                word => word.parse().ok()?,
            };
            numbers.push(rounded(datatype, number));
        }
        return (numbers.len() == elements).then_some(numbers);
    }
    let mut put = |number: f64| numbers.push(number);
    match datatype {
        Datatype::Fp16 => fixed(&data, |bytes| put(widened(u16::from_le_bytes(bytes), HALF))),
        Datatype::Bf16 => fixed(&data, |bytes| {
            put(widened(u16::from_le_bytes(bytes), BRAIN));
        }),
        Datatype::Fp32 => fixed(&data, |bytes| put(f32::from_le_bytes(bytes).into())),
        Datatype::Fp64 => fixed(&data, |bytes| put(f64::from_le_bytes(bytes))),
        Datatype::Bytes => return None,
        _ => fixed_integers(datatype, &data, |integer| put(integer as f64)),
    }
    Some(numbers)
}

/// Reads all elements of a tensor of integers or truth values, or returns `None` where the contents
/// are not what type and shape say.
pub(super) fn integers(tensor: &Tensor) -> Option<Integers> {
    let elements = countable(tensor)?;
    let mut integers = Integers::with_capacity(elements);
    let data = tensor.data.to_bytes();
    if tensor.form.is_text() {
        let mut scalars = Scalars(&data);
        while let Some(scalar) = scalars.next()? {
            let Scalar::Word(word) = scalar else {
                return None;
            };
            integers.push(match word {
                "true" => 1,
                "false" => 0,
                word => word.parse().ok()?,
            });
        }
        return (integers.len() == elements).then_some(integers);
    }
    fixed_integers(tensor.datatype, &data, |integer| integers.push(integer));
    (integers.len() == elements).then_some(integers)
}

/// Goes through all elements of a tensor of `BYTES`, or returns `None` where the contents are not
/// what type and shape say.
pub(super) fn strings(tensor: &Tensor, mut each: impl FnMut(&[u8])) -> Option<()> {
    let elements = countable(tensor)?;
    let data = tensor.data.to_bytes();
    if tensor.form.is_text() {
        let mut scalars = Scalars(&data);
        let mut count = 0;
        while let Some(scalar) = scalars.next()? {
            let Scalar::String(string) = scalar else {
                return None;
            };
            count += 1;
            each(&string);
        }
        return (count == elements).then_some(());
    }
    let mut rest = &data[..];
    for _ in 0..elements {
        let (prefix, behind) = rest.split_first_chunk()?;
        let len = usize::try_from(u32::from_le_bytes(*prefix)).ok()?;
        let (element, behind) = behind.split_at_checked(len)?;
        each(element);
        rest = behind;
    }
    rest.is_empty().then_some(())
}

/// Returns the contents as bytes, read where they are text.
pub(super) fn raw(tensor: &Tensor) -> Option<Payload> {
    if tensor.form == Form::Absent {
        return None;
    }
    if !tensor.form.is_text() {
        return Some(tensor.data.clone());
    }
    let datatype = tensor.datatype;
    let mut out = Vec::new();
    match datatype {
        Datatype::Bytes => strings(tensor, |string| put_string(string, &mut out))?,
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 => {
            numbers(tensor)?
                .iter()
                .for_each(|number| put_float(datatype, *number, &mut out));
        }
        _ => {
            for integer in integers(tensor)? {
                put_integer(datatype, integer, &mut out)?;
            }
        }
    }
    Some(bytes::Bytes::from(out).into())
}

/// Appends a value as an element of a type, or returns `None` where it is none of that type.
pub(super) fn put(datatype: Datatype, value: &Value, out: &mut Vec<u8>) -> Option<()> {
    match (datatype, value) {
        (Datatype::Bool, Value::Bool(value)) => out.push(u8::from(*value)),
        (Datatype::Bool, _) => return None,
        (Datatype::Bytes, Value::String(value)) => put_string(value.as_bytes(), out),
        (Datatype::Bytes, _) => return None,
        (Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64, value) => {
            let value = value.as_number()?;
            rounded(datatype, value).is_finite().then_some(())?;
            put_float(datatype, value, out);
        }
        (_, value) => put_integer(datatype, value.as_integer()?, out)?,
    }
    Some(())
}

/// Appends a number as an element of a floating type.
pub(super) fn put_float(datatype: Datatype, number: f64, out: &mut Vec<u8>) {
    match datatype {
        Datatype::Fp16 => out.extend_from_slice(&narrowed(number, HALF).to_le_bytes()),
        Datatype::Bf16 => out.extend_from_slice(&narrowed(number, BRAIN).to_le_bytes()),
        Datatype::Fp32 => out.extend_from_slice(&(number as f32).to_le_bytes()),
        _ => out.extend_from_slice(&number.to_le_bytes()),
    }
}

/// Rounds a number to what an element of a type may be; only floating types round.
pub(super) fn rounded(datatype: Datatype, number: f64) -> f64 {
    match datatype {
        Datatype::Fp16 => widened(narrowed(number, HALF), HALF),
        Datatype::Bf16 => widened(narrowed(number, BRAIN), BRAIN),
        Datatype::Fp32 => f64::from(number as f32),
        _ => number,
    }
}

/// Tells whether elements of a type are floating numbers.
pub(super) const fn is_float(datatype: Datatype) -> bool {
    matches!(
        datatype,
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64
    )
}

/// Returns the number of elements, where the contents can be as many: each takes a byte at least.
fn countable(tensor: &Tensor) -> Option<usize> {
    let elements = tensor.shape.elements()?;
    let is_possible = match (tensor.form, tensor.datatype.size()) {
        (Form::Absent, _) => false,
        (Form::Raw | Form::Typed, Some(size)) => {
            elements.checked_mul(size) == Some(tensor.data.len())
        }
        _ => elements <= tensor.data.len(),
    };
    is_possible.then_some(elements)
}

fn fixed<const N: usize>(data: &[u8], each: impl FnMut([u8; N])) {
    data.as_chunks().0.iter().copied().for_each(each);
}

fn fixed_integers(datatype: Datatype, data: &[u8], mut each: impl FnMut(i128)) {
    match datatype {
        Datatype::Bool => fixed(data, |[byte]| each(i128::from(byte != 0))),
        Datatype::Uint8 => fixed(data, |bytes| each(u8::from_le_bytes(bytes).into())),
        Datatype::Uint16 => fixed(data, |bytes| each(u16::from_le_bytes(bytes).into())),
        Datatype::Uint32 => fixed(data, |bytes| each(u32::from_le_bytes(bytes).into())),
        Datatype::Uint64 => fixed(data, |bytes| each(u64::from_le_bytes(bytes).into())),
        Datatype::Int8 => fixed(data, |bytes| each(i8::from_le_bytes(bytes).into())),
        Datatype::Int16 => fixed(data, |bytes| each(i16::from_le_bytes(bytes).into())),
        Datatype::Int32 => fixed(data, |bytes| each(i32::from_le_bytes(bytes).into())),
        Datatype::Int64 => fixed(data, |bytes| each(i64::from_le_bytes(bytes).into())),
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 | Datatype::Bytes => {}
    }
}

fn put_integer(datatype: Datatype, integer: i128, out: &mut Vec<u8>) -> Option<()> {
    let size = datatype.size()?;
    let bits = 8 * size as u32;
    let range = match datatype {
        Datatype::Bool => 0..=1,
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 | Datatype::Uint64 => {
            0..=(1 << bits) - 1
        }
        _ => -(1 << (bits - 1))..=(1 << (bits - 1)) - 1,
    };
    // Two's complement: the low bytes are the same, whatever the width.
    let bytes = integer.to_le_bytes();
    let element = bytes.get(..size)?;
    range.contains(&integer).then_some(())?;
    out.extend_from_slice(element);
    Some(())
}

fn put_string(string: &[u8], out: &mut Vec<u8>) {
    // What came in has such a prefix, or is shorter than text that is bounded far below.
    let len = u32::try_from(string.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(string);
}

/// A floating type of 16 bits.
#[derive(Clone, Copy)]
struct Narrow {
    /// Bits behind the point.
    mantissa: i32,
    /// The exponent of the least number that has all of them.
    least: i32,
}

const HALF: Narrow = Narrow {
    mantissa: 10,
    least: -14,
};
const BRAIN: Narrow = Narrow {
    mantissa: 7,
    least: -126,
};

fn widened(bits: u16, format: Narrow) -> f64 {
    let magnitude = i32::from(bits & 0x7fff);
    let one = 1 << format.mantissa;
    let (exponent, fraction) = (magnitude >> format.mantissa, magnitude & (one - 1));
    let most = 0x7fff >> format.mantissa;
    let value = match exponent {
        0 => f64::from(fraction) * power(format.least - format.mantissa),
        exponent if exponent == most && fraction == 0 => f64::INFINITY,
        exponent if exponent == most => f64::NAN,
        exponent => {
            f64::from(one + fraction) * power(format.least - format.mantissa + exponent - 1)
        }
    };
    if bits & 0x8000 == 0 { value } else { -value }
}

/// Rounds to the nearest number of a type, of two that are as near to the even one.
fn narrowed(value: f64, format: Narrow) -> u16 {
    let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
    let infinity = 0x7fff >> format.mantissa << format.mantissa;
    if value.is_nan() {
        return sign | infinity | 1 << (format.mantissa - 1);
    }
    let value = value.abs();
    let exponent = ((value.to_bits() >> 52) as i32 - 1023).max(format.least);
    // How many of the least steps at this exponent; one more than there are carries over.
    let steps = value / power(exponent - format.mantissa);
    if exponent > -format.least + 1 {
        return sign | infinity;
    }
    let steps = steps.round_ties_even() as i32;
    let bits = ((exponent - format.least) << format.mantissa) + steps;
    sign | u16::try_from(bits).unwrap_or(infinity).min(infinity)
}

/// A power of two, which a float holds as it is.
fn power(exponent: i32) -> f64 {
    2_f64.powi(exponent)
}

/// Scalars of a JSON text, whatever arrays they stand in. Only as much is understood as it takes to
/// find them: whoever made the tensor has checked the rest.
struct Scalars<'a>(&'a [u8]);

enum Scalar<'a> {
    /// A number or one of the names.
    Word(&'a str),
    /// What a string says, or an object of base64.
    String(Cow<'a, [u8]>),
}

impl<'a> Scalars<'a> {
    /// Returns the next one, `Some(None)` at the end, and `None` where there is something else.
    fn next(&mut self) -> Option<Option<Scalar<'a>>> {
        let between = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b',' | b'[' | b']');
        self.skip(between);
        let Some(first) = self.0.first() else {
            return Some(None);
        };
        Some(Some(match first {
            b'"' => Scalar::String(self.string()?),
            b'{' => Scalar::String(self.base64()?),
            _ => {
                let end = |byte: &u8| between(byte) || matches!(byte, b'"' | b'{' | b'}' | b':');
                let len = self.0.iter().position(end).unwrap_or(self.0.len());
                let (word, rest) = self.0.split_at(len);
                self.0 = rest;
                let word = std::str::from_utf8(word).ok();
                Scalar::Word(word.filter(|word| !word.is_empty())?)
            }
        }))
    }

    fn skip(&mut self, is_skipped: impl Fn(&u8) -> bool) {
        let begin = self.0.iter().position(|byte| !is_skipped(byte));
        self.0 = begin
            .and_then(|begin| self.0.get(begin..))
            .unwrap_or_default();
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.skip(u8::is_ascii_whitespace);
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        (*first == byte).then_some(())
    }

    /// Reads `{"b64": "..."}`.
    fn base64(&mut self) -> Option<Cow<'a, [u8]>> {
        self.expect(b'{')?;
        self.skip(u8::is_ascii_whitespace);
        (*self.string()? == *b"b64").then_some(())?;
        self.expect(b':')?;
        self.skip(u8::is_ascii_whitespace);
        let digits = self.string()?;
        self.expect(b'}')?;
        decoded(&digits).map(Cow::Owned)
    }

    fn string(&mut self) -> Option<Cow<'a, [u8]>> {
        let text = self.0.strip_prefix(b"\"")?;
        let len = text.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
        let (plain, mut rest) = text.split_at(len);
        let mut string = Cow::Borrowed(plain);
        loop {
            let (first, behind) = rest.split_first()?;
            rest = behind;
            match first {
                b'"' => {
                    self.0 = rest;
                    return Some(string);
                }
                b'\\' => {
                    let (escaped, behind) = rest.split_first()?;
                    rest = behind;
                    let string = string.to_mut();
                    match escaped {
                        b'b' => string.push(8),
                        b'f' => string.push(12),
                        b'n' => string.push(b'\n'),
                        b'r' => string.push(b'\r'),
                        b't' => string.push(b'\t'),
                        b'u' => {
                            let mut unit = hexadecimal(&mut rest)?;
                            if let (0xd800..=0xdbff, Some(mut low)) =
                                (unit, rest.strip_prefix(b"\\u"))
                            {
                                let second = hexadecimal(&mut low)?;
                                if let 0xdc00..=0xdfff = second {
                                    rest = low;
                                    unit = 0x1_0000 + ((unit - 0xd800) << 10) + (second - 0xdc00);
                                }
                            }
                            let character =
                                char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER);
                            let mut buffer = [0; 4];
                            string.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
                        }
                        other => string.push(*other),
                    }
                }
                other => string.to_mut().push(*other),
            }
        }
    }
}

fn hexadecimal(text: &mut &[u8]) -> Option<u32> {
    let (digits, rest) = text.split_first_chunk::<4>()?;
    *text = rest;
    digits.iter().try_fold(0, |unit, digit| {
        Some(unit << 4 | char::from(*digit).to_digit(16)?)
    })
}

/// Reads base64 of either alphabet, with or without padding.
fn decoded(digits: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 3);
    let (mut bits, mut count) = (0_u32, 0);
    for digit in digits.iter().take_while(|digit| **digit != b'=') {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}
