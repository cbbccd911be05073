//! JSON text that is cut into values, and not read.

use bytes::Bytes;

/// The values of a JSON text that stand side by side, with commas between them.
///
/// Only as much of JSON is understood as finding a value's end takes: brackets and strings. What
/// stands between is passed on as it is.
#[derive(Clone, Debug)]
pub struct Values {
    text: Bytes,
}

impl Values {
    /// Begins before the first value of a text.
    pub fn new(text: Bytes) -> Self {
        Self { text }
    }

    /// Tells whether no value is left.
    pub fn is_empty(&self) -> bool {
        is_blank(&self.text)
    }

    /// Takes the next values as a text of their own, without the comma behind them, or returns
    /// `None` where there are fewer.
    pub fn take(&mut self, values: usize) -> Option<Bytes> {
        if values == 0 {
            return Some(Bytes::new());
        }
        if self.is_empty() {
            return None;
        }
        let mut left = values;
        let mut depth = 0_usize;
        // Where the value that is being walked over begins.
        let mut from = 0;
        let mut rest = self.text.iter().enumerate();
        while let Some((at, byte)) = rest.next() {
            match byte {
                b',' if depth == 0 => {
                    from = at + 1;
                    left -= 1;
                    if left == 0 {
                        let taken = self.text.slice(..at);
                        self.text = self.text.slice(at + 1..);
                        // A comma at the end has no value behind it.
                        return (!self.is_empty()).then_some(taken);
                    }
                }
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.checked_sub(1)?,
                b'"' => {
                    // To the quote that no backslash stands before.
                    loop {
                        match rest.next()?.1 {
                            b'"' => break,
                            b'\\' => drop(rest.next()?),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        let is_value = !is_blank(self.text.get(from..).unwrap_or_default());
        (left == 1 && depth == 0 && is_value).then(|| std::mem::take(&mut self.text))
    }
}

fn is_blank(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &'static str, counts: &[usize]) -> Option<Vec<Bytes>> {
        let mut values = Values::new(Bytes::from_static(text.as_bytes()));
        let taken = counts.iter().map(|count| values.take(*count)).collect();
        values.is_empty().then_some(taken)?
    }

    #[test]
    fn values_are_cut_at_commas_that_are_their_own() {
        let text = r#"[1, [2,3]] , "a\\\",]", {"b64":"x,y"},NaN"#;
        assert_eq!(
            taken(text, &[1, 2, 1]).unwrap(),
            ["[1, [2,3]] ", r#" "a\\\",]", {"b64":"x,y"}"#, "NaN"]
        );
        assert_eq!(taken(text, &[4, 0]).unwrap(), [text, ""]);
    }

    #[test]
    fn fewer_values_than_wanted_are_none() {
        for text in ["", "1", "1,", "[1", "\"a", "\"a\\", "1]", "1,2,"] {
            assert_eq!(taken(text, &[2]), None, "{text}");
        }
        assert_eq!(taken("1,2", &[1, 2]), None);
    }
}
