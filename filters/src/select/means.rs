use bytestring::ByteString;
use parking_lot::Mutex;
use smallvec::SmallVec;

/// What each arm of an ensemble predicts on average, where that is a number: what stands in for an arm
/// that does not answer.
#[derive(Debug)]
pub(super) struct Means(Mutex<SmallVec<[Mean; 8]>>);

#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    /// How many predictions it is of, as far as that matters.
    count: f64,
    mean: f64,
}

impl Means {
    /// Of so many arms nothing is known.
    pub(super) fn new(arms: usize) -> Self {
        Self(Mutex::new(SmallVec::from_elem(Mean::default(), arms)))
    }

    /// Takes note of what an arm predicted; what is no finite number says nothing.
    pub(super) fn predicted(&self, arm: usize, numbers: &[f64]) {
        let mut means = self.0.lock();
        let Some(mean) = means.get_mut(arm) else {
            return;
        };
        for number in numbers.iter().filter(|number| number.is_finite()) {
            mean.count = (mean.count + 1.).min(MEMORY);
            // Two halves: their difference may be more than a number can be.
            mean.mean += number / mean.count - mean.mean / mean.count;
        }
    }

    /// Returns what an arm predicts on average; `None` before its first prediction.
    pub(super) fn of(&self, arm: usize) -> Option<f64> {
        let mean = self.0.lock().get(arm).copied()?;
        (mean.count > 0.).then_some(mean.mean)
    }

    /// Begins with what another one knows of arms of the same names.
    pub(super) fn begin_with(&self, ours: &[ByteString], other: &Self, theirs: &[ByteString]) {
        let known = other.0.lock().clone();
        let mut means = self.0.lock();
        for (name, mean) in ours.iter().zip(means.iter_mut()) {
            let place = theirs.iter().position(|other| other == name);
            if let Some(known) = place.and_then(|place| known.get(place)) {
                *mean = *known;
            }
        }
    }
}

/// Predictions after which older ones count less: a mean of so many is right to a thirtieth of what they
/// differ by, and follows when what is asked changes.
const MEMORY: f64 = 1000.;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_of_all_predictions_and_later_of_the_last() {
        let means = Means::new(2);
        assert_eq!(means.of(0), None);
        means.predicted(0, &[f64::NAN, f64::INFINITY]);
        assert_eq!(means.of(0), None);
        means.predicted(0, &[1., 2.]);
        means.predicted(0, &[6.]);
        assert!((means.of(0).unwrap() - 3.).abs() < 1e-12);
        assert_eq!((means.of(1), means.of(7)), (None, None));
        (0..20_000).for_each(|_| means.predicted(0, &[10.]));
        assert!((means.of(0).unwrap() - 10.).abs() < 0.01);
        means.predicted(1, &[f64::MAX, f64::MIN, f64::MAX]);
        assert!(means.of(1).unwrap().is_finite());
    }
}
