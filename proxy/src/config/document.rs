//! YAML text as a tree whose nodes know where they stand.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::fault::{Collector, Place, Position};

/// A value of the file.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) position: Position,
    pub(super) value: Value,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Scalar(Scalar),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// A value without parts. Its text stands as it was written: what it means is for the reader to
/// say who knows what is wanted, so that nothing is lost on the way (`1.10` stays `1.10`).
#[derive(Clone, Debug)]
pub(super) struct Scalar {
    pub(super) text: String,
    /// Neither quoted nor a block: what may be a number, a boolean or nothing.
    pub(super) plain: bool,
}

/// A key with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) position: Position,
    pub(super) value: Node,
}

/// A sequence or mapping whose end was not seen yet.
#[derive(Debug)]
struct Open {
    position: Position,
    anchor: usize,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Sequence(Vec<Node>),
    /// The key that waits for its value; inside, `None` when the key was faulty.
    Mapping(Vec<Entry>, Option<(Option<String>, Position)>),
}

/// A value with a name, for `*alias` to repeat.
#[derive(Debug)]
struct Anchored {
    node: Node,
    weight: usize,
    height: usize,
}

#[derive(Debug, Default)]
struct Builder {
    open: Vec<Open>,
    anchored: HashMap<usize, Anchored>,
    weight: usize,
    root: Option<Node>,
}

/// The file cannot be read on; why is among the faults.
#[derive(Debug)]
struct Stop;

/// Reads one YAML document, or leaves among the faults why there is none.
pub(super) fn parse(text: &str, faults: &mut Collector) -> Option<Node> {
    let mut builder = Builder::default();
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                let position = Position::of(error.marker());
                faults.add(&Place::root(position), error.info());
                return None;
            }
        };
        if let Event::DocumentStart(_) = event {
            documents += 1;
            if documents > 1 {
                let place = Place::root(Position::of(&span.start));
                faults.add(
                    &place,
                    "a second document begins here; the configuration is one",
                );
                break;
            }
        }
        builder.take(event, span, faults).ok()?;
    }
    if builder.root.is_none() {
        faults.add(&Place::root(Position::START), "the file is empty");
    }
    builder.root
}

impl Node {
    /// What holding the node costs, about, in bytes.
    fn weight(&self) -> usize {
        NODE_WEIGHT
            + match &self.value {
                Value::Scalar(scalar) => scalar.text.len(),
                Value::Sequence(items) => items.iter().map(Self::weight).sum(),
                Value::Mapping(entries) => entries
                    .iter()
                    .map(|entry| entry.key.len() + entry.value.weight())
                    .sum(),
            }
    }

    fn height(&self) -> usize {
        1 + match &self.value {
            Value::Scalar(_) => 0,
            Value::Sequence(items) => items.iter().map(Self::height).max().unwrap_or(0),
            Value::Mapping(entries) => entries
                .iter()
                .map(|entry| entry.value.height())
                .max()
                .unwrap_or(0),
        }
    }
}

impl Scalar {
    /// Nothing was written, or `null`.
    pub(super) fn is_null(&self) -> bool {
        self.plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// What YAML calls a boolean.
    pub(super) fn boolean(&self) -> Option<bool> {
        match self.text.as_str() {
            "true" | "True" | "TRUE" if self.plain => Some(true),
            "false" | "False" | "FALSE" if self.plain => Some(false),
            _ => None,
        }
    }

    /// What YAML calls a number, whole or not.
    pub(super) fn is_number(&self) -> bool {
        let unsigned = self.text.trim_start_matches(['+', '-']);
        self.plain
            && (unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
                && unsigned.parse::<f64>().is_ok()
                || unsigned
                    .strip_prefix("0x")
                    .is_some_and(|digits| is_digits(digits, 16))
                || unsigned
                    .strip_prefix("0o")
                    .is_some_and(|digits| is_digits(digits, 8))
                || matches!(
                    unsigned,
                    ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN"
                ))
    }
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span, faults: &mut Collector) -> Result<(), Stop> {
        let position = Position::of(&span.start);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let text_tag = tag.as_deref().is_some_and(is_text);
                if !text_tag {
                    self.refuse_tag(tag.as_deref(), position, faults);
                }
                let plain = style == ScalarStyle::Plain && !text_tag;
                let value = Value::Scalar(Scalar {
                    text: text.into_owned(),
                    plain,
                });
                let node = Node { position, value };
                self.charge(node.weight(), position, faults)?;
                self.complete(node, anchor, faults)
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), position, faults);
                self.begin(Kind::Sequence(Vec::new()), anchor, position, faults)
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), position, faults);
                self.begin(Kind::Mapping(Vec::new(), None), anchor, position, faults)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open {
                    position,
                    anchor,
                    kind,
                }) => {
                    let value = match kind {
                        Kind::Sequence(items) => Value::Sequence(items),
                        Kind::Mapping(entries, _) => Value::Mapping(entries),
                    };
                    self.complete(Node { position, value }, anchor, faults)
                }
                None => Ok(()),
            },
            Event::Alias(anchor) => {
                let Some(anchored) = self.anchored.get(&anchor) else {
                    self.add(position, "the alias repeats a value that holds it", faults);
                    return Err(Stop);
                };
                if self.open.len() + anchored.height > MAX_DEPTH {
                    self.add(position, &too_deep(), faults);
                    return Err(Stop);
                }
                self.charge(anchored.weight, position, faults)?;
                // Charged before it is copied, and still there: the charge touches no anchor.
                let node = self
                    .anchored
                    .get(&anchor)
                    .map(|anchored| anchored.node.clone());
                node.map_or(Ok(()), |node| self.complete(node, 0, faults))
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
        }
    }

    fn begin(
        &mut self,
        kind: Kind,
        anchor: usize,
        position: Position,
        faults: &mut Collector,
    ) -> Result<(), Stop> {
        if self.open.len() >= MAX_DEPTH {
            self.add(position, &too_deep(), faults);
            return Err(Stop);
        }
        self.charge(NODE_WEIGHT, position, faults)?;
        self.open.push(Open {
            position,
            anchor,
            kind,
        });
        Ok(())
    }

    /// Puts a whole node where it belongs.
    fn complete(&mut self, node: Node, anchor: usize, faults: &mut Collector) -> Result<(), Stop> {
        if anchor != 0 {
            let (weight, height) = (node.weight(), node.height());
            self.charge(weight, node.position, faults)?;
            self.anchored.insert(
                anchor,
                Anchored {
                    node: node.clone(),
                    weight,
                    height,
                },
            );
        }
        if self
            .open
            .last()
            .is_some_and(|open| open.kind.len() >= MAX_ENTRIES)
        {
            let message = format!("more than {MAX_ENTRIES} entries in one list or section");
            self.add(node.position, &message, faults);
            return Err(Stop);
        }
        let path = self.path();
        match self.open.last_mut().map(|open| &mut open.kind) {
            None => self.root = Some(node),
            Some(Kind::Sequence(items)) => items.push(node),
            Some(Kind::Mapping(entries, key @ None)) => {
                let place = Place {
                    path,
                    position: Some(node.position),
                };
                let name = match node.value {
                    Value::Scalar(scalar) => Some(scalar.text),
                    Value::Sequence(_) | Value::Mapping(_) => {
                        faults.add(&place, "a key must be text");
                        None
                    }
                };
                let first = name
                    .as_ref()
                    .and_then(|name| entries.iter().find(|entry| entry.key == *name));
                *key = match first {
                    Some(first) => {
                        let message = format!("the key stands on line {} too", first.position.line);
                        faults.add(&place.key(&first.key, node.position), &message);
                        Some((None, node.position))
                    }
                    None => Some((name, node.position)),
                };
            }
            Some(Kind::Mapping(entries, key)) => {
                if let Some((Some(key), position)) = key.take() {
                    entries.push(Entry {
                        key,
                        position,
                        value: node,
                    });
                }
            }
        }
        Ok(())
    }

    fn charge(
        &mut self,
        weight: usize,
        position: Position,
        faults: &mut Collector,
    ) -> Result<(), Stop> {
        self.weight = self.weight.saturating_add(weight);
        if self.weight <= MAX_WEIGHT {
            return Ok(());
        }
        self.add(
            position,
            "the file holds more values than any configuration needs",
            faults,
        );
        Err(Stop)
    }

    fn refuse_tag(&self, tag: Option<&Tag>, position: Position, faults: &mut Collector) {
        if let Some(tag) = tag {
            self.add(
                position,
                &format!("the tag `{tag}` has no meaning here"),
                faults,
            );
        }
    }

    fn add(&self, position: Position, message: &str, faults: &mut Collector) {
        faults.add(
            &Place {
                path: self.path(),
                position: Some(position),
            },
            message,
        );
    }

    /// The path of what is being read now.
    fn path(&self) -> String {
        let mut place = Place::root(Position::START);
        for open in &self.open {
            place = match &open.kind {
                Kind::Sequence(items) => place.index(items.len(), open.position),
                Kind::Mapping(_, Some((Some(key), _))) => place.key(key, open.position),
                Kind::Mapping(_, _) => place,
            };
        }
        place.path
    }
}

impl Kind {
    fn len(&self) -> usize {
        match self {
            Self::Sequence(items) => items.len(),
            Self::Mapping(entries, _) => entries.len(),
        }
    }
}

fn is_text(tag: &Tag) -> bool {
    tag.is_yaml_core_schema() && tag.suffix == "str"
}

fn is_digits(text: &str, radix: u32) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_digit(radix))
}

fn too_deep() -> String {
    format!("values are nested deeper than {MAX_DEPTH}")
}

/// Twice and more what the configuration needs; keeps every walk over the tree off the stack's end.
const MAX_DEPTH: usize = 32;

/// Bytes that a tree may take; aliases, which repeat what they name, are what makes a small file
/// a large tree.
const MAX_WEIGHT: usize = 16 << 20;

/// Entries of one list or section; keeps the comparison of each with each within a second.
const MAX_ENTRIES: usize = 10_000;

/// What a node weighs without its text: about its size.
const NODE_WEIGHT: usize = 64;
