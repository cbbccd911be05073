//! Finds the highest rate that holds, with few probes.

/// Returns the highest rate found for which `holds` said yes twice, or zero.
///
/// Walks from `guess` in growing steps until one rate holds and a higher one does not, halves the
/// distance (by ratio) until it is below `resolution`, and lets the winner prove itself once more:
/// a 99th percentile near its objective passes by luck half of the time.
pub fn highest<E>(
    guess: f64,
    resolution: f64,
    mut holds: impl FnMut(f64) -> Result<bool, E>,
) -> Result<f64, E> {
    let mut low = None;
    let mut high = None;
    let mut rate = guess;
    let mut step = FIRST_STEP;
    let floor = guess / DEEPEST;
    loop {
        if holds(rate)? {
            low = Some(rate);
        } else {
            high = Some(rate);
        }
        rate = match (low, high) {
            (Some(low), None) => low * step,
            (None, Some(high)) => high / step,
            (Some(low), Some(high)) => (low * high).sqrt(),
            (None, None) => guess,
        };
        step *= step.min(2.0);
        if rate < floor {
            return Ok(0.0);
        }
        if let (Some(sure), Some(above)) = (low, high)
            && above / sure <= resolution
        {
            if holds(sure)? {
                return Ok(sure);
            }
            // It was luck: go on below it.
            high = Some(sure);
            low = None;
            step = STEP_AFTER_LUCK;
            rate = sure / step;
        }
    }
}

/// The first step away from the guess.
const FIRST_STEP: f64 = 1.2;
/// The first step down from a rate that held once and then did not.
const STEP_AFTER_LUCK: f64 = 1.1;
/// A rate this many times below the guess means that nothing holds.
const DEEPEST: f64 = 20.0;

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn search(guess: f64, limit: f64) -> (f64, usize) {
        let mut probes = 0;
        let found = highest::<Infallible>(guess, 1.03, |rate| {
            probes += 1;
            Ok(rate <= limit)
        });
        (found.unwrap_or(f64::NAN), probes)
    }

    #[test]
    fn the_limit_is_found_within_the_resolution_from_either_side() {
        for guess in [50.0, 90.0, 100.0, 130.0, 400.0] {
            let (found, probes) = search(guess, 100.0);
            assert!(
                found <= 100.0 && found * 1.03 >= 100.0,
                "{found} from {guess}"
            );
            assert!(probes <= 12, "{probes} probes from {guess}");
        }
    }

    #[test]
    fn a_good_guess_takes_few_probes() {
        assert!(search(95.0, 100.0).1 <= 6);
    }

    #[test]
    fn nothing_that_holds_gives_zero() {
        assert_eq!(search(100.0, 0.0).0, 0.0);
    }

    #[test]
    fn a_lucky_probe_does_not_count() {
        let mut lucky = true;
        let found = highest::<Infallible>(110.0, 1.03, |rate| {
            Ok(rate <= 100.0 || rate == 110.0 && std::mem::take(&mut lucky))
        });
        let found = found.unwrap_or(f64::NAN);
        assert!((90.0..=100.0).contains(&found), "{found}");
    }
}
