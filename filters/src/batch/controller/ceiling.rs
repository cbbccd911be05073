/// The size that was late when it was last tried, and when it may be tried again.
///
/// ```text
///        late            16 full calls in time             8 more
///  none ------> ceiling -----------------------> on trial --------> none
///                  ^     or faster throughout       |
///                  '--------------------------------'
///                     late: then 32, 64, .. 1024
/// ```
///
/// Under the ceiling the limit goes half of the way from what was in time, so that a step of the
/// cost curve is found by halving. This is also what keeps a limit of a few rows from swinging.
#[derive(Clone, Debug)]
pub(super) struct Ceiling {
    size: Option<f64>,
    /// The largest size that was in time.
    good: f64,
    /// Full calls in time before the size is tried again.
    wait: u32,
    patience: u32,
    /// Full calls in time since it was.
    proven: u32,
}

impl Ceiling {
    /// Notes that a size was late.
    pub(super) fn late(&mut self, size: f64) {
        if self.size.is_none() && self.proven < PROOF {
            self.patience = (self.patience * 2).min(MOST_PATIENCE);
        }
        self.wait = self.patience;
        self.size = Some(size.max(2.));
        if self.good >= size {
            self.good = size * GIVEN;
        }
    }

    /// Notes that a full call was in time.
    pub(super) fn passed(&mut self, size: f64) {
        self.good = self.good.max(size);
        self.wait = self.wait.saturating_sub(1);
        if self.size.is_none() {
            self.proven = self.proven.saturating_add(1);
            if self.proven >= PROOF {
                self.patience = PATIENCE;
            }
        }
    }

    /// Returns what is left of a limit that is to grow, where the time of calls alone would allow
    /// `aimed` rows.
    pub(super) fn bound(&mut self, grown: f64, aimed: f64) -> f64 {
        match self.size {
            None => grown,
            Some(size) if aimed >= MUCH * size => {
                self.lift();
                grown
            }
            // The size itself is tried before more is.
            Some(size) if self.wait == 0 => {
                self.lift();
                grown.min(size)
            }
            Some(size) if size - self.good > size * NEAR => {
                grown.min(f64::midpoint(self.good, size))
            }
            Some(_) => grown.min(self.good),
        }
    }

    /// Forgets the size: the model has become faster.
    pub(super) fn lift(&mut self) {
        self.size = None;
        self.proven = 0;
    }
}

impl Default for Ceiling {
    fn default() -> Self {
        Self {
            size: None,
            good: 1.,
            wait: 0,
            patience: PATIENCE,
            proven: PROOF,
        }
    }
}

/// How far over the size one must be able to go, by what calls take, for the model to have become
/// faster. Below a step of the cost curve calls promise more than there is.
const MUCH: f64 = 1.5;
/// How near to what was late, as a part of it, what was in time is near enough.
const NEAR: f64 = 1. / 32.;
/// What is left of a size that was in time, and then late.
const GIVEN: f64 = 0.9;
/// Full calls before a size that was late is tried again, at first and at most.
const PATIENCE: u32 = 16;
const MOST_PATIENCE: u32 = 1024;
/// Full calls in time by which a size is proven to be good.
const PROOF: u32 = 8;
