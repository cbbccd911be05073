use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::{Delay, Waiting};
use crate::batch::controller::Line;

/// An endpoint whose calls take 4 ms and 10 us a row, and what waits there.
struct Endpoint {
    delay: Delay,
    now: Instant,
    waiting: Vec<Instant>,
    free: Instant,
}

const LINE: Line = Line {
    beta: 4e-3,
    alpha: 1e-5,
};
const LIMIT: usize = 64;

impl Endpoint {
    fn new(max: Duration) -> Self {
        let now = Instant::now();
        Self {
            delay: Delay::new(max),
            now,
            waiting: Vec::new(),
            free: now,
        }
    }

    fn advance(&mut self, micros: u64) {
        self.now += Duration::from_micros(micros);
    }

    fn arrive(&mut self, rows: usize) {
        self.delay.arrived(self.now, rows);
        self.waiting.extend((0..rows).map(|_| self.now));
    }

    fn waiting(&self) -> Waiting {
        Waiting {
            now: self.now,
            rows: self.waiting.len(),
            since: self.waiting[0].max(self.free),
            limit: LIMIT,
            latest: None,
            line: Some(LINE),
        }
    }

    fn waits(&self) -> bool {
        self.delay.until(&self.waiting()).is_some()
    }

    /// Sends what waits, and answers it when it is done.
    fn call(&mut self) {
        let rows = self.waiting.len();
        self.waiting.clear();
        self.now += Duration::from_secs_f64(LINE.time(rows as f64));
        self.answer(rows);
    }

    fn answer(&mut self, rows: usize) {
        self.free = self.now;
        self.delay.answered(self.now, rows, Some(LINE));
    }

    /// So many callers ask one after the other, a tenth of a millisecond apart, and have their
    /// answers all at once: so often.
    fn lockstep(&mut self, callers: usize, times: usize) {
        for _ in 0..times {
            for _ in 0..callers {
                self.advance(100);
                self.arrive(1);
            }
            self.call();
        }
    }
}

#[test]
fn without_a_bound_nothing_waits() {
    let mut endpoint = Endpoint::new(Duration::ZERO);
    endpoint.lockstep(8, 10);
    endpoint.arrive(1);
    assert!(!endpoint.waits());
}

#[test]
fn nothing_waits_while_the_costs_of_calls_are_unknown() {
    let mut endpoint = Endpoint::new(MAX);
    endpoint.lockstep(8, 10);
    endpoint.advance(100);
    endpoint.arrive(1);
    assert!(endpoint.waits());
    let unknown = Waiting {
        line: None,
        ..endpoint.waiting()
    };
    assert_eq!(endpoint.delay.until(&unknown), None);
}

#[test]
fn a_caller_by_itself_is_never_kept_waiting() {
    let mut endpoint = Endpoint::new(MAX);
    for pause in [0, 100, 900, 3000, 20_000, 50, 700].repeat(20) {
        endpoint.advance(pause);
        endpoint.arrive(1);
        assert!(!endpoint.waits());
        endpoint.call();
    }
}

#[test]
fn callers_who_ask_again_together_are_waited_for_up_to_the_last() {
    let mut endpoint = Endpoint::new(MAX);
    endpoint.lockstep(8, 5);
    for _ in 0..7 {
        endpoint.advance(100);
        endpoint.arrive(1);
        assert!(endpoint.waits());
    }
    endpoint.advance(100);
    endpoint.arrive(1);
    assert!(!endpoint.waits());
}

#[test]
fn callers_who_take_turns_are_joined() {
    let mut endpoint = Endpoint::new(MAX);
    let mut under_way = 8;
    endpoint.waiting = vec![endpoint.now; 8];
    endpoint.answer(under_way);
    for _ in 0..10 {
        // Those who have their answers come back while the others are under way.
        let sent = std::mem::take(&mut endpoint.waiting).len();
        endpoint.advance(300);
        endpoint.arrive(under_way);
        endpoint.advance(3700);
        under_way = sent;
        endpoint.answer(under_way);
    }
    assert!(endpoint.waits());
    endpoint.advance(300);
    endpoint.arrive(8);
    assert!(!endpoint.waits(), "all are there");
}

#[test]
fn a_burst_at_one_instant_is_no_rate() {
    let mut endpoint = Endpoint::new(MAX);
    for _ in 0..10 {
        endpoint.advance(50_000);
        for _ in 0..16 {
            endpoint.arrive(1);
        }
        assert!(!endpoint.waits());
        endpoint.call();
    }
}

#[test]
fn the_rows_of_one_request_are_no_company() {
    let mut endpoint = Endpoint::new(MAX);
    for _ in 0..10 {
        endpoint.advance(50_000);
        endpoint.arrive(16);
        assert!(!endpoint.waits());
        endpoint.call();
    }
}

#[test]
fn those_who_stay_away_are_waited_for_four_times() {
    let mut endpoint = Endpoint::new(MAX);
    endpoint.lockstep(8, 20);
    let mut waited = 0;
    for _ in 0..20 {
        endpoint.advance(50_000);
        endpoint.arrive(1);
        waited += usize::from(endpoint.waits());
        endpoint.call();
    }
    assert!((1..=4).contains(&waited), "{waited}");
}

#[test]
fn whoever_begins_to_come_together_is_waited_for_soon() {
    let mut endpoint = Endpoint::new(MAX);
    for _ in 0..50 {
        endpoint.advance(20_000);
        endpoint.arrive(1);
        endpoint.call();
    }
    endpoint.lockstep(8, 3);
    endpoint.advance(100);
    endpoint.arrive(1);
    assert!(endpoint.waits());
}

proptest! {
    #[test]
    fn nobody_is_kept_past_the_bound_the_deadline_or_a_full_batch(
        steps in prop::collection::vec((0_u64..3000, 0_usize..6, 0_u8..4), 1..200),
        max in 0_u64..12_000,
        latest in 0_u64..12_000,
        limit in 1_usize..20,
    ) {
        let mut endpoint = Endpoint::new(Duration::from_micros(max));
        for (micros, rows, then) in steps {
            endpoint.advance(micros);
            if rows > 0 {
                endpoint.arrive(rows);
            }
            if endpoint.waiting.is_empty() {
                continue;
            }
            let latest = endpoint.free + Duration::from_micros(latest);
            let waiting = Waiting { latest: Some(latest), limit, ..endpoint.waiting() };
            if let Some(until) = endpoint.delay.until(&waiting) {
                prop_assert!(until > waiting.now);
                prop_assert!(until <= waiting.since + Duration::from_micros(max));
                prop_assert!(until <= latest);
                prop_assert!(waiting.rows < limit);
                // No longer than a call takes by itself.
                prop_assert!(until - waiting.now <= Duration::from_secs_f64(LINE.beta));
            }
            if then == 0 {
                endpoint.call();
            }
        }
    }
}

const MAX: Duration = Duration::from_millis(5);
