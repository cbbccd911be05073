//! Keeps passwords out of what is shown.

use std::borrow::Cow;
use std::fmt;

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for whom it is meant.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// Replaces the password of every URL in the text.
///
/// ```
/// # use outrigger::config::mask;
/// assert_eq!(mask("redis://me:sesame@host:6379/0"), "redis://me:***@host:6379/0");
/// ```
#[must_use]
pub fn mask(text: &str) -> Cow<'_, str> {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((head, password, tail)) = next_password(rest) {
        shown.push_str(head);
        if !password.is_empty() {
            shown.push_str(MASK);
        }
        rest = tail;
    }
    if shown.is_empty() {
        return Cow::Borrowed(text);
    }
    shown.push_str(rest);
    Cow::Owned(shown)
}

/// The next URL's password, with what stands before and after it.
fn next_password(text: &str) -> Option<(&str, &str, &str)> {
    let start = text.find(SEPARATOR)? + SEPARATOR.len();
    let authority = text.get(start..)?;
    // Passwords of Redis are often written as they are, with slashes and all.
    let before = text.get(..start)?;
    let redis = REDIS.iter().any(|scheme| before.ends_with(scheme));
    let ends = |c: char| match c {
        '/' | '?' | '#' => !redis,
        _ => c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>'),
    };
    let authority = authority.get(..authority.find(ends).unwrap_or(authority.len()))?;
    let (from, to) = match authority.rfind('@') {
        // An empty password where the authority ends: nothing to hide, and the search goes on.
        None => (authority.len(), authority.len()),
        Some(at) => match authority.get(..at)?.find(':') {
            Some(colon) => (colon + 1, at),
            // A user without a password is often a token.
            None => (0, at),
        },
    };
    let (head, rest) = text.split_at_checked(start + from)?;
    let (password, tail) = rest.split_at_checked(to - from)?;
    Some((head, password, tail))
}

const SEPARATOR: &str = "://";
pub(super) const MASK: &str = "***";
/// How URLs of Redis begin.
const REDIS: [&str; 4] = ["redis://", "rediss://", "+sentinel://", "+cluster://"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_url_is_not_shown() {
        let cases = [
            ("redis://:secret@host/0", "redis://:***@host/0"),
            ("redis://me:se@cret@host", "redis://me:***@host"),
            ("http://token@host:1", "http://***@host:1"),
            (
                "{ redis: redis://:a/b#@host/0 }",
                "{ redis: redis://:***@host/0 }",
            ),
            (
                "redis+sentinel://me:a?b@h:1,i:2/m",
                "redis+sentinel://me:***@h:1,i:2/m",
            ),
            (
                "[\"http://a:b@c\", \"http://d:e@f\"]",
                "[\"http://a:***@c\", \"http://d:***@f\"]",
            ),
        ];
        for (text, shown) in cases {
            assert_eq!(mask(text), shown);
        }
    }

    #[test]
    fn a_secret_is_not_shown_by_mistake() {
        assert_eq!(format!("{:?}", Some(Secret::new("sesame"))), "Some(***)");
    }

    #[test]
    fn a_text_without_secrets_is_shown_as_it_is() {
        for text in ["", "://", "http://host:8001/a@b", "a: b@c", "x://y ä://ü"] {
            assert_eq!(mask(text), text);
        }
    }
}
