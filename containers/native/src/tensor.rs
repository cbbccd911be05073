//! Tensors as they lie on the wire, and their two forms: raw and typed.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use tonic::Status;

use crate::inference::{DataType, InferTensorContents};

/// The element types of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Datatype {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned, 8 bits.
    Uint8,
    /// Unsigned, 16 bits.
    Uint16,
    /// Unsigned, 32 bits.
    Uint32,
    /// Unsigned, 64 bits.
    Uint64,
    /// Signed, 8 bits.
    Int8,
    /// Signed, 16 bits.
    Int16,
    /// Signed, 32 bits.
    Int32,
    /// Signed, 64 bits.
    Int64,
    /// IEEE half precision; it has no typed form.
    Fp16,
    /// Brain float; it has no typed form.
    Bf16,
    /// IEEE single precision.
    Fp32,
    /// IEEE double precision.
    Fp64,
    /// Strings of bytes, each behind its length in the raw form.
    Bytes,
}

/// A named tensor whose data is in the raw form: little endian, row after row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// The name under which the model knows it.
    pub name: String,
    /// What its elements are.
    pub datatype: Datatype,
    /// All dimensions, that of the batch among them.
    pub shape: Vec<i64>,
    /// The elements.
    pub data: Bytes,
}

/// Why contents are not the tensor that was announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mismatch {
    /// So many bytes were expected, so many came.
    Bytes { expected: usize, got: usize },
    /// So many elements were expected, so many came.
    Elements { expected: usize, got: usize },
    /// The contents are not those of the datatype.
    Kind,
}

impl Datatype {
    /// Every datatype of the protocol.
    pub const ALL: [Self; 14] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Bf16,
        Self::Fp32,
        Self::Fp64,
        Self::Bytes,
    ];

    /// The name in requests and metadata.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }

    /// The datatype of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|datatype| datatype.name() == name)
    }

    /// The bytes of one element; none for [`Datatype::Bytes`].
    pub fn width(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }

    /// Whether a request can carry it outside of the raw contents.
    pub fn has_typed_form(self) -> bool {
        !matches!(self, Self::Fp16 | Self::Bf16)
    }

    /// The name in a model's configuration.
    pub(crate) fn in_config(self) -> DataType {
        match self {
            Self::Bool => DataType::TypeBool,
            Self::Uint8 => DataType::TypeUint8,
            Self::Uint16 => DataType::TypeUint16,
            Self::Uint32 => DataType::TypeUint32,
            Self::Uint64 => DataType::TypeUint64,
            Self::Int8 => DataType::TypeInt8,
            Self::Int16 => DataType::TypeInt16,
            Self::Int32 => DataType::TypeInt32,
            Self::Int64 => DataType::TypeInt64,
            Self::Fp16 => DataType::TypeFp16,
            Self::Bf16 => DataType::TypeBf16,
            Self::Fp32 => DataType::TypeFp32,
            Self::Fp64 => DataType::TypeFp64,
            Self::Bytes => DataType::TypeString,
        }
    }
}

impl Tensor {
    /// A tensor of single precision numbers.
    pub fn fp32(name: impl Into<String>, shape: &[i64], values: &[f32]) -> Self {
        let data = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        Self {
            name: name.into(),
            datatype: Datatype::Fp32,
            shape: shape.to_vec(),
            data,
        }
    }

    /// A tensor of whole numbers.
    pub fn int64(name: impl Into<String>, shape: &[i64], values: &[i64]) -> Self {
        let data = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        Self {
            name: name.into(),
            datatype: Datatype::Int64,
            shape: shape.to_vec(),
            data,
        }
    }

    /// The values of a tensor of single precision numbers; nothing for another datatype.
    pub fn as_fp32(&self) -> Vec<f32> {
        match self.datatype {
            Datatype::Fp32 => self
                .data
                .as_chunks()
                .0
                .iter()
                .copied()
                .map(f32::from_le_bytes)
                .collect(),
            _ => Vec::new(),
        }
    }

    /// The values of a tensor of whole numbers; nothing for another datatype.
    pub fn as_int64(&self) -> Vec<i64> {
        match self.datatype {
            Datatype::Int64 => self
                .data
                .as_chunks()
                .0
                .iter()
                .copied()
                .map(i64::from_le_bytes)
                .collect(),
            _ => Vec::new(),
        }
    }

    /// The first element of each of `rows` rows, without a length before it.
    pub(crate) fn first_elements(&self, rows: usize) -> impl Iterator<Item = &[u8]> {
        let elements = self.elements();
        let stride = elements.len().checked_div(rows).unwrap_or(0);
        (0..rows)
            .filter_map(move |row| {
                if stride == 0 {
                    None
                } else {
                    elements.get(row * stride).cloned()
                }
            })
            .map(|range| &self.data[range])
    }

    /// The same tensor with other numbers, where it has single precision ones.
    pub(crate) fn with_numbers(&self, change: &mut impl FnMut(f32) -> f32) -> Self {
        match self.datatype {
            Datatype::Fp32 => {
                let numbers: Vec<f32> = self.as_fp32().into_iter().map(change).collect();
                Self::fp32(self.name.clone(), &self.shape, &numbers)
            }
            _ => self.clone(),
        }
    }

    /// The same tensor with another number of rows: the last ones are cut off, or the first ones come again.
    pub(crate) fn with_rows(&self, rows: usize, wanted: usize) -> Self {
        let mut shape = self.shape.clone();
        if let Some(first) = shape.first_mut() {
            *first = wanted as i64;
        }
        let elements = self.elements();
        let stride = elements.len().checked_div(rows).unwrap_or(0);
        let length = if self.datatype == Datatype::Bytes {
            LENGTH
        } else {
            0
        };
        let mut data = BytesMut::new();
        if stride > 0 {
            for row in (0..wanted).map(|row| row % rows) {
                for element in &elements[row * stride..][..stride] {
                    data.put_slice(&self.data[element.start - length..element.end]);
                }
            }
        }
        Self {
            name: self.name.clone(),
            datatype: self.datatype,
            shape,
            data: data.freeze(),
        }
    }

    /// Where each element lies.
    fn elements(&self) -> Vec<Range<usize>> {
        match self.datatype.width() {
            Some(width) => (0..self.data.len() / width)
                .map(|at| at * width..(at + 1) * width)
                .collect(),
            None => strings(&self.data).unwrap_or_default(),
        }
    }
}

/// How many elements a shape holds; none if it is negative or beyond all bounds.
pub(crate) fn elements_of(shape: &[i64]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |product, &dimension| {
        product.checked_mul(usize::try_from(dimension).ok()?)
    })
}

/// Checks that raw contents are what the shape says.
pub(crate) fn check_raw(datatype: Datatype, elements: usize, raw: &[u8]) -> Result<(), Mismatch> {
    let Some(width) = datatype.width() else {
        let got = strings(raw).ok_or(Mismatch::Kind)?.len();
        return if got == elements {
            Ok(())
        } else {
            Err(Mismatch::Elements {
                expected: elements,
                got,
            })
        };
    };
    match elements.checked_mul(width) {
        Some(expected) if expected == raw.len() => Ok(()),
        expected => Err(Mismatch::Bytes {
            expected: expected.unwrap_or(usize::MAX),
            got: raw.len(),
        }),
    }
}

/// Turns typed contents into raw ones.
pub(crate) fn raw_from_typed(
    datatype: Datatype,
    elements: usize,
    contents: &InferTensorContents,
) -> Result<Bytes, Mismatch> {
    let got = length_of(datatype, contents).ok_or(Mismatch::Kind)?;
    if got != elements {
        return Err(Mismatch::Elements {
            expected: elements,
            got,
        });
    }
    let mut raw = BytesMut::with_capacity(datatype.width().map_or(0, |width| width * got));
    match datatype {
        Datatype::Bool => raw.extend(contents.bool_contents.iter().map(|&value| u8::from(value))),
        // The wire widens small integers; a server narrows them again without a word.
        Datatype::Int8 => raw.extend(contents.int_contents.iter().map(|&value| value as u8)),
        Datatype::Int16 => contents
            .int_contents
            .iter()
            .for_each(|&v| raw.put_i16_le(v as i16)),
        Datatype::Int32 => contents
            .int_contents
            .iter()
            .for_each(|&v| raw.put_i32_le(v)),
        Datatype::Int64 => contents
            .int64_contents
            .iter()
            .for_each(|&v| raw.put_i64_le(v)),
        Datatype::Uint8 => raw.extend(contents.uint_contents.iter().map(|&value| value as u8)),
        Datatype::Uint16 => contents
            .uint_contents
            .iter()
            .for_each(|&v| raw.put_u16_le(v as u16)),
        Datatype::Uint32 => contents
            .uint_contents
            .iter()
            .for_each(|&v| raw.put_u32_le(v)),
        Datatype::Uint64 => contents
            .uint64_contents
            .iter()
            .for_each(|&v| raw.put_u64_le(v)),
        Datatype::Fp32 => contents
            .fp32_contents
            .iter()
            .for_each(|&v| raw.put_f32_le(v)),
        Datatype::Fp64 => contents
            .fp64_contents
            .iter()
            .for_each(|&v| raw.put_f64_le(v)),
        Datatype::Bytes => {
            for string in &contents.bytes_contents {
                let length = u32::try_from(string.len()).map_err(|_| Mismatch::Kind)?;
                raw.put_u32_le(length);
                raw.put_slice(string);
            }
        }
        Datatype::Fp16 | Datatype::Bf16 => return Err(Mismatch::Kind),
    }
    Ok(raw.freeze())
}

/// Turns a tensor's raw contents into typed ones.
pub(crate) fn typed_from_raw(tensor: &Tensor) -> Result<InferTensorContents, Status> {
    let raw = &tensor.data;
    let mut typed = InferTensorContents::default();
    match tensor.datatype {
        Datatype::Bool => typed.bool_contents = raw.iter().map(|&byte| byte != 0).collect(),
        Datatype::Int8 => {
            typed.int_contents = raw.iter().map(|&byte| (byte as i8).into()).collect()
        }
        Datatype::Int16 => typed.int_contents = numbers(raw, |b| i16::from_le_bytes(b).into()),
        Datatype::Int32 => typed.int_contents = numbers(raw, i32::from_le_bytes),
        Datatype::Int64 => typed.int64_contents = numbers(raw, i64::from_le_bytes),
        Datatype::Uint8 => typed.uint_contents = raw.iter().map(|&byte| byte.into()).collect(),
        Datatype::Uint16 => typed.uint_contents = numbers(raw, |b| u16::from_le_bytes(b).into()),
        Datatype::Uint32 => typed.uint_contents = numbers(raw, u32::from_le_bytes),
        Datatype::Uint64 => typed.uint64_contents = numbers(raw, u64::from_le_bytes),
        Datatype::Fp32 => typed.fp32_contents = numbers(raw, f32::from_le_bytes),
        Datatype::Fp64 => typed.fp64_contents = numbers(raw, f64::from_le_bytes),
        Datatype::Bytes => {
            let strings = strings(raw).unwrap_or_default();
            typed.bytes_contents = strings.into_iter().map(|range| raw.slice(range)).collect();
        }
        Datatype::Fp16 | Datatype::Bf16 => {
            return Err(Status::invalid_argument(format!(
                "output '{}' is {}, which has no typed form",
                tensor.name,
                tensor.datatype.name()
            )));
        }
    }
    Ok(typed)
}

/// Where the strings lie behind their lengths; none if the last one is cut off.
fn strings(raw: &[u8]) -> Option<Vec<Range<usize>>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < raw.len() {
        let length = raw.get(at..)?.first_chunk::<LENGTH>()?;
        let start = at + LENGTH;
        let end = start.checked_add(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        raw.get(start..end)?;
        found.push(start..end);
        at = end;
    }
    Some(found)
}

/// The number of typed elements of this datatype; none if there are elements of another.
fn length_of(datatype: Datatype, contents: &InferTensorContents) -> Option<usize> {
    let lists = [
        contents.bool_contents.len(),
        contents.int_contents.len(),
        contents.int64_contents.len(),
        contents.uint_contents.len(),
        contents.uint64_contents.len(),
        contents.fp32_contents.len(),
        contents.fp64_contents.len(),
        contents.bytes_contents.len(),
    ];
    let own = match datatype {
        Datatype::Bool => 0,
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => 1,
        Datatype::Int64 => 2,
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => 3,
        Datatype::Uint64 => 4,
        Datatype::Fp32 => 5,
        Datatype::Fp64 => 6,
        Datatype::Bytes => 7,
        Datatype::Fp16 | Datatype::Bf16 => return None,
    };
    let strangers: usize = lists
        .iter()
        .enumerate()
        .filter(|(at, _)| *at != own)
        .map(|(_, n)| n)
        .sum();
    (strangers == 0).then_some(lists[own])
}

fn numbers<const WIDTH: usize, T>(raw: &[u8], read: impl Fn([u8; WIDTH]) -> T) -> Vec<T> {
    raw.as_chunks().0.iter().copied().map(read).collect()
}

/// The bytes of the length before each string in raw contents.
const LENGTH: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn strings_of(values: &[&str]) -> Bytes {
        let contents = InferTensorContents {
            bytes_contents: values
                .iter()
                .map(|value| Bytes::copy_from_slice(value.as_bytes()))
                .collect(),
            ..Default::default()
        };
        raw_from_typed(Datatype::Bytes, values.len(), &contents).expect("strings have a raw form")
    }

    #[test]
    fn a_string_that_is_cut_off_is_no_element() {
        let whole = strings_of(&["one", ""]);
        assert_eq!(check_raw(Datatype::Bytes, 2, &whole), Ok(()));
        for length in 1..whole.len() {
            assert!(
                check_raw(Datatype::Bytes, 2, &whole[..length]).is_err(),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn a_shape_beyond_all_bounds_holds_no_elements() {
        assert_eq!(elements_of(&[2, 3]), Some(6));
        assert_eq!(elements_of(&[]), Some(1));
        assert_eq!(elements_of(&[-1, 3]), None);
        assert_eq!(elements_of(&[i64::MAX, i64::MAX]), None);
    }

    #[test]
    fn rows_come_again_or_are_cut_off() {
        let tensor = Tensor::fp32("x", &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(
            tensor.with_rows(2, 1),
            Tensor::fp32("x", &[1, 2], &[1.0, 2.0])
        );
        assert_eq!(
            tensor.with_rows(2, 3),
            Tensor::fp32("x", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 1.0, 2.0])
        );
        let words = Tensor {
            name: "w".to_owned(),
            datatype: Datatype::Bytes,
            shape: vec![2, 1],
            data: strings_of(&["yes", "no"]),
        };
        assert_eq!(
            words.with_rows(2, 3).data,
            strings_of(&["yes", "no", "yes"])
        );
        assert_eq!(
            words.first_elements(2).collect::<Vec<_>>(),
            [&b"yes"[..], b"no"]
        );
    }
}
