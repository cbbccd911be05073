use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use bytestring::ByteString;
use parking_lot::Mutex;
use tracing::info;

use super::{
    Config, Unit, View,
    flight::Answered,
    key::Question,
    metrics::Handles,
    plan::{self, Source, Sources},
    store::Entries,
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
    /// Rows of late, and those of them that the model was not asked for.
    late: [AtomicU64; 2],
}

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
            late: Default::default(),
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
        let rows = self.0.entries.flush();
        self.0.uneven.store(false, Ordering::Relaxed);
        metrics.flushed.inc_by(rows as u64);
        info!(why = why.name(), rows, "flushed the prediction cache");
        rows
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
        let metrics = &entries.metrics;
        let [rows, hits] = self
            .0
            .late
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed));
        View {
            bytes: entries.bytes(),
            max_bytes: entries.max_bytes(),
            rows: entries.len(),
            hits: metrics.hit.get(),
            joined: metrics.joined.get(),
            misses: metrics.miss.get(),
            bypassed: metrics.bypass.get(),
            hit_ratio: (rows > 0).then(|| (hits as f64 / rows as f64).min(1.)),
            bypasses: false,
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
            _ => {}
        }
        if self.uneven.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match (unit, batchable) {
            (Unit::Request, _) | (_, Batchable::No(_)) => Ok(false),
            (Unit::Row, _) | (Unit::Auto, Batchable::Yes { .. }) => Ok(true),
            // A server that does not say whether rows are independent is believed in nothing.
            (Unit::Auto, Batchable::Unknown) => Ok(false),
            (Unit::Auto, Batchable::Unasked) => Err("unasked"),
        }
    }

    /// Counts rows that were asked for.
    pub(super) fn count(&self, hits: usize, joined: usize, sent: usize) {
        let metrics = &self.entries.metrics;
        for (counter, count) in [
            (&metrics.hit, hits),
            (&metrics.joined, joined),
            (&metrics.miss, sent),
        ] {
            if count > 0 {
                counter.inc_by(count as u64);
            }
        }
        let [rows, found] = &self.late;
        let seen = rows.fetch_add((hits + joined + sent) as u64, Ordering::Relaxed);
        found.fetch_add((hits + joined) as u64, Ordering::Relaxed);
        if seen > LATE {
            // What was counted meanwhile by others is lost: a ratio minds little.
            rows.store(seen / 2, Ordering::Relaxed);
            found.store(found.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
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

/// Rows that count as late.
const LATE: u64 = 1 << 16;
/// Labels of versions that are followed at a time.
const MOST_LABELS: usize = 16;
