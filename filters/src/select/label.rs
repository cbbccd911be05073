//! What answers say: a prediction for each row.

use bytestring::ByteString;
use smallvec::SmallVec;

use super::{
    Loss,
    element::{self, Integers, Numbers},
    surprise::Surprise,
    value,
};
use crate::inference::{Datatype, Form, Response, Tensor};

/// What an answer says of one row, in as much as it can be compared with the truth and with what
/// others say.
///
/// It [packs](Self::pack) into a few bytes, and loses nothing by that.
#[derive(Clone, Debug, PartialEq)]
pub enum Prediction {
    /// Nothing that can be compared: no number, or scores of which none is one.
    Nothing,
    /// An integer, or a truth value as 0 or 1.
    Class(i128),
    /// A digest of a label of bytes.
    Bytes(u64),
    /// A number, never NaN.
    Number(f64),
    /// Scores, one for each class.
    Scores {
        /// The class with the greatest one, the first of several.
        top: u32,
        /// How improbable each class was said to be, where the [loss](Loss::Log) asks for it.
        surprise: Option<Surprise>,
    },
}

/// Predictions for the rows of an answer.
pub type Predictions = SmallVec<[Prediction; 1]>;

/// Why an answer has no predictions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoLabel {
    /// It is not understood, or has no outputs.
    NoOutputs,
    /// It has no such output.
    Missing(ByteString),
    /// The contents of the output are not in the message.
    Absent(ByteString),
    /// The first dimension of the output counts no rows, or there is nothing in them.
    NoRows(ByteString),
    /// The rows of the output are neither one label nor scores.
    Columns {
        /// Which output.
        output: ByteString,
        /// Its type.
        datatype: Datatype,
        /// How many elements a row has.
        columns: usize,
    },
    /// The contents of the output are not what its type and its shape say.
    Contents(ByteString),
}

/// What an output says, read.
#[derive(Debug)]
pub(super) enum Column {
    /// A label for each row.
    Labels(Predictions),
    /// So many floating numbers for each row.
    Floats { columns: usize, values: Numbers },
}

/// What is compared between predictions: those of equal ones agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Integer(i128),
    Bytes(u64),
    Number(u64),
}

/// Returns a prediction for each row of an answer: what the named output says, or the first one.
///
/// Integers, truth values and `BYTES` are labels, one a row; floating numbers are a number each
/// where a row has one of them, and where it has more they are scores of classes.
pub fn of(response: &Response, output: Option<&str>, loss: Loss) -> Result<Predictions, NoLabel> {
    let tensor = find(response, output)?;
    Ok(read(tensor)?.predictions(loss))
}

/// Returns the output of a name, or the first one. An output without a name is the one that is
/// meant where it is alone: such a protocol leaves the name out then.
pub(super) fn find<'a>(
    response: &'a Response,
    output: Option<&str>,
) -> Result<&'a Tensor, NoLabel> {
    let index = index(response, output)?;
    response.outputs.get(index).ok_or(NoLabel::NoOutputs)
}

/// Returns the place of that output.
pub(super) fn index(response: &Response, output: Option<&str>) -> Result<usize, NoLabel> {
    match (&response.outputs[..], output) {
        ([], _) => Err(NoLabel::NoOutputs),
        (_, None) => Ok(0),
        ([sole], Some(_)) if sole.name.is_empty() => Ok(0),
        (outputs, Some(name)) => outputs
            .iter()
            .position(|output| *output.name == *name)
            .ok_or_else(|| NoLabel::Missing(name.into())),
    }
}

/// Reads an output.
pub(super) fn read(tensor: &Tensor) -> Result<Column, NoLabel> {
    let name = || tensor.name.clone();
    if tensor.form == Form::Absent {
        return Err(NoLabel::Absent(name()));
    }
    let rows = tensor.shape.rows();
    let columns = tensor.shape.row_elements().filter(|columns| *columns > 0);
    let (Some(_), Some(columns)) = (rows, columns) else {
        return Err(NoLabel::NoRows(name()));
    };
    let datatype = tensor.datatype;
    let contents = || NoLabel::Contents(name());
    if element::is_float(datatype) {
        let values = element::numbers(tensor).ok_or_else(contents)?;
        return Ok(Column::Floats { columns, values });
    }
    if columns > 1 {
        return Err(NoLabel::Columns {
            output: name(),
            datatype,
            columns,
        });
    }
    let mut labels = Predictions::new();
    if datatype == Datatype::Bytes {
        let each = |string: &[u8]| labels.push(Prediction::Bytes(digest(string)));
        element::strings(tensor, each).ok_or_else(contents)?;
    } else {
        let integers: Integers = element::integers(tensor).ok_or_else(contents)?;
        labels.extend(integers.into_iter().map(Prediction::Class));
    }
    Ok(Column::Labels(labels))
}

/// Returns the digest under which a label of bytes is known everywhere.
pub(super) fn digest(label: &[u8]) -> u64 {
    let digest = blake3::hash(label);
    let mut bytes = [0; 8];
    for (to, from) in bytes.iter_mut().zip(&digest.as_bytes()[..DIGEST]) {
        *to = *from;
    }
    u64::from_le_bytes(bytes)
}

/// Returns the place of the greatest score, the first of several; `None` where there is none.
pub(super) fn top(scores: &[f64]) -> Option<usize> {
    let mut best = None;
    for (index, score) in scores.iter().enumerate() {
        if !score.is_nan() && best.is_none_or(|(_, most)| *score > most) {
            best = Some((index, *score));
        }
    }
    best.map(|(index, _)| index)
}

impl Column {
    /// Returns how many rows there are.
    pub(super) fn rows(&self) -> usize {
        match self {
            Self::Labels(labels) => labels.len(),
            Self::Floats { columns, values } => values.len() / columns.max(&1),
        }
    }

    /// Returns a prediction for each row.
    pub(super) fn predictions(&self, loss: Loss) -> Predictions {
        match self {
            Self::Labels(labels) => labels.clone(),
            Self::Floats { columns: 1, values } => {
                values.iter().copied().map(Prediction::number).collect()
            }
            Self::Floats { columns, values } => values
                .chunks_exact(*columns)
                .map(|scores| Prediction::scores(scores, loss))
                .collect(),
        }
    }
}

impl Prediction {
    /// Makes the prediction of a number.
    pub(super) fn number(number: f64) -> Self {
        match number.is_nan() {
            true => Self::Nothing,
            false => Self::Number(number),
        }
    }

    /// Makes the prediction of scores.
    pub(super) fn scores(scores: &[f64], loss: Loss) -> Self {
        let top = top(scores).and_then(|top| u32::try_from(top).ok());
        let Some(top) = top else {
            return Self::Nothing;
        };
        let surprise = matches!(loss, Loss::Log { .. })
            .then(|| Surprise::of(scores))
            .flatten();
        Self::Scores { top, surprise }
    }

    /// Returns what others must say to agree; nothing agrees with nothing.
    pub(super) fn key(&self) -> Option<Key> {
        match self {
            Self::Nothing => None,
            Self::Class(class) => Some(Key::Integer(*class)),
            Self::Bytes(digest) => Some(Key::Bytes(*digest)),
            Self::Scores { top, .. } => Some(Key::Integer((*top).into())),
            Self::Number(number) => Some(match value::whole(*number) {
                Some(whole) => Key::Integer(whole),
                None => Key::Number(number.to_bits()),
            }),
        }
    }

    /// Tells whether it is one of several classes.
    pub(super) const fn is_class(&self) -> bool {
        matches!(self, Self::Class(_) | Self::Bytes(_) | Self::Scores { .. })
    }

    /// Appends it in a few bytes.
    pub fn pack(&self, out: &mut Vec<u8>) {
        match self {
            Self::Nothing => out.push(NOTHING),
            Self::Class(class) => {
                out.push(CLASS);
                // Numbers near zero are short on both sides of it.
                put_varint((class << 1 ^ class >> 127).cast_unsigned(), out);
            }
            Self::Bytes(digest) => {
                out.push(BYTES);
                out.extend_from_slice(&digest.to_le_bytes()[..DIGEST]);
            }
            Self::Number(number) => {
                let short = *number as f32;
                if f64::from(short).to_bits() == number.to_bits() {
                    out.push(SINGLE);
                    out.extend_from_slice(&short.to_le_bytes());
                } else {
                    out.push(DOUBLE);
                    out.extend_from_slice(&number.to_le_bytes());
                }
            }
            Self::Scores { top, surprise } => {
                out.push(match surprise {
                    None => SCORES,
                    Some(_) => SURPRISE,
                });
                put_varint((*top).into(), out);
                if let Some(surprise) = surprise {
                    surprise.pack(out);
                }
            }
        }
    }

    /// Takes a packed one off the front, or returns `None` where there is none.
    pub fn unpack(packed: &mut &[u8]) -> Option<Self> {
        let [kind] = take(packed)?;
        Some(match kind {
            NOTHING => Self::Nothing,
            CLASS => {
                let folded = take_varint(packed)?;
                Self::Class((folded >> 1).cast_signed() ^ -(folded & 1).cast_signed())
            }
            BYTES => {
                let [a, b, c, d, e, f] = take(packed)?;
                Self::Bytes(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
            }
            SINGLE => Self::number(f32::from_le_bytes(take(packed)?).into()),
            DOUBLE => Self::number(f64::from_le_bytes(take(packed)?)),
            SCORES => Self::Scores {
                top: take_varint(packed)?.try_into().ok()?,
                surprise: None,
            },
            SURPRISE => Self::Scores {
                top: take_varint(packed)?.try_into().ok()?,
                surprise: Some(Surprise::unpack(packed)?),
            },
            _ => return None,
        })
    }
}

/// Takes so many bytes off the front.
pub(super) fn take<const N: usize>(packed: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = packed.split_first_chunk()?;
    *packed = rest;
    Some(*taken)
}

/// Appends a number in seven bits a byte, the lowest first.
pub(super) fn put_varint(mut number: u128, out: &mut Vec<u8>) {
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes such a number off the front.
pub(super) fn take_varint(packed: &mut &[u8]) -> Option<u128> {
    let mut number = 0;
    for shift in (0..u128::BITS).step_by(7) {
        let [byte] = take(packed)?;
        number |= u128::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Bytes of a digest: one pair of labels in 10^14 looks the same.
const DIGEST: usize = 6;

const NOTHING: u8 = 0;
const CLASS: u8 = 1;
const BYTES: u8 = 2;
const SINGLE: u8 = 3;
const DOUBLE: u8 = 4;
const SCORES: u8 = 5;
const SURPRISE: u8 = 6;

impl std::fmt::Display for NoLabel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoOutputs => f.write_str("the answer has no outputs that are understood"),
            Self::Missing(output) => write!(f, "the answer has no output {output:?}"),
            Self::Absent(output) => {
                write!(
                    f,
                    "the contents of output {output:?} are not in the message"
                )
            }
            Self::NoRows(output) => write!(f, "output {output:?} has no rows"),
            Self::Columns {
                output,
                datatype,
                columns,
            } => write!(
                f,
                "a row of output {output:?} is {columns} elements of {datatype}, neither one label \
                 nor scores"
            ),
            Self::Contents(output) => write!(
                f,
                "the contents of output {output:?} are not what its type and its shape say"
            ),
        }
    }
}

impl std::error::Error for NoLabel {}
