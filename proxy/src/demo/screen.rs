//! Where the demonstration is seen.

use std::{
    io::{self, IsTerminal as _, Stdout, Write},
    time::Duration,
};

use tokio::time::Instant;

use super::frame::Frame;

/// Where the demonstration is seen.
#[derive(Debug)]
pub(super) enum Screen {
    /// Pictures that take each other's place.
    Terminal(Terminal<Stdout>),
    /// A line now and then, for what is read later.
    Lines {
        /// When the last one was written.
        last: Option<Instant>,
    },
    /// Nothing before the end.
    Nothing,
}

impl Screen {
    /// Opens the screen that standard output is.
    pub(super) fn open(headless: bool) -> io::Result<Self> {
        Ok(match (headless, io::stdout().is_terminal()) {
            (true, _) => Self::Nothing,
            (false, true) => Self::Terminal(Terminal::new(io::stdout())?),
            (false, false) => Self::Lines { last: None },
        })
    }

    /// Writes what stays.
    pub(super) fn say(&mut self, text: &str) -> io::Result<()> {
        match self {
            Self::Terminal(terminal) => terminal.say(text),
            Self::Lines { last } => {
                *last = None;
                writeln!(io::stdout(), "{text}")
            }
            Self::Nothing => Ok(()),
        }
    }

    /// Shows a moment.
    pub(super) fn show(&mut self, frame: &Frame) -> io::Result<()> {
        match self {
            Self::Terminal(terminal) => terminal.show(&frame.picture),
            Self::Lines { last } => {
                if last.is_some_and(|last| last.elapsed() < BETWEEN_LINES) {
                    return Ok(());
                }
                *last = Some(Instant::now());
                writeln!(io::stdout(), "{}", frame.line)
            }
            Self::Nothing => Ok(()),
        }
    }

    /// Lets the last picture stand; the next one comes beneath it.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        match self {
            Self::Terminal(terminal) => terminal.settle(),
            Self::Lines { last } => {
                *last = None;
                Ok(())
            }
            Self::Nothing => Ok(()),
        }
    }
}

/// A terminal without its cursor; dropping this gives it back.
#[derive(Debug)]
pub(super) struct Terminal<W: Write> {
    out: W,
    /// The lines of the picture above the cursor.
    drawn: usize,
}

impl<W: Write> Terminal<W> {
    fn new(mut out: W) -> io::Result<Self> {
        write!(out, "{HIDE_CURSOR}")?;
        out.flush()?;
        Ok(Self { out, drawn: 0 })
    }

    fn say(&mut self, text: &str) -> io::Result<()> {
        self.settle()?;
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    fn show(&mut self, picture: &[String]) -> io::Result<()> {
        let mut text = String::new();
        if self.drawn > 0 {
            text += &format!("\x1b[{}A", self.drawn);
        }
        // A line that were wrapped in a narrow terminal would be two when the cursor goes up.
        text += CUT_LINES;
        for line in picture {
            text += &format!("\r\x1b[2K{line}\n");
        }
        text += CLEAR_BELOW;
        text += WRAP_LINES;
        self.drawn = picture.len();
        // At once, so that nobody sees half of it.
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    fn settle(&mut self) -> io::Result<()> {
        self.drawn = 0;
        self.out.flush()
    }
}

impl<W: Write> Drop for Terminal<W> {
    fn drop(&mut self) {
        // A terminal that is gone needs no cursor.
        let _ = write!(self.out, "{WRAP_LINES}{SHOW_CURSOR}");
        let _ = self.out.flush();
    }
}

const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";
const CUT_LINES: &str = "\x1b[?7l";
const WRAP_LINES: &str = "\x1b[?7h";
const CLEAR_BELOW: &str = "\x1b[J";

/// Often enough to see that it lives, seldom enough for a log.
const BETWEEN_LINES: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    /// As much of a terminal as is used here.
    #[derive(Debug, Default)]
    struct Seen {
        lines: Vec<String>,
        at: usize,
        cursor_hidden: bool,
        lines_cut: bool,
    }

    impl Seen {
        fn of(written: &[u8]) -> Self {
            let mut seen = Self {
                lines: vec![String::new()],
                ..Self::default()
            };
            let mut rest = std::str::from_utf8(written).expect("text");
            while let Some(next) = rest.chars().next() {
                rest = &rest[next.len_utf8()..];
                match next {
                    '\n' => {
                        seen.at += 1;
                        if seen.at == seen.lines.len() {
                            seen.lines.push(String::new());
                        }
                    }
                    '\r' => {}
                    '\x1b' => {
                        let end = rest.find(char::is_alphabetic).expect("a whole sequence");
                        let (sequence, after) = rest.split_at(end + 1);
                        rest = after;
                        seen.obey(sequence);
                    }
                    text => seen.lines[seen.at].push(text),
                }
            }
            seen
        }

        fn obey(&mut self, sequence: &str) {
            match sequence {
                "[2K" => self.lines[self.at].clear(),
                "[J" => {
                    self.lines.truncate(self.at + 1);
                    self.lines[self.at].clear();
                }
                "[?25l" => self.cursor_hidden = true,
                "[?25h" => self.cursor_hidden = false,
                "[?7l" => self.lines_cut = true,
                "[?7h" => self.lines_cut = false,
                up => {
                    let rows = up.strip_prefix('[').and_then(|up| up.strip_suffix('A'));
                    let rows: usize = rows.expect(up).parse().expect(up);
                    self.at -= rows;
                }
            }
        }
    }

    fn picture(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn a_picture_takes_the_place_of_the_last_one() {
        let mut written = Vec::new();
        let mut terminal = Terminal::new(&mut written).expect("a terminal");
        terminal.say("title").expect("written");
        terminal
            .show(&picture(&["one long line", "two", "three"]))
            .expect("written");
        terminal.show(&picture(&["1", "2"])).expect("written");
        terminal
            .show(&picture(&["uno", "due", "tre"]))
            .expect("written");
        drop(terminal);
        assert_eq!(Seen::of(&written).lines, ["title", "uno", "due", "tre", ""]);
    }

    #[test]
    fn a_settled_picture_stands() {
        let mut written = Vec::new();
        let mut terminal = Terminal::new(&mut written).expect("a terminal");
        terminal.show(&picture(&["first"])).expect("written");
        terminal.settle().expect("written");
        terminal.show(&picture(&["second"])).expect("written");
        terminal.say("end").expect("written");
        drop(terminal);
        assert_eq!(Seen::of(&written).lines, ["first", "second", "end", ""]);
    }

    #[test]
    fn the_terminal_is_left_as_it_was_found() {
        let mut written = Vec::new();
        let mut terminal = Terminal::new(&mut written).expect("a terminal");
        terminal.show(&picture(&["half way"])).expect("written");
        drop(terminal);
        assert!(written.starts_with(HIDE_CURSOR.as_bytes()));
        let seen = Seen::of(&written);
        assert!(!seen.cursor_hidden && !seen.lines_cut, "{seen:?}");
    }
}
