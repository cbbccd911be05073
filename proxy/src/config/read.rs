//! From the tree to sections of the file, fault by fault, and the schema from the same list of keys.
//!
//! A section is declared once with [`section!`]: its keys, what each holds, and what each is for.
//! From that come the struct, the reader that reports every unknown, missing or faulty key and
//! reads on, and the JSON Schema. So a key that is accepted is described, and the other way round.
//! (A `serde::Deserialize` derive stops at the first fault and loses the place of a value that is
//! well-formed but wrong.)

use std::fmt;
use std::ops::Deref;

use serde_json::{Value as Json, json};

use super::document::{Entry, Node, Scalar, Value};
use super::fault::{Collector, Place};

/// What can be read from a node of the file.
pub(super) trait Read: Sized {
    /// Reads the node; what is wrong with it goes to the faults.
    fn read(node: &Node, place: &Place, faults: &mut Collector) -> Option<Self>;

    /// The JSON Schema of what is accepted.
    fn schema() -> Json;
}

/// What is written as text, a figure or a word.
pub(super) trait Leaf: Sized {
    /// What is wanted, as it ends the sentence "needs ...".
    const WANTED: &'static str;

    /// Reads the value, or says what is wrong with it.
    fn parse(scalar: &Scalar) -> Result<Self, String>;

    /// The JSON Schema of what is accepted.
    fn schema() -> Json;
}

/// A value with its place, so that what is found out later can be said there.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) place: Place,
    pub(super) value: T,
}

/// Values by names that the user chooses, in the order of the file.
#[derive(Clone, Debug)]
pub(super) struct Named<N, T>(pub(super) Vec<(N, At<T>)>);

/// The entries of a section while they are read.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    entries: &'a [Entry],
    place: &'a Place,
}

impl<T: Leaf> Read for T {
    fn read(node: &Node, place: &Place, faults: &mut Collector) -> Option<Self> {
        let wanted = T::WANTED;
        match &node.value {
            Value::Scalar(scalar) if scalar.is_null() => {
                faults.add(
                    place,
                    format_args!("has no value; needs {wanted}, or leave it out"),
                );
                None
            }
            Value::Scalar(scalar) => T::parse(scalar)
                .map_err(|message| faults.add(place, message))
                .ok(),
            Value::Sequence(_) => {
                faults.add(place, format_args!("needs {wanted}, not a list"));
                None
            }
            Value::Mapping(_) => {
                faults.add(place, format_args!("needs {wanted}, not a section"));
                None
            }
        }
    }

    fn schema() -> Json {
        <T as Leaf>::schema()
    }
}

impl<T: Read> Read for Vec<At<T>> {
    fn read(node: &Node, place: &Place, faults: &mut Collector) -> Option<Self> {
        let Value::Sequence(items) = &node.value else {
            faults.add(place, "needs a list");
            return None;
        };
        if items.is_empty() {
            faults.add(place, "needs at least one entry");
        }
        let items = items.iter().enumerate().filter_map(|(index, node)| {
            let place = place.index(index, node.position);
            T::read(node, &place, faults).map(|value| At { place, value })
        });
        Some(items.collect())
    }

    fn schema() -> Json {
        json!({ "type": "array", "minItems": 1, "items": T::schema() })
    }
}

impl<N: Leaf, T: Read> Read for Named<N, T> {
    fn read(node: &Node, place: &Place, faults: &mut Collector) -> Option<Self> {
        let entries = mapping(node, place, faults)?;
        if entries.is_empty() {
            faults.add(place, "needs at least one entry");
        }
        let entries = entries.iter().filter_map(|entry| {
            let at = place.key(&entry.key, entry.position);
            let name = Scalar {
                text: entry.key.clone(),
                plain: false,
            };
            let name = N::parse(&name)
                .map_err(|message| faults.add(&at, message))
                .ok();
            let value = T::read(&entry.value, &at, faults).map(|value| At { place: at, value });
            name.zip(value)
        });
        Some(Self(entries.collect()))
    }

    fn schema() -> Json {
        json!({
            "type": "object",
            "minProperties": 1,
            "propertyNames": <N as Leaf>::schema(),
            "additionalProperties": T::schema(),
        })
    }
}

impl<'a> Fields<'a> {
    /// The entries of a section; what is no key of it, or not yet, goes to the faults.
    pub(super) fn of(
        node: &'a Node,
        place: &'a Place,
        keys: &[&str],
        later: &[(&str, &str)],
        faults: &mut Collector,
    ) -> Option<Self> {
        let entries = mapping(node, place, faults)?;
        for Entry { key, position, .. } in entries {
            if keys.contains(&key.as_str()) {
                continue;
            }
            let at = place.key(key, *position);
            match later.iter().find(|(name, _)| name == key) {
                Some((_, with)) => faults.add(&at, not_yet(key, with)),
                None => faults.add(&at, unknown("key", key, keys.iter().copied())),
            }
        }
        Some(Self { entries, place })
    }

    /// Reads what stands under a key, if it is there; that it is missing may be a fault.
    pub(super) fn take<T: Read>(
        &self,
        key: &str,
        required: bool,
        faults: &mut Collector,
    ) -> Option<At<T>> {
        let Some(entry) = self.entries.iter().find(|entry| entry.key == key) else {
            if required {
                faults.add(self.place, format_args!("`{key}` is missing"));
            }
            return None;
        };
        let position = match &entry.value.value {
            Value::Scalar(scalar) if !scalar.is_null() => entry.value.position,
            // The place of an empty value is wherever the next token stands.
            Value::Scalar(_) | Value::Sequence(_) | Value::Mapping(_) => entry.position,
        };
        let place = self.place.key(key, position);
        T::read(&entry.value, &place, faults).map(|value| At { place, value })
    }
}

impl<T> Deref for At<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// What is said of a key or value that the contract knows and this version does not.
pub(super) fn not_yet(what: impl fmt::Display, with: &str) -> String {
    format!("`{what}` is not in this version: it comes with {with}")
}

/// What is said of a name that is none of the known ones.
pub(super) fn unknown<'a>(
    what: &str,
    name: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> String {
    let nearest = known
        .clone()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len() / 3)
        .min();
    let list = || {
        known
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    match nearest {
        Some((_, nearest)) => format!("unknown {what} `{name}`; did you mean `{nearest}`?"),
        None => format!("unknown {what} `{name}`; known are {}", list()),
    }
}

fn mapping<'a>(node: &'a Node, place: &Place, faults: &mut Collector) -> Option<&'a [Entry]> {
    match &node.value {
        Value::Mapping(entries) => Some(entries),
        Value::Scalar(scalar) if scalar.is_null() => {
            faults.add(
                place,
                "has no value; write `{}` for all defaults, or leave it out",
            );
            None
        }
        Value::Scalar(_) | Value::Sequence(_) => {
            faults.add(place, "needs a section of keys and values");
            None
        }
    }
}

/// Declares a section of the file: its keys, what they hold, and what comes in a later version.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        struct $name:ident {
            $( $(#[doc = $doc:literal])* $field:ident: $type:ty = $need:ident, )*
        }
        $( later { $( $later:ident: $with:literal, )* } )?
    ) => {
        $(#[doc = $about])*
        #[derive(Debug)]
        pub(super) struct $name {
            $( pub(super) $field: Option<$crate::config::read::At<$type>>, )*
        }

        impl $crate::config::read::Read for $name {
            fn read(
                node: &$crate::config::document::Node,
                place: &$crate::config::fault::Place,
                faults: &mut $crate::config::fault::Collector,
            ) -> Option<Self> {
                let keys = [$( stringify!($field) ),*];
                let later = [$( $( (stringify!($later), $with) ),* )?];
                let fields =
                    $crate::config::read::Fields::of(node, place, &keys, &later, faults)?;
                Some(Self {
                    $( $field: fields.take(stringify!($field), section!(@ $need), faults), )*
                })
            }

            fn schema() -> serde_json::Value {
                let about: &str = concat!($( $about, "\n" ),*);
                let mut required: Vec<&str> = Vec::new();
                let mut properties = serde_json::Map::new();
                $(
                    if section!(@ $need) {
                        required.push(stringify!($field));
                    }
                    let mut schema = <$type as $crate::config::read::Read>::schema();
                    let doc: &str = concat!($( $doc, "\n" ),*);
                    schema["description"] = $crate::config::read::described(doc).into();
                    properties.insert(stringify!($field).to_owned(), schema);
                )*
                serde_json::json!({
                    "type": "object",
                    "description": $crate::config::read::described(about),
                    "properties": properties,
                    "required": required,
                    "additionalProperties": false,
                })
            }
        }
    };
    (@ required) => { true };
    (@ optional) => { false };
}

pub(super) use section;

/// The text of a doc comment on one line.
pub(super) fn described(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}
