use std::ops::Range;

use bytes::Bytes;
use bytestring::ByteString;
use outrigger_filters::inference::Datatype;

use super::{
    Malformed, Parsed, Scan, Strings, cursor::Cursor, parse, parse::parse_expected, scan, string,
};

/// Pulls values out of a JSON message, of which texts are slices.
///
/// Whoever pulls goes down into objects and arrays himself, as far as he knows them, so that
/// nothing recurses, and takes the rest as [text](Self::value).
///
/// ```
/// use bytes::Bytes;
/// use outrigger::codec::json::Reader;
///
/// let message = Bytes::from_static(br#"{"id": "7", "data": [[1.50, NaN]], "more": {"a": []}}"#);
/// let mut reader = Reader::new(&message);
/// reader.object()?;
/// while let Some(name) = reader.member()? {
///     match &*name {
///         "id" => assert_eq!(reader.string()?, "7"),
///         "data" => {
///             let (found, text) = reader.scan()?;
///             assert_eq!(found.shape.dimensions(), [1, 2]);
///             assert_eq!(text, "[[1.50, NaN]]");
///         }
///         _ => assert_eq!(reader.value()?, r#"{"a": []}"#),
///     }
/// }
/// reader.end()?;
/// # Ok::<(), outrigger::codec::json::Malformed>(())
/// ```
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    source: &'a Bytes,
    cursor: Cursor<'a>,
    /// Whether the next member or element is the first one of its object or array.
    first: bool,
    /// Where the last member's name begins.
    member: usize,
}

/// What a value is, as its first byte says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `{`
    Object,
    /// `[`
    Array,
    /// `"`
    String,
    /// A digit, a minus, or a word that stands for what is no finite number.
    Number,
    /// `true` or `false`
    Bool,
    /// `null`
    Null,
}

impl<'a> Reader<'a> {
    /// Begins before the first value of a message.
    pub fn new(source: &'a Bytes) -> Self {
        Self {
            source,
            cursor: Cursor::new(source),
            first: false,
            member: 0,
        }
    }

    /// Returns how many bytes have been read.
    pub fn position(&self) -> usize {
        self.cursor.at
    }

    /// Tells what value comes next.
    pub fn peek(&mut self) -> Result<Kind, Malformed> {
        match self.cursor.space() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::String),
            Some(b'-' | b'0'..=b'9' | b'N' | b'I') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            _ => Err(self.cursor.expected("a value")),
        }
    }

    /// Goes into an object; its members follow.
    pub fn object(&mut self) -> Result<(), Malformed> {
        self.cursor.expect(b'{', "an object")?;
        self.first = true;
        Ok(())
    }

    /// Returns the name of the object's next member, whose value follows; or `None`, and goes out
    /// of the object, where there is none left.
    pub fn member(&mut self) -> Result<Option<ByteString>, Malformed> {
        if !self.next(b'}')? {
            return Ok(None);
        }
        self.cursor.space();
        self.member = self.cursor.at;
        let name = self.string()?;
        self.cursor.expect(b':', "a colon")?;
        Ok(Some(name))
    }

    /// Returns the text of the member whose name was read last, from there on: its name, its colon
    /// and its value, which is checked, and not read.
    pub fn whole_member(&mut self) -> Result<Bytes, Malformed> {
        let begin = self.member;
        let value = self.skip()?;
        Ok(self.source.slice(begin..value.end))
    }

    /// Goes into an array; its elements follow.
    pub fn array(&mut self) -> Result<(), Malformed> {
        self.cursor.expect(b'[', "an array")?;
        self.first = true;
        Ok(())
    }

    /// Tells whether an element of the array follows, and goes out of it where none does.
    pub fn element(&mut self) -> Result<bool, Malformed> {
        self.next(b']')
    }

    /// Reads a string: a slice of the message, unless there are escapes in it.
    pub fn string(&mut self) -> Result<ByteString, Malformed> {
        self.cursor.space();
        let (between, escaped) = self.cursor.string()?;
        if !escaped {
            let at = between.end;
            return ByteString::try_from(self.source.slice(between))
                .map_err(|_| Malformed::Text { at });
        }
        let at = between.end;
        let mut said = Vec::new();
        let between = self.cursor.text.get(between).unwrap_or_default();
        string::unescape(between, &mut said)?;
        ByteString::try_from(said).map_err(|_| Malformed::Text { at })
    }

    /// Reads `true` or `false`.
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        let is = self.cursor.space() == Some(b't');
        self.cursor.word(if is { "true" } else { "false" })?;
        Ok(is)
    }

    /// Steps over `null`, if that is what follows, and tells whether it was.
    pub fn null(&mut self) -> Result<bool, Malformed> {
        if self.cursor.space() != Some(b'n') {
            return Ok(false);
        }
        self.cursor.word("null")?;
        Ok(true)
    }

    /// Returns the text of a number, which may be `NaN`, `Infinity` and the like.
    pub fn number(&mut self) -> Result<&'a str, Malformed> {
        self.cursor.space();
        let begin = self.cursor.at;
        self.cursor.number()?;
        let text = self.cursor.text.get(begin..self.cursor.at);
        text.and_then(|text| std::str::from_utf8(text).ok())
            .ok_or_else(|| self.cursor.expected("a number"))
    }

    /// Returns the text of the next value, whatever it is; it is checked, and not read.
    pub fn value(&mut self) -> Result<Bytes, Malformed> {
        Ok(self.source.slice(self.skip()?))
    }

    /// Steps over the next value, whatever it is, and returns where its text stands.
    pub fn skip(&mut self) -> Result<Range<usize>, Malformed> {
        self.cursor.space();
        let begin = self.cursor.at;
        self.cursor.value()?;
        Ok(begin..self.cursor.at)
    }

    /// Steps over the text of a tensor: finds its shape and the kind of its elements.
    pub fn scan(&mut self) -> Result<(Scan, Bytes), Malformed> {
        self.cursor.space();
        let begin = self.cursor.at;
        let rest = self.cursor.text.get(begin..).unwrap_or_default();
        let (found, len) = scan(rest).map_err(|malformed| malformed.shifted(begin))?;
        self.cursor.at = begin + len;
        Ok((found, self.source.slice(begin..begin + len)))
    }

    /// Reads the text of a tensor into canonical bytes.
    pub fn parse(&mut self, datatype: Datatype, strings: Strings) -> Result<Parsed, Malformed> {
        self.parsed(|text| parse(text, datatype, strings))
    }

    /// Reads the text of a tensor that should have so many elements. It may have others, which
    /// whoever asks must not accept: room is made for those that are expected.
    pub fn parse_expected(
        &mut self,
        datatype: Datatype,
        strings: Strings,
        elements: usize,
    ) -> Result<Parsed, Malformed> {
        self.parsed(|text| parse_expected(text, datatype, strings, elements))
    }

    /// Checks that nothing follows.
    pub fn end(&mut self) -> Result<(), Malformed> {
        match self.cursor.space() {
            None => Ok(()),
            Some(_) => Err(self.cursor.expected("the end")),
        }
    }

    fn parsed(
        &mut self,
        parse: impl Fn(&[u8]) -> Result<Parsed, Malformed>,
    ) -> Result<Parsed, Malformed> {
        let begin = self.cursor.at;
        let rest = self.cursor.text.get(begin..).unwrap_or_default();
        let parsed = parse(rest).map_err(|malformed| malformed.shifted(begin))?;
        self.cursor.at = begin + parsed.len;
        Ok(parsed)
    }

    fn next(&mut self, close: u8) -> Result<bool, Malformed> {
        let first = std::mem::take(&mut self.first);
        match self.cursor.space() {
            Some(byte) if byte == close => {
                self.cursor.at += 1;
                Ok(false)
            }
            Some(b',') if !first => {
                self.cursor.at += 1;
                // A comma at the end has no value behind it.
                self.cursor.space();
                Ok(true)
            }
            Some(_) if first => Ok(true),
            _ => Err(self.cursor.expected(if close == b'}' {
                "a comma or a closing brace"
            } else {
                "a comma or a closing bracket"
            })),
        }
    }
}
