use super::Shares;

/// The least and the greatest probability of each arm.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bounds {
    floors: Box<[f64]>,
    ceilings: Box<[f64]>,
    /// Whether there is anything to hold.
    any: bool,
}

impl Bounds {
    /// Keeps each arm's probability between two numbers. Floors that are more than 1 together are
    /// lowered in proportion, and a ceiling is never below its arm's floor.
    pub(super) fn new(limits: impl Iterator<Item = (f64, f64)>) -> Self {
        let sane = |number: f64, otherwise: f64| match number.is_finite() {
            true => number.clamp(0., 1.),
            false => otherwise,
        };
        let (mut floors, mut ceilings): (Vec<_>, Vec<_>) = limits
            .map(|(floor, ceiling)| (sane(floor, 0.), sane(ceiling, 1.)))
            .unzip();
        let total: f64 = floors.iter().sum();
        for floor in &mut floors {
            *floor /= total.max(1.);
        }
        for (ceiling, floor) in ceilings.iter_mut().zip(&floors) {
            *ceiling = ceiling.max(*floor);
        }
        let any = floors.iter().any(|floor| *floor > 0.) || ceilings.iter().any(|most| *most < 1.);
        Self {
            floors: floors.into(),
            ceilings: ceilings.into(),
            any,
        }
    }

    /// Brings shares that sum to 1 within the bounds, and leaves those of arms that are not
    /// available, which are below 0, alone.
    ///
    /// Arms that are within their bounds keep the proportions that they had to each other: what the
    /// others gave up or took is spread over them (water-filling). Where the arms that are
    /// available may not have 1 together, ceilings give way, all in the same proportion; floors
    /// still hold then, because no share is below its ceiling.
    pub(super) fn hold(&self, shares: &mut Shares, available: &[usize]) {
        if !self.any || available.is_empty() {
            return;
        }
        let highest: f64 = available.iter().map(|arm| self.ceilings[*arm]).sum();
        if highest <= 1. {
            for arm in available {
                shares[*arm] = match highest > 0. {
                    true => self.ceilings[*arm] / highest,
                    false => 1. / available.len() as f64,
                };
            }
            return;
        }
        // Arms that are not settled yet, and what they have to share.
        let mut free: Shares = available.iter().map(|arm| shares[*arm]).collect();
        let mut arms: smallvec::SmallVec<[usize; 8]> = available.into();
        let mut rest = 1.;
        while !arms.is_empty() {
            let total: f64 = free.iter().sum();
            if total <= 0. {
                // None of them was to have any: they are alike.
                free.iter_mut().for_each(|share| *share = 1.);
                continue;
            }
            let scale = rest / total;
            let (mut lacking, mut over) = (0., 0.);
            for (arm, share) in arms.iter().zip(&free) {
                lacking += (self.floors[*arm] - share * scale).max(0.);
                over += (share * scale - self.ceilings[*arm]).max(0.);
            }
            // Those on the side that is further out stay out whatever the others do, so they are
            // settled; each round settles one at least.
            let settled = |arm: usize, share: f64| match lacking > over {
                true => share * scale < self.floors[arm],
                false => share * scale > self.ceilings[arm],
            };
            let mut at = 0;
            let before = arms.len();
            while at < arms.len() {
                let (arm, share) = (arms[at], free[at]);
                if lacking.max(over) > 0. && settled(arm, share) {
                    shares[arm] = match lacking > over {
                        true => self.floors[arm],
                        false => self.ceilings[arm],
                    };
                    rest -= shares[arm];
                    arms.remove(at);
                    free.remove(at);
                } else {
                    at += 1;
                }
            }
            if arms.len() == before {
                for (arm, share) in arms.iter().zip(&free) {
                    shares[*arm] = share * scale;
                }
                break;
            }
            rest = rest.max(0.);
        }
    }
}
