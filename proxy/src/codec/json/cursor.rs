use std::ops::Range;

use super::{Malformed, grammar, number, string};

/// A place in a JSON text.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    pub(super) text: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// Returns the byte here.
    #[inline]
    pub(super) fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Steps over white space, and returns the byte behind it.
    #[inline]
    pub(super) fn space(&mut self) -> Option<u8> {
        loop {
            let byte = self.peek()?;
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// Steps over one byte that must stand behind white space.
    #[inline]
    pub(super) fn expect(&mut self, byte: u8, name: &'static str) -> Result<(), Malformed> {
        if self.space() != Some(byte) {
            return Err(self.expected(name));
        }
        self.at += 1;
        Ok(())
    }

    /// Steps over a comma between elements and the white space around it, if there is one.
    #[inline]
    pub(super) fn comma(&mut self) -> Result<bool, Malformed> {
        if self.space() != Some(b',') {
            return Ok(false);
        }
        self.at += 1;
        match self.space() {
            // An array where elements stand.
            Some(b'[') => Err(Malformed::Irregular),
            _ => Ok(true),
        }
    }

    /// Steps over a word.
    #[inline]
    pub(super) fn word(&mut self, word: &'static str) -> Result<(), Malformed> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        if !rest.starts_with(word.as_bytes()) {
            return Err(self.expected("a value"));
        }
        self.at += word.len();
        Ok(())
    }

    /// Steps over a string and returns the bytes between its quotes, and whether there are escapes
    /// among them. They are valid, and so is the text.
    #[inline]
    pub(super) fn string(&mut self) -> Result<(Range<usize>, bool), Malformed> {
        if self.peek() != Some(b'"') {
            return Err(self.expected("a string"));
        }
        let begin = self.at + 1;
        let (end, escaped) = string::end(self.text, begin)?;
        self.at = end + 1;
        Ok((begin..end, escaped))
    }

    /// Steps over a number, which may be no number, and tells whether it is a whole one.
    #[inline]
    pub(super) fn number(&mut self) -> Result<bool, Malformed> {
        let (whole, end) =
            number::skip(self.text, self.at).ok_or_else(|| self.expected("a number"))?;
        self.at = end;
        Ok(whole)
    }

    /// Steps over a value of any kind, which is checked and not read.
    pub(super) fn value(&mut self) -> Result<(), Malformed> {
        // One bit for each level that is open, 1 for an object.
        let mut objects = 0_u128;
        let mut depth = 0_u32;
        loop {
            // A value begins here.
            match self.space() {
                Some(open @ (b'[' | b'{')) => {
                    if depth == MAX_DEPTH {
                        return Err(Malformed::Deep);
                    }
                    self.at += 1;
                    depth += 1;
                    objects = objects << 1 | u128::from(open == b'{');
                    let close = if open == b'{' { b'}' } else { b']' };
                    if self.space() != Some(close) {
                        if open == b'{' {
                            self.name()?;
                        }
                        continue;
                    }
                    self.at += 1;
                    depth -= 1;
                    objects >>= 1;
                }
                Some(b'"') => {
                    self.string()?;
                }
                Some(b't') => self.word("true")?,
                Some(b'f') => self.word("false")?,
                Some(b'n') => self.word("null")?,
                Some(_) => {
                    // Behind a comma a value begins again, which may be none of them.
                    if depth > 0 && objects & 1 == 0 && grammar::numbers(self).0 > 0 {
                        continue;
                    }
                    self.number()?;
                }
                None => return Err(self.expected("a value")),
            }
            // A value ends here, and with it maybe those that it is the last of.
            loop {
                if depth == 0 {
                    return Ok(());
                }
                let object = objects & 1 == 1;
                match self.space() {
                    Some(b',') => {
                        self.at += 1;
                        if object {
                            self.name()?;
                        }
                        break;
                    }
                    Some(b'}') if object => {}
                    Some(b']') if !object => {}
                    _ if object => return Err(self.expected("a comma or a closing brace")),
                    _ => return Err(self.expected("a comma or a closing bracket")),
                }
                self.at += 1;
                depth -= 1;
                objects >>= 1;
            }
        }
    }

    /// Says what should stand here.
    #[cold]
    pub(super) fn expected(&self, expected: &'static str) -> Malformed {
        Malformed::Syntax {
            at: self.at,
            expected,
        }
    }

    /// Steps over a member's name and the colon behind it.
    fn name(&mut self) -> Result<(), Malformed> {
        self.space();
        self.string()?;
        self.expect(b':', "a colon")
    }
}

/// As deep as values may be nested; recursion is not what bounds it, but those who read on.
const MAX_DEPTH: u32 = 128;
