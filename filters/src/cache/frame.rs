use bytestring::ByteString;
use smallvec::SmallVec;

use super::{
    key::{metadata_bytes, own, own_metadata, own_parameters, parameters_bytes, shape_bytes},
    store::allocated,
};
use crate::inference::{
    BINARY_DATA_SIZE, Cells, Form, Metadata, Payload, Response, ResponseParts, Tensor, join_cell,
};

/// What an answer says besides the contents of its rows; owns all that it holds.
///
/// Answers whose frames are [alike](Frame::is_alike) can be cut into rows and put together again.
#[derive(Debug)]
pub(super) struct Frame {
    /// Without contents and without an id; of one row, where answers are cut into rows.
    parts: ResponseParts,
    headers: Metadata,
    trailers: Metadata,
    by_row: bool,
    bytes: usize,
}

/// The contents of an answer that can be stored: for each output those of its rows.
pub(super) type Answers = SmallVec<[Cells; 2]>;

/// Why an answer is not one that can be given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It is not understood, or the server says that it is for one caller.
    Private,
    /// It has not one row for each that was sent.
    Uneven,
}

/// Cuts an answer to so many rows.
pub(super) fn cut(response: &Response, rows: usize, by_row: bool) -> Result<Answers, Unfit> {
    let is_known = !response.is_opaque() && response.unknown.is_empty();
    if !is_known || response.outputs.is_empty() || forbids(&response.headers) {
        return Err(Unfit::Private);
    }
    let outputs = response.outputs.iter().map(|output| {
        if !output.unknown.is_empty() || output.form == Form::Absent {
            return Err(Unfit::Private);
        }
        if !by_row {
            return Ok(SmallVec::from_buf([output.data.clone()]));
        }
        let cells = output.cells().filter(|cells| cells.len() == rows);
        cells.ok_or(Unfit::Uneven)
    });
    outputs.collect()
}

impl Frame {
    /// Keeps what an answer says besides contents.
    pub(super) fn new(response: &Response, by_row: bool) -> Self {
        let outputs = response.outputs.iter().map(|output| Tensor {
            name: own(&output.name),
            datatype: output.datatype,
            shape: match by_row {
                true => output.shape.with_rows(1),
                false => output.shape.clone(),
            },
            parameters: own_parameters(&output.parameters, &[BINARY_DATA_SIZE]),
            data: Payload::new(),
            form: output.form,
            unknown: Payload::new(),
        });
        let parts = ResponseParts {
            model: own(&response.model),
            version: own(&response.version),
            id: ByteString::new(),
            parameters: own_parameters(&response.parameters, &[]),
            outputs: outputs.collect(),
            unknown: Payload::new(),
        };
        let headers = of_model(&response.headers);
        let trailers = of_model(&response.trailers);
        let outputs = parts.outputs.iter().map(|output| {
            size_of::<Tensor>()
                + allocated(output.name.len())
                + shape_bytes(&output.shape)
                + parameters_bytes(&output.parameters)
        });
        let bytes = allocated(size_of::<Self>() + 32)
            + allocated(parts.model.len())
            + allocated(parts.version.len())
            + parameters_bytes(&parts.parameters)
            + outputs.sum::<usize>()
            + metadata_bytes(&headers)
            + metadata_bytes(&trailers);
        Self {
            parts,
            headers,
            trailers,
            by_row,
            bytes,
        }
    }

    /// Tells whether it is what an answer says besides contents.
    pub(super) fn is_of(&self, response: &Response, by_row: bool) -> bool {
        let outputs = self.parts.outputs.iter().zip(&response.outputs);
        self.by_row == by_row
            && self.is_alike_parts(response, by_row)
            // Whose callers were answered in one form are answered in it again.
            && outputs.into_iter().all(|(one, other)| one.form == other.form)
            && same_of_model(&self.headers, &response.headers)
            && same_of_model(&self.trailers, &response.trailers)
    }

    /// Tells whether rows of both can stand in one answer: headers are those of the first.
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
            || self.by_row == other.by_row && self.is_alike_parts(&other.parts, other.by_row)
    }

    /// Returns the version that answered.
    pub(super) fn version(&self) -> &ByteString {
        &self.parts.version
    }

    /// Returns how many outputs there are.
    pub(super) fn outputs(&self) -> usize {
        self.parts.outputs.len()
    }

    /// Returns the memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts an answer to so many rows together; `cell` gives the contents of an output's row.
    ///
    /// Returns `None` where there are none.
    pub(super) fn answer(
        &self,
        rows: usize,
        id: &ByteString,
        cell: impl Fn(usize, usize) -> Option<Payload>,
    ) -> Option<Response> {
        let mut parts = self.parts.clone();
        parts.id.clone_from(id);
        for (index, output) in parts.outputs.iter_mut().enumerate() {
            if self.by_row {
                output.shape = output.shape.with_rows(rows);
            }
            if rows == 1 {
                output.data = cell(index, 0)?;
                continue;
            }
            let mut data = Payload::new();
            let mut small = Gathered::default();
            for row in 0..rows {
                let cell = cell(index, row)?;
                if output.form.is_text() || cell.len() > SMALL {
                    small.flush(&mut data);
                    join_cell(&mut data, output.form, &cell);
                } else {
                    small.add(&cell, rows - row);
                }
            }
            small.flush(&mut data);
            output.data = data;
        }
        let mut response = Response::from(parts);
        response.headers = self.headers.clone();
        response.trailers = self.trailers.clone();
        Some(response)
    }

    fn is_alike_parts(&self, other: &ResponseParts, by_row: bool) -> bool {
        let parts = &self.parts;
        let from = usize::from(by_row);
        let alike = |(one, other): (&Tensor, &Tensor)| {
            let (a, b) = (one.shape.dimensions(), other.shape.dimensions());
            let form = |tensor: &Tensor| tensor.form.is_text().then_some(tensor.form);
            one.name == other.name
                && one.datatype == other.datatype
                && a.len() == b.len()
                && a.get(from..) == b.get(from..)
                && form(one) == form(other)
                && one.parameters.same(&other.parameters, &[BINARY_DATA_SIZE])
        };
        parts.model == other.model
            && parts.version == other.version
            && parts.parameters.same(&other.parameters, &[])
            && parts.outputs.len() == other.outputs.len()
            && parts.outputs.iter().zip(&other.outputs).all(alike)
    }
}

/// Small contents are copied side by side: a rope of many short pieces costs more to send.
#[derive(Debug, Default)]
struct Gathered(Vec<u8>);

impl Gathered {
    fn add(&mut self, cell: &Payload, rows_left: usize) {
        if self.0.is_empty() {
            self.0.reserve(cell.len() * rows_left);
        }
        cell.pieces()
            .for_each(|piece| self.0.extend_from_slice(piece));
    }

    fn flush(&mut self, to: &mut Payload) {
        if !self.0.is_empty() {
            to.push(std::mem::take(&mut self.0).into());
        }
    }
}

/// Leaves out of headers what is true of one call only.
fn of_model(headers: &Metadata) -> Metadata {
    if headers.iter().all(|(name, _)| !is_of_call(name)) {
        return own_metadata(headers);
    }
    let kept = headers.iter().filter(|(name, _)| !is_of_call(name));
    own_metadata(&Metadata::new(kept.cloned().collect()))
}

fn same_of_model(kept: &Metadata, headers: &Metadata) -> bool {
    kept.iter()
        .eq(headers.iter().filter(|(name, _)| !is_of_call(name)))
}

fn is_of_call(name: &str) -> bool {
    matches!(
        name,
        "age"
            // MLServer tells the id of the request, in trailers.
            | "ce-id"
            | "ce-requestid"
            | "ce-time"
            | "date"
            | "inference-header-content-length"
            | "request-id"
            | "server-timing"
            | "traceparent"
            | "tracestate"
            | "x-correlation-id"
            | "x-envoy-upstream-service-time"
            | "x-process-time"
            | "x-request-id"
    )
}

/// Tells whether a server says that its answer is for one caller, or must not be given again.
fn forbids(headers: &Metadata) -> bool {
    headers.iter().any(|(name, value)| match &**name {
        "set-cookie" => true,
        "cache-control" => value
            .to_ascii_lowercase()
            .split(|byte| *byte == b',')
            .any(|word| {
                let word = word.trim_ascii();
                word == b"no-store" || word.starts_with(b"no-cache") || word.starts_with(b"private")
            }),
        _ => false,
    })
}

/// Contents of more bytes are shared, of fewer copied.
const SMALL: usize = 512;
