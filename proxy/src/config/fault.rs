//! What is wrong with a configuration, and where.

use std::error::Error;
use std::fmt;

use saphyr_parser::Marker;

use super::secret;

/// Everything that is wrong with a configuration, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    origin: Option<String>,
    list: Vec<Fault>,
    left_out: usize,
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    place: Place,
    message: String,
    excerpt: Option<Excerpt>,
}

/// A line and a column of the file, both counted from one, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// The path of a value, `models.digits.batch`, and where it was written, if it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) path: String,
    pub(super) position: Option<Position>,
}

/// Gathers faults while a configuration is read.
#[derive(Debug, Default)]
pub(super) struct Collector {
    list: Vec<Fault>,
    left_out: usize,
}

/// The line of a fault, without secrets, and the characters before the fault.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    line: String,
    indent: String,
}

impl Faults {
    /// Says which file the configuration was read from.
    #[must_use]
    pub fn of(mut self, origin: impl Into<String>) -> Self {
        self.origin = Some(origin.into());
        self
    }

    /// The faults, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.list.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.list.len() + self.left_out
    }
}

impl Fault {
    /// The path of the faulty value, such as `models.digits.batch.max_batch_size`; empty for the file.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.place.path
    }

    /// Where it stands in the file; none for what was given as a flag.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.place.position
    }

    /// What is wrong.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl Position {
    /// The first character of a file.
    pub(super) const START: Self = Self { line: 1, column: 1 };

    pub(super) fn of(marker: &Marker) -> Self {
        Self {
            line: marker.line(),
            column: marker.col() + 1,
        }
    }
}

impl Place {
    pub(super) fn root(position: Position) -> Self {
        Self {
            path: String::new(),
            position: Some(position),
        }
    }

    /// The place of a flag on the command line.
    pub(super) fn flag(flag: &str) -> Self {
        Self {
            path: flag.to_owned(),
            position: None,
        }
    }

    pub(super) fn key(&self, key: &str, position: Position) -> Self {
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
        let key = match key {
            key if !key.is_empty() && key.chars().all(plain) => key.to_owned(),
            key => format!("{key:?}"),
        };
        let path = match self.path.as_str() {
            "" => key,
            path => format!("{path}.{key}"),
        };
        Self {
            path,
            position: Some(position),
        }
    }

    pub(super) fn index(&self, index: usize, position: Position) -> Self {
        Self {
            path: format!("{}[{index}]", self.path),
            position: Some(position),
        }
    }
}

impl Collector {
    pub(super) fn add(&mut self, place: &Place, message: impl fmt::Display) {
        if self.list.len() == MAX_FAULTS {
            self.left_out += 1;
            return;
        }
        let message = secret::mask(&message.to_string()).into_owned();
        self.list.push(Fault {
            place: place.clone(),
            message,
            excerpt: None,
        });
    }

    /// Whether something within the section is at fault already.
    pub(super) fn is_within(&self, section: &Place) -> bool {
        self.list.iter().any(|fault| {
            let path = fault.place.path.strip_prefix(&section.path);
            path.is_some_and(|rest| rest.starts_with('.'))
        })
    }

    /// Hands over what was read, or everything that is wrong with it.
    pub(super) fn finish<T>(mut self, read: Option<T>, text: &str) -> Result<T, Faults> {
        match read {
            Some(read) if self.list.is_empty() => Ok(read),
            _ => {
                if self.list.is_empty() {
                    self.add(
                        &Place::root(Position::START),
                        "the configuration cannot be read",
                    );
                }
                let lines: Vec<&str> = text.lines().collect();
                for fault in &mut self.list {
                    fault.excerpt = fault.place.position.and_then(|at| Excerpt::of(&lines, at));
                }
                self.list.sort_by_key(|fault| fault.place.position);
                Err(Faults {
                    origin: None,
                    list: self.list,
                    left_out: self.left_out,
                })
            }
        }
    }
}

impl Excerpt {
    fn of(lines: &[&str], position: Position) -> Option<Self> {
        let line = lines.get(position.line.checked_sub(1)?)?.trim_end();
        if line.is_empty() || line.chars().count() > MAX_EXCERPT {
            return None;
        }
        let before: String = line.chars().take(position.column - 1).collect();
        let indent = secret::mask(&before)
            .chars()
            .map(|c| if c == '\t' { c } else { ' ' })
            .collect();
        // Control characters of the file have no business on a terminal.
        let shown = |c: char| {
            if c.is_control() && c != '\t' {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        };
        Some(Self {
            line: secret::mask(line).chars().map(shown).collect(),
            indent,
        })
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.list.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            if let Some(origin) = &self.origin {
                write!(f, "{origin}:")?;
                match fault.place.position {
                    Some(Position { line, column }) => write!(f, "{line}:{column}: ")?,
                    None => write!(f, " ")?,
                }
            }
            write!(f, "{fault}")?;
            if let Some(Excerpt { line, indent }) = &fault.excerpt {
                write!(f, "\n    {line}\n    {indent}^")?;
            }
        }
        match self.left_out {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl Error for Faults {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place.path.as_str() {
            "" => f.write_str(&self.message),
            path => write!(f, "{path}: {}", self.message),
        }
    }
}

/// Nobody mends more at once, and a file of garbage should not fill a log.
const MAX_FAULTS: usize = 100;

/// Characters of a line that is still worth showing; more is not a line that a person wrote.
const MAX_EXCERPT: usize = 300;
