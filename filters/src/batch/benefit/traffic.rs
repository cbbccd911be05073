use std::time::Duration;

use tokio::time::Instant;

/// How much comes and how busy the model is, over about the last half minute.
#[derive(Clone, Debug, Default)]
pub(super) struct Traffic {
    since: Option<Instant>,
    last: Option<Instant>,
    flow: Flow,
}

/// What there is in a second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flow {
    pub(super) rows: f64,
    /// Seconds of calls that several requests share.
    pub(super) batched: f64,
    /// Seconds of calls of one request.
    pub(super) single: f64,
}

impl Traffic {
    /// Counts a call that has ended now.
    pub(super) fn ended(&mut self, now: Instant, rows: usize, requests: usize, seconds: f64) {
        // What ran before the first call ended is a part of the time that is looked at.
        let since = *self.since.get_or_insert_with(|| {
            now.checked_sub(Duration::from_secs_f64(seconds))
                .unwrap_or(now)
        });
        let kept = decay(now, self.last.unwrap_or(since));
        self.last = Some(now);
        let Flow {
            rows: all,
            batched,
            single,
        } = &mut self.flow;
        for sum in [&mut *all, &mut *batched, &mut *single] {
            *sum *= kept;
        }
        *all += rows as f64;
        match requests > 1 {
            true => *batched += seconds,
            false => *single += seconds,
        }
    }

    /// Returns what there is in a second, once enough has been seen.
    pub(super) fn flow(&self, now: Instant) -> Option<Flow> {
        let (since, last) = (self.since?, self.last?);
        let seen = WINDOW.as_secs_f64() * (1. - decay(now, since));
        if now.saturating_duration_since(since) < LEAST {
            return None;
        }
        let scale = decay(now, last) / seen;
        Some(Flow {
            rows: self.flow.rows * scale,
            batched: self.flow.batched * scale,
            single: self.flow.single * scale,
        })
    }
}

fn decay(now: Instant, then: Instant) -> f64 {
    let passed = now.saturating_duration_since(then).as_secs_f64() * (1. / WINDOW.as_secs_f64());
    match passed < SHORT {
        // Two terms are right to a millionth, for a tenth of the time.
        true => 1. - passed + passed * passed / 2.,
        false => (-passed).exp(),
    }
}

/// Time after which what was seen weighs a third.
const WINDOW: Duration = Duration::from_secs(30);
/// Windows that are nearly nothing.
const SHORT: f64 = 0.01;
/// Below which a rate says nothing.
const LEAST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_right_from_the_first_second_on_and_fade_when_nothing_comes() {
        let start = Instant::now();
        let mut traffic = Traffic::default();
        for step in 1..=200_u32 {
            let now = start + Duration::from_millis(20) * step;
            traffic.ended(now, 10, 5, 0.01);
            if step <= 50 {
                assert!(traffic.flow(now).is_none());
            } else {
                let flow = traffic.flow(now).unwrap();
                assert!((480.0..520.).contains(&flow.rows), "{flow:?}");
                assert!((0.48..0.52).contains(&flow.batched));
                assert_eq!(flow.single, 0.);
            }
        }
        let flow = traffic.flow(start + Duration::from_secs(1000)).unwrap();
        assert!(flow.rows < 1.);
    }
}
