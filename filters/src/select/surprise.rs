use super::label::{put_varint, take, take_varint};

/// How improbable each class was said to be: the negative logarithms of the probabilities, rounded
/// so that each takes a byte.
///
/// Of more classes than 64 the most probable ones are kept, and the others share what is left of the
/// probability evenly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surprise {
    /// Of so many classes.
    classes: u32,
    /// Class and steps, in the order of the classes.
    kept: Box<[(u32, u8)]>,
    /// Of each class that is not kept.
    others: u8,
}

impl Surprise {
    /// Takes scores as probabilities where they are such (none below zero, and a sum of 1), else as
    /// their logarithms give or take a constant, as the last layer of most models has them. What is
    /// no number has no probability.
    ///
    /// Returns `None` where there are none.
    pub(super) fn of(scores: &[f64]) -> Option<Self> {
        let classes = u32::try_from(scores.len()).ok()?;
        let known = || scores.iter().copied().filter(|score| !score.is_nan());
        let sum: f64 = known().sum();
        let probabilities: Vec<f64> =
            if known().all(|score| score >= 0.) && (sum - 1.).abs() <= TOLERANCE {
                let share = |score: &f64| if score.is_nan() { 0. } else { score / sum };
                scores.iter().map(share).collect()
            } else {
                let most = known().fold(f64::NEG_INFINITY, f64::max);
                let weight = |score: &f64| match () {
                    () if score.is_nan() => 0.,
                    // Also where it is infinite.
                    () if *score == most => 1.,
                    () => (score - most).exp(),
                };
                let total: f64 = scores.iter().map(weight).sum();
                scores.iter().map(|score| weight(score) / total).collect()
            };
        if classes == 0 || probabilities.iter().any(|share| !share.is_finite()) {
            return None;
        }
        let mut order: Vec<u32> = (0..classes).collect();
        let of = |class: &u32| probabilities.get(*class as usize).copied().unwrap_or(0.);
        if order.len() > MOST {
            order.sort_by(|a, b| of(b).total_cmp(&of(a)));
            order.truncate(MOST);
            order.sort_unstable();
        }
        let left = 1. - order.iter().map(of).sum::<f64>();
        let others = scores.len() - order.len();
        Some(Self {
            classes,
            kept: order
                .iter()
                .map(|class| (*class, steps(of(class))))
                .collect(),
            others: match others {
                0 => u8::MAX,
                others => steps(left.max(0.) / others as f64),
            },
        })
    }

    /// Returns the negative natural logarithm of the probability that a class had; infinite where
    /// the class is not known.
    pub fn nats(&self, class: u32) -> f64 {
        if class >= self.classes {
            return f64::INFINITY;
        }
        let kept = self.kept.binary_search_by_key(&class, |(class, _)| *class);
        let kept = kept.ok().and_then(|index| self.kept.get(index));
        let steps = kept.map_or(self.others, |(_, steps)| *steps);
        (f64::from(steps) / STEPS).exp_m1()
    }

    /// Appends it.
    pub(super) fn pack(&self, out: &mut Vec<u8>) {
        put_varint(self.classes.into(), out);
        if self.kept.len() == self.classes as usize {
            out.extend(self.kept.iter().map(|(_, steps)| *steps));
            return;
        }
        let mut next = 0;
        for (class, steps) in &self.kept {
            put_varint((class - next).into(), out);
            out.push(*steps);
            next = class + 1;
        }
        out.push(self.others);
    }

    /// Takes a packed one off the front.
    pub(super) fn unpack(packed: &mut &[u8]) -> Option<Self> {
        let classes: u32 = take_varint(packed)?.try_into().ok()?;
        let count = (classes as usize).min(MOST);
        let is_whole = classes as usize <= MOST;
        let mut kept = Vec::with_capacity(count);
        let mut next = 0_u32;
        for _ in 0..count {
            let skipped = match is_whole {
                true => 0,
                false => take_varint(packed)?.try_into().ok()?,
            };
            let class = next.checked_add(skipped).filter(|class| *class < classes)?;
            let [steps] = take(packed)?;
            kept.push((class, steps));
            next = class + 1;
        }
        let others = match is_whole {
            true => u8::MAX,
            false => take::<1>(packed)?[0],
        };
        Some(Self {
            classes,
            kept: kept.into(),
            others,
        })
    }
}

/// Rounds the negative logarithm of a probability: finely where it is small, because little of it
/// decides there, and up to 52 nats.
fn steps(probability: f64) -> u8 {
    let nats = -probability.min(1.).ln();
    // A cast saturates, also from infinity.
    (nats.ln_1p() * STEPS).round() as u8
}

/// How far from 1 the sum of probabilities may be that were rounded to 16 bits.
const TOLERANCE: f64 = 0.01;

/// Steps for each time that the nats, and one, grow by e: an error of 0.008 nats at none, of 0.016 at one.
const STEPS: f64 = 64.;

/// The most classes that are kept.
const MOST: usize = 64;
