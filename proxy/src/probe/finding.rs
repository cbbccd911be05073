//! What many comparisons say together.

use super::compare::{Compared, Gap};

/// What the comparisons of one kind have found.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Finding {
    comparisons: usize,
    unequal: bool,
    worst: Option<(Gap, Place)>,
    unlike: Option<(String, Place)>,
}

/// Where a difference was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) row: usize,
    /// How many rows the call had.
    pub(super) among: usize,
}

impl Finding {
    /// Takes one more comparison into account.
    pub(super) fn take(&mut self, compared: Compared, place: Place) {
        self.comparisons += 1;
        match compared {
            Compared::Equal => {}
            Compared::Apart(gap) => {
                self.unequal = true;
                let worst = self.worst.as_ref();
                if worst.is_none_or(|(worst, _)| gap.is_worse(worst)) {
                    self.worst = Some((gap, place));
                }
            }
            Compared::Unlike(how) => {
                self.unequal = true;
                self.unlike.get_or_insert((how, place));
            }
        }
    }

    /// Tells whether everything was the same, bit by bit.
    pub(super) fn is_equal(&self) -> bool {
        !self.unequal
    }

    /// Tells whether everything was as near as it may be.
    pub(super) fn is_within(&self) -> bool {
        self.unlike.is_none() && self.worst.as_ref().is_none_or(|(gap, _)| gap.within)
    }

    /// Returns how many answers were compared.
    pub(super) fn comparisons(&self) -> usize {
        self.comparisons
    }

    /// Returns the largest difference, where it is a number.
    pub(super) fn largest(&self) -> Option<f64> {
        if self.unlike.is_some() {
            return None;
        }
        let largest = self.worst.as_ref().map_or(0., |(gap, _)| gap.size);
        largest.is_finite().then_some(largest)
    }

    /// Says the largest difference: which output of which row was what at first, and then.
    pub(super) fn shown(&self, first: &str, then: impl Fn(usize) -> String) -> String {
        if let Some((how, place)) = &self.unlike {
            let then = then(place.among);
            return format!("row {}: {how} ({first}, and {then})", place.row);
        }
        let Some((gap, place)) = &self.worst else {
            return "none".to_owned();
        };
        let element = gap.element.map(|at| format!("[{at}]")).unwrap_or_default();
        let (before, after) = gap.shown();
        let then = then(place.among);
        format!(
            "output `{}`{element}, row {}: {before} {first}, {after} {then}",
            gap.output, place.row
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{super::compare::Value, *};

    fn gap(size: f64, within: bool) -> Compared {
        Compared::Apart(Gap {
            output: "y".into(),
            element: Some(2),
            before: Value::Number(0.41),
            after: Value::Number(0.41 - size),
            size,
            within,
        })
    }

    #[test]
    fn the_worst_difference_is_told_with_its_place() {
        let mut finding = Finding::default();
        assert!(finding.is_equal() && finding.is_within());
        let at = |row, among| Place { row, among };
        finding.take(Compared::Equal, at(0, 2));
        assert_eq!((finding.is_equal(), finding.largest()), (true, Some(0.)));
        finding.take(gap(1e-7, true), at(1, 2));
        assert!(!finding.is_equal() && finding.is_within());
        finding.take(gap(0.02, false), at(3, 16));
        finding.take(gap(0.01, false), at(4, 8));
        // A difference that is allowed is no worse than one that is not, however large.
        finding.take(gap(7., true), at(5, 8));
        assert!(!finding.is_within());
        assert_eq!(finding.largest(), Some(0.02));
        assert_eq!(
            finding.shown("alone", |rows| format!("among {rows}")),
            "output `y`[2], row 3: 0.41 alone, 0.39 among 16"
        );
        finding.take(Compared::Unlike("1 outputs against 0".into()), at(2, 3));
        assert_eq!(finding.largest(), None);
        assert_eq!(
            finding.shown("alone", |rows| format!("among {rows}")),
            "row 2: 1 outputs against 0 (alone, and among 3)"
        );
        assert_eq!(finding.comparisons(), 6);
    }
}
