use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytestring::ByteString;
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::info;

use super::{
    Bypass, Config, Unit, View,
    flight::Answered,
    key::Question,
    metrics::Handles,
    plan::{self, Source, Sources},
    store::Entries,
    worth::{self, Decision, Worth},
};
use crate::{
    batch::{Batchable, Capability, Unbatchable},
    inference::{Request, Response},
};

/// What one arm of a model has answered, and what it is being asked; a handle.
#[derive(Clone, Debug)]
pub struct Store(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    config: Config,
    capability: Capability,
    pub(super) entries: Entries,
    /// An answer had not one row for each that was sent: requests are kept as they are.
    uneven: AtomicBool,
    /// The versions that answered last, by the label that was asked for.
    versions: Mutex<Vec<(ByteString, ByteString)>>,
    /// Rows that were hits, joined, misses and bypassed.
    counts: [AtomicU64; 4],
    /// Rows of late, and those of them that the model was not asked for.
    late: [AtomicU64; 2],
    /// The same, as far as `worth` has not been told.
    untold: [AtomicUsize; 2],
    worth: Mutex<Worth>,
    /// What `worth` has decided: only some requests are looked for.
    samples: AtomicBool,
    looked_up: AtomicUsize,
    landed: AtomicUsize,
    warmer: Mutex<Option<Warmer>>,
}

/// Who is told after a flush what was asked for last before it.
#[derive(Clone)]
struct Warmer(Arc<dyn Fn(Vec<Request>) + Send + Sync>);

/// Why all is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flush {
    /// Somebody asked for it.
    Asked,
    /// A call was seen that loads, unloads or configures models.
    Control,
    /// The server serves another version, or has loaded the model anew.
    Version,
    /// The server was away: what came back may be another model.
    Restart,
}

impl Store {
    /// Makes an empty store.
    pub fn new(config: Config, capability: Capability, metrics: Handles) -> Self {
        Self(Arc::new(Shared {
            entries: Entries::new(&config, metrics),
            config,
            capability,
            uneven: AtomicBool::new(false),
            versions: Mutex::default(),
            counts: Default::default(),
            late: Default::default(),
            untold: Default::default(),
            worth: Mutex::new(Worth::new()),
            samples: AtomicBool::new(false),
            looked_up: AtomicUsize::new(0),
            landed: AtomicUsize::new(0),
            warmer: Mutex::default(),
        }))
    }

    /// Returns the settings.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Forgets all answers, also those to what the model is being asked now; returns how many
    /// there were.
    pub fn flush(&self, why: Flush) -> usize {
        let metrics = &self.0.entries.metrics;
        metrics.flushes(why).inc();
        let warmer = self.0.warmer.lock().clone();
        let warmer = warmer.filter(|_| self.0.config.warm > 0);
        let hottest = warmer.map(|warmer| (warmer, self.hottest(self.0.config.warm)));
        let rows = self.0.entries.flush();
        self.0.uneven.store(false, Ordering::Relaxed);
        self.0.worth.lock().emptied();
        metrics.flushed.inc_by(rows as u64);
        info!(why = why.name(), rows, "flushed the prediction cache");
        if let Some((Warmer(warmer), hottest)) = hottest
            && !hottest.is_empty()
        {
            warmer(hottest);
        }
        rows
    }

    /// Has `warmer` told after each flush what was asked for last before it, at most as many rows
    /// as [`Config::warm`] says; in place of who was told until now. It is called by whoever
    /// flushes, and must not wait.
    pub fn warm_by(&self, warmer: impl Fn(Vec<Request>) + Send + Sync + 'static) {
        *self.0.warmer.lock() = Some(Warmer(Arc::new(warmer)));
    }

    /// Returns the stored answer to a request, if there is one for all of its rows. Nothing counts
    /// as asked for by that.
    pub fn lookup(&self, request: &Request) -> Option<Response> {
        plan::look_up(self, request)
    }

    /// Returns requests for what was asked for last, at most so many rows: a row each, behind all
    /// others in the queues. Long rows, of which only a digest is kept, are not among them.
    pub fn hottest(&self, rows: usize) -> Vec<Request> {
        let hottest = self.0.entries.hottest(rows).into_iter();
        hottest
            .filter_map(|(question, row)| {
                let mut request = question.ask(&[row])?;
                request.head.priority = u64::MAX;
                Some(request)
            })
            .collect()
    }

    /// Returns what is stored, and what came of asking.
    pub fn view(&self) -> View {
        let entries = &self.0.entries;
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let [rows, found] = self.0.late.each_ref().map(load);
        let [hits, joined, misses, bypassed] = self.0.counts.each_ref().map(load);
        View {
            bytes: entries.bytes(),
            max_bytes: entries.max_bytes(),
            rows: entries.len(),
            hits,
            joined,
            misses,
            bypassed,
            hit_ratio: (rows > 0).then(|| (found as f64 / rows as f64).min(1.)),
            bypasses: self.0.samples.load(Ordering::Relaxed),
            generation: entries.generation(),
        }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }
}

impl Shared {
    /// Tells whether a request is cut into rows, or why it is not looked for at all.
    pub(super) fn is_by_row(&self, unit: Unit) -> Result<bool, &'static str> {
        let batchable = self.capability.get();
        match batchable {
            Batchable::No(Unbatchable::Stateful) => return Err("stateful"),
            Batchable::No(Unbatchable::Decoupled) => return Err("decoupled"),
            // It may be either, unless somebody has said how it is cached.
            Batchable::Unasked if self.config.unit == Unit::Auto => return Err("unasked"),
            _ => {}
        }
        if self.uneven.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match (unit, batchable) {
            (Unit::Request, _) | (_, Batchable::No(_)) => Ok(false),
            (Unit::Row, _) | (Unit::Auto, Batchable::Yes { .. }) => Ok(true),
            // A server that does not say whether rows are independent is believed in nothing.
            (Unit::Auto, Batchable::Unknown | Batchable::Unasked) => Ok(false),
        }
    }

    /// Counts rows that were asked for.
    pub(super) fn count(&self, hits: usize, joined: usize, sent: usize) {
        let metrics = &self.entries.metrics;
        let metrics = [&metrics.hit, &metrics.joined, &metrics.miss];
        for ((counter, own), count) in metrics
            .into_iter()
            .zip(&self.counts)
            .zip([hits, joined, sent])
        {
            if count > 0 {
                counter.inc_by(count as u64);
                own.fetch_add(count as u64, Ordering::Relaxed);
            }
        }
        if self.config.bypass == Bypass::Auto {
            self.judge(hits + joined + sent, hits + joined);
        }
        let [rows, found] = &self.late;
        let seen = rows.fetch_add((hits + joined + sent) as u64, Ordering::Relaxed);
        if hits + joined > 0 {
            found.fetch_add((hits + joined) as u64, Ordering::Relaxed);
        }
        if seen > LATE {
            // What was counted meanwhile by others is lost: a ratio minds little.
            rows.store(seen / 2, Ordering::Relaxed);
            found.store(found.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
        }
    }

    /// Counts rows that were not looked for.
    pub(super) fn bypassed(&self, rows: usize) {
        self.entries.metrics.bypass.inc_by(rows as u64);
        let [.., own] = &self.counts;
        own.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// Begins to measure what it costs to look a request up; of most it is not measured.
    pub(super) fn looks_up(&self) -> Option<Instant> {
        self.stopwatch(&self.looked_up)
    }

    /// Begins to measure what it costs to store an answer; of most it is not measured.
    pub(super) fn lands(&self) -> Option<Instant> {
        self.stopwatch(&self.landed)
    }

    fn stopwatch(&self, events: &AtomicUsize) -> Option<Instant> {
        if self.config.bypass != Bypass::Auto {
            return None;
        }
        let before = events.fetch_add(1, Ordering::Relaxed);
        before.is_multiple_of(MEASURED).then(Instant::now)
    }

    /// Ends a measurement of looking rows up.
    pub(super) fn looked_up(&self, rows: usize, began: Option<Instant>) {
        if let Some(began) = began {
            self.worth.lock().cost(rows, began.elapsed());
        }
    }

    /// Ends a measurement of storing the answers to rows.
    pub(super) fn landed(&self, rows: usize, began: Option<Instant>) {
        if let Some(began) = began {
            self.worth.lock().storing(rows, began.elapsed());
        }
    }

    /// Takes note of what rows cost upstream.
    pub(super) fn upstream(&self, rows: usize, took: Duration) {
        if self.config.bypass == Bypass::Auto {
            self.worth.lock().upstream(rows, took);
        }
    }

    /// Tells whether a request is let past because looking it up would cost more than it saves. Some
    /// are looked up nevertheless, chosen by some of their bytes: the same again if they come again.
    pub(super) fn passes(&self, request: &Request) -> bool {
        self.samples.load(Ordering::Relaxed) && !worth::sampled(spots(request))
    }

    fn judge(&self, rows: usize, found: usize) {
        let [untold, untold_found] = &self.untold;
        if found > 0 {
            untold_found.fetch_add(found, Ordering::Relaxed);
        }
        if untold.fetch_add(rows, Ordering::Relaxed) + rows < TOLD {
            return;
        }
        let mut worth = self.worth.lock();
        let rows = untold.swap(0, Ordering::Relaxed);
        let found = untold_found.swap(0, Ordering::Relaxed);
        worth.looked_up(rows, found.min(rows), || self.entries.len());
        let samples = worth.decision() == Decision::Sample;
        if self.samples.swap(samples, Ordering::Relaxed) != samples {
            let ratio = worth.hit_ratio();
            info!(
                samples,
                ratio, "looking answers up costs more than it saves, or does no more"
            );
        }
    }

    /// Keeps requests as they are from now on: the model's rows are not what they seemed.
    pub(super) fn is_uneven(&self) {
        if !self.uneven.swap(true, Ordering::Relaxed) {
            info!("an answer had not one row for each that was sent: whole requests are cached");
        }
    }

    /// Takes note that answers to rows of one request do not go together. Where one version gave
    /// them, its answers differ in more than contents, and requests are kept as they are.
    pub(super) fn unlike(&self, sources: &Sources, own: Option<&Answered>) {
        let versions = sources.iter().filter_map(|source| match source {
            Source::Stored(found) => Some(found.frame.version()),
            Source::Own(_) => own.map(|own| own.frame.version()),
            Source::Joined(waiting, _) => {
                waiting.answered().map(|answered| answered.frame.version())
            }
        });
        let mut versions = versions.collect::<Vec<_>>();
        versions.dedup();
        if versions.len() <= 1 {
            self.is_uneven();
        }
    }

    /// Takes note of the version that answered where none was asked for, and tells whether another
    /// did before.
    pub(super) fn is_new_version(&self, question: &Question, version: &ByteString) -> bool {
        let head = question.head();
        if !head.version.is_empty() || version.is_empty() {
            return false;
        }
        let mut versions = self.versions.lock();
        match versions.iter_mut().find(|(label, _)| *label == head.label) {
            Some((_, last)) if last == version => false,
            Some((_, last)) => {
                *last = ByteString::from(&**version);
                true
            }
            None => {
                if versions.len() >= MOST_LABELS {
                    versions.remove(0);
                }
                versions.push((head.label.clone(), ByteString::from(&**version)));
                false
            }
        }
    }
}

impl std::fmt::Debug for Warmer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Warmer(..)")
    }
}

impl Flush {
    /// All reasons, each at its index.
    pub const ALL: [Self; 4] = [Self::Asked, Self::Control, Self::Version, Self::Restart];

    /// Returns the word that metrics use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Control => "control",
            Self::Version => "version",
            Self::Restart => "restart",
        }
    }
}

/// Mixes a few bytes of each of a request's inputs, at even distances: whatever is the same has the
/// same, however it is cut into pieces.
fn spots(request: &Request) -> u64 {
    let mut mixed = 0_u64;
    let mut mix = |word: u64| mixed = (mixed.rotate_left(23) ^ word).wrapping_mul(ODD);
    for input in &request.inputs {
        mix(input.data.len() as u64);
        // Odd, so that not the same byte of each number is met: it may be the same in all.
        let apart = (input.data.len() / SPOTS) | 1;
        let (mut from, mut spot) = (0, 0);
        for piece in input.data.pieces() {
            while let Some(byte) = piece.get(spot - from) {
                mix(u64::from(*byte));
                spot += apart;
            }
            from += piece.len();
        }
    }
    mixed ^ mixed >> 29
}

/// One request in so many is measured: reading the clock costs a tenth of a lookup.
const MEASURED: usize = 64;
/// Rows that are told at once.
const TOLD: usize = 256;
/// Bytes of each input that are looked at.
const SPOTS: usize = 64;
/// A number whose multiples are spread over all bits (2^64 by the golden ratio).
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
/// Rows that count as late.
const LATE: u64 = 1 << 16;
/// Labels of versions that are followed at a time.
const MOST_LABELS: usize = 16;
