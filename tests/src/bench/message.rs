//! The few messages of the Open Inference Protocol that a bench writes and reads, by hand.
//!
//! The bench must not judge the proxy's codec by the proxy's codec.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};

/// Path of the inference call.
pub const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
/// Path of the call that asks whether a model is ready.
pub const READY: &str = "/inference.GRPCInferenceService/ModelReady";
/// Path of the call that tells how good answers were.
pub const REPORT: &str = "/outrigger.v1.Feedback/Report";
/// Path of the call that asks for a model's statistics.
pub const STATISTICS: &str = "/inference.GRPCInferenceService/ModelStatistics";

/// Writes a request of one row of floats.
pub fn infer(model: &str, input: &str, row: &[f32]) -> Bytes {
    infer_rows(model, input, row.len(), row)
}

/// Writes a request of as many rows of floats as the values make with so many columns.
pub fn infer_rows(model: &str, input: &str, columns: usize, values: &[f32]) -> Bytes {
    let mut tensor = BytesMut::new();
    put_bytes(&mut tensor, 1, input.as_bytes());
    put_bytes(&mut tensor, 2, b"FP32");
    let mut shape = BytesMut::new();
    put_varint(&mut shape, (values.len() / columns.max(1)) as u64);
    put_varint(&mut shape, columns as u64);
    put_bytes(&mut tensor, 3, &shape);
    let mut raw = BytesMut::with_capacity(values.len() * 4);
    values.iter().for_each(|value| raw.put_f32_le(*value));
    let mut message = BytesMut::new();
    put_bytes(&mut message, 1, model.as_bytes());
    put_bytes(&mut message, 5, &tensor);
    put_bytes(&mut message, 7, &raw);
    message.freeze()
}

/// Writes a message whose first field is a model's name.
pub fn name(model: &str) -> Bytes {
    let mut message = BytesMut::new();
    put_bytes(&mut message, 1, model.as_bytes());
    message.freeze()
}

/// Writes what was right: a label for each of some answers, by their prediction ids.
pub fn report<'a>(told: impl IntoIterator<Item = (&'a str, u64)>) -> Bytes {
    let mut message = BytesMut::new();
    for (id, label) in told {
        let mut integer = BytesMut::new();
        put_varint(&mut integer, 1 << 3);
        put_varint(&mut integer, label);
        let mut item = BytesMut::new();
        put_bytes(&mut item, 1, id.as_bytes());
        put_bytes(&mut item, 5, &integer);
        put_bytes(&mut message, 1, &item);
    }
    message.freeze()
}

/// Reads how many labels were applied, from the answer to a report.
pub fn applied(answer: &Bytes) -> u64 {
    let applied = fields(answer).find(|(field, _)| *field == 1);
    applied
        .and_then(|(_, value)| value.number())
        .unwrap_or_default()
}

/// Finds the bytes of the `n`th output of an answer, if it has raw contents.
pub fn output(answer: &Bytes, n: usize) -> Option<Bytes> {
    let raw = fields(answer).filter(|(field, _)| *field == 6).nth(n)?;
    raw.1.bytes()
}

/// Reads how often batches of each size were executed, from the statistics of a model.
pub fn batches(answer: &Bytes) -> BTreeMap<u64, u64> {
    let mut batches = BTreeMap::new();
    let inner = |bytes: &Bytes, wanted: u32| {
        let found: Vec<Bytes> = fields(bytes)
            .filter(|(field, _)| *field == wanted)
            .filter_map(|(_, value)| value.bytes())
            .collect();
        found
    };
    let number = |bytes: &Bytes, wanted: u32| {
        fields(bytes)
            .find(|(field, _)| *field == wanted)
            .and_then(|(_, value)| value.number())
    };
    for model in inner(answer, 1) {
        for batch in inner(&model, 7) {
            let size = number(&batch, 1).unwrap_or(0);
            let count = inner(&batch, 3)
                .first()
                .and_then(|infer| number(infer, 1))
                .unwrap_or(0);
            *batches.entry(size).or_default() += count;
        }
    }
    batches
}

/// What a field of a message holds.
enum Value {
    Number(u64),
    Bytes(Bytes),
}

impl Value {
    fn number(self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(number),
            Self::Bytes(_) => None,
        }
    }

    fn bytes(self) -> Option<Bytes> {
        match self {
            Self::Number(_) => None,
            Self::Bytes(bytes) => Some(bytes),
        }
    }
}

/// Walks over the fields of a message until its end, or until it is broken.
fn fields(message: &Bytes) -> impl Iterator<Item = (u32, Value)> + use<> {
    let mut rest = message.clone();
    std::iter::from_fn(move || {
        let tag = take_varint(&mut rest)?;
        let value = match tag & 7 {
            0 => Value::Number(take_varint(&mut rest)?),
            1 => Value::Bytes(take(&mut rest, 8)?),
            2 => {
                let length = usize::try_from(take_varint(&mut rest)?).ok()?;
                Value::Bytes(take(&mut rest, length)?)
            }
            5 => Value::Bytes(take(&mut rest, 4)?),
            _ => return None,
        };
        Some((u32::try_from(tag >> 3).ok()?, value))
    })
}

fn take(rest: &mut Bytes, length: usize) -> Option<Bytes> {
    (length <= rest.len()).then(|| rest.split_to(length))
}

fn take_varint(rest: &mut Bytes) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put_bytes(into: &mut BytesMut, field: u32, bytes: &[u8]) {
    put_varint(into, u64::from(field << 3 | 2));
    put_varint(into, bytes.len() as u64);
    into.put_slice(bytes);
}

fn put_varint(into: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        into.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    into.put_u8(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_bytes_that_the_definition_gives() {
        let message = infer("m", "x", &[1.0]);
        let expected = [
            &b"\x0a\x01m"[..],
            b"\x2a\x0d\x0a\x01x\x12\x04FP32\x1a\x02\x01\x01",
            b"\x3a\x04\0\0\x80\x3f",
        ];
        assert_eq!(message, expected.concat());
    }

    #[test]
    fn a_report_has_the_bytes_that_the_definition_gives() {
        let expected = b"\x0a\x08\x0a\x02id\x2a\x02\x08\x07";
        assert_eq!(report([("id", 7)]), &expected[..]);
        assert_eq!(applied(&Bytes::from_static(b"\x08\x80\x01\x10\x02")), 128);
        assert_eq!(applied(&Bytes::from_static(b"\x10\x02")), 0);
    }

    #[test]
    fn outputs_and_batch_sizes_are_found() {
        let mut answer = BytesMut::new();
        put_bytes(&mut answer, 1, b"m");
        put_bytes(&mut answer, 6, b"first");
        put_bytes(&mut answer, 6, b"second");
        assert_eq!(
            output(&answer.freeze(), 1).expect("there are two"),
            "second"
        );

        let statistics = b"\x0a\x0c\x3a\x0a\x08\x20\x1a\x06\x08\x80\x01\x10\xe8\x07";
        let batches = batches(&Bytes::from_static(statistics));
        assert_eq!(batches, BTreeMap::from([(32, 128)]));
    }

    #[test]
    fn broken_bytes_end_the_walk() {
        for broken in [
            &b"\x0a\xff\xff\xff\xff\x0f"[..],
            b"\xff",
            b"\x0b",
            b"\x80\x80",
        ] {
            assert!(batches(&Bytes::copy_from_slice(broken)).is_empty());
        }
    }
}
