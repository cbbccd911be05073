use super::{Mind, Told, mix};
use crate::select::{Learned, State};

/// Shares by the probability that the arm is the best one (Thompson, On the likelihood that one
/// unknown probability exceeds another, Biometrika 1933), where an arm's mean loss has a Beta
/// distribution of its latest losses (discounted as by Raj and Kalyani, Taming non-stationary
/// bandits, 2017).
///
/// What is forgotten of the latest losses leaves, instead of nothing, what the arm used to be like
/// in a longer time, as if of a few trials. So one that was always bad is hardly tried again, while
/// one that was good and failed is, and is back soon after it recovers.
///
/// The probability is the integral, over all mean losses, of the density of one arm times the
/// probabilities that the others' are above. It is computed on a grid. With which probability an arm
/// is chosen is so known, without which nothing could be judged later by what was logged.
#[derive(Clone, Debug)]
pub(super) struct Thompson {
    /// The logarithms of a mean loss and of what is left of it to 1, at each point of the grid.
    grid: Box<[(f64, f64)]>,
    weights: Box<[f64]>,
}

impl Thompson {
    /// Makes the policy of arms of these weights, which are the prior, for so many trials.
    pub(super) fn new(weights: Box<[f64]>, memory: f64) -> Self {
        // In the arc sine of the root, where all Beta distributions of n trials are about as wide:
        // 1 / (2 sqrt(n)), of pi / 2. So the grid has more than one point for that width.
        let points =
            (POINTS_PER_ROOT * (memory + STRENGTH).sqrt()).clamp(LEAST_POINTS, MOST_POINTS);
        let points = points as usize;
        let step = std::f64::consts::FRAC_PI_2 / points as f64;
        let angles = (0..points).map(|point| (point as f64 + 0.5) * step);
        Self {
            grid: angles
                .map(|angle| (2. * angle.sin().ln(), 2. * angle.cos().ln()))
                .collect(),
            weights,
        }
    }

    /// Returns the two numbers of the Beta distribution of an arm's mean loss, less the half that
    /// the grid's scale takes of each.
    fn posterior(learned: &Learned) -> (f64, f64) {
        let past = learned.past_trials.max(0.);
        let strength = past.min(STRENGTH);
        let mean = match past > 0. {
            true => (learned.past_score / past).clamp(0., 1.),
            false => 0.,
        };
        let trials = learned.trials.max(0.);
        let lost = learned.score.clamp(0., trials);
        (
            lost + strength * mean + PRIOR - 0.5,
            trials - lost + strength * (1. - mean) + PRIOR - 0.5,
        )
    }
}

impl Mind for Thompson {
    fn shares(&self, state: &State, available: &[usize], shares: &mut [f64]) {
        let points = self.grid.len();
        // For each arm, how probable each point is.
        let mut masses = vec![0.; available.len() * points];
        for (arm, masses) in available.iter().zip(masses.chunks_exact_mut(points)) {
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
        // What each arm has above the point, and the products of those before an arm.
        let mut above = vec![1.; available.len()];
        let mut products = vec![1.; available.len() + 1];
        for point in 0..points {
            // Half of what is at the same point counts as above it.
            for (index, above) in above.iter_mut().enumerate() {
                *above -= masses[index * points + point] / 2.;
                products[index + 1] = products[index] * above.max(0.);
            }
            let mut after = 1.;
            for (index, above) in above.iter_mut().enumerate().rev() {
                let mass = masses[index * points + point];
                shares[available[index]] += mass * products[index] * after;
                after *= above.max(0.);
                *above -= mass / 2.;
            }
        }
        for arm in available {
            shares[*arm] *= self.weights[*arm];
        }
        mix(shares, available, EXPLORATION);
    }

    fn lesson(&self, _: &State, told: &Told, lesson: &mut State) {
        for (arm, loss) in &told.losses {
            lesson.arms[*arm] += Learned {
                // In full, however many are learned from at the same time: a moment with more of them
                // tells of the arms that are asked as well as one with fewer, and those that are not
                // are known by their past. Counted for less, they would take longer to be heard.
                score: *loss,
                trials: 1.,
                past_score: *loss,
                past_trials: 1.,
                ..Learned::default()
            };
        }
    }
}

/// What every arm is believed to have lost, and not to have lost, besides: enough that arms of which
/// nothing is known for the time being are not asked more often than that is worth, which is how
/// probable it is that they are better than one that hardly fails.
const PRIOR: f64 = 2.;

/// For how many of an arm's own losses it is remembered what it used to be like. More brings one
/// back sooner that recovers, and asks one longer that does not.
pub(super) const PAST_MEMORY: f64 = 500.;

/// How many trials that counts as. With fewer, bad arms are asked more often than it takes to know
/// of them; with many more, one that was bad for long is not found again that has become good.
const STRENGTH: f64 = 3.;

/// The share of choices that are made evenly among all arms, so that none is given up for good.
const EXPLORATION: f64 = 0.005;

/// Points of the grid for the root of a trial: 1.3 for the width of the narrowest distribution,
/// which brings the probabilities to about a hundredth of what they are.
const POINTS_PER_ROOT: f64 = 4.;

/// Enough for distributions of few trials.
const LEAST_POINTS: f64 = 48.;

/// As many as may be computed for each feedback.
const MOST_POINTS: f64 = 512.;
