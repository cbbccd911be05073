//! Tensors as rows or as columns of JSON: `instances` and `predictions`, `inputs` and `outputs`.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use bytestring::ByteString;
use outrigger_filters::inference::{
    Datatype, Form, Parameters, Payload, Shape, Tensor, TensorSpec, Values,
};

use super::{Malformed, blame, malformed::debug_text};
use crate::codec::json::{self, Kind, Leaf, Reader, Scan, Strings, convert};

/// How the tensors of a member are to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading<'a> {
    /// The member's name.
    pub(super) field: &'static str,
    /// What is known of the tensors, if anything is.
    pub(super) specs: Option<&'a [TensorSpec]>,
    /// The datatype of whole numbers of which nothing is known.
    pub(super) whole: Datatype,
    /// The form that is made of them.
    pub(super) wanted: Form,
}

/// One of several tensors whose rows stand in objects.
#[derive(Debug)]
struct Column<'a> {
    name: ByteString,
    spec: Option<&'a TensorSpec>,
    /// The dimensions of a row.
    shape: Shape,
    leaf: Leaf,
    /// The texts of the rows, with commas between them.
    text: Vec<u8>,
    rows: usize,
}

impl<'a> Reading<'a> {
    /// Reads an array of rows: of one tensor, or objects with a row of each of several.
    pub(super) fn rows(&self, reader: &mut Reader<'_>) -> Result<Vec<Tensor>, Malformed> {
        let field = self.field;
        if reader.peek()? != Kind::Array {
            let value = reader.value()?;
            return Err(Malformed::format(
                field,
                &value,
                format_args!("Expecting '{field}' to be an list/array"),
            ));
        }
        let mut inside = reader.clone();
        inside.array()?;
        if !inside.element()? {
            let value = reader.value()?;
            return Err(Malformed::format(
                field,
                &value,
                format_args!("No values in '{field}' array"),
            ));
        }
        if is_named(&mut inside)? {
            return self.named_rows(reader);
        }
        if self.specs.is_some_and(|specs| specs.len() > 1) {
            return Err(Malformed::new(
                field,
                format!(
                    "{field} is a plain list, but expecting list of objects as multiple input \
                     tensors required as per tensorinfo_map"
                ),
            ));
        }
        let mut again = reader.clone();
        let tensor = self.tensor(reader, self.single());
        tensor
            .map(|tensor| vec![tensor])
            .map_err(|fault| match again.value() {
                Ok(text) => blame::rows(field, &text, self.single(), fault),
                Err(fault) => Malformed::of(field, fault),
            })
    }

    /// Reads one whole tensor, or an object with several.
    pub(super) fn columns(&self, reader: &mut Reader<'_>) -> Result<Vec<Tensor>, Malformed> {
        let field = self.field;
        if is_named(reader)? {
            return self.named_columns(reader);
        }
        if self.specs.is_some_and(|specs| specs.len() > 1) {
            return Err(Malformed::new(
                field,
                format!(
                    "{field} is a plain value/list, but expecting an object as multiple input \
                     tensors required as per tensorinfo_map"
                ),
            ));
        }
        let tensor = self.blamed(reader, field, self.single())?;
        Ok(vec![tensor])
    }

    /// Reads objects, each with a row of every tensor.
    fn named_rows(&self, reader: &mut Reader<'_>) -> Result<Vec<Tensor>, Malformed> {
        let field = self.field;
        let mut columns: Vec<Column<'_>> = Vec::new();
        let mut places: HashMap<ByteString, usize> = HashMap::new();
        let mut row = 0;
        reader.array()?;
        while reader.element()? {
            if !is_named(reader)? {
                return Err(Malformed::new(
                    format!("{field}[{row}]"),
                    format!("Expecting object but got list at item {row} of input list"),
                ));
            }
            let begin = reader.clone();
            let mut members = 0;
            reader.object()?;
            while let Some(name) = reader.member()? {
                // Rows mostly have their members in one order.
                let index = match columns.get(members) {
                    Some(column) if column.name == name => Some(members),
                    _ => places.get(&name).copied(),
                };
                let column = match index {
                    Some(index) => columns.get_mut(index),
                    None if row == 0 => {
                        if columns.len() == MAX_TENSORS {
                            return Err(Malformed::new(field, "more tensors than are read"));
                        }
                        places.insert(name.clone(), columns.len());
                        columns.push(self.column(name, row)?);
                        columns.last_mut()
                    }
                    None => None,
                };
                let Some(column) = column.filter(|column| column.rows == row) else {
                    return Err(self.keys(begin, row, &columns));
                };
                column.push(field, reader)?;
                members += 1;
            }
            if members != columns.len() || self.specs.is_some_and(|specs| specs.len() != members) {
                return Err(self.keys(begin, row, &columns));
            }
            row += 1;
        }
        let mut tensors = columns
            .into_iter()
            .map(|column| column.finish(self))
            .collect::<Result<Vec<_>, _>>()?;
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(tensors)
    }

    /// Reads an object with whole tensors.
    fn named_columns(&self, reader: &mut Reader<'_>) -> Result<Vec<Tensor>, Malformed> {
        let mut tensors: Vec<Tensor> = Vec::new();
        let mut names: HashSet<ByteString> = HashSet::new();
        reader.object()?;
        while let Some(name) = reader.member()? {
            let at = format!("{}.{name}", self.field);
            let spec = self.spec(&name);
            if self.specs.is_some() && spec.is_none() {
                return Err(Malformed::new(
                    at,
                    format!("JSON object: does not have named input: {name}"),
                ));
            }
            if tensors.len() == MAX_TENSORS {
                return Err(Malformed::new(self.field, "more tensors than are read"));
            }
            if !names.insert(name.clone()) {
                return Err(Malformed::new(at.clone(), format!("{at} is there twice")));
            }
            let mut tensor = self.blamed(reader, &at, spec)?;
            tensor.name = name;
            tensors.push(tensor);
        }
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let mut specs = self.specs.unwrap_or_default().iter();
        if let Some(missing) = specs.find(|spec| !names.contains(&spec.name)) {
            return Err(Malformed::new(
                format!("{}.{}", self.field, missing.name),
                format!(
                    "Missing named input: {} in '{}' object.",
                    missing.name, self.field
                ),
            ));
        }
        Ok(tensors)
    }

    fn column(&self, name: ByteString, row: usize) -> Result<Column<'a>, Malformed> {
        let spec = self.spec(&name);
        if self.specs.is_some() && spec.is_none() {
            let field = self.field;
            return Err(Malformed::new(
                format!("{field}[{row}].{name}"),
                format!(
                    "Failed to process element: {row} key: {name} of '{field}' list. \
                     Error: INVALID_ARGUMENT: JSON object: does not have named input: {name}"
                ),
            ));
        }
        Ok(Column {
            name,
            spec,
            shape: Shape::default(),
            leaf: Leaf::None,
            text: Vec::new(),
            rows: 0,
        })
    }

    /// Says that a row has not one value for each tensor.
    fn keys(&self, mut begin: Reader<'_>, row: usize, columns: &[Column<'_>]) -> Malformed {
        let field = self.field;
        let value = match begin.value() {
            Ok(value) => value,
            Err(fault) => return Malformed::of(field, fault),
        };
        let mut names: Vec<&str> = match self.specs {
            Some(specs) => specs.iter().map(|spec| &*spec.name).collect(),
            None => columns.iter().map(|column| &*column.name).collect(),
        };
        names.sort_unstable();
        Malformed::new(
            format!("{field}[{row}]"),
            format!(
                "Failed to process element: {row} of '{field}' list. JSON object: {} keys must be \
                 equal to: {}",
                debug_text(&value),
                names.join(",")
            ),
        )
    }

    fn blamed(
        &self,
        reader: &mut Reader<'_>,
        at: &str,
        spec: Option<&TensorSpec>,
    ) -> Result<Tensor, Malformed> {
        let mut again = reader.clone();
        self.tensor(reader, spec)
            .map_err(|fault| match again.value() {
                Ok(text) => blame::whole(at, &text, spec.map(|spec| spec.datatype), fault),
                Err(fault) => Malformed::of(at, fault),
            })
    }

    /// Reads one tensor, in one pass where its datatype is known or its text is wanted.
    fn tensor(
        &self,
        reader: &mut Reader<'_>,
        spec: Option<&TensorSpec>,
    ) -> Result<Tensor, json::Malformed> {
        let name = spec.map(|spec| spec.name.clone()).unwrap_or_default();
        if let (Some(spec), Form::Raw | Form::Typed) = (spec, self.wanted) {
            let parsed = reader.parse(spec.datatype, Strings::Either)?;
            return Ok(make(
                name,
                spec.datatype,
                parsed.shape,
                Bytes::from(parsed.data).into(),
                self.wanted,
            ));
        }
        let (Scan { shape, leaf }, text) = reader.scan()?;
        let datatype = datatype_of(spec, leaf, self.whole)?;
        let text = match shape.dimensions() {
            [] => text,
            // Without its own brackets.
            _ => text.slice(1..text.len().saturating_sub(1).max(1)),
        };
        let tensor = make(name, datatype, shape, text.into(), Form::Rows);
        with_form(tensor, self.wanted)
    }

    /// Returns what is known of the one tensor that needs no name.
    fn single(&self) -> Option<&'a TensorSpec> {
        match self.specs {
            Some([spec]) => Some(spec),
            _ => None,
        }
    }

    fn spec(&self, name: &str) -> Option<&'a TensorSpec> {
        self.specs?.iter().find(|spec| spec.name == name)
    }
}

impl Column<'_> {
    /// Reads one row's value, and copies its text behind those before.
    fn push(&mut self, field: &str, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        let mut again = reader.clone();
        let datatype = self.spec.map(|spec| spec.datatype);
        let row = self.rows;
        let key = self.name.clone();
        let mut read = || {
            let (found, text) = reader.scan()?;
            let leaf = self.leaf.with(found.leaf).ok_or(json::Malformed::Mixed)?;
            if datatype.is_some_and(|datatype| !leaf.suits(datatype, Strings::Either)) {
                return Err(json::Malformed::Mixed);
            }
            self.leaf = leaf;
            if row == 0 {
                self.shape = found.shape;
            } else {
                if self.shape != found.shape {
                    return Ok(Some(found.shape));
                }
                self.text.push(b',');
            }
            self.text.extend_from_slice(&text);
            self.rows += 1;
            Ok(None)
        };
        match read() {
            Ok(None) => Ok(()),
            Ok(Some(other)) => {
                let words = blame::shapes(self.shape.dimensions(), other.dimensions());
                Err(Malformed::new(
                    format!("{field}[{row}].{key}"),
                    format!(
                        "Failed to process element: {row} key: {key} of '{field}' list. \
                         Error: INVALID_ARGUMENT: {}",
                        words.unwrap_or_default()
                    ),
                ))
            }
            Err(fault) => Err(match again.value() {
                Ok(text) => blame::item(field, row, &key, &text, datatype, fault),
                Err(fault) => Malformed::of(field, fault),
            }),
        }
    }

    fn finish(self, reading: &Reading<'_>) -> Result<Tensor, Malformed> {
        let field = reading.field;
        let rows = i64::try_from(self.rows).unwrap_or(i64::MAX);
        let shape = Shape::new(
            [rows]
                .into_iter()
                .chain(self.shape.dimensions().iter().copied()),
        );
        let key = self.name.clone();
        let datatype = datatype_of(self.spec, self.leaf, reading.whole);
        let text = Bytes::from(self.text);
        let tensor = datatype.and_then(|datatype| {
            let data = Payload::from(text.clone());
            with_form(
                make(self.name, datatype, shape, data, Form::Rows),
                reading.wanted,
            )
        });
        tensor.map_err(|fault| {
            // Which of the rows it was is found by reading them one by one.
            let mut rows = Values::new(text);
            let mut row = 0;
            while let (Some(value), Some(spec)) = (rows.take(1), self.spec) {
                if json::parse(&value, spec.datatype, Strings::Either).is_err() {
                    return blame::item(field, row, &key, &value, Some(spec.datatype), fault);
                }
                row += 1;
            }
            Malformed::of(&format!("{field}[].{key}"), fault)
        })
    }
}

/// Tells whether what follows is an object of named values, and not one of base64.
pub(super) fn is_named(reader: &mut Reader<'_>) -> Result<bool, json::Malformed> {
    if reader.peek()? != Kind::Object {
        return Ok(false);
    }
    let mut inside = reader.clone();
    inside.object()?;
    match inside.member()?.as_deref() {
        Some("b64") if inside.peek()? == Kind::String => {}
        _ => return Ok(true),
    }
    inside.skip()?;
    Ok(inside.member()?.is_some())
}

/// Writes tensors row by row: the rows of one that is alone as they are, those of others in objects.
pub(super) fn write_rows(
    field: &'static str,
    tensors: &[Tensor],
    alone: bool,
    strings: impl Fn(&Tensor) -> Strings,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let mut batch = None;
    for tensor in tensors {
        let rows = match tensor.shape.dimensions() {
            [] => {
                return Err(Malformed::new(
                    &*tensor.name,
                    format!("Tensor name: {} has no shape information ", tensor.name),
                ));
            }
            [rows, ..] => usize::try_from(*rows).unwrap_or(0),
        };
        if let Some(batch) = batch.replace(rows).filter(|batch| *batch != rows) {
            return Err(Malformed::new(
                &*tensor.name,
                format!(
                    "Tensor name: {} has inconsistent batch size: {rows} expecting: {batch}",
                    tensor.name
                ),
            ));
        }
    }
    let rows = batch.unwrap_or(0);
    out.put(b"\"");
    out.put(field.as_bytes());
    out.put(b"\":[");
    match tensors {
        [] => {}
        [tensor] if alone => out.share(&text_of(tensor, strings(tensor))?),
        tensors => {
            let mut columns = tensors
                .iter()
                .map(|tensor| {
                    let text = text_of(tensor, strings(tensor))?;
                    Ok((&tensor.name, Values::new(text.to_bytes())))
                })
                .collect::<Result<Vec<_>, Malformed>>()?;
            for row in 0..rows {
                out.put(if row == 0 { b"{" } else { b",{" });
                for (index, (name, values)) in columns.iter_mut().enumerate() {
                    let value = values
                        .take(1)
                        .ok_or_else(|| Malformed::of(name, json::Malformed::Count))?;
                    out.name(name, index == 0);
                    out.put(&value);
                }
                out.put(b"}");
            }
        }
    }
    out.put(b"]");
    Ok(())
}

/// Writes tensors one after another: one that is alone as it is, others as the members of an object.
pub(super) fn write_columns(
    field: &'static str,
    tensors: &[Tensor],
    alone: bool,
    strings: impl Fn(&Tensor) -> Strings,
    out: &mut Writer,
) -> Result<(), Malformed> {
    out.put(b"\"");
    out.put(field.as_bytes());
    out.put(b"\":");
    if let ([tensor], true) = (tensors, alone) {
        return write_whole(tensor, strings(tensor), out);
    }
    out.put(b"{");
    for (index, tensor) in tensors.iter().enumerate() {
        out.name(&tensor.name, index == 0);
        write_whole(tensor, strings(tensor), out)?;
    }
    out.put(b"}");
    Ok(())
}

fn write_whole(tensor: &Tensor, strings: Strings, out: &mut Writer) -> Result<(), Malformed> {
    let text = text_of(tensor, strings)?;
    if tensor.shape.dimensions().is_empty() {
        out.share(&text);
    } else {
        out.put(b"[");
        out.share(&text);
        out.put(b"]");
    }
    Ok(())
}

fn text_of(tensor: &Tensor, strings: Strings) -> Result<Payload, Malformed> {
    convert(tensor, Form::Rows, strings).map_err(|fault| Malformed::of(&tensor.name, fault))
}

/// A message being written: small texts are copied, long ones shared.
#[derive(Debug, Default)]
pub(super) struct Writer {
    small: Vec<u8>,
    message: Payload,
}

impl Writer {
    pub(super) fn put(&mut self, text: &[u8]) {
        self.small.extend_from_slice(text);
    }

    /// Begins a member of an object.
    pub(super) fn name(&mut self, name: &str, first: bool) {
        if !first {
            self.small.push(b',');
        }
        json::put_string(name, &mut self.small);
        self.small.push(b':');
    }

    pub(super) fn small(&mut self) -> &mut Vec<u8> {
        &mut self.small
    }

    pub(super) fn share(&mut self, text: &Payload) {
        for piece in text.pieces() {
            if piece.len() > COPY_UP_TO {
                self.cut();
                self.message.push(piece.clone());
            } else {
                self.small.extend_from_slice(piece);
            }
        }
    }

    /// Adds the members that were not known when they were read; those of another protocol's
    /// message have no place here.
    pub(super) fn unknown(&mut self, members: &Payload) {
        let mut pieces = members.pieces();
        if pieces.next().is_some_and(|first| first.starts_with(b",")) {
            self.share(members);
        }
    }

    pub(super) fn finish(mut self) -> Payload {
        self.cut();
        self.message
    }

    fn cut(&mut self) {
        if !self.small.is_empty() {
            self.message
                .push(Bytes::from(std::mem::take(&mut self.small)));
        }
    }
}

/// Adds a member that is not known to those that are kept: `,"name":value`.
pub(super) fn keep(name: &str, value: &[u8], members: &mut Vec<u8>) {
    members.push(b',');
    json::put_string(name, members);
    members.push(b':');
    members.extend_from_slice(value);
}

fn make(name: ByteString, datatype: Datatype, shape: Shape, data: Payload, form: Form) -> Tensor {
    Tensor {
        name,
        datatype,
        shape,
        parameters: Parameters::default(),
        data,
        form,
        unknown: Payload::new(),
    }
}

fn with_form(mut tensor: Tensor, wanted: Form) -> Result<Tensor, json::Malformed> {
    if wanted != Form::Rows {
        tensor.data = convert(&tensor, wanted, Strings::Either)?;
        tensor.form = wanted;
    }
    Ok(tensor)
}

/// Returns the datatype that a signature says, or else the one that such elements suggest.
fn datatype_of(
    spec: Option<&TensorSpec>,
    leaf: Leaf,
    whole: Datatype,
) -> Result<Datatype, json::Malformed> {
    match spec {
        Some(spec) if leaf.suits(spec.datatype, Strings::Either) => Ok(spec.datatype),
        Some(_) => Err(json::Malformed::Mixed),
        None => match leaf {
            Leaf::Integer => Ok(whole),
            Leaf::Number => Ok(Datatype::Fp64),
            Leaf::Bool => Ok(Datatype::Bool),
            Leaf::String | Leaf::Base64 => Ok(Datatype::Bytes),
            // Nothing says what they would be.
            Leaf::None => Err(json::Malformed::Count),
        },
    }
}

/// Tensors in a message: far above what models have.
const MAX_TENSORS: usize = 1024;

/// Texts up to this length are copied, which is cheaper than to share them.
const COPY_UP_TO: usize = 256;
