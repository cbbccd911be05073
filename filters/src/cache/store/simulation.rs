//! What to keep, tried on streams of rows: plain LRU against an LRU behind admission.
//!
//! Every row takes the same room, and no time passes: only the order of what is asked for counts.
//! [`LOADS`] names the streams, and a test prints the table from which the store's way of keeping
//! was chosen.

use std::hash::{BuildHasherDefault, Hasher};

use lru::LruCache;

use super::sketch::Frequency;
use crate::random::Random;

/// A way to keep a bounded number of rows.
#[derive(Debug)]
enum Kept {
    Lru(Lru),
    /// New rows come into a window; what falls out of it takes the place of a row of the main
    /// part if it is asked for more often.
    Windowed {
        frequency: Frequency,
        window: Lru,
        main: Main,
    },
}

/// Rows in the order in which they were asked for.
type Lru = LruCache<u64, (), BuildHasherDefault<Same>>;

/// The part of the cache behind the window.
#[derive(Debug)]
struct Main {
    rows: usize,
    /// Rows that came in and were not asked for since; all rows, where none are protected.
    probation: Lru,
    protected: Lru,
    most_protected: usize,
}

/// Rows are hashes already.
#[derive(Debug, Default)]
struct Same(u64);

#[derive(Clone, Copy, Debug)]
enum Way {
    Lru,
    /// A share of one in so many is the window's, and the main part has segments or has none.
    Windowed(usize, bool),
}

/// A stream of rows, counted from `0` to the last.
struct Load {
    name: &'static str,
    /// The row that is asked for next, and whether it counts.
    next: fn(&mut Stream) -> (u64, bool),
}

struct Stream {
    random: Random,
    asked: usize,
    /// The sums of the weights `1 / rank^0.9`.
    zipf: Vec<f64>,
}

/// Rows that the cache holds.
const ROWS: usize = 512;
/// Rows that the hot streams draw from.
const KNOWN: usize = 20 * ROWS;
/// Rows asked for before it counts, and of those that count.
const BEFORE: usize = 40 * ROWS;
const COUNTED: usize = 40 * ROWS;
/// The way that `shard.rs` goes.
const CHOSEN: Way = Way::Windowed(8, true);

const LOADS: [Load; 8] = [
    Load {
        name: "zipf 0.9",
        next: |stream| (stream.popular(), true),
    },
    Load {
        // Each second row is new, 20 times as many as the cache holds while it counts.
        name: "zipf and a scan beside it",
        next: |stream| match stream.asked.is_multiple_of(2) && stream.asked > BEFORE {
            true => (stream.unique(), false),
            false => (stream.popular(), true),
        },
    },
    Load {
        // Ten times as many as the cache holds, all at once, and what is left of the hot rows.
        name: "zipf after a scan",
        next: |stream| match stream.asked {
            BEFORE..SCANNED => (stream.unique(), false),
            at => (
                stream.popular(),
                (SCANNED..SCANNED + 2 * ROWS).contains(&at),
            ),
        },
    },
    Load {
        name: "loop of 5/4 of the cache",
        next: |stream| ((stream.asked % (ROWS * 5 / 4)) as u64, true),
    },
    Load {
        // Half a cache of hot rows, of which others are hot after each 20 caches.
        name: "shifting hot set",
        next: |stream| {
            let era = stream.asked / (20 * ROWS);
            match stream.random.next() % 4 {
                0 => (stream.unique(), true),
                _ => {
                    let row = (stream.random.next() % (ROWS / 2) as u64) as usize;
                    ((row + era * ROWS) as u64, true)
                }
            }
        },
    },
    Load {
        // Three times, a twelfth of a cache apart, and then never again: retries and feedback.
        name: "again soon, then never",
        next: |stream| (again(stream.asked, ROWS / 12), true),
    },
    Load {
        name: "zipf, and some again soon",
        next: |stream| match stream.asked.is_multiple_of(2) {
            true => (again(stream.asked / 2, ROWS / 24), true),
            false => (stream.popular(), true),
        },
    },
    Load {
        // A sixth of a cache apart, which is longer than the window.
        name: "zipf, and some again later",
        next: |stream| match stream.asked.is_multiple_of(2) {
            true => (again(stream.asked / 2, ROWS / 12), true),
            false => (stream.popular(), true),
        },
    },
];
const SCANNED: usize = BEFORE + 10 * ROWS;

impl Stream {
    fn new(seed: u64) -> Self {
        let mut sum = 0.;
        let weight = |rank| {
            sum += f64::from(rank).powf(-0.9);
            sum
        };
        Self {
            random: Random::new(seed),
            asked: 0,
            zipf: (1..=KNOWN as u32).map(weight).collect(),
        }
    }

    /// Draws a row by its popularity.
    fn popular(&mut self) -> u64 {
        let drawn = self.random.uniform() * self.zipf[KNOWN - 1];
        self.zipf.partition_point(|&sum| sum < drawn) as u64
    }

    /// Returns a row that was never asked for.
    fn unique(&self) -> u64 {
        1 << 48 | self.asked as u64
    }
}

impl Kept {
    fn new(way: Way) -> Self {
        let lru = || LruCache::unbounded_with_hasher(BuildHasherDefault::default());
        match way {
            Way::Lru => Self::Lru(lru()),
            Way::Windowed(share, segments) => {
                let rows = ROWS - ROWS / share;
                let mut frequency = Frequency::default();
                frequency.ensure(ROWS);
                Self::Windowed {
                    frequency,
                    window: lru(),
                    main: Main {
                        rows,
                        probation: lru(),
                        protected: lru(),
                        // Four fifths, as in Caffeine.
                        most_protected: if segments { rows * 4 / 5 } else { 0 },
                    },
                }
            }
        }
    }

    /// Asks for a row, keeps it as it may, and says whether it was there.
    fn ask(&mut self, row: u64) -> bool {
        match self {
            Self::Lru(rows) => {
                let hit = rows.get(&row).is_some();
                if !hit {
                    rows.put(row, ());
                    if rows.len() > ROWS {
                        rows.pop_lru();
                    }
                }
                hit
            }
            Self::Windowed {
                frequency,
                window,
                main,
            } => {
                frequency.touch(row);
                if window.get(&row).is_some() || main.ask(row) {
                    return true;
                }
                window.put(row, ());
                if window.len() > ROWS - main.rows
                    && let Some((candidate, ())) = window.pop_lru()
                {
                    main.offer(candidate, frequency);
                }
                false
            }
        }
    }
}

impl Main {
    fn ask(&mut self, row: u64) -> bool {
        if self.protected.get(&row).is_some() {
            return true;
        }
        if self.most_protected == 0 {
            return self.probation.get(&row).is_some();
        }
        let there = self.probation.pop(&row).is_some();
        if there {
            self.protected.put(row, ());
            if self.protected.len() > self.most_protected
                && let Some((row, ())) = self.protected.pop_lru()
            {
                self.probation.put(row, ());
            }
        }
        there
    }

    fn offer(&mut self, candidate: u64, frequency: &Frequency) {
        if self.probation.len() + self.protected.len() < self.rows {
            self.probation.put(candidate, ());
            return;
        }
        let part = match self.probation.is_empty() {
            true => &mut self.protected,
            false => &mut self.probation,
        };
        if let Some((&victim, ())) = part.peek_lru()
            && frequency.admits(candidate, victim)
        {
            part.pop_lru();
            self.probation.put(candidate, ());
        }
    }
}

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("rows are numbers");
    }

    fn write_u64(&mut self, row: u64) {
        self.0 = row;
    }
}

/// Returns the row that is asked for: each three times, so many others apart, then never again.
fn again(asked: usize, apart: usize) -> u64 {
    let (lap, at) = (asked / apart, asked % apart);
    1 << 40 | (lap / 3 * apart + at) as u64
}

/// Returns the hit ratio of the rows that count, in percent.
fn hit_ratio(load: &Load, way: Way) -> f64 {
    let mut stream = Stream::new(1);
    let mut kept = Kept::new(way);
    let (mut counted, mut hits) = (0, 0);
    for asked in 0..BEFORE + COUNTED {
        stream.asked = asked;
        let (row, counts) = (load.next)(&mut stream);
        let hit = kept.ask(Random::new(row).next());
        if counts && asked >= BEFORE {
            counted += 1;
            hits += u32::from(hit);
        }
    }
    100. * f64::from(hits) / f64::from(counted)
}

fn load(name: &str) -> &'static Load {
    LOADS
        .iter()
        .find(|load| load.name == name)
        .expect("the load is in the table")
}

/// Prints the table, of which the store's way finds no less than plain LRU: give or take what the
/// window loses where all that is hot moves on, and but for repeats that come farther apart than the
/// window is long.
#[test]
fn the_way_that_was_chosen_is_no_worse_than_plain_lru() {
    let ways = [Way::Lru]
        .into_iter()
        .chain([32, 16, 8, 4].map(|share| Way::Windowed(share, false)))
        .chain([32, 16, 8, 4].map(|share| Way::Windowed(share, true)));
    println!("{:32} LRU  1/32 1/16  1/8  1/4  with segments", "");
    for load in &LOADS {
        let ratios: Vec<_> = ways.clone().map(|way| hit_ratio(load, way)).collect();
        let shown: String = ratios.iter().map(|ratio| format!(" {ratio:4.1}")).collect();
        println!("{:32}{shown}", load.name);
        let (plain, chosen) = (ratios[0], ratios[7]);
        let lost = if load.name.ends_with("later") {
            20.
        } else {
            2.
        };
        assert!(chosen >= plain - lost, "{}: {plain} {chosen}", load.name);
    }
}

#[test]
fn admission_keeps_what_is_popular() {
    // A row that is asked for often is in the main part and stays; with LRU each of the many
    // that are asked for seldom pushes one out.
    let load = load("zipf 0.9");
    let (lru, chosen) = (hit_ratio(load, Way::Lru), hit_ratio(load, CHOSEN));
    assert!(chosen > lru + 5., "{chosen} {lru}");
}

#[test]
fn a_scan_takes_at_most_five_points_of_the_hot_set() {
    // A row that is asked for once gets no further than the window, which is an eighth.
    let quiet = hit_ratio(load("zipf 0.9"), CHOSEN);
    for name in ["zipf and a scan beside it", "zipf after a scan"] {
        let scanned = hit_ratio(load(name), CHOSEN);
        let lru = hit_ratio(load(name), Way::Lru);
        assert!(scanned > quiet - 5., "{name}: {scanned} of {quiet}");
        assert!(scanned > lru + 10., "{name}: {scanned} {lru}");
    }
}

#[test]
fn a_loop_that_does_not_fit_is_kept_in_part() {
    // LRU throws each row out just before it is asked for again. Behind admission those that are
    // in the main part, 7/8 of 4/5 of the loop, stay in until counts are halved between two of
    // them.
    let load = load("loop of 5/4 of the cache");
    assert_eq!(hit_ratio(load, Way::Lru), 0.);
    assert!((50. ..80.).contains(&hit_ratio(load, CHOSEN)));
}

#[test]
fn a_hot_set_that_shifts_is_found_again() {
    // New rows are let in when they are above those that were hot, whose counts are halved after
    // five caches full of requests, of the 20 for which a set is hot; LRU needs one.
    let load = load("shifting hot set");
    let (lru, chosen) = (hit_ratio(load, Way::Lru), hit_ratio(load, CHOSEN));
    assert!(chosen > lru - 4., "{chosen} {lru}");
}

#[test]
fn what_is_asked_for_again_within_the_window_is_found() {
    // Two of three are repeats, and 1/12 of a cache lies between them: less than the window.
    let repeats = hit_ratio(load("again soon, then never"), CHOSEN);
    assert!((66. ..67.).contains(&repeats), "{repeats}");
    let load = load("zipf, and some again soon");
    assert!(hit_ratio(load, CHOSEN) > hit_ratio(load, Way::Lru));
}
