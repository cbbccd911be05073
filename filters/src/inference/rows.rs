//! Rows: counting them, joining requests along them, and giving an answer's rows back.

use bytes::Bytes;

use super::{
    Form, Parameters, Payload, Request, RequestParts, Response, ResponseParts, Tensor, Values,
};

/// The parameter in which the REST form of the protocol says how many bytes a tensor has: it
/// belongs to one message, and whoever writes the message computes it anew.
pub const BINARY_DATA_SIZE: &str = "binary_data_size";

/// Why the rows of a request cannot be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoRows {
    /// There is no input.
    NoInputs,
    /// An input has no dimensions.
    Scalar,
    /// The first dimension of an input is zero or negative.
    NotPositive,
    /// The first dimensions of two inputs differ.
    Disagree,
    /// The contents of an input are not in the message.
    Absent,
    /// The contents of an input are longer or shorter than its shape says.
    Length,
}

/// Why an answer cannot be divided among requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uneven {
    /// There is no output.
    NoOutputs,
    /// An output has more or fewer rows than were sent.
    Rows {
        /// The rows that were sent.
        expected: usize,
        /// The first dimension of the output, if it has one that counts rows.
        found: Option<usize>,
    },
    /// The contents of an output are not in the message.
    Absent,
    /// The contents of an output are longer or shorter than its shape says.
    Length,
}

impl Request {
    /// Counts the rows: the first dimension, on which all inputs must agree.
    ///
    /// A request whose rows are counted can be joined with others: its contents are as long as
    /// its shapes say.
    pub fn rows(&self) -> Result<usize, NoRows> {
        let mut counted = None;
        for input in &self.inputs {
            if input.form == Form::Absent {
                return Err(NoRows::Absent);
            }
            if input.shape.dimensions().is_empty() {
                return Err(NoRows::Scalar);
            }
            let rows = input.shape.rows().ok_or(NoRows::NotPositive)?;
            if counted.is_some_and(|counted| counted != rows) {
                return Err(NoRows::Disagree);
            }
            if !agrees(input) {
                return Err(NoRows::Length);
            }
            counted = Some(rows);
        }
        counted.ok_or(NoRows::NoInputs)
    }
}

/// Joins requests along their rows; the pieces of their contents are shared, not copied.
///
/// The requests must ask the same of the same model, with inputs of the same names, types and
/// row shapes in the same order, and their rows must count ([`Request::rows`]). Everything that
/// is not contents is taken from the first; its id, deadline and priority, which are one
/// caller's, are left out.
pub fn concat<'a>(requests: impl IntoIterator<Item = &'a Request>) -> Request {
    let mut requests = requests.into_iter();
    let Some(first) = requests.next() else {
        return Request::from(RequestParts::default());
    };
    let members = requests.size_hint().0.saturating_add(1);
    let mut joined = RequestParts {
        head: first.head.clone(),
        inputs: Vec::with_capacity(first.inputs.len()),
        outputs: first.outputs.clone(),
        parameters: first.parameters.clone(),
        unknown: first.unknown.clone(),
    };
    joined.head.id = Default::default();
    joined.head.deadline = None;
    joined.head.priority = 0;
    for input in &first.inputs {
        let mut data = Payload::with_capacity(members);
        data.append(&input.data);
        joined.inputs.push(Tensor {
            name: input.name.clone(),
            datatype: input.datatype,
            shape: input.shape.clone(),
            parameters: without_size(&input.parameters),
            data,
            form: input.form,
            unknown: input.unknown.clone(),
        });
    }
    let mut rows = rows_of(first);
    for request in requests {
        rows = rows.saturating_add(rows_of(request));
        for (input, other) in joined.inputs.iter_mut().zip(&request.inputs) {
            if input.form.is_text() && !input.data.is_empty() && !other.data.is_empty() {
                input.data.push(Bytes::from_static(b","));
            }
            input.data.append(&other.data);
        }
    }
    for input in &mut joined.inputs {
        input.shape = input.shape.with_rows(rows);
    }
    Request::from(joined)
}

/// Divides an answer among requests of the given numbers of rows, in their order.
///
/// Every output must have as many rows as all of them together, and contents as long as its
/// shape says; everything that is not contents, headers and parameters among it, each of them
/// gets. The parts' ids are empty: the caller knows whose they are.
pub fn split(response: Response, rows: &[usize]) -> Result<Vec<Response>, Uneven> {
    let total = rows
        .iter()
        .try_fold(0_usize, |total, rows| total.checked_add(*rows))
        .unwrap_or(usize::MAX);
    if response.outputs.is_empty() {
        return Err(Uneven::NoOutputs);
    }
    let (report, headers, trailers) = (
        response.report.clone(),
        response.headers.clone(),
        response.trailers.clone(),
    );
    let mut parts: Vec<Response> = rows
        .iter()
        .map(|_| {
            let mut part = Response::from(ResponseParts {
                model: response.model.clone(),
                version: response.version.clone(),
                id: Default::default(),
                parameters: response.parameters.clone(),
                outputs: Vec::with_capacity(response.outputs.len()),
                unknown: response.unknown.clone(),
            });
            part.report = report.clone();
            part.headers = headers.clone();
            part.trailers = trailers.clone();
            part
        })
        .collect();
    for output in response.into_parts().outputs {
        let found = output.shape.rows();
        if found != Some(total) {
            return Err(Uneven::Rows {
                expected: total,
                found,
            });
        }
        if output.form == Form::Absent {
            return Err(Uneven::Absent);
        }
        if !agrees(&output) {
            return Err(Uneven::Length);
        }
        let elements = output.shape.row_elements().ok_or(Uneven::Length)?;
        let parameters = without_size(&output.parameters);
        let mut texts = output
            .form
            .is_text()
            .then(|| Values::new(output.data.to_bytes()));
        let mut rest = output.data;
        for (part, rows) in parts.iter_mut().zip(rows) {
            let elements = elements.checked_mul(*rows).ok_or(Uneven::Length)?;
            let data = match &mut texts {
                Some(texts) => {
                    let values = if output.form == Form::Rows {
                        *rows
                    } else {
                        elements
                    };
                    texts.take(values).map(Payload::from)
                }
                None => {
                    let len = match output.datatype.size() {
                        Some(size) => elements.checked_mul(size),
                        None => Elements::of(&rest).skip(elements),
                    };
                    len.and_then(|len| rest.split_to(len))
                }
            };
            let data = data.ok_or(Uneven::Length)?;
            part.outputs.push(Tensor {
                name: output.name.clone(),
                datatype: output.datatype,
                shape: output.shape.with_rows(*rows),
                parameters: parameters.clone(),
                data,
                form: output.form,
                unknown: output.unknown.clone(),
            });
        }
        if texts.is_some_and(|texts| !texts.is_empty()) {
            return Err(Uneven::Length);
        }
    }
    Ok(parts)
}

/// Tells whether the contents are as long as type and shape say; of text that is known.
fn agrees(tensor: &Tensor) -> bool {
    if tensor.form.is_text() {
        return true;
    }
    let Some(elements) = tensor.shape.elements() else {
        return false;
    };
    let len = match tensor.datatype.size() {
        Some(size) => elements.checked_mul(size),
        None => Elements::of(&tensor.data).skip(elements),
    };
    len == Some(tensor.data.len())
}

fn rows_of(request: &Request) -> usize {
    request
        .inputs
        .first()
        .and_then(|input| input.shape.rows())
        .unwrap_or(0)
}

fn without_size(parameters: &Parameters) -> Parameters {
    if parameters.get(BINARY_DATA_SIZE).is_none() {
        return parameters.clone();
    }
    parameters
        .iter()
        .filter(|(name, _)| **name != BINARY_DATA_SIZE)
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Walks over the elements of `BYTES` contents by their length prefixes, which may lie across
/// the pieces of the rope.
struct Elements<'a, I> {
    pieces: I,
    current: &'a [u8],
}

impl<'a> Elements<'a, std::iter::Empty<&'a [u8]>> {
    fn of(payload: &'a Payload) -> Elements<'a, impl Iterator<Item = &'a [u8]>> {
        Elements {
            pieces: payload.pieces().map(|piece| &piece[..]),
            current: &[],
        }
    }
}

impl<'a, I: Iterator<Item = &'a [u8]>> Elements<'a, I> {
    /// Returns the bytes that the next elements take with their prefixes, or `None` where the
    /// contents end before. The walk is no longer than the contents, whatever the count.
    fn skip(&mut self, elements: usize) -> Option<usize> {
        let mut len = 0_usize;
        for _ in 0..elements {
            let mut prefix = [0; 4];
            for byte in &mut prefix {
                *byte = self.byte()?;
            }
            let element = usize::try_from(u32::from_le_bytes(prefix)).ok()?;
            self.advance(element)?;
            len = len.checked_add(prefix.len())?.checked_add(element)?;
        }
        Some(len)
    }

    fn byte(&mut self) -> Option<u8> {
        loop {
            if let Some((first, rest)) = self.current.split_first() {
                self.current = rest;
                return Some(*first);
            }
            self.current = self.pieces.next()?;
        }
    }

    fn advance(&mut self, mut count: usize) -> Option<()> {
        loop {
            if let Some(rest) = self.current.get(count..) {
                self.current = rest;
                return Some(());
            }
            count -= self.current.len();
            self.current = self.pieces.next()?;
        }
    }
}

impl std::fmt::Display for NoRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NoInputs => "the request has no inputs",
            Self::Scalar => "an input has no dimensions",
            Self::NotPositive => "the first dimension of an input is not positive",
            Self::Disagree => "the inputs disagree on the number of rows",
            Self::Absent => "the contents of an input are not in the message",
            Self::Length => "the contents of an input are not as long as its shape says",
        })
    }
}

impl std::error::Error for NoRows {}

impl std::fmt::Display for Uneven {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoOutputs => f.write_str("the answer has no outputs"),
            Self::Rows {
                expected,
                found: Some(found),
            } => write!(f, "{expected} rows were sent and {found} came back"),
            Self::Rows { expected, .. } => {
                write!(
                    f,
                    "{expected} rows were sent and an output without came back"
                )
            }
            Self::Absent => f.write_str("the contents of an output are not in the message"),
            Self::Length => {
                f.write_str("the contents of an output are not as long as its shape says")
            }
        }
    }
}

impl std::error::Error for Uneven {}

#[cfg(test)]
mod tests;
