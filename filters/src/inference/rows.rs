//! Rows: counting them, joining and dividing requests along them, and giving an answer's rows back.

use bytes::Bytes;
use smallvec::SmallVec;

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

/// Why a request is not divided by its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Indivisible {
    /// Its rows cannot be counted.
    NoRows(NoRows),
    /// The parts together have more or fewer rows, or one of them has none.
    Sizes {
        /// The rows of the request.
        whole: usize,
        /// Those of the parts.
        total: usize,
    },
}

/// Why an answer cannot be divided among requests, or answers not be joined.
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
    /// The answers to the parts of a request differ in more than contents.
    Unlike,
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
            append(input, other);
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
        cut(output, rows, parts.iter_mut().map(|part| &mut part.outputs)).ok_or(Uneven::Length)?;
    }
    Ok(parts)
}

/// Divides a request by its rows into requests of the given numbers of rows, in their order; the
/// pieces of its contents are shared, not copied.
///
/// Everything that is not contents each of them gets, the id, the deadline and the priority among
/// it: a part waits, and is sent alone, as the whole would have been. Their answers are put
/// together again by [`join`].
pub fn divide(request: &Request, rows: &[usize]) -> Result<Vec<Request>, Indivisible> {
    let whole = request.rows().map_err(Indivisible::NoRows)?;
    let total = rows
        .iter()
        .try_fold(0_usize, |total, rows| total.checked_add(*rows))
        .unwrap_or(usize::MAX);
    if total != whole || rows.contains(&0) {
        return Err(Indivisible::Sizes { whole, total });
    }
    let mut parts: Vec<RequestParts> = rows
        .iter()
        .map(|_| RequestParts {
            head: request.head.clone(),
            inputs: Vec::with_capacity(request.inputs.len()),
            outputs: request.outputs.clone(),
            parameters: request.parameters.clone(),
            unknown: request.unknown.clone(),
        })
        .collect();
    for input in &request.inputs {
        let parts = parts.iter_mut().map(|part| &mut part.inputs);
        cut(input.clone(), rows, parts).ok_or(Indivisible::NoRows(NoRows::Length))?;
    }
    let parts = parts.into_iter().zip(rows);
    Ok(parts
        .map(|(part, rows)| request.part(part, *rows, whole))
        .collect())
}

/// Joins the answers to the parts of a request that was [divided](divide), in their order, each
/// of which must have as many rows as its part had.
///
/// The answers must be of one version of one model, and alike in all that is not contents: names,
/// types, row shapes and the order of their outputs, and parameters, since those may say how
/// contents are to be read. Headers, trailers, report and id are the first's.
pub fn join(answers: impl IntoIterator<Item = (usize, Response)>) -> Result<Response, Uneven> {
    let mut answers = answers.into_iter();
    let Some((mut total, mut joined)) = answers.next() else {
        return Err(Uneven::NoOutputs);
    };
    has_rows(&joined, total)?;
    // Whoever borrows the fields to change them gives up the message that they were read from.
    for output in &mut joined.outputs {
        output.parameters = without_size(&output.parameters);
    }
    for (rows, answer) in answers {
        has_rows(&answer, rows)?;
        total = total.saturating_add(rows);
        if !is_alike(&joined, &answer) {
            return Err(Uneven::Unlike);
        }
        for (output, other) in joined.outputs.iter_mut().zip(&answer.outputs) {
            append(output, other);
        }
    }
    for output in &mut joined.outputs {
        output.shape = output.shape.with_rows(total);
    }
    Ok(joined)
}

/// The contents of each row of a tensor.
pub type Cells = SmallVec<[Payload; 1]>;

impl Tensor {
    /// Cuts the contents along the rows, or returns `None` where there are none that count: as many
    /// as the shape says, and contents as long. The pieces are shared, not copied.
    ///
    /// Texts are without the spaces that stood around them: equal rows have equal texts, wherever
    /// they stood.
    pub fn cells(&self) -> Option<Cells> {
        let rows = self.shape.rows().filter(|_| self.form != Form::Absent)?;
        if rows == 1 {
            let row = || match self.form.is_text() {
                true => trimmed(self.data.to_bytes()),
                false => self.data.clone(),
            };
            return agrees(self).then(|| SmallVec::from_buf([row()]));
        }
        // Rows without contents cannot be told from one another, nor counted by what they take.
        let row = self.shape.row_elements().filter(|row| *row > 0)?;
        let mut texts = self
            .form
            .is_text()
            .then(|| Values::new(self.data.to_bytes()));
        let mut rest = self.data.clone();
        // The shape may say anything; each row takes a byte at least.
        let mut cells = Cells::with_capacity(rows.min(self.data.len()));
        for _ in 0..rows {
            cells.push(match &mut texts {
                Some(texts) => trimmed(texts.take(match self.form {
                    Form::Rows => 1,
                    _ => row,
                })?),
                None => {
                    let len = match self.datatype.size() {
                        Some(size) => row.checked_mul(size),
                        None => Elements::of(&rest).skip(row),
                    };
                    rest.split_to(len?)?
                }
            });
        }
        let is_whole = texts.map_or(rest.is_empty(), |texts| texts.is_empty());
        is_whole.then_some(cells)
    }
}

fn trimmed(text: Bytes) -> Payload {
    match text.trim_ascii() {
        whole if whole.len() == text.len() => text.into(),
        part => text.slice_ref(part).into(),
    }
}

/// Makes a request of some of the rows of another, in the given order; `cells` are those of each of
/// its inputs. Everything that is not contents is that request's.
///
/// Returns `None` where there is no such row.
pub fn select(request: &Request, cells: &[Cells], rows: &[usize]) -> Option<Request> {
    let whole = request.inputs.first()?.shape.rows()?;
    let mut parts = RequestParts {
        head: request.head.clone(),
        inputs: Vec::with_capacity(request.inputs.len()),
        outputs: request.outputs.clone(),
        parameters: request.parameters.clone(),
        unknown: request.unknown.clone(),
    };
    for (input, cells) in request.inputs.iter().zip(cells) {
        let mut data = Payload::with_capacity(rows.len());
        for row in rows {
            join_cell(&mut data, input.form, cells.get(*row)?);
        }
        parts.inputs.push(Tensor {
            name: input.name.clone(),
            datatype: input.datatype,
            shape: input.shape.with_rows(rows.len()),
            parameters: without_size(&input.parameters),
            data,
            form: input.form,
            unknown: input.unknown.clone(),
        });
    }
    Some(request.part(parts, rows.len(), whole))
}

/// Adds contents of a tensor of this form behind others.
pub fn join_cell(data: &mut Payload, form: Form, cell: &Payload) {
    if form.is_text() && !data.is_empty() && !cell.is_empty() {
        data.push(Bytes::from_static(b","));
    }
    data.append(cell);
}

/// Checks that every output has so many rows, and the contents that they take.
fn has_rows(answer: &Response, expected: usize) -> Result<(), Uneven> {
    if answer.outputs.is_empty() {
        return Err(Uneven::NoOutputs);
    }
    for output in &answer.outputs {
        let found = output.shape.rows();
        if found != Some(expected) {
            return Err(Uneven::Rows { expected, found });
        }
        if output.form == Form::Absent {
            return Err(Uneven::Absent);
        }
        if !agrees(output) {
            return Err(Uneven::Length);
        }
    }
    Ok(())
}

/// Tells whether two answers differ in nothing but their rows and what belongs to one message.
fn is_alike(one: &Response, other: &Response) -> bool {
    let alike = |(one, other): (&Tensor, &Tensor)| {
        let row = |tensor: &Tensor| tensor.shape.with_rows(1);
        // Contents that are bytes are the same bytes in both forms.
        let form = |tensor: &Tensor| tensor.form.is_text().then_some(tensor.form);
        one.name == other.name
            && one.datatype == other.datatype
            && row(one) == row(other)
            && form(one) == form(other)
            && one.unknown == other.unknown
            && without_size(&one.parameters) == without_size(&other.parameters)
    };
    one.model == other.model
        && one.version == other.version
        && one.parameters == other.parameters
        && one.unknown == other.unknown
        && one.outputs.len() == other.outputs.len()
        && one.outputs.iter().zip(&other.outputs).all(alike)
}

/// Cuts a tensor along its rows, one piece for each of `parts`, or returns `None` where its
/// contents are not as long as its shape says.
fn cut<'a>(
    tensor: Tensor,
    rows: &[usize],
    parts: impl Iterator<Item = &'a mut Vec<Tensor>>,
) -> Option<()> {
    let row = tensor.shape.row_elements()?;
    let parameters = without_size(&tensor.parameters);
    let mut texts = tensor
        .form
        .is_text()
        .then(|| Values::new(tensor.data.to_bytes()));
    let mut rest = tensor.data;
    for (part, rows) in parts.zip(rows) {
        let elements = row.checked_mul(*rows)?;
        let data = match &mut texts {
            Some(texts) => {
                let values = match tensor.form {
                    Form::Rows => *rows,
                    _ => elements,
                };
                Payload::from(texts.take(values)?)
            }
            None => {
                let len = match tensor.datatype.size() {
                    Some(size) => elements.checked_mul(size),
                    None => Elements::of(&rest).skip(elements),
                };
                rest.split_to(len?)?
            }
        };
        part.push(Tensor {
            name: tensor.name.clone(),
            datatype: tensor.datatype,
            shape: tensor.shape.with_rows(*rows),
            parameters: parameters.clone(),
            data,
            form: tensor.form,
            unknown: tensor.unknown.clone(),
        });
    }
    texts.is_none_or(|texts| texts.is_empty()).then_some(())
}

/// Adds the contents of another tensor's rows; the shape is left as it is.
fn append(tensor: &mut Tensor, other: &Tensor) {
    join_cell(&mut tensor.data, tensor.form, &other.data);
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

/// Returns the parameters of a tensor that do not belong to one message.
pub fn without_size(parameters: &Parameters) -> Parameters {
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

impl std::fmt::Display for Indivisible {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoRows(_) => f.write_str("the rows of the request cannot be counted"),
            Self::Sizes { whole, total } => {
                write!(f, "{whole} rows are not divided into {total}")
            }
        }
    }
}

impl std::error::Error for Indivisible {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoRows(reason) => Some(reason),
            Self::Sizes { .. } => None,
        }
    }
}

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
            Self::Unlike => f.write_str("the answers to the parts of the request are not alike"),
        }
    }
}

impl std::error::Error for Uneven {}

#[cfg(test)]
mod tests;
