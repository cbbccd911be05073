//! Rows of which some were asked before.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use outrigger::demo::load::{Calls, Load, Pace, Target, frame};
use tokio::time::Instant;

use crate::bench::process::pause;
use crate::bench::{Result, message};

/// Requests of one row each: with some probability one of a few that are known, else one that
/// nobody has asked before.
///
/// A row is its number in the first four floats, sixteen bits in each so that all are ordinary
/// numbers, and the same floats in all others.
#[derive(Clone, Debug)]
pub(super) struct Mixture {
    /// The message of row 0; the row's bytes are its last.
    template: Bytes,
    columns: usize,
    known: Arc<Vec<Bytes>>,
    /// Of 2^64.
    share: u64,
    /// All that are asked for the first time have numbers from here.
    fresh: u64,
    answer: Answer,
}

/// What the model answers.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// The row itself.
    Echo,
    /// Always these bytes.
    Always(Bytes),
}

/// Asks for every known row until each was answered once.
struct Fill {
    mixture: Mixture,
    answered: Arc<Vec<AtomicBool>>,
}

impl Mixture {
    /// Makes requests for a model that takes rows of so many floats under this name. None are
    /// known but those of [`Mixture::known`].
    pub(super) fn new(model: &str, input: &str, columns: usize, answer: Answer) -> Self {
        assert!(columns >= NUMBER, "a row has room for its number");
        let row: Vec<f32> = (0..columns).map(|column| column as f32).collect();
        let mut mixture = Self {
            template: frame(&message::infer(model, input, &row)),
            columns,
            known: Arc::default(),
            share: 0,
            fresh: 0,
            answer,
        };
        mixture.known = Arc::new((0..KNOWN).map(|row| mixture.request(row)).collect());
        mixture.fresh()
    }

    /// The same with rows that were never asked before, by anybody in this process.
    pub(super) fn fresh(mut self) -> Self {
        static RUNS: AtomicU64 = AtomicU64::new(1);
        self.fresh = RUNS.fetch_add(1, Ordering::Relaxed) << ROWS_OF_A_RUN;
        self
    }

    /// The same with this share of known rows, between 0 and 1.
    pub(super) fn known(mut self, share: f64) -> Self {
        // A float as large as 2^64 becomes the largest number there is: always.
        self.share = (share * 2_f64.powi(64)) as u64;
        self
    }

    /// Has every known row answered once.
    pub(super) fn fill(&self, address: SocketAddr, patience: Duration) -> Result<()> {
        let answered: Arc<Vec<AtomicBool>> =
            Arc::new((0..KNOWN).map(|_| AtomicBool::new(false)).collect());
        let fill = Fill {
            mixture: self.clone(),
            answered: Arc::clone(&answered),
        };
        let target = Target::new(address, message::INFER)?.connections(4);
        let load = Load::new(target, Pace::Closed { callers: 8 }, fill)
            .lasting(patience)
            .start()?;
        let give_up = Instant::now() + patience;
        while !answered.iter().all(|row| row.load(Ordering::Relaxed)) {
            if Instant::now() > give_up || load.is_over() {
                let report = load.interval();
                return Err(format!("{address} does not answer each row:\n{report}").into());
            }
            pause(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Whether call `n` asks for a known row, and which number its row has.
    fn number(&self, n: u64) -> (bool, u64) {
        let dice = scattered(n ^ self.fresh);
        // At a share of 1 the bound is the largest number, which a die may show.
        if dice < self.share || self.share == u64::MAX {
            (true, scattered(dice) % KNOWN)
        } else {
            (false, self.fresh + n)
        }
    }

    fn request(&self, number: u64) -> Bytes {
        let mut request = BytesMut::from(&self.template[..]);
        let row = request.len() - 4 * self.columns;
        for (place, bytes) in request[row..]
            .chunks_exact_mut(4)
            .zip(digits(number).map(f32::to_le_bytes))
        {
            place.copy_from_slice(&bytes);
        }
        request.freeze()
    }

    /// Whether an answer, with gRPC's prefix, is that for the row of this number.
    fn is_answer(&self, number: u64, answer: &Bytes) -> bool {
        if answer.len() < 5 {
            return false;
        }
        let Some(output) = message::output(&answer.slice(5..), 0) else {
            return false;
        };
        match &self.answer {
            Answer::Always(bytes) => output == *bytes,
            Answer::Echo => {
                let row = self.template.len() - 4 * self.columns;
                let tail = &self.template[row + 4 * NUMBER..];
                let head = digits(number).map(f32::to_le_bytes);
                output.len() == 4 * self.columns
                    && output[..4 * NUMBER] == *head.as_flattened()
                    && output[4 * NUMBER..] == *tail
            }
        }
    }
}

impl Calls for Mixture {
    fn body(&self, n: u64) -> Bytes {
        match self.number(n) {
            (true, row) => self.known[row as usize].clone(),
            (false, row) => self.request(row),
        }
    }

    fn accept(&self, n: u64, answer: &Bytes) -> bool {
        self.is_answer(self.number(n).1, answer)
    }
}

impl Calls for Fill {
    fn body(&self, n: u64) -> Bytes {
        self.mixture.known[(n % KNOWN) as usize].clone()
    }

    fn accept(&self, n: u64, answer: &Bytes) -> bool {
        let right = self.mixture.is_answer(n % KNOWN, answer);
        if right {
            self.answered[(n % KNOWN) as usize].store(true, Ordering::Relaxed);
        }
        right
    }
}

fn digits(number: u64) -> [f32; NUMBER] {
    [0, 16, 32, 48].map(|shift| f32::from((number >> shift) as u16))
}

/// Steele, Lea and Flood's splitmix64: every number to another, without an order.
pub(super) fn scattered(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Rows that are asked again and again.
pub(super) const KNOWN: u64 = 1000;
/// Floats that a row's number takes.
const NUMBER: usize = 4;
/// Two to this power is more rows than any load asks.
const ROWS_OF_A_RUN: u32 = 40;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn mixture(share: f64) -> Mixture {
        Mixture::new("m", "x", 8, Answer::Echo).known(share)
    }

    fn distinct(mixture: &Mixture, calls: u64) -> usize {
        let bodies: HashSet<Bytes> = (0..calls).map(|n| mixture.body(n)).collect();
        bodies.len()
    }

    #[test]
    fn as_many_rows_are_known_as_was_wished() {
        for share in [0.0, 0.1, 0.5, 0.9, 1.0] {
            let mixture = mixture(share);
            let known = (0..100_000).filter(|n| mixture.number(*n).0).count();
            assert!(
                (known as f64 / 1e5 - share).abs() < 0.01,
                "{share}: {known}"
            );
        }
    }

    #[test]
    fn rows_that_are_not_known_are_never_the_same() {
        let one = mixture(0.0);
        let other = one.clone().fresh();
        assert_eq!(distinct(&one, 5000), 5000);
        let bodies = |mixture: &Mixture| (0..5000).map(|n| mixture.body(n)).collect::<Vec<_>>();
        let both: HashSet<Bytes> = bodies(&one).into_iter().chain(bodies(&other)).collect();
        assert_eq!(both.len(), 10_000);
        assert_eq!(distinct(&mixture(1.0), 50_000), KNOWN as usize);
    }

    #[test]
    fn only_the_row_itself_is_its_echo() {
        let mixture = mixture(0.5);
        let echo = |n: u64| {
            let body = mixture.body(n);
            let mut answer = b"\0\0\0\0\0\x32\x20".to_vec();
            answer.extend_from_slice(&body[body.len() - 32..]);
            Bytes::from(answer)
        };
        for n in 0..100 {
            assert!(mixture.accept(n, &echo(n)));
            assert!(!mixture.accept(n, &Bytes::new()));
        }
        let (one, other) = (mixture.number(0).1, mixture.number(1).1);
        assert_ne!(one, other);
        assert!(!mixture.accept(0, &echo(1)));
    }
}
