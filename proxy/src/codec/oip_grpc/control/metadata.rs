use std::ops::Range;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use outrigger_filters::{
    batch::Batchable,
    inference::{Datatype, Shape, Signature, TensorSpec},
};

use super::{MAX_DIMENSIONS, MAX_ITEMS};
use crate::codec::{
    Wire,
    protobuf::{Fields, Put as _, Source, Value, nested_len, text_len, varint_len},
};

/// What a server says of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelMetadata {
    /// The model's name.
    pub name: ByteString,
    /// The versions that are served.
    pub versions: Vec<ByteString>,
    /// The framework.
    pub platform: ByteString,
    /// The inputs and outputs; `None` where the server does not name the inputs, or names a tensor
    /// that cannot be described: half of a signature is worse than none.
    pub signature: Option<Signature>,
}

impl ModelMetadata {
    /// Reads a `ModelMetadataResponse`.
    ///
    /// # Errors
    ///
    /// Fails where the bytes are not protobuf.
    pub fn read(answer: &Bytes) -> Result<Self, Wire> {
        let mut metadata = Self::default();
        let mut signature = Signature::default();
        let mut described = true;
        let source = Source::new(answer);
        let mut fields = source.all();
        while let Some(field) = fields.next()? {
            let Value::Bytes(range) = field.value else {
                continue;
            };
            match field.number {
                NAME => metadata.name = source.text(range).unwrap_or_default(),
                VERSIONS if metadata.versions.len() < MAX_ITEMS => {
                    metadata
                        .versions
                        .push(source.text(range).unwrap_or_default());
                }
                PLATFORM => metadata.platform = source.text(range).unwrap_or_default(),
                INPUTS | OUTPUTS => {
                    let tensors = match field.number {
                        INPUTS => &mut signature.inputs,
                        _ => &mut signature.outputs,
                    };
                    match read_tensor(&source, range)? {
                        Some(tensor) if tensors.len() < MAX_ITEMS => tensors.push(tensor),
                        _ => described = false,
                    }
                }
                _ => {}
            }
        }
        metadata.signature = (described && !signature.inputs.is_empty()).then_some(signature);
        Ok(metadata)
    }

    /// Writes a `ModelMetadataResponse`. Where not even the number of a tensor's dimensions is
    /// known, it says none.
    pub fn write(&self) -> Bytes {
        let mut answer = BytesMut::new();
        answer.put_text(NAME, &self.name);
        for version in &self.versions {
            answer.put_head(VERSIONS, version.len());
            answer.extend_from_slice(version.as_bytes());
        }
        answer.put_text(PLATFORM, &self.platform);
        if let Some(signature) = &self.signature {
            for (number, tensors) in [(INPUTS, &signature.inputs), (OUTPUTS, &signature.outputs)] {
                for tensor in tensors {
                    write_tensor(&mut answer, number, tensor);
                }
            }
        }
        answer.freeze()
    }
}

/// Tells from a signature whether a model takes batches: it does where the first dimension of every
/// input and output is open. Otherwise nothing is known, and never that it takes none: servers
/// declare shapes without the dimension of the rows, or with an example's, and what the
/// configuration says of batches must hold then.
///
/// Only for servers that have no configuration to show: Triton shows an open first dimension also
/// for models that take no batches.
pub fn batchable(signature: Option<&Signature>) -> Batchable {
    let open = |tensors: &[TensorSpec]| {
        !tensors.is_empty()
            && tensors.iter().all(|tensor| {
                let shape = tensor.shape.as_ref();
                shape.and_then(|shape| shape.dimensions().first()) == Some(&-1)
            })
    };
    match signature {
        Some(signature) if open(&signature.inputs) && open(&signature.outputs) => Batchable::Yes {
            max_batch_size: None,
        },
        _ => Batchable::Unknown,
    }
}

fn read_tensor(source: &Source<'_>, range: Range<usize>) -> Result<Option<TensorSpec>, Wire> {
    let (mut name, mut datatype) = (Some(ByteString::new()), None);
    let mut dimensions = Dimensions::default();
    let mut fields = source.fields(range);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (TENSOR_NAME, Value::Bytes(range)) => name = source.text(range),
            (DATATYPE, Value::Bytes(range)) => {
                datatype = source
                    .text(range)
                    .and_then(|name| Datatype::from_name(&name));
            }
            (SHAPE, Value::Varint(dimension)) => dimensions.push(dimension),
            (SHAPE, Value::Bytes(packed)) => {
                let mut packed = Fields::new(source.bytes(), packed);
                while let Some(dimension) = packed.next_varint()? {
                    dimensions.push(dimension);
                }
            }
            _ => {}
        }
    }
    let (Some(name), Some(datatype), false) = (name, datatype, dimensions.too_many) else {
        return Ok(None);
    };
    // A server that declares no shape writes the same as one whose tensor has no dimensions.
    let shape = (!dimensions.shape.dimensions().is_empty()).then_some(dimensions.shape);
    Ok(Some(TensorSpec {
        name,
        datatype,
        shape,
    }))
}

#[derive(Default)]
struct Dimensions {
    shape: Shape,
    too_many: bool,
}

impl Dimensions {
    fn push(&mut self, dimension: u64) {
        if self.shape.dimensions().len() < MAX_DIMENSIONS {
            self.shape.push(dimension.cast_signed());
        } else {
            self.too_many = true;
        }
    }
}

fn write_tensor(answer: &mut BytesMut, number: u32, tensor: &TensorSpec) {
    let dimensions = match &tensor.shape {
        Some(shape) => shape.dimensions(),
        None => &[],
    };
    let packed: usize = dimensions
        .iter()
        .map(|dimension| varint_len(dimension.cast_unsigned()))
        .sum();
    let datatype = tensor.datatype.name();
    let shape = match packed {
        0 => 0,
        packed => nested_len(SHAPE, packed),
    };
    let len = text_len(TENSOR_NAME, &tensor.name) + text_len(DATATYPE, datatype) + shape;
    answer.put_head(number, len);
    answer.put_text(TENSOR_NAME, &tensor.name);
    answer.put_text(DATATYPE, datatype);
    if packed > 0 {
        answer.put_head(SHAPE, packed);
        for dimension in dimensions {
            answer.put_varint(dimension.cast_unsigned());
        }
    }
}

// Field numbers of `ModelMetadataResponse` and its tensors.
const NAME: u32 = 1;
const VERSIONS: u32 = 2;
const PLATFORM: u32 = 3;
const INPUTS: u32 = 4;
const OUTPUTS: u32 = 5;
const TENSOR_NAME: u32 = 1;
const DATATYPE: u32 = 2;
const SHAPE: u32 = 3;

#[cfg(test)]
pub(in crate::codec) mod tests {
    use proptest::{collection::vec, option, prelude::*, sample::select};

    use super::*;

    fn spec(name: &'static str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
        TensorSpec {
            name: name.into(),
            datatype,
            shape: Some(Shape::new(shape.iter().copied())),
        }
    }

    /// What Triton says of the digits, in whatever form.
    pub(in crate::codec) fn digits() -> ModelMetadata {
        ModelMetadata {
            name: "digits_svm".into(),
            versions: vec!["1".into()],
            platform: "python".into(),
            signature: Some(Signature {
                inputs: vec![spec("x", Datatype::Fp32, &[-1, 64])],
                outputs: vec![
                    spec("label", Datatype::Int64, &[-1, 1]),
                    spec("proba", Datatype::Fp32, &[-1, 10]),
                ],
            }),
        }
    }

    /// Any metadata that can be written; a shape without dimensions is read as none.
    pub(in crate::codec) fn any() -> impl Strategy<Value = ModelMetadata> {
        let signature = (vec(any_tensor(), 1..4), vec(any_tensor(), 0..4))
            .prop_map(|(inputs, outputs)| Signature { inputs, outputs });
        let texts = vec(".*", 0..4);
        (".*", texts, ".*", option::of(signature)).prop_map(
            |(name, versions, platform, signature)| ModelMetadata {
                name: name.into(),
                versions: versions.into_iter().map(ByteString::from).collect(),
                platform: platform.into(),
                signature,
            },
        )
    }

    fn any_tensor() -> impl Strategy<Value = TensorSpec> {
        let shape = vec(any_dimension(), 1..5).prop_map(Shape::new);
        (".*", select(Datatype::ALL.to_vec()), option::of(shape)).prop_map(
            |(name, datatype, shape)| TensorSpec {
                name: name.into(),
                datatype,
                shape,
            },
        )
    }

    fn any_dimension() -> impl Strategy<Value = i64> {
        prop_oneof![Just(-1), 0..1000_i64, proptest::num::i64::ANY]
    }

    fn read(answer: &'static [u8]) -> ModelMetadata {
        ModelMetadata::read(&Bytes::from_static(answer)).expect("it is protobuf")
    }

    #[test]
    fn real_servers_describe_their_tensors() {
        let triton = read(include_bytes!("../recorded/triton.digits_svm.metadata.bin"));
        assert_eq!(triton, digits());
        let mlserver = read(include_bytes!("../recorded/mlserver.digits.metadata.bin"));
        let signature = Signature {
            inputs: vec![spec("predict", Datatype::Fp32, &[-1, 64])],
            outputs: vec![spec("predict", Datatype::Int64, &[-1, 1])],
        };
        assert_eq!(mlserver.signature, Some(signature));
        assert!(mlserver.versions.is_empty());
    }

    #[test]
    fn every_datatype_of_a_real_server_is_known() {
        let types = read(include_bytes!("../recorded/triton.types.metadata.bin"));
        let signature = types.signature.expect("it is described");
        let datatypes = |tensors: &[TensorSpec]| {
            let mut datatypes: Vec<_> = tensors.iter().map(|tensor| tensor.datatype).collect();
            datatypes.sort();
            datatypes
        };
        assert_eq!(datatypes(&signature.inputs), Datatype::ALL);
        assert_eq!(datatypes(&signature.outputs), Datatype::ALL);
    }

    #[test]
    fn a_server_that_declares_nothing_describes_nothing() {
        let undeclared = read(include_bytes!(
            "../recorded/mlserver.digits_undeclared.metadata.bin"
        ));
        assert_eq!(undeclared.signature, None);
        assert_eq!(batchable(None), Batchable::Unknown);
    }

    #[test]
    fn a_tensor_that_cannot_be_described_takes_the_signature_with_it() {
        let mut answer = BytesMut::from(&*digits().write());
        write_tensor(
            &mut answer,
            OUTPUTS,
            &spec("more", Datatype::Fp32, &[1; 65]),
        );
        let read = ModelMetadata::read(&answer.freeze()).expect("it is protobuf");
        assert_eq!(read.signature, None);
        assert_eq!(read.name, "digits_svm");
    }

    #[test]
    fn metadata_speaks_of_batches_only_where_every_tensor_does() {
        let of = |input: &[i64], output: &[i64]| {
            batchable(Some(&Signature {
                inputs: vec![spec("x", Datatype::Fp32, input)],
                outputs: vec![spec("y", Datatype::Fp32, output)],
            }))
        };
        let yes = Batchable::Yes {
            max_batch_size: None,
        };
        assert_eq!(of(&[-1, 64], &[-1]), yes);
        assert_eq!(of(&[-1], &[1, 64]), Batchable::Unknown);
        assert_eq!(of(&[1], &[-1]), Batchable::Unknown);
        assert_eq!(of(&[], &[-1]), Batchable::Unknown);
        let no_outputs = Signature {
            inputs: vec![spec("x", Datatype::Fp32, &[-1])],
            outputs: vec![],
        };
        assert_eq!(batchable(Some(&no_outputs)), Batchable::Unknown);
    }

    #[test]
    fn dimensions_may_be_packed_or_not() {
        let unpacked = [
            0x22, 0x14, 0x0a, 1, b'x', 0x12, 4, b'F', b'P', b'3', b'2', 0x18, 5, 0x18, 0x80, 0x01,
            0x1a, 1, 7, 0x78, 1,
        ];
        let mut unpacked = unpacked.to_vec();
        unpacked[1] = u8::try_from(unpacked.len() - 2).expect("it is short");
        let read = ModelMetadata::read(&unpacked.into()).expect("it is protobuf");
        let input = read.signature.expect("it is described").inputs.remove(0);
        assert_eq!(input, spec("x", Datatype::Fp32, &[5, 128, 7]));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(metadata in any()) {
            prop_assert_eq!(ModelMetadata::read(&metadata.write()), Ok(metadata));
        }

        #[test]
        fn any_bytes_are_read_without_panic(answer: Vec<u8>) {
            let _ = ModelMetadata::read(&answer.into());
        }
    }
}
