use outrigger_filters::inference::{Datatype, Shape};

use super::{Malformed, Strings, cursor::Cursor, grammar, parse::b64_object, walk};

/// What a scan finds in a tensor's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The dimensions, up to the first one that is zero.
    pub shape: Shape,
    /// What the elements are.
    pub leaf: Leaf,
}

/// What the elements of a tensor's text are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leaf {
    /// There are none.
    #[default]
    None,
    /// Whole numbers.
    Integer,
    /// Numbers, some of which have a fraction or an exponent or are none.
    Number,
    /// `true` and `false`.
    Bool,
    /// Strings.
    String,
    /// Strings, some of which are objects `{"b64": "..."}`.
    Base64,
}

/// Finds the shape and the kind of the elements of the value at the beginning of `text`, and how
/// many bytes it takes with the white space before it. Every element is checked to be what its
/// kind says, and none is read.
pub fn scan(text: &[u8]) -> Result<(Scan, usize), Malformed> {
    let mut cursor = Cursor::new(text);
    let mut leaves = Kinds::default();
    let shape = walk::value(&mut cursor, &mut leaves)?;
    let scan = Scan {
        shape,
        leaf: leaves.leaf,
    };
    Ok((scan, cursor.at))
}

/// Tells whether a tensor of the shape `said` may have a text that was found to have the shape
/// `found`: behind a dimension of zero there is nothing to be found.
pub fn agree(said: &Shape, found: &Shape) -> bool {
    let (said, found) = (said.dimensions(), found.dimensions());
    match found.last() {
        Some(0) => said.starts_with(found),
        _ => said == found,
    }
}

impl Leaf {
    /// Tells whether such elements may be a datatype's.
    pub fn suits(self, datatype: Datatype, strings: Strings) -> bool {
        match self {
            Self::None => true,
            Self::Integer => !matches!(datatype, Datatype::Bool | Datatype::Bytes),
            Self::Number => matches!(
                datatype,
                Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64
            ),
            Self::Bool => datatype == Datatype::Bool,
            Self::String => datatype == Datatype::Bytes,
            Self::Base64 => datatype == Datatype::Bytes && strings != Strings::Plain,
        }
    }

    /// Returns what both kinds are.
    pub fn with(self, other: Self) -> Option<Self> {
        match (self, other) {
            (a, b) if a == b => Some(a),
            (Self::None, other) | (other, Self::None) => Some(other),
            (Self::Integer | Self::Number, Self::Integer | Self::Number) => Some(Self::Number),
            (Self::String | Self::Base64, Self::String | Self::Base64) => Some(Self::Base64),
            _ => None,
        }
    }
}

/// Leaves that are checked and not read.
#[derive(Debug, Default)]
struct Kinds {
    leaf: Leaf,
}

impl Kinds {
    fn add(&mut self, leaf: Leaf) -> Result<(), Malformed> {
        self.leaf = self.leaf.with(leaf).ok_or(Malformed::Mixed)?;
        Ok(())
    }

    fn numbers(&mut self, cursor: &mut Cursor<'_>) -> Result<usize, Malformed> {
        let (mut count, mut whole) = grammar::numbers(cursor);
        loop {
            if cursor.space() == Some(b'[') {
                return Err(Malformed::Irregular);
            }
            whole &= cursor.number().map_err(|malformed| match cursor.peek() {
                Some(b't' | b'f' | b'"' | b'{') => Malformed::Mixed,
                _ => malformed,
            })?;
            count += 1;
            if !cursor.comma()? {
                break;
            }
            let (more, still_whole) = grammar::numbers(cursor);
            count += more;
            whole &= still_whole;
        }
        self.add(if whole { Leaf::Integer } else { Leaf::Number })?;
        Ok(count)
    }
}

impl walk::Leaves for Kinds {
    #[inline]
    fn run(&mut self, cursor: &mut Cursor<'_>) -> Result<usize, Malformed> {
        if matches!(cursor.peek(), Some(b'0'..=b'9' | b'-' | b'N' | b'I')) {
            return self.numbers(cursor);
        }
        let mut count = 0;
        loop {
            self.one(cursor)?;
            count += 1;
            if !cursor.comma()? {
                return Ok(count);
            }
        }
    }

    #[inline]
    fn one(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Malformed> {
        match cursor.peek() {
            Some(b'"') => {
                cursor.string()?;
                self.add(Leaf::String)
            }
            Some(b't') => {
                cursor.word("true")?;
                self.add(Leaf::Bool)
            }
            Some(b'f') => {
                cursor.word("false")?;
                self.add(Leaf::Bool)
            }
            Some(b'{') => {
                b64_object(cursor)?;
                self.add(Leaf::Base64)
            }
            _ => {
                let whole = cursor.number()?;
                self.add(if whole { Leaf::Integer } else { Leaf::Number })
            }
        }
    }
}
