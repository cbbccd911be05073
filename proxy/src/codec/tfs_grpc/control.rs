//! The calls that ask a server about its models: `GetModelMetadata` and `GetModelStatus`, both ways.
//!
//! Messages are without the five bytes that stand before them in a call.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use outrigger_filters::{
    batch::Batchable,
    inference::{Code, Shape, Signature, TensorSpec},
};

use super::{Fault, Malformed, datatype, spec::Spec};
use crate::codec::protobuf::{Kind, Put, Source, Value};

pub use super::spec::DEFAULT_SIGNATURE;

/// What is asked of a server: which of its models is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// The model's name.
    pub model: ByteString,
    /// The version, if one is named.
    pub version: Option<i64>,
    /// The version's label; empty for none.
    pub label: ByteString,
    /// The kinds of metadata that are wanted; of `GetModelMetadata` alone, which knows
    /// [`SIGNATURE_DEF`] and refuses others.
    pub fields: Vec<ByteString>,
}

/// What a model takes and gives: the answer to `GetModelMetadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelMetadata {
    /// The model's name.
    pub model: ByteString,
    /// The version that is described.
    pub version: Option<i64>,
    /// Its signatures, in the order of their names.
    pub signatures: Vec<NamedSignature>,
}

/// One way in which a model can be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedSignature {
    /// The name by which it is asked for.
    pub name: ByteString,
    /// What it is for, as [`PREDICT`].
    pub method: ByteString,
    /// Its inputs and outputs, in the order of their names.
    pub signature: Signature,
}

/// What a server says of one version of a model: a part of the answer to `GetModelStatus`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionStatus {
    /// The version.
    pub version: i64,
    /// How far it is.
    pub state: State,
    /// The error that it has run into; `Ok` for none.
    pub error_code: Code,
    /// The error's words.
    pub error_message: ByteString,
}

/// How far a version of a model is.
///
/// ```text
/// Start -> Loading -> Available -> Unloading -> End
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nothing is known of it.
    #[default]
    Unknown,
    /// It is known, and not loaded.
    Start,
    /// It is about to be loaded.
    Loading,
    /// It answers.
    Available,
    /// It is about to be unloaded.
    Unloading,
    /// It is unloaded, or could not be loaded.
    End,
}

impl Question {
    /// Reads a `GetModelMetadataRequest` or a `GetModelStatusRequest`.
    ///
    /// # Errors
    ///
    /// Fails where it is not understood to the last field.
    pub fn read(message: &Bytes) -> Result<Self, Malformed> {
        let mut source = Source::new(message);
        let mut spec = Spec::default();
        let mut asked = Vec::new();
        let mut fields = source.all();
        while let Some(field) = fields.next()? {
            match (field.number, field.value) {
                (1, Value::Bytes(message)) => spec
                    .read(&source, message)
                    .map_err(|malformed| malformed.within("model_spec"))?,
                (2, Value::Bytes(name)) => {
                    source.count().ok_or(Fault::TooMany)?;
                    asked.push(text(&source, name, "metadata_field")?);
                }
                (1 | 2, _) => return Err(Fault::Type.into()),
                _ => return Err(Fault::Unknown.into()),
            }
        }
        Ok(Self {
            model: spec.name,
            version: spec.version,
            label: spec.label,
            fields: asked,
        })
    }

    /// Writes it.
    pub fn write(&self) -> Bytes {
        let mut out = BytesMut::new();
        let spec = Spec {
            name: self.model.clone(),
            version: self.version,
            label: self.label.clone(),
            signature: ByteString::new(),
        };
        spec.write(1, &mut out);
        for field in &self.fields {
            out.put_head(2, field.len());
            out.extend_from_slice(field.as_bytes());
        }
        out.freeze()
    }
}

impl ModelMetadata {
    /// Reads a `GetModelMetadataResponse`.
    ///
    /// A signature with a tensor whose datatype is not understood is left out, as is every detail
    /// that is not acted upon.
    ///
    /// # Errors
    ///
    /// Fails where the bytes are not the message, or have more tensors than are read.
    pub fn read(message: &Bytes) -> Result<Self, Malformed> {
        let mut source = Source::new(message);
        let mut spec = Spec::default();
        let mut signatures = Vec::new();
        let mut fields = source.all();
        while let Some(field) = fields.next()? {
            match (field.number, field.value) {
                (1, Value::Bytes(message)) => spec
                    .read(&source, message)
                    .map_err(|malformed| malformed.within("model_spec"))?,
                (2, Value::Bytes(entry)) => {
                    let (name, any) = entry_of(&source, entry)?;
                    if name == SIGNATURE_DEF {
                        read_signatures(&mut source, any, &mut signatures)
                            .map_err(|malformed| malformed.within("metadata[signature_def]"))?;
                    }
                }
                _ => {}
            }
        }
        signatures.sort_by(|a: &NamedSignature, b| a.name.cmp(&b.name));
        Ok(Self {
            model: spec.name,
            version: spec.version,
            signatures,
        })
    }

    /// Writes a `GetModelMetadataResponse`.
    pub fn write(&self) -> Bytes {
        let mut map = BytesMut::new();
        for named in &self.signatures {
            let mut signature = BytesMut::new();
            write_tensors(1, &named.signature.inputs, &mut signature);
            write_tensors(2, &named.signature.outputs, &mut signature);
            signature.put_text(3, &named.method);
            put_entry(1, &named.name, &signature, &mut map);
        }
        let mut any = BytesMut::new();
        any.put_text(1, SIGNATURES_TYPE);
        any.put_head(2, map.len());
        any.extend_from_slice(&map);

        let mut out = BytesMut::new();
        let spec = Spec {
            name: self.model.clone(),
            version: self.version,
            ..Spec::default()
        };
        spec.write(1, &mut out);
        put_entry(2, SIGNATURE_DEF, &any, &mut out);
        out.freeze()
    }

    /// Returns a signature by its name; empty for the one that is served by default.
    pub fn signature(&self, name: &str) -> Option<&NamedSignature> {
        let name = match name {
            "" => DEFAULT_SIGNATURE,
            name => name,
        };
        self.signatures.iter().find(|named| named.name == name)
    }
}

impl NamedSignature {
    /// Tells whether it takes batches: it does where the first dimension of every input and output
    /// is open. Otherwise nothing is known.
    pub fn batchable(&self) -> Batchable {
        let is_open = |spec: &TensorSpec| {
            let shape = spec.shape.as_ref();
            shape.is_some_and(|shape| shape.dimensions().first() == Some(&-1))
        };
        let Signature { inputs, outputs } = &self.signature;
        if inputs.is_empty() || outputs.is_empty() || !inputs.iter().chain(outputs).all(is_open) {
            return Batchable::Unknown;
        }
        Batchable::Yes {
            max_batch_size: None,
        }
    }
}

impl VersionStatus {
    /// Reads a `GetModelStatusResponse`: all the versions of which the server speaks.
    ///
    /// # Errors
    ///
    /// Fails where the bytes are not the message, or have more versions than are read.
    pub fn read_all(message: &Bytes) -> Result<Vec<Self>, Malformed> {
        let mut source = Source::new(message);
        let mut all = Vec::new();
        let mut fields = source.all();
        while let Some(field) = fields.next()? {
            if let (1, Value::Bytes(message)) = (field.number, field.value) {
                source.count().ok_or(Fault::TooMany)?;
                let status = Self::read(&source, message)
                    .map_err(|malformed| malformed.within("model_version_status"))?;
                all.push(status);
            }
        }
        Ok(all)
    }

    /// Writes a `GetModelStatusResponse`.
    pub fn write_all(all: &[Self]) -> Bytes {
        let mut out = BytesMut::new();
        for status in all {
            let mut message = BytesMut::new();
            put_number(1, status.version as u64, &mut message);
            put_number(2, status.state.number(), &mut message);
            let mut error = BytesMut::new();
            put_number(1, status.error_code.number().into(), &mut error);
            error.put_text(2, &status.error_message);
            message.put_head(3, error.len());
            message.extend_from_slice(&error);
            out.put_head(1, message.len());
            out.extend_from_slice(&message);
        }
        out.freeze()
    }

    fn read(source: &Source<'_>, range: Range<usize>) -> Result<Self, Malformed> {
        let mut status = Self {
            version: 0,
            state: State::Unknown,
            error_code: Code::Ok,
            error_message: ByteString::new(),
        };
        let mut fields = source.fields(range);
        while let Some(field) = fields.next()? {
            match (field.number, field.value) {
                (1, Value::Varint(version)) => status.version = version as i64,
                (2, Value::Varint(state)) => status.state = State::from_number(state),
                (3, Value::Bytes(error)) => {
                    let mut fields = source.fields(error);
                    while let Some(field) = fields.next()? {
                        match (field.number, field.value) {
                            (1, Value::Varint(code)) => {
                                status.error_code =
                                    Code::from_number(u32::try_from(code).unwrap_or(u32::MAX));
                            }
                            (2, Value::Bytes(words)) => {
                                status.error_message = text(source, words, "error_message")?;
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(status)
    }
}

impl State {
    /// All states, in the order in which a version goes through them.
    pub const ALL: [Self; 6] = [
        Self::Unknown,
        Self::Start,
        Self::Loading,
        Self::Available,
        Self::Unloading,
        Self::End,
    ];

    /// Returns the protocol's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Start => "START",
            Self::Loading => "LOADING",
            Self::Available => "AVAILABLE",
            Self::Unloading => "UNLOADING",
            Self::End => "END",
        }
    }

    const fn number(self) -> u64 {
        match self {
            Self::Unknown => 0,
            Self::Start => 10,
            Self::Loading => 20,
            Self::Available => 30,
            Self::Unloading => 40,
            Self::End => 50,
        }
    }

    fn from_number(number: u64) -> Self {
        let mut all = Self::ALL.into_iter();
        all.find(|state| state.number() == number)
            .unwrap_or_default()
    }
}

fn read_signatures(
    source: &mut Source<'_>,
    any: Range<usize>,
    signatures: &mut Vec<NamedSignature>,
) -> Result<(), Malformed> {
    let mut fields = source.fields(any);
    while let Some(field) = fields.next()? {
        let (2, Value::Bytes(map)) = (field.number, field.value) else {
            continue;
        };
        let mut fields = source.fields(map);
        while let Some(field) = fields.next()? {
            if let (1, Value::Bytes(entry)) = (field.number, field.value) {
                source.count().ok_or(Fault::TooMany)?;
                let (name, message) = entry_of(source, entry)?;
                signatures.extend(read_signature(source, name, message)?);
            }
        }
    }
    Ok(())
}

/// Reads a `SignatureDef`; `None` where a datatype is not understood.
fn read_signature(
    source: &mut Source<'_>,
    name: ByteString,
    range: Range<usize>,
) -> Result<Option<NamedSignature>, Malformed> {
    let mut named = NamedSignature {
        name,
        ..NamedSignature::default()
    };
    let mut understood = true;
    let mut fields = source.fields(range);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (number @ 1..=2, Value::Bytes(entry)) => {
                source.count().ok_or(Fault::TooMany)?;
                let (name, message) = entry_of(source, entry)?;
                match read_spec(source, name, message)? {
                    Some(spec) if number == 1 => named.signature.inputs.push(spec),
                    Some(spec) => named.signature.outputs.push(spec),
                    None => understood = false,
                }
            }
            (3, Value::Bytes(method)) => named.method = text(source, method, "method_name")?,
            _ => {}
        }
    }
    for specs in [&mut named.signature.inputs, &mut named.signature.outputs] {
        specs.sort_by(|a, b| a.name.cmp(&b.name));
    }
    Ok(understood.then_some(named))
}

/// Reads a `TensorInfo`.
fn read_spec(
    source: &Source<'_>,
    name: ByteString,
    range: Range<usize>,
) -> Result<Option<TensorSpec>, Malformed> {
    let mut number = 0;
    let mut shape = Some(Shape::default());
    let mut dense = true;
    let mut fields = source.fields(range);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (2, Value::Varint(value)) => number = value,
            (3, Value::Bytes(message)) => shape = read_shape(source, message)?,
            // The parts of a sparse tensor, or of another that has several.
            (4 | 5, _) => dense = false,
            _ => {}
        }
    }
    let datatype = datatype::from_number(number).filter(|_| dense);
    Ok(datatype.map(|datatype| TensorSpec {
        name,
        datatype,
        shape,
    }))
}

/// Reads a `TensorShapeProto`; `None` where the rank is unknown.
fn read_shape(source: &Source<'_>, range: Range<usize>) -> Result<Option<Shape>, Malformed> {
    let mut shape = Shape::default();
    let mut fields = source.fields(range);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (2, Value::Bytes(dimension)) => {
                let mut size = 0;
                let mut fields = source.fields(dimension);
                while let Some(field) = fields.next()? {
                    if let (1, Value::Varint(value)) = (field.number, field.value) {
                        size = value as i64;
                    }
                }
                shape.push(size);
            }
            (3, Value::Varint(1..)) => return Ok(None),
            _ => {}
        }
    }
    Ok(Some(shape))
}

/// Reads an entry of a map from names to messages.
fn entry_of(
    source: &Source<'_>,
    range: Range<usize>,
) -> Result<(ByteString, Range<usize>), Malformed> {
    let mut name = ByteString::new();
    let mut message = 0..0;
    let mut fields = source.fields(range);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Bytes(key)) => name = source.text(key).ok_or(Fault::Text)?,
            (2, Value::Bytes(value)) => message = value,
            _ => {}
        }
    }
    Ok((name, message))
}

fn write_tensors(number: u32, specs: &[TensorSpec], out: &mut BytesMut) {
    for spec in specs {
        let mut shape = BytesMut::new();
        match &spec.shape {
            Some(dimensions) => {
                for dimension in dimensions.dimensions() {
                    let mut size = BytesMut::new();
                    put_number(1, *dimension as u64, &mut size);
                    shape.put_head(2, size.len());
                    shape.extend_from_slice(&size);
                }
            }
            None => put_number(3, 1, &mut shape),
        }
        let mut info = BytesMut::new();
        info.put_text(1, &spec.name);
        put_number(2, datatype::number(spec.datatype).into(), &mut info);
        info.put_head(3, shape.len());
        info.extend_from_slice(&shape);
        put_entry(number, &spec.name, &info, out);
    }
}

fn put_entry(number: u32, name: &str, message: &[u8], out: &mut BytesMut) {
    let mut entry = BytesMut::with_capacity(name.len() + message.len() + 16);
    entry.put_text(1, name);
    entry.put_head(2, message.len());
    entry.extend_from_slice(message);
    out.put_head(number, entry.len());
    out.extend_from_slice(&entry);
}

fn put_number(number: u32, value: u64, out: &mut BytesMut) {
    if value != 0 {
        out.put_key(number, Kind::Varint);
        out.put_varint(value);
    }
}

fn text(
    source: &Source<'_>,
    range: Range<usize>,
    field: &'static str,
) -> Result<ByteString, Malformed> {
    let text = source.text(range);
    text.ok_or_else(|| Malformed::new(field, Fault::Text))
}

/// The one kind of metadata that there is.
pub const SIGNATURE_DEF: &str = "signature_def";

/// The method of a signature that is asked by `Predict`.
pub const PREDICT: &str = "tensorflow/serving/predict";

/// The method of a signature that is asked by `Classify`.
pub const CLASSIFY: &str = "tensorflow/serving/classify";

/// The method of a signature that is asked by `Regress`.
pub const REGRESS: &str = "tensorflow/serving/regress";

const SIGNATURES_TYPE: &str = "type.googleapis.com/tensorflow.serving.SignatureDefMap";
