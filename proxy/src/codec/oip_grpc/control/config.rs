use outrigger_filters::batch::{Batchable, Unbatchable};

use super::each;
use crate::codec::{Wire, protobuf::Value};

/// What Triton's `ModelConfig` says of batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelConfig {
    pub(in crate::codec) max_batch_size: u64,
    pub(in crate::codec) sequence_batching: bool,
    pub(in crate::codec) decoupled: bool,
    /// An input is ragged, or its values are shapes.
    pub(in crate::codec) ragged: bool,
}

impl ModelConfig {
    /// Reads a `ModelConfigResponse`.
    ///
    /// # Errors
    ///
    /// Fails where the bytes are not protobuf.
    pub fn read(answer: &[u8]) -> Result<Self, Wire> {
        let mut config = Self::default();
        each(answer, 0..answer.len(), |number, value| {
            match (number, value) {
                (1, Value::Bytes(range)) => each(answer, range, |number, value| {
                    config.field(answer, number, value)
                }),
                _ => Ok(()),
            }
        })?;
        Ok(config)
    }

    /// Tells whether the model takes batches, and how large ones.
    pub fn batchable(&self) -> Batchable {
        if self.decoupled {
            Batchable::No(Unbatchable::Decoupled)
        } else if self.sequence_batching {
            Batchable::No(Unbatchable::Stateful)
        } else if self.ragged {
            Batchable::No(Unbatchable::Ragged)
        } else {
            match usize::try_from(self.max_batch_size) {
                Ok(0) => Batchable::No(Unbatchable::NoBatchDimension),
                Ok(rows) => Batchable::Yes {
                    max_batch_size: Some(rows),
                },
                Err(_) => Batchable::Yes {
                    max_batch_size: None,
                },
            }
        }
    }

    fn field(&mut self, answer: &[u8], number: u32, value: Value) -> Result<(), Wire> {
        match (number, value) {
            (MAX_BATCH_SIZE, Value::Varint(rows)) => self.max_batch_size = rows,
            (SEQUENCE_BATCHING, Value::Bytes(_)) => self.sequence_batching = true,
            (INPUT, Value::Bytes(range)) => each(answer, range, |number, value| {
                if let (IS_SHAPE_TENSOR | ALLOW_RAGGED_BATCH, Value::Varint(1..)) = (number, value)
                {
                    self.ragged = true;
                }
                Ok(())
            })?,
            (MODEL_TRANSACTION_POLICY, Value::Bytes(range)) => {
                each(answer, range, |number, value| {
                    if let (DECOUPLED, Value::Varint(1..)) = (number, value) {
                        self.decoupled = true;
                    }
                    Ok(())
                })?;
            }
            _ => {}
        }
        Ok(())
    }
}

// Field numbers of Triton's `ModelConfig` and what stands in it.
const MAX_BATCH_SIZE: u32 = 4;
const INPUT: u32 = 5;
const SEQUENCE_BATCHING: u32 = 13;
const MODEL_TRANSACTION_POLICY: u32 = 19;
const IS_SHAPE_TENSOR: u32 = 6;
const ALLOW_RAGGED_BATCH: u32 = 7;
const DECOUPLED: u32 = 1;

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::codec::protobuf::Put as _;

    fn message(fields: &[(u32, &[u8])]) -> Vec<u8> {
        let mut message = BytesMut::new();
        for (number, bytes) in fields {
            message.put_head(*number, bytes.len());
            message.extend_from_slice(bytes);
        }
        message.to_vec()
    }

    fn config(fields: &[u8]) -> Batchable {
        ModelConfig::read(&message(&[(1, fields)]))
            .unwrap()
            .batchable()
    }

    #[test]
    fn a_model_takes_as_many_rows_as_its_configuration_says() {
        assert_eq!(
            config(&[0x20, 64]),
            Batchable::Yes {
                max_batch_size: Some(64)
            }
        );
        assert_eq!(config(&[]), Batchable::No(Unbatchable::NoBatchDimension));
    }

    #[test]
    fn decoupled_stateful_and_ragged_models_take_no_batches() {
        let decoupled = message(&[(19, &[8, 1])]);
        let stateful = message(&[(13, &[])]);
        let ragged = message(&[(5, &[0x38, 1])]);
        let shapes = message(&[(5, &[0x30, 1])]);
        let of = |mut fields: Vec<u8>| {
            fields.extend([0x20, 8]);
            config(&fields)
        };
        assert_eq!(of(decoupled), Batchable::No(Unbatchable::Decoupled));
        assert_eq!(of(stateful), Batchable::No(Unbatchable::Stateful));
        assert_eq!(of(ragged), Batchable::No(Unbatchable::Ragged));
        assert_eq!(of(shapes), Batchable::No(Unbatchable::Ragged));
        assert_eq!(
            of(vec![]),
            Batchable::Yes {
                max_batch_size: Some(8)
            }
        );
    }

    #[test]
    fn real_models_are_what_their_configuration_says() {
        let of = |answer: &[u8]| ModelConfig::read(answer).unwrap().batchable();
        assert_eq!(
            of(include_bytes!("../recorded/triton.digits_svm.config.bin")),
            Batchable::Yes {
                max_batch_size: Some(128)
            }
        );
        assert_eq!(
            of(include_bytes!("../recorded/triton.sequence.config.bin")),
            Batchable::No(Unbatchable::Stateful)
        );
        assert_eq!(
            of(include_bytes!("../recorded/triton.stream.config.bin")),
            Batchable::No(Unbatchable::Decoupled)
        );
        assert_eq!(
            of(include_bytes!("../recorded/triton.unbatched.config.bin")),
            Batchable::No(Unbatchable::NoBatchDimension)
        );
    }

    #[test]
    fn what_is_no_protobuf_is_an_error() {
        assert!(ModelConfig::read(&[0x0a]).is_err());
    }
}
