use std::time::Duration;

/// Decides whether it pays to look rows up.
///
/// A row that is found saves what it costs upstream; each row that is looked up costs the hashing,
/// the finding and, where it was not there, the storing. Looking up is bypassed while
///
/// ```text
/// hit ratio * cost of a row upstream  <  cost of a row in the cache
/// ```
///
/// and taken up again when the left is twice the right. While bypassed, one request in
/// [`SAMPLE`] is looked up nevertheless, chosen by its contents ([`sampled`]), so that one that
/// comes again is found again.
///
/// ```text
///            a window that does not pay, after the warm-up
///   All ------------------------------------------------------> Sample
///    ^                                                             |
///    '-------------------------------------------------------------'
///        as many windows in a row as `needed` that pay twice
/// ```
///
/// The sample sees a cache that is [`SAMPLE`] times as large for it as for all rows: what it finds
/// may be more than what the whole stream would. A return that did not last therefore doubles the
/// windows that the next one needs, and one that lasted makes it one again.
///
/// It knows no clock and takes no lock. Callers gather some hundred rows before they tell it.
#[derive(Debug)]
pub(super) struct Worth {
    decision: Decision,
    /// Rows looked up since the decision was taken, or since the cache was emptied.
    since: usize,
    /// Rows looked up since the last window's end, and how many of them were found.
    rows: usize,
    hits: usize,
    /// The mean of windows, of which later ones count more; nothing before the first has ended.
    hit_ratio: Option<f64>,
    lookup: Pace,
    storing: Pace,
    upstream: Pace,
    /// Windows that must pay twice for the return, and how many just did.
    needed: u32,
    paid: u32,
    /// Windows that have ended since the decision was taken.
    windows: u32,
}

/// Which rows to look up, and to store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// All.
    All,
    /// Those that are [`sampled`]; the rest go upstream as if there were no cache.
    Sample,
}

/// What a row costs, as a mean of which later parts count more.
#[derive(Debug, Default)]
struct Pace {
    rows: f64,
    seconds: f64,
}

/// Whether a row is looked up while the rest is bypassed, by a hash of all its bytes or of some.
pub(super) fn sampled(hash: u64) -> bool {
    // The same hash may have chosen the shard: all its bits take part in the upper ones.
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & (SAMPLE - 1) == 0
}

impl Worth {
    /// Begins with an empty cache, and looks all rows up.
    pub(super) fn new() -> Self {
        Self {
            decision: Decision::All,
            since: 0,
            rows: 0,
            hits: 0,
            hit_ratio: None,
            lookup: Pace::default(),
            storing: Pace::default(),
            upstream: Pace::default(),
            needed: 1,
            paid: 0,
            windows: 0,
        }
    }

    /// Returns what to do with the rows that come.
    pub(super) fn decision(&self) -> Decision {
        self.decision
    }

    /// Returns the share of rows that were found lately, of those that were looked up.
    pub(super) fn hit_ratio(&self) -> Option<f64> {
        self.hit_ratio
    }

    /// Learns that rows were looked up, and how many were found or joined.
    ///
    /// `held` tells how many rows the store holds; it is asked at the end of a window only.
    pub(super) fn looked_up(&mut self, rows: usize, hits: usize, held: impl FnOnce() -> usize) {
        self.rows += rows;
        self.hits += hits;
        self.since = self.since.saturating_add(rows);
        let window = match self.decision {
            Decision::All => WINDOW,
            Decision::Sample => SAMPLED_WINDOW,
        };
        if self.rows >= window {
            self.end_window(held());
        }
    }

    /// Learns what it cost to look rows up; some requests need be measured only.
    pub(super) fn cost(&mut self, rows: usize, took: Duration) {
        self.lookup.add(rows, took);
    }

    /// Learns what it cost to store the answers to rows that were not found.
    pub(super) fn storing(&mut self, rows: usize, took: Duration) {
        self.storing.add(rows, took);
    }

    /// Learns how long a call of so many rows took upstream.
    pub(super) fn upstream(&mut self, rows: usize, took: Duration) {
        self.upstream.add(rows, took);
    }

    /// Learns that the cache was emptied: it must fill again before it is judged.
    pub(super) fn emptied(&mut self) {
        self.since = 0;
    }

    fn end_window(&mut self, held: usize) {
        let found = self.hits as f64 / self.rows as f64;
        let before = self.hit_ratio.unwrap_or(found);
        let hit_ratio = before + NEW * (found - before);
        self.hit_ratio = Some(hit_ratio);
        (self.rows, self.hits) = (0, 0);
        self.windows = self.windows.saturating_add(1);
        let paces = (self.upstream.row(), self.lookup.row());
        let storing = self.storing.row().unwrap_or_default();
        self.upstream.fade();
        self.lookup.fade();
        self.storing.fade();
        let (Some(upstream), Some(lookup)) = paces else {
            return;
        };
        let lookup = lookup + (1. - hit_ratio) * storing;
        let saved = hit_ratio * upstream;
        match self.decision {
            Decision::All => {
                if self.windows >= LASTED {
                    self.needed = 1;
                }
                if self.is_warm(held) && saved < lookup {
                    if self.windows < LASTED && self.paid > 0 {
                        self.needed = (self.needed * 2).min(MOST_NEEDED);
                    }
                    // It takes hits to come back: none is the first guess.
                    self.turn(Decision::Sample);
                    self.hit_ratio = Some(0.);
                }
            }
            Decision::Sample => {
                let pays = saved >= BACK * lookup;
                self.paid = if pays { self.paid + 1 } else { 0 };
                if self.paid >= self.needed {
                    self.turn(Decision::All);
                }
            }
        }
    }

    /// Whether the cache could have found what there is to find: it was filled, and as many rows
    /// again were looked up.
    ///
    /// While it fills, a cache holds what was looked up and not found: only what falls out makes
    /// the rows that were looked up twice those that it holds.
    fn is_warm(&self, held: usize) -> bool {
        let enough = held
            .saturating_mul(2)
            .clamp(WARM_WINDOWS * WINDOW, MOST_WARM);
        self.since >= enough
    }

    fn turn(&mut self, decision: Decision) {
        self.decision = decision;
        self.since = 0;
        self.windows = 0;
    }
}

impl Pace {
    fn add(&mut self, rows: usize, took: Duration) {
        if rows == 0 {
            return;
        }
        let rows = rows as f64;
        let mut seconds = took.as_secs_f64();
        // A thread that was put aside for a while says nothing about the cost of a row.
        if let Some(row) = self.row() {
            seconds = seconds.min(OUTLIER * row * rows);
        }
        self.rows += rows;
        self.seconds += seconds;
    }

    fn row(&self) -> Option<f64> {
        (self.rows > 0. && self.seconds > 0.).then(|| self.seconds / self.rows)
    }

    fn fade(&mut self) {
        self.rows *= 1. - NEW;
        self.seconds *= 1. - NEW;
    }
}

/// One row in so many is looked up while the rest is bypassed: what the cache costs then is lost
/// in the noise, and a stream that changed is still noticed within seconds. A power of two.
const SAMPLE: u64 = 16;
/// Rows after which the hits are counted up: with one hit in a hundred rows the ratio of a window
/// is known to a sixth.
const WINDOW: usize = 4096;
/// The same of the sample, in which rows are a sixteenth: 16384 rows of the stream.
const SAMPLED_WINDOW: usize = 1024;
/// The share of the last window in the means, which then are those of about seven.
const NEW: f64 = 0.25;
/// Windows before which no cache is judged, however little it holds: what the means need.
const WARM_WINDOWS: usize = 8;
/// Rows after which a cache is judged even if it is not full: more than fit into the default size
/// at 250 bytes a row. If a larger one would pay, the sample finds out.
const MOST_WARM: usize = 1 << 18;
/// How many times its cost must be saved to come back: the ratio of what is found lies between
/// half and twice for streams that are on the edge.
const BACK: f64 = 2.;
/// The windows that a return takes at most: a million rows of the stream.
const MOST_NEEDED: u32 = 64;
/// Windows that a return must last for the next not to be made harder: a quarter of a million rows.
const LASTED: u32 = 64;
/// How many times the mean one measurement may cost to be counted in full.
const OUTLIER: f64 = 8.;

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use lru::LruCache;
    use proptest::prelude::*;

    use super::*;
    use crate::random::Random;

    /// A stream of rows through a cache of [`HOLDS`] rows.
    struct Stream {
        worth: Worth,
        kept: LruCache<u64, ()>,
        random: Random,
        asked: u64,
        switches: u32,
        /// What a row costs upstream.
        upstream: Duration,
    }

    const HOLDS: usize = 5000;
    /// What a row costs in the cache.
    const LOOKUP: Duration = Duration::from_micros(2);
    const CHEAP: Duration = Duration::from_micros(2);
    const EXPENSIVE: Duration = Duration::from_micros(500);
    /// The rows of a request.
    const ROWS: usize = 32;

    impl Stream {
        fn new(upstream: Duration) -> Self {
            Self {
                worth: Worth::new(),
                kept: LruCache::new(NonZeroUsize::new(HOLDS).expect("it holds some")),
                random: Random::new(0),
                asked: 0,
                switches: 0,
                upstream,
            }
        }

        /// Sends so many rows, of which a share is among `hot` ones that come again and again.
        fn send(&mut self, rows: usize, repeats: f64, hot: u64) {
            self.run(rows, repeats, hot, |_| false);
        }

        /// Sends rows until a decision is taken, and returns how many that were.
        fn send_until(&mut self, decision: Decision, repeats: f64, hot: u64) -> usize {
            self.run(1 << 22, repeats, hot, |worth| worth.decision() == decision)
        }

        fn run(
            &mut self,
            rows: usize,
            repeats: f64,
            hot: u64,
            until: impl Fn(&Worth) -> bool,
        ) -> usize {
            for sent in (0..rows).step_by(ROWS) {
                let before = self.worth.decision();
                if until(&self.worth) {
                    return sent;
                }
                let (mut looked_up, mut hits) = (0, 0);
                for _ in 0..ROWS {
                    let row = self.row(repeats, hot);
                    if before == Decision::All || sampled(Random::new(row).next()) {
                        looked_up += 1;
                        hits += usize::from(self.kept.put(row, ()).is_some());
                    }
                }
                self.worth.looked_up(looked_up, hits, || self.kept.len());
                // One request in 16 is measured, and one of those was put aside for 10 ms.
                if self.random.next().is_multiple_of(16) {
                    let stalled = self.random.next().is_multiple_of(128);
                    let took =
                        LOOKUP * looked_up as u32 + Duration::from_millis(10) * u32::from(stalled);
                    self.worth.cost(looked_up, took);
                }
                let sent = (ROWS - hits) as u32;
                self.worth.upstream(ROWS - hits, self.upstream * sent);
                self.switches += u32::from(self.worth.decision() != before);
            }
            rows
        }

        fn row(&mut self, repeats: f64, hot: u64) -> u64 {
            self.asked += 1;
            if self.random.uniform() >= repeats {
                return 1 << 32 | self.asked;
            }
            self.random.next() % hot
        }
    }

    #[test]
    fn one_row_in_sixteen_is_sampled_in_every_shard() {
        for fixed in [0, u64::MAX << 58, 0x3f] {
            let sampled = (0..160_000).filter(|&row| sampled(Random::new(row).next() | fixed));
            // A binomial: 10000, give or take 97.
            assert!((9_500..10_500).contains(&sampled.count()), "{fixed:x}");
        }
    }

    #[test]
    fn a_cache_is_not_judged_before_it_could_have_filled() {
        // No row ever comes again: the cache holds 5000 of them, and is judged after eight windows.
        let mut stream = Stream::new(EXPENSIVE);
        let rows = stream.send_until(Decision::Sample, 0., 1);
        assert!((32_768..33_000).contains(&rows), "{rows}");
    }

    #[test]
    fn a_larger_cache_is_judged_later() {
        let mut worth = Worth::new();
        worth.cost(1, LOOKUP);
        worth.upstream(1, EXPENSIVE);
        for window in 1..=100 {
            worth.looked_up(WINDOW, 0, || 100_000);
            let bypassed = worth.decision() == Decision::Sample;
            assert_eq!(bypassed, window * WINDOW >= 200_000);
            if bypassed {
                return;
            }
        }
        unreachable!("it was judged");
    }

    #[test]
    fn a_flush_makes_it_fill_again_first() {
        let mut stream = Stream::new(EXPENSIVE);
        stream.send(32_000, 0., 1);
        stream.worth.emptied();
        let rows = stream.send_until(Decision::Sample, 0., 1);
        assert!(rows >= 32_768, "{rows}");
    }

    #[test]
    fn nothing_is_decided_before_costs_are_known() {
        let mut worth = Worth::new();
        worth.looked_up(1 << 20, 0, || 0);
        worth.cost(1, LOOKUP);
        worth.looked_up(1 << 20, 0, || 0);
        assert_eq!(worth.decision(), Decision::All);
        worth.cost(0, LOOKUP);
        worth.upstream(1, EXPENSIVE);
        worth.looked_up(1 << 20, 0, || 0);
        assert_eq!(worth.decision(), Decision::Sample);
    }

    #[test]
    fn unique_rows_are_bypassed_and_repeats_bring_the_cache_back() {
        let mut stream = Stream::new(EXPENSIVE);
        stream.send(400_000, 0., 1);
        assert_eq!(
            (stream.worth.decision(), stream.switches),
            (Decision::Sample, 1)
        );
        // 2000 hot rows at half the stream: all of the sample's 125 are known after some
        // thousand rows, and the first window of 16384 rows that shows 40% of hits is enough.
        let rows = stream.send_until(Decision::All, 0.5, 2000);
        assert!(rows < 50_000, "{rows}");
        stream.send(400_000, 0.5, 2000);
        assert_eq!(
            (stream.worth.decision(), stream.switches),
            (Decision::All, 2)
        );
        let hit_ratio = stream.worth.hit_ratio();
        assert!(hit_ratio.is_some_and(|ratio| (0.4..0.55).contains(&ratio)));
    }

    #[test]
    fn few_hits_pay_where_the_model_is_expensive() {
        // A twentieth of 500 us is 25 us saved for 2 us.
        let mut stream = Stream::new(EXPENSIVE);
        stream.send(1_000_000, 0.05, 500);
        assert_eq!(
            (stream.worth.decision(), stream.switches),
            (Decision::All, 0)
        );
    }

    #[test]
    fn few_hits_do_not_pay_where_the_model_is_as_cheap_as_the_cache() {
        // A twentieth of 2 us is 0.1 us saved for 2 us, however large the cache.
        let mut stream = Stream::new(CHEAP);
        stream.send(1_000_000, 0.05, 500);
        assert_eq!(
            (stream.worth.decision(), stream.switches),
            (Decision::Sample, 1)
        );
    }

    #[test]
    fn a_model_that_becomes_expensive_brings_the_cache_back() {
        // It saves 5 us for 2 us when a row costs 100 us.
        let mut stream = Stream::new(CHEAP);
        stream.send(400_000, 0.05, 500);
        stream.upstream = Duration::from_micros(100);
        let rows = stream.send_until(Decision::All, 0.05, 500);
        assert!(rows < 400_000, "{rows}");
    }

    #[test]
    fn a_stream_on_the_edge_does_not_flap() {
        // 2% of 100 us are what a lookup costs. Whichever side it falls on, it takes twice as much
        // to come back, which chance gives to means over thousands of rows hardly ever.
        for repeats in [0.015, 0.018, 0.02, 0.022, 0.025] {
            let mut stream = Stream::new(Duration::from_micros(100));
            stream.send(2_000_000, repeats, 300);
            assert!(stream.switches <= 2, "{repeats}: {}", stream.switches);
        }
    }

    #[test]
    fn a_sample_that_promises_too_much_is_believed_ever_more_seldom() {
        // 20000 rows in turn: too many for the cache, so that LRU finds none of them, but the
        // sixteenth of the sample fits, and finds all.
        let mut stream = Stream::new(EXPENSIVE);
        let turn = |stream: &mut Stream, rows: usize| {
            for _ in (0..rows).step_by(ROWS) {
                let decision = stream.worth.decision();
                let (mut looked_up, mut hits) = (0, 0);
                for _ in 0..ROWS {
                    stream.asked += 1;
                    let row = stream.asked % 20_000;
                    if decision == Decision::All || sampled(Random::new(row).next()) {
                        looked_up += 1;
                        hits += usize::from(stream.kept.put(row, ()).is_some());
                    }
                }
                stream
                    .worth
                    .looked_up(looked_up, hits, || stream.kept.len());
                stream.worth.cost(looked_up, LOOKUP * looked_up as u32);
                stream.worth.upstream(ROWS, EXPENSIVE * ROWS as u32);
                stream.switches += u32::from(stream.worth.decision() != decision);
            }
        };
        turn(&mut stream, 2_000_000);
        let first = stream.switches;
        turn(&mut stream, 2_000_000);
        turn(&mut stream, 2_000_000);
        // Back after a million rows in the end, and away again after some twenty windows.
        assert!(stream.switches - first <= 8, "{} {first}", stream.switches);
    }

    proptest! {
        #[test]
        fn it_holds_no_nonsense(
            told in prop::collection::vec((0_usize..10_000, 0_f64..=1., 0_u64..1 << 40), 0..200),
        ) {
            let mut worth = Worth::new();
            for (rows, share, nanos) in told {
                worth.looked_up(rows, (rows as f64 * share) as usize, || rows);
                worth.cost(rows, Duration::from_nanos(nanos));
                worth.upstream(rows, Duration::from_nanos(nanos / 7));
                if let Some(ratio) = worth.hit_ratio() {
                    prop_assert!((0. ..=1.).contains(&ratio));
                }
                prop_assert!((1..=MOST_NEEDED).contains(&worth.needed));
            }
        }
    }
}
