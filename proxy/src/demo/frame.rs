//! What is seen of a scene at one moment.

use std::time::Duration;

/// What is seen at one moment: as a picture that takes the last one's place, and as one line for
/// where nothing can be taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Frame {
    /// The picture; each line fits into 78 columns.
    pub(super) picture: Vec<String>,
    /// The line.
    pub(super) line: String,
}

/// Figures with their names, side by side in columns of the same width.
pub(super) fn grid<const COLUMNS: usize>(rows: &[[(&str, String); COLUMNS]]) -> Vec<String> {
    let row = |cells: &[(&str, String); COLUMNS]| {
        let cells: Vec<_> = cells
            .iter()
            .map(|(name, figure)| format!("{name:<13}{figure:>9}"))
            .collect();
        format!("  {}", cells.join("   "))
    };
    rows.iter().map(row).collect()
}

/// How much of the time has passed.
pub(super) fn bar(passed: Duration, whole: Duration) -> String {
    let share = passed.as_secs_f64() / whole.as_secs_f64().max(f64::MIN_POSITIVE);
    let full = ((share * BAR as f64) as usize).min(BAR);
    format!("[{}{}]", "#".repeat(full), ".".repeat(BAR - full))
}

/// The last figures as a line of small columns; `top` is the height of the highest.
pub(super) fn columns(figures: &[f64], top: f64) -> String {
    let height = |figure: &f64| {
        let share = (figure / top.max(f64::MIN_POSITIVE)).clamp(0., 1.);
        HEIGHTS[(share * (HEIGHTS.len() - 1) as f64).round() as usize]
    };
    let first = figures.len().saturating_sub(COLUMNS);
    figures[first..].iter().map(height).collect()
}

/// Characters of a bar.
const BAR: usize = 30;

/// Figures in a line of columns: fifteen seconds at four a second.
const COLUMNS: usize = 60;

const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_keeps_its_columns() {
        let cell = |name: &'static str, figure: &str| (name, figure.to_owned());
        let rows = grid(&[
            [cell("offered", "2153/s"), cell("batch limit", "37")],
            [cell("p50", "7.15 ms"), cell("within 20 ms", "99.8 %")],
        ]);
        assert_eq!(
            rows,
            [
                "  offered         2153/s   batch limit         37",
                "  p50            7.15 ms   within 20 ms    99.8 %",
            ]
        );
    }

    #[test]
    fn a_bar_fills_from_empty_to_full_and_no_further() {
        let bar = |passed| bar(Duration::from_secs(passed), Duration::from_secs(10));
        assert_eq!(bar(0).matches('#').count(), 0);
        assert_eq!(bar(5).matches('#').count(), BAR / 2);
        assert_eq!(bar(11), format!("[{}]", "#".repeat(BAR)));
    }

    #[test]
    fn columns_show_the_last_figures_within_their_bounds() {
        assert_eq!(columns(&[0., 50., 100., 1e9], 100.), "▁▅██");
        assert_eq!(columns(&[], 100.), "");
        assert_eq!(columns(&[1.; 200], 0.).chars().count(), COLUMNS);
    }
}
