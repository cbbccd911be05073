use super::{Mind, Told};
use crate::select::{Learned, State};

/// Shares by the probability that the arm is the best one (Thompson, On the likelihood that one
/// unknown probability exceeds another, 1933), with Beta distributions of the arms' mean losses
/// over the latest ones (Raj and Kalyani, Taming non-stationary bandits, 2017).
#[derive(Clone, Debug)]
pub(super) struct Thompson {
    /// The logarithms of a mean loss and of what is left of it to 1, at each point of the grid.
    grid: Box<[(f64, f64)]>,
    weights: Box<[f64]>,
}

impl Thompson {
    pub(super) fn new(weights: Box<[f64]>) -> Self {
        // In the arc sine of the root, where all Beta distributions of as many trials are about as
        // wide.
        let step = std::f64::consts::FRAC_PI_2 / POINTS as f64;
        let points = (0..POINTS).map(|point| (point as f64 + 0.5) * step);
        Self {
            grid: points
                .map(|angle| (2. * angle.sin().ln(), 2. * angle.cos().ln()))
                .collect(),
            weights,
        }
    }

    /// Returns the numbers of the Beta distribution of an arm's mean loss, less the half that the
    /// grid takes of each.
    fn posterior(learned: &Learned) -> (f64, f64) {
        let lost = learned.score.clamp(0., learned.trials);
        (lost + 0.5, learned.trials - lost + 0.5)
    }
}

impl Mind for Thompson {
    fn shares(&self, state: &State, available: &[usize], shares: &mut [f64]) {
        // For each arm, how probable each point is.
        let mut masses = vec![0.; available.len() * POINTS];
        for (arm, masses) in available.iter().zip(masses.chunks_exact_mut(POINTS)) {
            let (lost, won) = Self::posterior(&state.arms[*arm]);
            let mut top = f64::NEG_INFINITY;
            for (mass, (loss, win)) in masses.iter_mut().zip(&self.grid) {
                *mass = lost * loss + won * win;
                top = top.max(*mass);
            }
            let mut total = 0.;
            for mass in &mut *masses {
                *mass = (*mass - top).exp();
                total += *mass;
            }
            masses.iter_mut().for_each(|mass| *mass /= total);
        }
        // What is left above the point, of each arm.
        let mut above = vec![1.; available.len()];
        let mut products = vec![1.; available.len() + 1];
        for point in 0..POINTS {
            // Half of what is at the same point counts as above it.
            for (index, above) in above.iter().enumerate() {
                let mass = masses[index * POINTS + point];
                products[index + 1] = products[index] * (above - mass / 2.).max(0.);
            }
            let mut after = 1.;
            for (index, above) in above.iter_mut().enumerate().rev() {
                let mass = masses[index * POINTS + point];
                shares[available[index]] += mass * products[index] * after;
                after *= (*above - mass / 2.).max(0.);
                *above -= mass;
            }
        }
        for arm in available {
            shares[*arm] *= self.weights[*arm];
        }
        super::mix(shares, available, EXPLORATION);
    }

    fn lesson(&self, _: &State, told: &Told, lesson: &mut State) {
        for (arm, loss) in &told.losses {
            lesson.arms[*arm].score += loss;
            lesson.arms[*arm].trials += 1.;
        }
    }
}

/// Points of the grid.
const POINTS: usize = 128;

/// The share of choices that are made evenly among all arms.
const EXPLORATION: f64 = 0.005;
