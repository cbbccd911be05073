use std::ops::Range;

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use outrigger_filters::inference::{Datatype, Shape};

use super::{
    Malformed, Strings,
    block::Block,
    cursor::Cursor,
    decimal,
    number::{self, Number, Numeral, Plain},
    string,
    walk::{self, Leaves},
};

/// What parsing a tensor's text makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The dimensions, up to the first one that is zero.
    pub shape: Shape,
    /// How many elements there are.
    pub elements: usize,
    /// The elements, canonically: row-major, little endian, those of `BYTES` behind their lengths.
    pub data: Vec<u8>,
    /// The bytes of text that were read, with the white space before it.
    pub len: usize,
}

/// Reads the value at the beginning of `text`, a regularly nested array or an element by itself,
/// as elements of a datatype.
///
/// Numbers are rounded correctly: to the nearest, to the even one of two. For `FP16` and `BF16`
/// they are rounded as FP64 before, as Python does. A finite number that is too large, and a
/// fraction where the datatype has none, are no elements.
pub fn parse(text: &[u8], datatype: Datatype, strings: Strings) -> Result<Parsed, Malformed> {
    parse_expected(text, datatype, strings, FEW)
}

/// Does the same where so many elements are expected, for which room is made; there may be others.
pub(super) fn parse_expected(
    text: &[u8],
    datatype: Datatype,
    strings: Strings,
    expected: usize,
) -> Result<Parsed, Malformed> {
    let mut cursor = Cursor::new(text);
    with(
        &mut cursor,
        datatype,
        strings,
        expected,
        |cursor, leaves| walk::value(cursor, leaves),
    )
}

/// Reads values up to the end of the text as those of one array.
pub(super) fn parse_all(
    text: &[u8],
    datatype: Datatype,
    strings: Strings,
    expected: usize,
) -> Result<Parsed, Malformed> {
    let mut cursor = Cursor::new(text);
    with(
        &mut cursor,
        datatype,
        strings,
        expected,
        |cursor, leaves| walk::values(cursor, leaves),
    )
}

/// Steps over an object `{"b64": "..."}` and returns where its text stands, and whether there are
/// escapes in it.
pub(super) fn b64_object(cursor: &mut Cursor<'_>) -> Result<(Range<usize>, bool), Malformed> {
    cursor.expect(b'{', "a brace")?;
    cursor.space();
    let (name, _) = cursor.string()?;
    if cursor.text.get(name) != Some(b"b64") {
        return Err(cursor.expected("an object with the one member b64"));
    }
    cursor.expect(b':', "a colon")?;
    cursor.space();
    let text = cursor.string()?;
    cursor.expect(b'}', "a closing brace")?;
    Ok(text)
}

/// Elements of a fixed length.
trait Element: Sized {
    type Bytes: AsRef<[u8]>;

    fn read(numeral: Numeral, text: &[u8]) -> Option<Self>;

    /// Reads the same from a plain number, or leaves it to [`read`](Self::read).
    fn plain(negative: bool, number: Plain) -> Option<Self>;

    fn bytes(self) -> Self::Bytes;
}

fn with(
    cursor: &mut Cursor<'_>,
    datatype: Datatype,
    strings: Strings,
    expected: usize,
    walk: impl Fn(&mut Cursor<'_>, &mut dyn Leaves) -> Result<Shape, Malformed>,
) -> Result<Parsed, Malformed> {
    fn numbers<E: Element>(datatype: Datatype, room: usize) -> Numbers<E> {
        Numbers {
            out: Vec::with_capacity(room),
            datatype,
            element: std::marker::PhantomData,
        }
    }
    // Each element takes two bytes of text, but for the last one.
    let expected = expected.min(cursor.text.len() / 2 + 1);
    let room = expected.saturating_mul(datatype.size().unwrap_or(8));
    macro_rules! walk {
        ($leaves:expr, $size:expr) => {{
            let mut leaves = $leaves;
            let shape = walk(cursor, &mut leaves)?;
            (shape, leaves.out.len() / $size, leaves.out)
        }};
    }
    let (shape, elements, mut data) = match datatype {
        Datatype::Bool => walk!(Bools::default(), 1),
        Datatype::Uint8 => walk!(numbers::<u8>(datatype, room), 1),
        Datatype::Uint16 => walk!(numbers::<u16>(datatype, room), 2),
        Datatype::Uint32 => walk!(numbers::<u32>(datatype, room), 4),
        Datatype::Uint64 => walk!(numbers::<u64>(datatype, room), 8),
        Datatype::Int8 => walk!(numbers::<i8>(datatype, room), 1),
        Datatype::Int16 => walk!(numbers::<i16>(datatype, room), 2),
        Datatype::Int32 => walk!(numbers::<i32>(datatype, room), 4),
        Datatype::Int64 => walk!(numbers::<i64>(datatype, room), 8),
        Datatype::Fp16 => walk!(numbers::<Fp16>(datatype, room), 2),
        Datatype::Bf16 => walk!(numbers::<Bf16>(datatype, room), 2),
        Datatype::Fp32 => walk!(numbers::<f32>(datatype, room), 4),
        Datatype::Fp64 => walk!(numbers::<f64>(datatype, room), 8),
        Datatype::Bytes => {
            let mut leaves = Texts {
                strings,
                count: 0,
                out: Vec::with_capacity(room),
            };
            let shape = walk(cursor, &mut leaves)?;
            (shape, leaves.count, leaves.out)
        }
    };
    if data.capacity() > 2 * data.len() {
        // It is kept for as long as the request waits.
        data.shrink_to_fit();
    }
    Ok(Parsed {
        shape,
        elements,
        data,
        len: cursor.at,
    })
}

#[derive(Debug)]
struct Numbers<E> {
    out: Vec<u8>,
    datatype: Datatype,
    element: std::marker::PhantomData<E>,
}

impl<E: Element> Numbers<E> {
    /// Takes plain numbers with a comma behind them and a space at most; returns how many. Where
    /// they end is found for a block at once, so that none waits for the one before it.
    #[inline]
    fn plain(&mut self, cursor: &mut Cursor<'_>) -> usize {
        let text = cursor.text;
        let before = self.out.len();
        let mut begin = cursor.at;
        let mut at = cursor.at;
        let mut point = 0;
        'blocks: while let Some(bytes) = text.get(at..).and_then(|rest| rest.first_chunk()) {
            let block = Block::new(bytes);
            let mut commas = block.equal(b',');
            let points = block.equal(b'.');
            let brackets = block.equal(b']');
            // Those behind the bracket belong to another row.
            commas &= brackets.wrapping_sub(1) & !brackets;
            while commas != 0 {
                let index = commas.trailing_zeros();
                let comma = at + index as usize;
                commas &= commas - 1;
                let points = points & !(u64::MAX << index);
                if points != 0 {
                    point = at + 63 - points.leading_zeros() as usize;
                }
                let negative = text.get(begin) == Some(&b'-');
                let first = begin + usize::from(negative);
                let element = number::plain(text, first, point, comma)
                    .and_then(|number| E::plain(negative, number));
                let Some(element) = element else {
                    break 'blocks;
                };
                self.out.extend_from_slice(element.bytes().as_ref());
                begin = comma + 1;
                begin += usize::from(text.get(begin) == Some(&b' '));
            }
            if brackets != 0 {
                break;
            }
            if points != 0 {
                point = at + 63 - points.leading_zeros() as usize;
            }
            at += Block::LEN;
        }
        cursor.at = begin;
        (self.out.len() - before) / size_of::<E::Bytes>()
    }

    #[cold]
    fn fault(&self, cursor: &Cursor<'_>) -> Malformed {
        // A value that is no number is well formed; what is no value is not.
        match cursor.clone().value() {
            Ok(()) => Malformed::Element {
                index: self.out.len() / self.datatype.size().unwrap_or(1),
                datatype: self.datatype,
            },
            Err(malformed) => malformed,
        }
    }
}

impl<E: Element> Leaves for Numbers<E> {
    fn run(&mut self, cursor: &mut Cursor<'_>) -> Result<usize, Malformed> {
        let mut count = 0;
        loop {
            count += self.plain(cursor);
            if cursor.space() == Some(b'[') {
                return Err(Malformed::Irregular);
            }
            self.one(cursor)?;
            count += 1;
            if !cursor.comma()? {
                return Ok(count);
            }
        }
    }

    #[inline]
    fn one(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Malformed> {
        let from = cursor.at;
        let read = number::read(cursor.text, from).and_then(|(numeral, end)| {
            let text = cursor.text.get(from..end).unwrap_or_default();
            Some((E::read(numeral, text)?, end))
        });
        let Some((element, end)) = read else {
            return Err(self.fault(cursor));
        };
        self.out.extend_from_slice(element.bytes().as_ref());
        cursor.at = end;
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Bools {
    out: Vec<u8>,
}

impl Leaves for Bools {
    fn run(&mut self, cursor: &mut Cursor<'_>) -> Result<usize, Malformed> {
        let mut count = 0;
        loop {
            self.one(cursor)?;
            count += 1;
            if !cursor.comma()? {
                return Ok(count);
            }
        }
    }

    fn one(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Malformed> {
        match cursor.peek() {
            Some(b't') => {
                cursor.word("true")?;
                self.out.push(1);
            }
            Some(b'f') => {
                cursor.word("false")?;
                self.out.push(0);
            }
            _ => {
                cursor.value()?;
                return Err(Malformed::Element {
                    index: self.out.len(),
                    datatype: Datatype::Bool,
                });
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Texts {
    strings: Strings,
    count: usize,
    out: Vec<u8>,
}

impl Leaves for Texts {
    fn run(&mut self, cursor: &mut Cursor<'_>) -> Result<usize, Malformed> {
        let before = self.count;
        loop {
            self.one(cursor)?;
            if !cursor.comma()? {
                return Ok(self.count - before);
            }
        }
    }

    fn one(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Malformed> {
        let fault = Malformed::Element {
            index: self.count,
            datatype: Datatype::Bytes,
        };
        let begin = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        match cursor.peek() {
            Some(b'"') => {
                let (between, escaped) = cursor.string()?;
                let between = cursor.text.get(between).unwrap_or_default();
                if escaped {
                    string::unescape(between, &mut self.out)?;
                } else {
                    self.out.extend_from_slice(between);
                }
            }
            Some(b'{') if self.strings != Strings::Plain => {
                let (between, escaped) = b64_object(cursor)?;
                let between = cursor.text.get(between).unwrap_or_default();
                let mut unescaped = Vec::new();
                let text = if escaped {
                    string::unescape(between, &mut unescaped)?;
                    &unescaped
                } else {
                    between
                };
                BASE64.decode_vec(text, &mut self.out).map_err(|_| fault)?;
            }
            _ => {
                cursor.value()?;
                return Err(fault);
            }
        }
        let len = u32::try_from(self.out.len() - begin - 4).map_err(|_| fault)?;
        if let Some(prefix) = self.out.get_mut(begin..begin + 4) {
            prefix.copy_from_slice(&len.to_le_bytes());
        }
        self.count += 1;
        Ok(())
    }
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Element for $type {
            type Bytes = [u8; size_of::<Self>()];

            #[inline]
            fn read(numeral: Numeral, text: &[u8]) -> Option<Self> {
                match numeral {
                    Numeral::Number(Number { whole: true, exact: true, negative, mantissa, .. }) => {
                        let mantissa = i128::from(mantissa);
                        Self::try_from(if negative { -mantissa } else { mantissa }).ok()
                    }
                    Numeral::Number(Number { whole: true, .. }) => long(text),
                    _ => None,
                }
            }

            #[inline]
            fn plain(negative: bool, number: Plain) -> Option<Self> {
                // It has less than nineteen digits.
                let mantissa = number.mantissa as i64;
                number.whole.then_some(())?;
                Self::try_from(if negative { -mantissa } else { mantissa }).ok()
            }

            #[inline]
            fn bytes(self) -> Self::Bytes {
                self.to_le_bytes()
            }
        }
    )*};
}

integers!(u8, u16, u32, u64, i8, i16, i32, i64);

macro_rules! floats {
    ($($type:ty),*) => {$(
        impl Element for $type {
            type Bytes = [u8; size_of::<Self>()];

            #[inline]
            fn read(numeral: Numeral, text: &[u8]) -> Option<Self> {
                match numeral {
                    Numeral::Number(number) => {
                        let Number { negative, mantissa, exponent, exact, .. } = number;
                        let nearest = if exact {
                            decimal::nearest(negative, mantissa, exponent)
                        } else {
                            None
                        };
                        nearest.or_else(|| long(text).filter(|read: &Self| read.is_finite()))
                    }
                    Numeral::Nan { negative } => {
                        Some(if negative { -Self::NAN } else { Self::NAN })
                    }
                    Numeral::Infinity { negative } => {
                        Some(if negative { Self::NEG_INFINITY } else { Self::INFINITY })
                    }
                }
            }

            #[inline]
            fn plain(negative: bool, number: Plain) -> Option<Self> {
                decimal::plain(negative, number.mantissa, number.fraction)
            }

            #[inline]
            fn bytes(self) -> Self::Bytes {
                self.to_le_bytes()
            }
        }
    )*};
}

floats!(f32, f64);

/// Reads what the short way leaves.
#[cold]
fn long<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The bits of a half.
struct Fp16(u16);

impl Element for Fp16 {
    type Bytes = [u8; 2];

    fn read(numeral: Numeral, text: &[u8]) -> Option<Self> {
        narrow::<5, 10>(f64::read(numeral, text)?).map(Self)
    }

    fn plain(negative: bool, number: Plain) -> Option<Self> {
        narrow::<5, 10>(f64::plain(negative, number)?).map(Self)
    }

    fn bytes(self) -> [u8; 2] {
        self.0.to_le_bytes()
    }
}

/// The bits of a bfloat16: the upper half of an FP32.
struct Bf16(u16);

impl Element for Bf16 {
    type Bytes = [u8; 2];

    fn read(numeral: Numeral, text: &[u8]) -> Option<Self> {
        narrow::<8, 7>(f64::read(numeral, text)?).map(Self)
    }

    fn plain(negative: bool, number: Plain) -> Option<Self> {
        narrow::<8, 7>(f64::plain(negative, number)?).map(Self)
    }

    fn bytes(self) -> [u8; 2] {
        self.0.to_le_bytes()
    }
}

/// Rounds to the nearest number of a format with so many bits of power and of fraction, to the
/// even one of two; `None` where a finite number becomes infinite.
fn narrow<const POWER: u32, const FRACTION: u32>(wide: f64) -> Option<u16> {
    let sign = u16::from(wide.is_sign_negative()) << 15;
    let infinity = ((1_u16 << POWER) - 1) << FRACTION;
    if wide.is_nan() {
        return Some(sign | infinity | 1 << (FRACTION - 1));
    }
    if wide.is_infinite() {
        return Some(sign | infinity);
    }
    let bias = (1 << (POWER - 1)) - 1;
    let magnitude = wide.abs();
    // In units of the last place, in which the result is a whole number, exactly: a unit is a power
    // of two. Below the smallest normal number the unit stays.
    let power = ((magnitude.to_bits() >> 52) as i32 - 1023).max(1 - bias);
    let unit = f64::from_bits(((power - FRACTION as i32 + 1023) as u64) << 52);
    let places = (magnitude / unit).round_ties_even() as u32;
    // The leading one adds to the power, and so does a carry.
    let bits = (((power + bias - 1) as u32) << FRACTION) + places;
    let bits = u16::try_from(bits).ok()?;
    (bits < infinity).then_some(sign | bits)
}

/// The usual alphabet; the servers take it with padding or without.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Elements for which room is made where nothing says how many there are.
const FEW: usize = 128;
