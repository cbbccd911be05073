//! Strings: where they end, what they say, and how they are written.

use super::Malformed;

/// What elements of `BYTES` may be in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strings {
    /// Strings. What is not UTF-8 cannot be written.
    #[default]
    Plain,
    /// Strings, or objects `{"b64": "..."}`; what is not UTF-8 is written as such.
    Either,
    /// Strings or such objects when read; all of them are objects when written.
    Base64,
}

/// Finds the quote that ends a string whose first byte stands at `from`, and tells whether there
/// are escapes before it. What stands between is checked: it is text.
#[inline]
pub(super) fn end(text: &[u8], from: usize) -> Result<(usize, bool), Malformed> {
    let mut at = from;
    let mut escaped = false;
    let mut ascii = true;
    loop {
        at = plain(text, at, &mut ascii);
        match text.get(at) {
            Some(b'"') => break,
            Some(b'\\') => {
                escaped = true;
                let (_, next) = escape(text, at)?;
                at = next;
            }
            _ => {
                return Err(Malformed::Syntax {
                    at,
                    expected: "a quote",
                });
            }
        }
    }
    let between = text.get(from..at).unwrap_or_default();
    if !ascii && std::str::from_utf8(between).is_err() {
        return Err(Malformed::Text { at });
    }
    Ok((at, escaped))
}

/// Appends what a string says; `between` is what [`end`] found between its quotes.
pub(super) fn unescape(between: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let mut at = 0;
    loop {
        let begin = at;
        while between.get(at).is_some_and(|byte| *byte != b'\\') {
            at += 1;
        }
        out.extend_from_slice(between.get(begin..at).unwrap_or_default());
        if at == between.len() {
            return Ok(());
        }
        let (said, next) = escape(between, at)?;
        out.extend_from_slice(said.encode_utf8(&mut [0; 4]).as_bytes());
        at = next;
    }
}

/// Appends a string with its quotes.
pub fn put_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut at = 0;
    loop {
        let begin = at;
        at = plain(bytes, at, &mut true);
        out.extend_from_slice(bytes.get(begin..at).unwrap_or_default());
        let Some(&byte) = bytes.get(at) else {
            break;
        };
        at += 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.push(DIGITS[usize::from(byte >> 4)]);
                out.push(DIGITS[usize::from(byte & 15)]);
            }
        }
    }
    out.push(b'"');
}

/// Steps over bytes that stand for themselves, eight at a time.
#[inline]
fn plain(text: &[u8], mut at: usize, ascii: &mut bool) -> usize {
    while let Some(chunk) = text.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        // The highest bit of a byte is set where it is a quote, a backslash or below a space. A
        // borrow may set it in a later byte too, which does not matter: the first one counts.
        let quote = word ^ (ONES * 0x22);
        let backslash = word ^ (ONES * 0x5c);
        let found = (quote.wrapping_sub(ONES) & !quote)
            | (backslash.wrapping_sub(ONES) & !backslash)
            | (word.wrapping_sub(ONES * 0x20) & !word);
        let found = found & HIGHS;
        if found == 0 {
            *ascii &= word & HIGHS == 0;
            at += 8;
            continue;
        }
        let count = found.trailing_zeros() / 8;
        let before = word & !(u64::MAX << (8 * count));
        *ascii &= before & HIGHS == 0;
        return at + count as usize;
    }
    while let Some(&byte) = text.get(at) {
        if matches!(byte, b'"' | b'\\' | 0..0x20) {
            break;
        }
        *ascii &= byte.is_ascii();
        at += 1;
    }
    at
}

/// Reads the escape whose backslash stands at `at`; returns what it says and the place behind it.
#[cold]
fn escape(text: &[u8], at: usize) -> Result<(char, usize), Malformed> {
    let said = match text.get(at + 1) {
        Some(b'u') => {
            let first = hex(text, at + 2)?;
            let (code, next) =
                if (0xd800..0xdc00).contains(&first) && text.get(at + 6..at + 8) == Some(b"\\u") {
                    let second = hex(text, at + 8)?;
                    if !(0xdc00..0xe000).contains(&second) {
                        return Err(Malformed::Text { at });
                    }
                    let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                    (code, at + 12)
                } else {
                    (first, at + 6)
                };
            // Half of a pair is no character.
            return char::from_u32(code)
                .map(|said| (said, next))
                .ok_or(Malformed::Text { at });
        }
        Some(byte @ (b'"' | b'\\' | b'/')) => char::from(*byte),
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        _ => {
            return Err(Malformed::Syntax {
                at: at + 1,
                expected: "an escape",
            });
        }
    };
    Ok((said, at + 2))
}

fn hex(text: &[u8], at: usize) -> Result<u32, Malformed> {
    let digits = text.get(at..at + 4).unwrap_or_default();
    let mut value = 0;
    for digit in digits {
        let digit = char::from(*digit).to_digit(16);
        value = value << 4
            | digit.ok_or(Malformed::Syntax {
                at,
                expected: "four hexadecimal digits",
            })?;
    }
    if digits.len() < 4 {
        return Err(Malformed::Syntax {
            at,
            expected: "four hexadecimal digits",
        });
    }
    Ok(value)
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;
const DIGITS: &[u8; 16] = b"0123456789abcdef";
