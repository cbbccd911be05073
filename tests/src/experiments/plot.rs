//! Plots as SVG: panels with axes, lines, points and bars, and one legend for all of them.
//!
//! ```text
//!  title
//!  -- series  o series  - - series        one legend: a name has one colour in all panels
//!  +-- panel --+  +-- panel --+
//!  |     ..''  |  | #  #   #  |
//!  +-----------+  +-----------+
//!  note
//! ```

use std::fmt::{self, Write as _};

use super::scale::{Kind, Scale, label};

/// A picture of several panels.
#[derive(Clone, Debug)]
pub struct Sheet {
    title: String,
    note: String,
    columns: usize,
    panels: Vec<Panel>,
}

/// One pair of axes and what stands between them.
#[derive(Clone, Debug)]
pub struct Panel {
    title: String,
    x: X,
    y: (String, Kind),
    marks: Vec<Mark>,
}

/// How a series of points is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Points, joined.
    Joined,
    /// A line without points.
    Line,
    /// A broken line, for what was not measured here.
    Broken,
    /// A line that stays where it is until the next point.
    Steps,
    /// Points alone.
    Points,
}

/// One bar: its height, and the range of the repeats that it is the middle of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bar {
    /// The height.
    pub height: f64,
    /// The lowest and the highest repeat.
    pub range: Option<(f64, f64)>,
}

#[derive(Clone, Debug)]
enum X {
    Numbers(String, Kind),
    Categories(String, Vec<String>),
}

#[derive(Clone, Debug)]
enum Mark {
    Series {
        name: String,
        style: Style,
        points: Vec<(f64, f64)>,
    },
    Bars {
        name: String,
        pale_of: Option<String>,
        bars: Vec<Option<Bar>>,
    },
    Level {
        name: String,
        y: f64,
    },
    Band {
        name: String,
        from: f64,
        to: f64,
    },
}

/// Where a panel's inside lies in the picture.
#[derive(Clone, Copy, Debug)]
struct Frame {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

impl Sheet {
    /// Begins a picture whose panels stand in so many columns.
    pub fn new(title: impl Into<String>, columns: usize) -> Self {
        Self {
            title: title.into(),
            note: String::new(),
            columns: columns.max(1),
            panels: Vec::new(),
        }
    }

    /// Says something below the panels.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Adds a panel.
    pub fn add(&mut self, panel: Panel) {
        self.panels.push(panel);
    }

    /// Adds panels.
    pub fn extend(&mut self, panels: impl IntoIterator<Item = Panel>) {
        self.panels.extend(panels);
    }

    /// The names of all series in the order of their first appearance, with how each is drawn.
    fn legend(&self) -> Vec<(&str, &Mark)> {
        let mut known: Vec<(&str, &Mark)> = Vec::new();
        for mark in self.panels.iter().flat_map(|panel| &panel.marks) {
            let name = mark.name();
            if !name.is_empty() && !known.iter().any(|(other, _)| *other == name) {
                known.push((name, mark));
            }
        }
        known
    }
}

impl Panel {
    /// A panel with numbers below.
    pub fn new(title: impl Into<String>, x: (&str, Kind), y: (&str, Kind)) -> Self {
        Self {
            title: title.into(),
            x: X::Numbers(x.0.into(), x.1),
            y: (y.0.into(), y.1),
            marks: Vec::new(),
        }
    }

    /// A panel with words below, for bars.
    pub fn of_bars(
        title: impl Into<String>,
        x: &str,
        categories: impl IntoIterator<Item = impl Into<String>>,
        y: (&str, Kind),
    ) -> Self {
        let categories = categories.into_iter().map(Into::into).collect();
        Self {
            title: title.into(),
            x: X::Categories(x.into(), categories),
            y: (y.0.into(), y.1),
            marks: Vec::new(),
        }
    }

    /// Adds points; series of the same name have the same colour in all panels.
    #[must_use]
    pub fn series(
        mut self,
        name: impl Into<String>,
        style: Style,
        points: impl IntoIterator<Item = (f64, f64)>,
    ) -> Self {
        self.marks.push(Mark::Series {
            name: name.into(),
            style,
            points: points.into_iter().collect(),
        });
        self
    }

    /// Adds a bar for each category, or none.
    #[must_use]
    pub fn bars(
        mut self,
        name: impl Into<String>,
        bars: impl IntoIterator<Item = Option<Bar>>,
    ) -> Self {
        self.marks.push(Mark::Bars {
            name: name.into(),
            pale_of: None,
            bars: bars.into_iter().collect(),
        });
        self
    }

    /// Adds bars in a pale tone of another series' colour: what was not measured here, beside what
    /// was.
    #[must_use]
    pub fn pale_bars(
        mut self,
        name: impl Into<String>,
        of: impl Into<String>,
        bars: impl IntoIterator<Item = Option<Bar>>,
    ) -> Self {
        self.marks.push(Mark::Bars {
            name: name.into(),
            pale_of: Some(of.into()),
            bars: bars.into_iter().collect(),
        });
        self
    }

    /// Adds a level across the panel, such as an objective.
    #[must_use]
    pub fn level(mut self, name: impl Into<String>, y: f64) -> Self {
        self.marks.push(Mark::Level {
            name: name.into(),
            y,
        });
        self
    }

    /// Shades a part of the panel behind everything else.
    #[must_use]
    pub fn band(mut self, name: impl Into<String>, from: f64, to: f64) -> Self {
        self.marks.push(Mark::Band {
            name: name.into(),
            from,
            to,
        });
        self
    }

    fn draw(
        &self,
        f: &mut String,
        frame: Frame,
        colour: impl Fn(&str) -> &'static str,
    ) -> fmt::Result {
        let y = Scale::over(self.y.1, self.marks.iter().flat_map(Mark::heights));
        let at_y = |figure: f64| frame.top + frame.height * (1.0 - y.share(figure).clamp(0.0, 1.0));
        let bottom = frame.top + frame.height;
        let (right, middle) = (frame.left + frame.width, frame.left + frame.width / 2.0);

        text(
            f,
            (frame.left, frame.top - 8.0),
            "start",
            "panel",
            &self.title,
        )?;
        let name = match &self.x {
            X::Numbers(name, _) | X::Categories(name, _) => name,
        };
        text(f, (middle, bottom + 34.0), "middle", "name", name)?;
        let turned = (frame.left - 46.0, frame.top + frame.height / 2.0);
        writeln!(
            f,
            r#"<text class="name" text-anchor="middle" transform="translate({:.1} {:.1}) rotate(-90)">{}</text>"#,
            turned.0,
            turned.1,
            escaped(&self.y.0)
        )?;
        for mark in &self.marks {
            if let (Mark::Band { from, to, .. }, X::Numbers(_, kind)) = (mark, &self.x) {
                let x = self.x_scale(*kind);
                let (from, to) = (x.share(*from), x.share(*to));
                writeln!(
                    f,
                    r##"<rect x="{:.1}" y="{:.1}" width="{:.1}" height="{:.1}" fill="{BAND}"/>"##,
                    frame.left + frame.width * from,
                    frame.top,
                    frame.width * (to - from),
                    frame.height
                )?;
            }
        }
        for tick in y.ticks() {
            let at = at_y(tick);
            line(f, (frame.left, at), (right, at), "grid")?;
            text(f, (frame.left - 6.0, at + 4.0), "end", "tick", &label(tick))?;
        }
        match &self.x {
            X::Numbers(_, kind) => {
                let x = self.x_scale(*kind);
                let at_x = |figure: f64| frame.left + frame.width * x.share(figure);
                for tick in x.ticks() {
                    line(f, (at_x(tick), bottom), (at_x(tick), bottom + 4.0), "axis")?;
                    text(
                        f,
                        (at_x(tick), bottom + 17.0),
                        "middle",
                        "tick",
                        &label(tick),
                    )?;
                }
                for mark in &self.marks {
                    if let Mark::Series {
                        name,
                        style,
                        points,
                    } = mark
                    {
                        let points: Vec<_> = points
                            .iter()
                            .filter(|(x, y)| x.is_finite() && y.is_finite())
                            .map(|(x, y)| (at_x(*x), at_y(*y)))
                            .collect();
                        series(f, *style, &points, colour(name))?;
                    }
                }
            }
            X::Categories(_, categories) => {
                let width = frame.width / categories.len().max(1) as f64;
                for (index, category) in categories.iter().enumerate() {
                    let at = frame.left + width * (index as f64 + 0.5);
                    text(f, (at, bottom + 17.0), "middle", "tick", category)?;
                }
                self.draw_bars(f, frame, width, at_y, colour)?;
            }
        }
        for mark in &self.marks {
            if let Mark::Level { y, .. } = mark {
                line(f, (frame.left, at_y(*y)), (right, at_y(*y)), "level")?;
            }
        }
        line(f, (frame.left, bottom), (right, bottom), "axis")?;
        line(f, (frame.left, frame.top), (frame.left, bottom), "axis")
    }

    fn draw_bars(
        &self,
        f: &mut String,
        frame: Frame,
        category: f64,
        at_y: impl Fn(f64) -> f64,
        colour: impl Fn(&str) -> &'static str,
    ) -> fmt::Result {
        let series = self
            .marks
            .iter()
            .filter_map(|mark| match mark {
                Mark::Bars {
                    name,
                    pale_of,
                    bars,
                } => Some((pale_of.as_ref().unwrap_or(name), pale_of.is_some(), bars)),
                _ => None,
            })
            .collect::<Vec<_>>();
        let width = category * 0.84 / series.len().max(1) as f64;
        let bottom = frame.top + frame.height;
        for (number, (name, pale, bars)) in series.into_iter().enumerate() {
            for (index, bar) in bars.iter().enumerate() {
                let Some(bar) = bar.filter(|bar| bar.height.is_finite()) else {
                    continue;
                };
                let left = frame.left + category * (index as f64 + 0.08) + width * number as f64;
                let top = at_y(bar.height);
                writeln!(
                    f,
                    r#"<rect x="{left:.1}" y="{top:.1}" width="{:.1}" height="{:.1}" {}/>"#,
                    width * 0.92,
                    bottom - top,
                    filled(colour(name), pale)
                )?;
                if let Some((low, high)) = bar.range {
                    let at = left + width * 0.46;
                    line(f, (at, at_y(low)), (at, at_y(high)), "range")?;
                }
            }
        }
        Ok(())
    }

    fn x_scale(&self, kind: Kind) -> Scale {
        Scale::over(kind, self.marks.iter().flat_map(Mark::places))
    }
}

impl Mark {
    fn name(&self) -> &str {
        match self {
            Self::Series { name, .. }
            | Self::Bars { name, .. }
            | Self::Level { name, .. }
            | Self::Band { name, .. } => name,
        }
    }

    fn has_own_colour(&self) -> bool {
        match self {
            Self::Series { .. } => true,
            Self::Bars { pale_of, .. } => pale_of.is_none(),
            Self::Level { .. } | Self::Band { .. } => false,
        }
    }

    /// The series whose colour this is drawn in.
    fn coloured_as(&self) -> &str {
        match self {
            Self::Bars {
                pale_of: Some(of), ..
            } => of,
            _ => self.name(),
        }
    }

    /// What the vertical axis has to hold.
    fn heights(&self) -> Vec<f64> {
        match self {
            Self::Series { points, .. } => points.iter().map(|(_, y)| *y).collect(),
            Self::Bars { bars, .. } => {
                let bars = bars.iter().flatten();
                bars.flat_map(|bar| [Some(bar.height), bar.range.map(|(_, high)| high)])
                    .flatten()
                    .collect()
            }
            Self::Level { y, .. } => vec![*y],
            Self::Band { .. } => Vec::new(),
        }
    }

    /// What the horizontal axis has to hold.
    fn places(&self) -> Vec<f64> {
        match self {
            Self::Series { points, .. } => points.iter().map(|(x, _)| *x).collect(),
            Self::Band { from, to, .. } => vec![*from, *to],
            Self::Bars { .. } | Self::Level { .. } => Vec::new(),
        }
    }

    /// Draws a sample of the mark into the legend.
    fn sample(&self, f: &mut String, (left, y): (f64, f64), colour: &'static str) -> fmt::Result {
        let right = left + SAMPLE;
        match self {
            Self::Series { style, .. } => {
                let points = match style {
                    Style::Points => vec![(left + SAMPLE / 2.0, y)],
                    _ => vec![(left, y), (right, y)],
                };
                series(f, *style, &points, colour)
            }
            Self::Bars { pale_of, .. } => writeln!(
                f,
                r#"<rect x="{left:.1}" y="{:.1}" width="{SAMPLE}" height="10" {}/>"#,
                y - 5.0,
                filled(colour, pale_of.is_some())
            ),
            Self::Level { .. } => line(f, (left, y), (right, y), "level"),
            Self::Band { .. } => writeln!(
                f,
                r##"<rect x="{left:.1}" y="{:.1}" width="{SAMPLE}" height="10" fill="{BAND}"/>"##,
                y - 5.0
            ),
        }
    }
}

impl fmt::Display for Sheet {
    /// Writes the whole SVG.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let legend = self.legend();
        let coloured: Vec<&str> = legend
            .iter()
            .filter(|(_, mark)| mark.has_own_colour())
            .map(|(name, _)| *name)
            .collect();
        let colour = |name: &str| {
            let index = coloured.iter().position(|known| *known == name);
            index.map_or(INK, |index| PALETTE[index % PALETTE.len()])
        };
        let columns = self.columns.min(self.panels.len().max(1));
        let rows = self.panels.len().div_ceil(columns);
        let width = columns as f64 * (PANEL.0 + GAP.0) + EDGE;

        let mut inside = String::new();
        text(&mut inside, (EDGE, 28.0), "start", "title", &self.title)?;
        let (mut x, mut y) = (EDGE, 52.0);
        for (name, mark) in &legend {
            let wide = SAMPLE + 22.0 + LETTER * name.chars().count() as f64;
            if x + wide > width && x > EDGE {
                (x, y) = (EDGE, y + 18.0);
            }
            mark.sample(&mut inside, (x, y), colour(mark.coloured_as()))?;
            text(
                &mut inside,
                (x + SAMPLE + 6.0, y + 4.0),
                "start",
                "tick",
                name,
            )?;
            x += wide;
        }
        let head = y + 34.0;
        for (index, panel) in self.panels.iter().enumerate() {
            let (column, row) = (index % columns, index / columns);
            let frame = Frame {
                left: GAP.0 + column as f64 * (PANEL.0 + GAP.0),
                top: head + row as f64 * (PANEL.1 + GAP.1),
                width: PANEL.0,
                height: PANEL.1,
            };
            panel.draw(&mut inside, frame, colour)?;
        }
        let mut height = head + rows as f64 * (PANEL.1 + GAP.1);
        for part in wrapped(&self.note, ((width - 2.0 * EDGE) / LETTER) as usize) {
            text(&mut inside, (EDGE, height), "start", "tick", &part)?;
            height += 16.0;
        }
        writeln!(
            f,
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0}" height="{height:.0}" viewBox="0 0 {width:.0} {height:.0}">"#
        )?;
        f.write_str(LOOK)?;
        writeln!(f, r#"<rect width="100%" height="100%" fill="white"/>"#)?;
        f.write_str(&inside)?;
        writeln!(f, "</svg>")
    }
}

fn series(f: &mut String, style: Style, points: &[(f64, f64)], colour: &str) -> fmt::Result {
    if style != Style::Points && points.len() > 1 {
        let mut path = String::new();
        let mut last = None;
        for (x, y) in points {
            match (style, last) {
                (_, None) => write!(path, "M{x:.1} {y:.1}")?,
                (Style::Steps, Some(_)) => write!(path, "H{x:.1}V{y:.1}")?,
                _ => write!(path, "L{x:.1} {y:.1}")?,
            }
            last = Some(());
        }
        let broken = if style == Style::Broken {
            r#" stroke-dasharray="6 4""#
        } else {
            ""
        };
        writeln!(
            f,
            r#"<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.8"{broken}/>"#
        )?;
    }
    if matches!(style, Style::Points | Style::Joined) {
        let radius = if points.len() > MANY_POINTS { 1.6 } else { 2.8 };
        for (x, y) in points {
            writeln!(
                f,
                r#"<circle cx="{x:.1}" cy="{y:.1}" r="{radius}" fill="{colour}"/>"#
            )?;
        }
    }
    Ok(())
}

fn filled(colour: &str, pale: bool) -> String {
    if pale {
        format!(r#"fill="{colour}" fill-opacity="0.18" stroke="{colour}" stroke-width="1""#)
    } else {
        format!(r#"fill="{colour}""#)
    }
}

fn line(f: &mut String, from: (f64, f64), to: (f64, f64), class: &str) -> fmt::Result {
    writeln!(
        f,
        r#"<line class="{class}" x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}"/>"#,
        from.0, from.1, to.0, to.1
    )
}

fn text(f: &mut String, at: (f64, f64), anchor: &str, class: &str, words: &str) -> fmt::Result {
    writeln!(
        f,
        r#"<text class="{class}" x="{:.1}" y="{:.1}" text-anchor="{anchor}">{}</text>"#,
        at.0,
        at.1,
        escaped(words)
    )
}

/// Parts words into lines of at most so many letters, unless one word is longer.
fn wrapped(words: &str, letters: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + word.chars().count() < letters => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn escaped(words: &str) -> String {
    words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

const LOOK: &str = "<style>
text { font-family: system-ui, 'DejaVu Sans', Helvetica, Arial, sans-serif; fill: #222; font-size: 11.5px; }
.title { font-size: 17px; font-weight: 600; }
.panel { font-size: 13px; font-weight: 600; }
.name, .tick { fill: #444; }
.grid { stroke: #e4e4e4; }
.axis { stroke: #666; }
.level { stroke: #222; stroke-dasharray: 2 3; stroke-width: 1.4; }
.range { stroke: #222; stroke-width: 1.2; }
</style>
";
/// Okabe and Ito's colours, which all eyes can tell apart, without the yellow that white swallows.
const PALETTE: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555",
];
const INK: &str = "#222222";
const BAND: &str = "#f3ecdc";
/// Width and height of a panel's inside, in pixels.
const PANEL: (f64, f64) = (330.0, 210.0);
/// What lies left of each panel, and below it.
const GAP: (f64, f64) = (70.0, 78.0);
const EDGE: f64 = 20.0;
/// Length of a line or a bar in the legend.
const SAMPLE: f64 = 24.0;
/// About the width of a letter.
const LETTER: f64 = 6.2;
/// With more points than these, each is smaller.
const MANY_POINTS: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet(panel: Panel) -> String {
        let mut sheet = Sheet::new("a < b & c", 2).note("said below");
        sheet.add(panel);
        sheet.to_string()
    }

    #[test]
    fn words_cannot_break_the_picture() {
        let numbers = ("rows", Kind::Linear);
        let svg = sheet(Panel::new("<svg>", numbers, numbers).level("<&>", 3.0));
        assert!(svg.contains("a &lt; b &amp; c") && svg.contains("&lt;svg&gt;"));
        assert_eq!(svg.matches("<svg").count(), 1);
        assert!(svg.contains("&lt;&amp;&gt;") && svg.contains("said below"));
    }

    #[test]
    fn a_line_ends_where_its_last_point_lies() {
        let numbers = ("x", Kind::Linear);
        let panel = Panel::new("p", numbers, numbers);
        let svg = sheet(panel.series("s", Style::Line, [(0.0, 0.0), (10.0, 5.0)]));
        let right = GAP.0 + PANEL.0;
        assert!(svg.contains(&format!("L{right:.1} ")), "{svg}");
    }

    #[test]
    fn a_figure_that_is_not_one_is_left_out() {
        let numbers = ("x", Kind::Log);
        let panel = Panel::new("p", numbers, numbers).series(
            "s",
            Style::Points,
            [(1.0, f64::NAN), (2.0, 3.0)],
        );
        let svg = sheet(panel);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        let bars = Panel::of_bars("p", "x", ["a", "b"], ("y", Kind::Linear));
        let nothing = Bar {
            height: f64::NAN,
            range: None,
        };
        assert!(!sheet(bars.bars("s", [Some(nothing), None])).contains("NaN"));
    }

    #[test]
    fn long_notes_are_parted_between_words() {
        assert_eq!(wrapped("one two three", 8), ["one two", "three"]);
        assert_eq!(wrapped("unpartable", 3), ["unpartable"]);
        assert!(wrapped("", 3).is_empty());
    }

    #[test]
    fn pale_bars_have_the_colour_of_what_they_stand_beside() {
        let bar = Bar {
            height: 1.0,
            range: None,
        };
        let bars = Panel::of_bars("p", "x", ["a"], ("y", Kind::Linear));
        let bars = bars.bars("first", [Some(bar)]).bars("second", [Some(bar)]);
        let svg = sheet(bars.pale_bars("paper, first", "first", [Some(bar)]));
        // Once in the panel and once in the legend.
        let pale = format!(r#"fill="{}" fill-opacity"#, PALETTE[0]);
        assert_eq!(svg.matches(&pale).count(), 2, "{svg}");
    }

    #[test]
    fn a_name_has_one_place_in_the_legend() {
        let numbers = ("x", Kind::Linear);
        let panel = || Panel::new("p", numbers, numbers).series("same", Style::Line, [(0.0, 1.0)]);
        let mut two = Sheet::new("t", 2);
        two.add(panel());
        two.add(panel());
        assert_eq!(two.to_string().matches(">same<").count(), 1);
    }
}
