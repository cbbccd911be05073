//! What goes wrong, on purpose.

use std::time::Duration;

use bytes::Bytes;
use tonic::Status;

use crate::random::Random;

/// What becomes of a call that is struck.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It fails with this status, details and trailers included, after the time of the curve.
    Error(Status),
    /// It is never answered. The executor goes on with the next call.
    Hang,
    /// Its stream is reset (INTERNAL_ERROR) before any headers; in [`crate::inference`]'s stream method it ends the stream instead.
    ResetStream,
    /// Its connection is closed without a goodbye.
    CloseConnection,
    /// It is answered with so many rows more or fewer than it asked for.
    WrongRowCount(i64),
    /// A classifier guesses: each label is drawn at random. Other models answer as always.
    Guess,
    /// Each FP32 number of its answer is moved by a random share of itself, no larger than this one: as by dropout that was left switched on.
    Noise(f32),
    /// Each FP32 number of its answer is moved by this share of the mean over all rows: as by batch normalisation that was left in training.
    Neighbours(f32),
    /// It is answered rightly, but so much later, between the first time and the second: mostly little
    /// more than the first, and seldom much, as by a pause of the container's own. Each doubling of
    /// the time is as likely as the next.
    Straggle(Duration, Duration),
    /// Every row is answered like the first: as by a graph with a batch of one written into it.
    FirstRow,
}

/// The first element of a row that is guilty: compared with that of each row of the first input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker(Bytes);

/// Which calls are struck, and by what.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Strikes each call with the probability beside it; the first that strikes counts.
    pub at_random: Vec<(f64, Fault)>,
    /// Strikes every call in which a row begins with the marker.
    pub on_marked_row: Option<(Marker, Fault)>,
}

impl Marker {
    /// A marker of the raw bytes of one element; of the bare string for BYTES.
    pub fn new(element: impl Into<Bytes>) -> Self {
        Self(element.into())
    }

    pub(crate) fn is(&self, element: &[u8]) -> bool {
        self.0 == element
    }
}

impl From<f32> for Marker {
    fn from(value: f32) -> Self {
        Self(Bytes::copy_from_slice(&value.to_le_bytes()))
    }
}

impl From<i64> for Marker {
    fn from(value: i64) -> Self {
        Self(Bytes::copy_from_slice(&value.to_le_bytes()))
    }
}

impl From<&str> for Marker {
    fn from(value: &str) -> Self {
        Self(Bytes::copy_from_slice(value.as_bytes()))
    }
}

impl Fault {
    /// By how much a call takes longer.
    pub(crate) fn delay(&self, random: &mut Random) -> Duration {
        match self {
            Self::Straggle(least, most) => {
                let doublings = most.as_secs_f64().max(1e-9) / least.as_secs_f64().max(1e-9);
                least.mul_f64(doublings.max(1.0).powf(random.unit()))
            }
            _ => Duration::ZERO,
        }
    }
}

impl Faults {
    /// No faults.
    pub fn none() -> Self {
        Self::default()
    }

    /// Every call is struck.
    pub fn always(fault: Fault) -> Self {
        Self::at_rate(1.0, fault)
    }

    /// Each call is struck with this probability.
    pub fn at_rate(rate: f64, fault: Fault) -> Self {
        Self {
            at_random: vec![(rate, fault)],
            on_marked_row: None,
        }
    }

    /// The calls are struck in which a row begins with the marker.
    pub fn on_marked_row(marker: impl Into<Marker>, fault: Fault) -> Self {
        Self {
            at_random: Vec::new(),
            on_marked_row: Some((marker.into(), fault)),
        }
    }

    /// Decides about one call, whose rows begin with `first_elements`.
    pub(crate) fn strike<'a>(
        &self,
        random: &mut Random,
        first_elements: impl FnOnce() -> Vec<&'a [u8]>,
    ) -> Option<Fault> {
        if let Some((marker, fault)) = &self.on_marked_row
            && first_elements().iter().any(|element| marker.is(element))
        {
            return Some(fault.clone());
        }
        let struck = self
            .at_random
            .iter()
            .find(|(rate, _)| random.unit() < *rate);
        struck.map(|(_, fault)| fault.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stragglers_are_mostly_a_little_late_and_seldom_very() {
        let (least, most) = (Duration::from_millis(20), Duration::from_millis(160));
        let fault = Fault::Straggle(least, most);
        let mut random = Random::new(5);
        let draws = 10_000;
        let mut doubled = 0;
        for _ in 0..draws {
            let delay = fault.delay(&mut random);
            assert!(delay >= least && delay <= most, "{delay:?}");
            doubled += u32::from(delay > 2 * least);
        }
        // Two of the three doublings.
        assert!((f64::from(doubled) / f64::from(draws) - 2. / 3.).abs() < 0.02);
        assert_eq!(Fault::Hang.delay(&mut random), Duration::ZERO);
    }
}
