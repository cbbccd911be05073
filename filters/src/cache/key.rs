//! What a row is known by: everything that can change the answer to it.
//!
//! A [`Question`] is what the rows of a request have in common, and most entries of a model share
//! one; besides, a row is known by its bytes. Entries are found by a keyed digest and compared in
//! full, so that two different requests never share one, not even for someone who chooses inputs
//! to collide. Long rows are compared by a cryptographic digest in place of their bytes.

use std::{
    cell::RefCell,
    hash::{BuildHasher, Hasher},
    sync::Arc,
};

use bytes::Bytes;
use bytestring::ByteString;
use foldhash::quality::RandomState;
use smallvec::SmallVec;

use super::store::{Counted, allocated};
use crate::inference::{
    BINARY_DATA_SIZE, Cells, Head, Metadata, Parameter, Parameters, Payload, Request, RequestParts,
    RequestedOutput, Shape, Tensor,
};

/// The contents of one row: those of each input.
pub(super) type Row = SmallVec<[Payload; 1]>;

/// What rows are asked besides their bytes; owns all that it holds.
#[derive(Debug)]
pub(super) struct Question {
    /// Without contents; of the head, only what can change the answer.
    parts: RequestParts,
    by_row: bool,
    bytes: usize,
}

/// A request that is cut into what is looked up: rows, or itself as a whole.
#[derive(Debug)]
pub(super) struct Cut<'a> {
    pub(super) request: &'a Request,
    /// For each input those of its rows.
    pub(super) cells: SmallVec<[Cells; 1]>,
    /// How many rows are looked up.
    pub(super) rows: usize,
    pub(super) by_row: bool,
    /// The digest of what all rows have in common.
    pub(super) common: u64,
    /// The question that was found to be this one's: the rows of a request mostly meet but one.
    question: RefCell<Option<Arc<Counted<Question>>>>,
}

/// Keys of digests: nobody outside of the process can choose inputs by their digests.
#[derive(Debug, Default)]
pub(super) struct Keys {
    fast: RandomState,
    strong: StrongKey,
}

/// The key of the cryptographic digest.
#[derive(Debug)]
struct StrongKey([u8; 32]);

/// A digest of a long row that nobody can find a second row for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Strong([u8; blake3::OUT_LEN]);

/// By what an entry's row is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// All of its bytes.
    Whole,
    /// A digest of them.
    Digest,
}

impl<'a> Cut<'a> {
    /// Cuts a request into rows, or returns `None` where they do not count, or are too many.
    pub(super) fn by_row(request: &'a Request, keys: &Keys) -> Option<Self> {
        let rows = request.inputs.first()?.shape.rows()?;
        if rows > MOST_ROWS {
            return None;
        }
        let mut cells = SmallVec::with_capacity(request.inputs.len());
        for input in &request.inputs {
            if input.shape.rows() != Some(rows) {
                return None;
            }
            cells.push(input.cells()?);
        }
        Some(Self {
            request,
            cells,
            rows,
            by_row: true,
            common: common(keys, request, true),
            question: RefCell::default(),
        })
    }

    /// Takes a request as it is.
    pub(super) fn whole(request: &'a Request, keys: &Keys) -> Self {
        let cells = request
            .inputs
            .iter()
            .map(|input| SmallVec::from_buf([input.data.clone()]));
        Self {
            request,
            cells: cells.collect(),
            rows: 1,
            by_row: false,
            common: common(keys, request, false),
            question: RefCell::default(),
        }
    }

    /// Returns the digest by which the entry of a row is found.
    pub(super) fn digest(&self, keys: &Keys, row: usize) -> u64 {
        let mut hasher = keys.fast.build_hasher();
        hasher.write_u64(self.common);
        for cell in self.of(row) {
            hasher.write_usize(cell.len());
            cell.blocks(|block| hasher.write(block));
        }
        hasher.finish()
    }

    /// Tells whether this is what its rows are asked.
    pub(super) fn asks(&self, question: &Arc<Counted<Question>>) -> bool {
        let mut known = self.question.borrow_mut();
        if known
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, question))
        {
            return true;
        }
        let asks = question.is_of(self);
        if asks {
            *known = Some(question.clone());
        }
        asks
    }

    /// Returns the contents of a row.
    pub(super) fn row(&self, row: usize) -> Row {
        self.of(row).cloned().collect()
    }

    pub(super) fn of(&self, row: usize) -> impl ExactSizeIterator<Item = &Payload> + Clone {
        self.cells.iter().map(move |cells| &cells[row])
    }
}

impl Question {
    /// Keeps what the rows of a request have in common.
    pub(super) fn new(cut: &Cut<'_>) -> Self {
        let request = cut.request;
        let head = &request.head;
        let inputs = request.inputs.iter().map(|input| Tensor {
            name: own(&input.name),
            datatype: input.datatype,
            shape: match cut.by_row {
                true => input.shape.with_rows(1),
                false => input.shape.clone(),
            },
            parameters: own_parameters(&input.parameters, &[BINARY_DATA_SIZE]),
            data: Payload::new(),
            form: input.form,
            unknown: Payload::new(),
        });
        let outputs = request.outputs.iter().map(|output| RequestedOutput {
            name: own(&output.name),
            parameters: own_parameters(&output.parameters, &[BINARY_DATA_SIZE]),
            unknown: Payload::new(),
        });
        let parts = RequestParts {
            head: Head {
                model: own(&head.model),
                version: own(&head.version),
                label: own(&head.label),
                signature: own(&head.signature),
                method: head.method,
                metadata: own_metadata(&head.metadata),
                ..Head::default()
            },
            inputs: inputs.collect(),
            outputs: outputs.collect(),
            parameters: own_parameters(&request.parameters, &BESIDES),
            unknown: Payload::new(),
        };
        Self {
            bytes: bytes(&parts),
            parts,
            by_row: cut.by_row,
        }
    }

    /// Tells whether this is what the rows of a request are asked.
    pub(super) fn is_of(&self, cut: &Cut<'_>) -> bool {
        let (a, b) = (&self.parts, &**cut.request);
        self.by_row == cut.by_row
            && a.head.model == b.head.model
            && a.head.version == b.head.version
            && a.head.label == b.head.label
            && a.head.signature == b.head.signature
            && a.head.method == b.head.method
            && all(&a.inputs, &b.inputs, |a, b| self.same_input(a, b))
            && all(&a.outputs, &b.outputs, |a, b| {
                a.name == b.name && a.parameters.same(&b.parameters, &[BINARY_DATA_SIZE])
            })
            && a.head.metadata == b.head.metadata
            && a.parameters.same(&b.parameters, &BESIDES)
    }

    /// Returns the memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns how many inputs a row has.
    pub(super) fn inputs(&self) -> usize {
        self.parts.inputs.len()
    }

    /// Returns what of the head can change the answer.
    pub(super) fn head(&self) -> &Head {
        &self.parts.head
    }

    /// Tells whether it is asked of rows, and not of whole requests.
    pub(super) fn by_row(&self) -> bool {
        self.by_row
    }

    /// Makes the request anew of which rows were stored, or returns `None` where it was one that
    /// was not cut into rows, and there is not just one.
    pub(super) fn ask(&self, rows: &[Row]) -> Option<Request> {
        if !self.by_row && rows.len() != 1 {
            return None;
        }
        let mut parts = self.parts.clone();
        for (index, input) in parts.inputs.iter_mut().enumerate() {
            for row in rows {
                let cell = row.get(index)?;
                crate::inference::join_cell(&mut input.data, input.form, cell);
            }
            if self.by_row {
                input.shape = input.shape.with_rows(rows.len());
            }
        }
        Some(Request::from(parts))
    }

    fn same_input(&self, a: &Tensor, b: &Tensor) -> bool {
        let (a_shape, b_shape) = (a.shape.dimensions(), b.shape.dimensions());
        let from = usize::from(self.by_row);
        a.name == b.name
            && a.datatype == b.datatype
            && a.form == b.form
            && a_shape.len() == b_shape.len()
            && a_shape.get(from..) == b_shape.get(from..)
            && a.parameters.same(&b.parameters, &[BINARY_DATA_SIZE])
    }
}

impl Keys {
    /// Returns the digest by which a row is compared, or `None` where its bytes are: those of few.
    /// It takes a microsecond for each kilobyte or two: nobody shall wait for it behind a lock.
    pub(super) fn strong<'a>(
        &self,
        row: impl ExactSizeIterator<Item = &'a Payload> + Clone,
    ) -> Option<Strong> {
        if whole_len(row.clone()) <= MOST_WHOLE {
            return None;
        }
        let mut hasher = blake3::Hasher::new_keyed(&self.strong.0);
        each(row, |bytes| {
            hasher.update(bytes);
        });
        Some(Strong(*hasher.finalize().as_bytes()))
    }
}

impl Strong {
    /// Writes the bytes by which a row is compared that has this digest, or none.
    pub(super) fn write<'a>(
        strong: Option<&Self>,
        row: impl ExactSizeIterator<Item = &'a Payload> + Clone,
        to: &mut Vec<u8>,
    ) {
        match strong {
            Some(Self(digest)) => to.extend_from_slice(digest),
            None => each(row, |bytes| to.extend_from_slice(bytes)),
        }
    }

    /// Tells whether a row that has this digest, or none, is the one that was written as `bytes`.
    pub(super) fn is<'a>(
        strong: Option<&Self>,
        row: impl ExactSizeIterator<Item = &'a Payload> + Clone,
        kept: Kept,
        mut bytes: &[u8],
    ) -> bool {
        match (strong, kept) {
            (Some(Self(digest)), Kept::Digest) => digest == bytes,
            (None, Kept::Whole) => {
                let mut same = true;
                each(row, |piece| {
                    let head = bytes.split_at_checked(piece.len());
                    same = same && head.is_some_and(|(head, _)| head == piece);
                    bytes = head.map_or(&[], |(_, rest)| rest);
                });
                same && bytes.is_empty()
            }
            _ => false,
        }
    }

    /// Returns the room that `write` needs.
    pub(super) fn len<'a>(
        strong: Option<&Self>,
        row: impl ExactSizeIterator<Item = &'a Payload> + Clone,
    ) -> usize {
        match strong {
            Some(Self(digest)) => digest.len(),
            None => whole_len(row),
        }
    }
}

/// Reads a row again that was written as a whole.
pub(super) fn read(bytes: &Bytes, inputs: usize) -> Option<Row> {
    if inputs == 1 {
        return Some(SmallVec::from_buf([Payload::from(bytes.clone())]));
    }
    let mut rest = bytes.clone();
    (0..inputs)
        .map(|_| {
            let (len, _) = rest.split_first_chunk::<8>()?;
            let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
            let end = len.checked_add(8).filter(|end| *end <= rest.len())?;
            let cell = rest.split_to(end).slice(8..);
            Some(Payload::from(cell))
        })
        .collect()
}

impl Default for StrongKey {
    fn default() -> Self {
        // As random as the standard library's own maps.
        let state = std::hash::RandomState::new();
        let mut key = [0; 32];
        for (index, part) in key.chunks_exact_mut(8).enumerate() {
            part.copy_from_slice(&state.hash_one(index).to_le_bytes());
        }
        Self(key)
    }
}

fn whole_len<'a>(row: impl ExactSizeIterator<Item = &'a Payload> + Clone) -> usize {
    let lengths = if row.len() > 1 { row.len() * 8 } else { 0 };
    row.map(Payload::len).sum::<usize>() + lengths
}

/// Goes through the bytes of a row so that no other row has the same: each input's behind their
/// number, where there are several.
fn each<'a>(row: impl ExactSizeIterator<Item = &'a Payload>, mut each: impl FnMut(&[u8])) {
    let several = row.len() > 1;
    for cell in row {
        if several {
            each(&(cell.len() as u64).to_le_bytes());
        }
        cell.pieces().for_each(|piece| each(piece));
    }
}

/// Returns the digest of what the rows of a request have in common.
fn common(keys: &Keys, request: &Request, by_row: bool) -> u64 {
    let state = &keys.fast;
    let mut hasher = state.build_hasher();
    let head = &request.head;
    hasher.write_u8(u8::from(by_row));
    for name in [&head.model, &head.version, &head.label, &head.signature] {
        write(&mut hasher, name.as_bytes());
    }
    hasher.write_u8(head.method as u8);
    for (name, value) in head.metadata.iter() {
        write(&mut hasher, name.as_bytes());
        write(&mut hasher, value);
    }
    hasher.write_u64(request.parameters.digest(state, &BESIDES));
    hasher.write_usize(request.inputs.len());
    for input in &request.inputs {
        write(&mut hasher, input.name.as_bytes());
        hasher.write_u8(input.datatype as u8);
        // A server may answer in the form in which it was asked, and callers read no other.
        hasher.write_u8(input.form as u8);
        let dimensions = input.shape.dimensions();
        hasher.write_usize(dimensions.len());
        for dimension in dimensions.get(usize::from(by_row)..).unwrap_or_default() {
            hasher.write_i64(*dimension);
        }
        hasher.write_u64(input.parameters.digest(state, &[BINARY_DATA_SIZE]));
    }
    for output in &request.outputs {
        write(&mut hasher, output.name.as_bytes());
        hasher.write_u64(output.parameters.digest(state, &[BINARY_DATA_SIZE]));
    }
    hasher.finish()
}

fn write(hasher: &mut impl Hasher, bytes: &[u8]) {
    hasher.write_usize(bytes.len());
    hasher.write(bytes);
}

fn all<T>(a: &[T], b: &[T], same: impl Fn(&T, &T) -> bool) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
}

/// Copies a text out of the message that it is a slice of, which is not kept.
pub(super) fn own(text: &ByteString) -> ByteString {
    ByteString::from(&**text)
}

pub(super) fn own_metadata(metadata: &Metadata) -> Metadata {
    let pairs = metadata.iter();
    Metadata::new(
        pairs
            .map(|(name, value)| (own(name), Bytes::copy_from_slice(value)))
            .collect(),
    )
}

pub(super) fn own_parameters(parameters: &Parameters, besides: &[&str]) -> Parameters {
    parameters
        .iter()
        .filter(|(name, _)| !besides.contains(&&***name))
        .map(|(name, value)| {
            let value = match value {
                Parameter::String(text) => Parameter::String(own(text)),
                other => other.clone(),
            };
            (own(name), value)
        })
        .collect()
}

pub(super) fn metadata_bytes(metadata: &Metadata) -> usize {
    let pairs = metadata.iter();
    pairs
        .map(|(name, value)| {
            size_of::<(ByteString, Bytes)>() + allocated(name.len()) + allocated(value.len())
        })
        .sum()
}

/// Shapes of many dimensions stand beside their tensor.
pub(super) fn shape_bytes(shape: &Shape) -> usize {
    match shape.dimensions().len() {
        0..=4 => 0,
        many => allocated(many.next_power_of_two() * size_of::<i64>()),
    }
}

pub(super) fn parameters_bytes(parameters: &Parameters) -> usize {
    let pairs = parameters.iter();
    pairs
        .map(|(name, value)| {
            let text = match value {
                Parameter::String(text) => allocated(text.len()),
                _ => 0,
            };
            size_of::<(ByteString, Parameter)>() + allocated(name.len()) + text
        })
        .sum()
}

fn bytes(parts: &RequestParts) -> usize {
    let head = &parts.head;
    let texts = [&head.model, &head.version, &head.label, &head.signature];
    let inputs = parts.inputs.iter().map(|input| {
        size_of::<Tensor>()
            + allocated(input.name.len())
            + shape_bytes(&input.shape)
            + parameters_bytes(&input.parameters)
    });
    let outputs = parts.outputs.iter().map(|output| {
        size_of::<RequestedOutput>()
            + allocated(output.name.len())
            + parameters_bytes(&output.parameters)
    });
    allocated(size_of::<Question>() + 16)
        + texts
            .map(|text| allocated(text.len()))
            .iter()
            .sum::<usize>()
        + metadata_bytes(&head.metadata)
        + parameters_bytes(&parts.parameters)
        + inputs.sum::<usize>()
        + outputs.sum::<usize>()
}

/// Parameters that say when a request is to be answered, and not what.
const BESIDES: [&str; 2] = ["priority", "timeout"];
/// The most rows that a request is cut into: what is noted of each takes some hundred bytes, and
/// must not be more than what its caller has sent by far. A request of more is kept as it is.
pub(super) const MOST_ROWS: usize = 4096;
/// Rows of more bytes are kept as a digest: there, storing and comparing them costs more memory
/// than digesting costs time. The room's README has the figures.
const MOST_WHOLE: usize = 4096;
