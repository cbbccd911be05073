//! The calls that ask a server about its models: just as much of them as is acted upon.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use outrigger_filters::batch::{Batchable, Unbatchable};

use crate::codec::{
    Wire,
    protobuf::{Fields, Put, Value},
};

/// What Triton's `ModelConfig` says of batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelConfig {
    max_batch_size: u64,
    sequence_batching: bool,
    decoupled: bool,
    /// An input is ragged, or its values are shapes.
    ragged: bool,
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

/// Tells from a `ModelMetadataResponse` whether a model takes batches: it does where the first
/// dimension of every input and output is open. Otherwise nothing is known, and never that it
/// takes none: servers declare shapes without the dimension of the rows, or with an example's, and
/// what the configuration says of batches must hold then.
///
/// Only for servers without `ModelConfig`: Triton shows an open first dimension also for models
/// that take no batches.
///
/// # Errors
///
/// Fails where the bytes are not protobuf.
pub fn metadata_batchable(answer: &[u8]) -> Result<Batchable, Wire> {
    let (mut inputs, mut outputs, mut fixed) = (0, 0, false);
    each(answer, 0..answer.len(), |number, value| {
        match (number, value) {
            (METADATA_INPUTS | METADATA_OUTPUTS, Value::Bytes(range)) => {
                if number == METADATA_INPUTS {
                    inputs += 1;
                } else {
                    outputs += 1;
                }
                // An int64 of -1 is written as the varint of 2^64 - 1.
                if first_dimension(answer, range)? != Some(u64::MAX) {
                    fixed = true;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    })?;
    Ok(match (inputs, outputs, fixed) {
        (0, ..) | (_, 0, _) | (_, _, true) => Batchable::Unknown,
        (_, _, false) => Batchable::Yes {
            max_batch_size: None,
        },
    })
}

/// Reads a `ServerReadyResponse` or a `ModelReadyResponse`.
pub fn ready(answer: &[u8]) -> bool {
    let mut ready = false;
    let read = each(answer, 0..answer.len(), |number, value| {
        if let (1, Value::Varint(value)) = (number, value) {
            ready = value != 0;
        }
        Ok(())
    });
    read.is_ok() && ready
}

/// Writes the question about a model that all these calls share: its name and version.
pub fn model_request(model: &str, version: &str) -> Bytes {
    let mut request = BytesMut::new();
    request.put_text(1, model);
    request.put_text(2, version);
    request.freeze()
}

fn first_dimension(answer: &[u8], tensor: Range<usize>) -> Result<Option<u64>, Wire> {
    let mut first = None;
    each(answer, tensor, |number, value| {
        if number == SHAPE && first.is_none() {
            first = match value {
                Value::Varint(dimension) => Some(dimension),
                Value::Bytes(packed) => Fields::new(answer, packed).next_varint()?,
                _ => None,
            };
        }
        Ok(())
    })?;
    Ok(first)
}

fn each(
    message: &[u8],
    range: Range<usize>,
    mut field: impl FnMut(u32, Value) -> Result<(), Wire>,
) -> Result<(), Wire> {
    let mut fields = Fields::new(message, range);
    while let Some(found) = fields.next()? {
        field(found.number, found.value)?;
    }
    Ok(())
}

// Field numbers of Triton's `ModelConfig` and what stands in it.
const MAX_BATCH_SIZE: u32 = 4;
const INPUT: u32 = 5;
const SEQUENCE_BATCHING: u32 = 13;
const MODEL_TRANSACTION_POLICY: u32 = 19;
const IS_SHAPE_TENSOR: u32 = 6;
const ALLOW_RAGGED_BATCH: u32 = 7;
const DECOUPLED: u32 = 1;
// Field numbers of `ModelMetadataResponse` and its tensors.
const METADATA_INPUTS: u32 = 4;
const METADATA_OUTPUTS: u32 = 5;
const SHAPE: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

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
    fn metadata_speaks_of_batches_only_where_every_tensor_does() {
        let open = [
            0x18, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0x18, 64,
        ];
        let packed = message(&[(3, &[255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 64])]);
        let fixed = [0x18, 1, 0x18, 64];
        let of = |input: &[u8], output: &[u8]| {
            metadata_batchable(&message(&[(4, input), (5, output)])).unwrap()
        };
        assert_eq!(
            of(&open, &packed),
            Batchable::Yes {
                max_batch_size: None
            }
        );
        assert_eq!(of(&open, &fixed), Batchable::Unknown);
        assert_eq!(of(&fixed, &open), Batchable::Unknown);
        assert_eq!(of(&[], &open), Batchable::Unknown);
        assert_eq!(metadata_batchable(&[]).unwrap(), Batchable::Unknown);
    }

    #[test]
    fn what_is_no_protobuf_is_an_error_or_not_ready() {
        assert!(ModelConfig::read(&[0x0a]).is_err());
        assert!(metadata_batchable(&[0x22, 9]).is_err());
        assert!(!ready(&[0x08]));
        assert!(!ready(&[]));
        assert!(ready(&[0x08, 1]));
    }
}
