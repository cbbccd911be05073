//! The answer that is given where there is none, or none that is sure enough.

use bytes::Bytes;
use bytestring::ByteString;

use super::{Value, element, label};
use crate::inference::{
    Datatype, Form, Parameters, Payload, Request, Response, ResponseParts, Shape, Signature,
    Tensor, without_size,
};

/// Default outputs: for some outputs the values of one row, which are those of each row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Defaults {
    outputs: Vec<(ByteString, Vec<Value>)>,
}

/// By what the types and the row shapes of default outputs are known.
#[derive(Clone, Copy, Debug)]
pub enum Like<'a> {
    /// By the values alone: truth values, `INT64`, `FP64` or `BYTES`, and as many columns as values.
    Values,
    /// By what the server says of its model.
    Signature(&'a Signature),
    /// By another answer of the model.
    Response(&'a Response),
}

/// Why there is no default for an output.
#[derive(Clone, Debug, PartialEq)]
pub struct NoDefault {
    output: ByteString,
    reason: Reason,
}

#[derive(Clone, Debug, PartialEq)]
enum Reason {
    Unknown,
    NotSet,
    Open,
    Elements { expected: usize, found: usize },
    Value { value: Value, datatype: Datatype },
    Mixed,
    Contents,
    Rows { expected: usize },
    TooLong,
}

/// The type of an output, its shape with any number of rows, and the contents of one row.
#[derive(Debug)]
struct Row {
    datatype: Datatype,
    shape: Shape,
    data: Vec<u8>,
}

impl NoDefault {
    /// Returns the output that has none.
    pub fn output(&self) -> &ByteString {
        &self.output
    }
}

impl Defaults {
    /// Makes defaults of the values of one row for each of some outputs.
    pub fn new<V: Into<Value>>(outputs: impl IntoIterator<Item = (ByteString, Vec<V>)>) -> Self {
        let values = |values: Vec<V>| values.into_iter().map(Into::into).collect();
        let outputs = outputs.into_iter();
        Self {
            outputs: outputs.map(|(name, of)| (name, values(of))).collect(),
        }
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.outputs.is_empty()
    }

    /// Goes through the outputs and the values of one row of each.
    pub fn iter(&self) -> impl Iterator<Item = (&ByteString, &[Value])> {
        let outputs = self.outputs.iter();
        outputs.map(|(name, values)| (name, &values[..]))
    }

    /// Checks that all of them are outputs that a model may have.
    pub fn check(&self, like: Like<'_>) -> Result<(), NoDefault> {
        let rows = self.iter().map(|(name, values)| row(name, values, like));
        rows.into_iter().try_for_each(|row| row.map(drop))
    }

    /// Returns what is wrong with them, one fault for each output that the model has not, or not so: by
    /// what its server says once it is known, long before one of them is given.
    pub fn faults(&self, signature: &Signature) -> Vec<NoDefault> {
        let rows = self
            .iter()
            .map(|(name, values)| row(name, values, Like::Signature(signature)));
        rows.filter_map(Result::err).collect()
    }

    /// Makes the answer to a request of so many rows: the outputs that it asks for, or all where it
    /// asks for none in particular. One that it asks for and that has no default is a fault: half an
    /// answer would not be understood.
    pub fn response(
        &self,
        request: &Request,
        rows: usize,
        like: Like<'_>,
    ) -> Result<Response, NoDefault> {
        let fault = |output: &ByteString, reason| NoDefault {
            output: output.clone(),
            reason,
        };
        for asked in &request.outputs {
            if !self.iter().any(|(name, _)| *name == asked.name) {
                return Err(fault(&asked.name, Reason::NotSet));
            }
        }
        let is_asked = |name: &ByteString| {
            let mut outputs = request.outputs.iter();
            request.outputs.is_empty() || outputs.any(|asked| asked.name == *name)
        };
        let mut outputs = Vec::with_capacity(self.outputs.len());
        for (name, values) in self.iter().filter(|(name, _)| is_asked(name)) {
            let row = row(name, values, like)?;
            let len = row.data.len().checked_mul(rows);
            if len.is_none_or(|len| len > MOST) {
                return Err(fault(name, Reason::TooLong));
            }
            outputs.push(Tensor {
                name: match like {
                    Like::Response(response) => label::find(response, Some(name))
                        .map_or_else(|_| name.clone(), |tensor| tensor.name.clone()),
                    _ => name.clone(),
                },
                datatype: row.datatype,
                shape: row.shape.with_rows(rows),
                parameters: Parameters::default(),
                data: Bytes::from(row.data.repeat(rows)).into(),
                form: Form::Raw,
                unknown: Payload::new(),
            });
        }
        Ok(Response::from(ResponseParts {
            model: request.head.model.clone(),
            version: request.head.version.clone(),
            id: request.head.id.clone(),
            outputs,
            ..ResponseParts::default()
        }))
    }

    /// Writes the default in the place of those rows of an answer that are marked. Outputs that have
    /// no default stay as they are. An answer with a fault is not changed.
    pub fn replace(&self, response: &mut Response, rows: &[bool]) -> Result<(), NoDefault> {
        if !rows.contains(&true) {
            return Ok(());
        }
        let mut replaced = Vec::with_capacity(self.outputs.len());
        let mut unknown = None;
        for (name, values) in self.iter() {
            let fault = |reason| NoDefault {
                output: name.clone(),
                reason,
            };
            let index = label::index(response, Some(name)).ok();
            let Some((index, output)) =
                index.and_then(|index| Some((index, response.outputs.get(index)?)))
            else {
                unknown = unknown.or(Some(fault(Reason::Unknown)));
                continue;
            };
            let row = row(name, values, Like::Response(response))?;
            if output.shape.rows() != Some(rows.len()) {
                let expected = rows.len();
                return Err(fault(Reason::Rows { expected }));
            }
            let binary = Tensor {
                data: element::raw(output).ok_or_else(|| fault(Reason::Contents))?,
                form: match output.form {
                    form if form.is_text() => Form::Raw,
                    form => form,
                },
                parameters: without_size(&output.parameters),
                ..output.clone()
            };
            let cells = binary.cells().ok_or_else(|| fault(Reason::Contents))?;
            let mut data = Vec::with_capacity(binary.data.len());
            for (cell, is_default) in cells.iter().zip(rows) {
                match is_default {
                    true => data.extend_from_slice(&row.data),
                    false => cell
                        .pieces()
                        .for_each(|piece| data.extend_from_slice(piece)),
                }
            }
            let data = Bytes::from(data).into();
            replaced.push((index, Tensor { data, ..binary }));
        }
        // The caller may have asked for some of the outputs only.
        if let (true, Some(unknown)) = (replaced.is_empty(), unknown) {
            return Err(unknown);
        }
        for (index, tensor) in replaced {
            if let Some(output) = response.outputs.get_mut(index) {
                *output = tensor;
            }
        }
        Ok(())
    }
}

/// Writes one row of an output.
fn row(name: &ByteString, values: &[Value], like: Like<'_>) -> Result<Row, NoDefault> {
    let fault = |reason| NoDefault {
        output: name.clone(),
        reason,
    };
    let found = values.len();
    let flat = || {
        let columns = (found != 1).then_some(found);
        let columns = columns.and_then(|columns| i64::try_from(columns).ok());
        Shape::new([1].into_iter().chain(columns))
    };
    let (datatype, shape) = match like {
        Like::Values => (guessed(values).ok_or_else(|| fault(Reason::Mixed))?, flat()),
        Like::Signature(signature) => {
            let spec = signature
                .output(name)
                .ok_or_else(|| fault(Reason::Unknown))?;
            let shape = match &spec.shape {
                Some(shape) => closed(shape, found).ok_or_else(|| fault(Reason::Open))?,
                None => flat(),
            };
            (spec.datatype, shape)
        }
        Like::Response(response) => {
            let output = label::find(response, Some(name));
            let output = output.map_err(|_| fault(Reason::Unknown))?;
            (output.datatype, output.shape.with_rows(1))
        }
    };
    // Without dimensions there is no place for rows.
    let expected = match shape.dimensions() {
        [] => None,
        _ => shape.row_elements(),
    };
    let expected = expected.ok_or_else(|| fault(Reason::Open))?;
    if expected != found || found == 0 {
        return Err(fault(Reason::Elements { expected, found }));
    }
    let mut data = Vec::new();
    for value in values {
        element::put(datatype, value, &mut data).ok_or_else(|| {
            let value = value.clone();
            fault(Reason::Value { value, datatype })
        })?;
    }
    Ok(Row {
        datatype,
        shape,
        data,
    })
}

/// Returns the type that all values have.
fn guessed(values: &[Value]) -> Option<Datatype> {
    let all = |is: fn(&Value) -> bool| values.iter().all(is);
    if all(|value| matches!(value, Value::Bool(_))) {
        Some(Datatype::Bool)
    } else if all(|value| matches!(value, Value::Integer(_))) {
        Some(Datatype::Int64)
    } else if all(|value| matches!(value, Value::Integer(_) | Value::Number(_))) {
        Some(Datatype::Fp64)
    } else if all(|value| matches!(value, Value::String(_))) {
        Some(Datatype::Bytes)
    } else {
        None
    }
}

/// Gives a dimension of a row that is open the size that so many elements ask for, or returns
/// `None` where several are.
fn closed(shape: &Shape, elements: usize) -> Option<Shape> {
    let (_, row) = shape.dimensions().split_first()?;
    let is_open = |dimension: &&i64| **dimension < 0;
    match row.iter().filter(is_open).count() {
        0 => Some(shape.with_rows(1)),
        1 => {
            let known = row.iter().filter(|dimension| !is_open(dimension));
            let known = known.copied().try_fold(1_i64, i64::checked_mul)?;
            let elements = i64::try_from(elements).ok()?;
            // Where it does not come out even, the count of the elements is at fault.
            let open = elements.checked_div(known)?;
            let row = row.iter().map(|dimension| match *dimension {
                dimension if dimension < 0 => open,
                dimension => dimension,
            });
            Some(Shape::new([1].into_iter().chain(row)))
        }
        _ => None,
    }
}

/// The most bytes of an output: what a message may have.
const MOST: usize = 64 << 20;

impl std::fmt::Display for NoDefault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let output = &*self.output;
        match &self.reason {
            Reason::Unknown => write!(f, "the model has no output {output:?}"),
            Reason::NotSet => write!(f, "output {output:?} was asked for and has no default"),
            Reason::Open => write!(f, "how a row of output {output:?} is shaped is not known"),
            Reason::Elements { expected, found } => write!(
                f,
                "a row of output {output:?} has {expected} elements, and its default {found}"
            ),
            Reason::Value { value, datatype } => {
                write!(f, "{value} is no {datatype}, which output {output:?} is of")
            }
            Reason::Mixed => write!(
                f,
                "the values for output {output:?} are of several kinds, and its type is not known"
            ),
            Reason::Contents => write!(
                f,
                "the contents of output {output:?} are not in the message, or not what its type \
                 and its shape say"
            ),
            Reason::Rows { expected } => {
                write!(
                    f,
                    "output {output:?} has not the {expected} rows of the answer"
                )
            }
            Reason::TooLong => write!(f, "the default for output {output:?} is too long"),
        }
    }
}

impl std::error::Error for NoDefault {}
