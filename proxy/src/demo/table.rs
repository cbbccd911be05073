//! What an act ends with.

use std::fmt;

/// What an act ends with: a line of figures for each scene, and what must be known to read them.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// What the figures are about.
    pub(super) title: String,
    /// The names of the figures.
    pub(super) headings: Vec<String>,
    /// The scenes with their figures.
    pub(super) rows: Vec<(String, Vec<String>)>,
    /// What must be known to read the figures.
    pub(super) notes: Vec<String>,
}

impl Table {
    fn width(&self, column: usize) -> usize {
        let figures = self.rows.iter().filter_map(|(_, row)| row.get(column));
        figures
            .chain(self.headings.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.rows.iter().map(|(name, _)| name.chars().count());
        let name_width = names.max().unwrap_or(0);
        writeln!(f, "{}", self.title)?;
        let row = |f: &mut fmt::Formatter<'_>, name: &str, cells: &[String]| {
            write!(f, "{name:<name_width$}")?;
            for (column, cell) in cells.iter().enumerate() {
                write!(f, "  {cell:>width$}", width = self.width(column))?;
            }
            writeln!(f)
        };
        row(f, "", &self.headings)?;
        for (name, cells) in &self.rows {
            row(f, name, cells)?;
        }
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_right_beneath_their_headings() {
        let cells = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let table = Table {
            title: "Batching".to_owned(),
            headings: cells(&["answered", "p99"]),
            rows: vec![
                ("without".to_owned(), cells(&["268/s", "8.91 s"])),
                ("with batching".to_owned(), cells(&["2153/s", "14.2 ms"])),
            ],
            notes: vec!["A note.".to_owned()],
        };
        assert_eq!(
            table.to_string(),
            "\
Batching
               answered      p99
without           268/s   8.91 s
with batching    2153/s  14.2 ms
A note.
"
        );
    }

    #[test]
    fn an_empty_table_is_its_title() {
        let table = Table {
            title: "Nothing".to_owned(),
            ..Table::default()
        };
        assert_eq!(table.to_string(), "Nothing\n\n");
    }
}
