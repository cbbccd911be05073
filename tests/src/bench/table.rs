//! Figures as people read them.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

/// Rows of text, set in columns: the first to the left, the others to the right.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Begins with a row of headings.
    pub fn new<const N: usize>(headings: [&str; N]) -> Self {
        Self {
            rows: vec![headings.map(str::to_owned).to_vec()],
        }
    }

    /// Begins with a row of headings whose number is not known before.
    pub fn with(headings: impl IntoIterator<Item = String>) -> Self {
        Self {
            rows: vec![headings.into_iter().collect()],
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    /// Prints Markdown, so that a table can be put into a README as it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (index, row) in self.rows.iter().enumerate() {
            for (column, width) in widths.iter().copied().enumerate() {
                let cell = row.get(column).map_or("", String::as_str);
                match column {
                    0 => write!(f, "| {cell:<width$} |")?,
                    _ => write!(f, " {cell:>width$} |")?,
                }
            }
            writeln!(f)?;
            if index == 0 {
                for (column, width) in widths.iter().copied().enumerate() {
                    let edges = if column == 0 { ("|", "") } else { ("", ":") };
                    let dashes = width + 2 - edges.1.len();
                    write!(f, "{}{}{}|", edges.0, "-".repeat(dashes), edges.1)?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

/// The middle of some figures, or the mean of the two in the middle; of none it is not a number.
pub fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_unstable_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.as_slice() {
        [] => f64::NAN,
        all if all.len() % 2 == 1 => all[middle],
        all => f64::midpoint(all[middle - 1], all[middle]),
    }
}

/// Writes a duration in milliseconds.
pub fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

/// Describes the machine: what a figure is worth depends on it.
pub fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo").lines().find_map(|line| {
        Some(
            line.strip_prefix("model name")?
                .split_once(':')?
                .1
                .trim()
                .to_owned(),
        )
    });
    let memory = read("/proc/meminfo")
        .lines()
        .find_map(|line| Some(line.strip_prefix("MemTotal:")?.trim().to_owned()));
    json!({
        "processor": processor,
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": memory,
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_average_before": read("/proc/loadavg").split(' ').next(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_the_ends() {
        assert_eq!(median([5.0, 1.0, 900.0]), 5.0);
        assert_eq!(median([4.0, 1.0, 900.0, 2.0]), 3.0);
        assert!(median([]).is_nan());
    }

    #[test]
    fn a_table_is_markdown_with_figures_to_the_right() {
        let mut table = Table::new(["peer", "rate"]);
        table.row(["nginx".into(), "10".into()]);
        assert_eq!(
            table.to_string(),
            "| peer  | rate |\n|-------|-----:|\n| nginx |   10 |\n"
        );
    }
}
