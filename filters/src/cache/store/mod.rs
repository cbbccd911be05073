//! Where answers are kept: entries, which of them stay, and the rows under way.

mod counted;
mod entry;
mod shard;
#[cfg(test)]
mod simulation;
mod size;
mod sketch;
mod tenants;

use std::{
    hash::BuildHasher as _,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytestring::ByteString;
use foldhash::quality::RandomState;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::Instant;

pub(super) use self::{
    counted::Counted,
    entry::{Entry, Found, Term},
    shard::{Mixed, Turnover},
    size::allocated,
};
use self::{
    counted::Interner,
    shard::{Bounds, Shard, Sought},
};
use super::{
    Config,
    flight::{Call, Waiting},
    frame::Frame,
    key::{Cut, Keys, Question, Row, Strong},
    metrics::Handles,
};
use crate::inference::{Request, Response};

/// Entries by their digests, in shards with a lock each.
#[derive(Debug)]
pub(super) struct Entries {
    keys: Keys,
    shards: Box<[Mutex<Shard>]>,
    questions: Interner<Question>,
    frames: Interner<Frame>,
    /// Bytes of questions and frames.
    common: Arc<AtomicUsize>,
    /// Those of them that entries have taken on, and that their shards count.
    shares: AtomicUsize,
    generation: AtomicU64,
    began: Instant,
    max_bytes: usize,
    ttl: Duration,
    tenant: Option<(ByteString, usize)>,
    tenants: RandomState,
    pub(super) metrics: Handles,
}

/// What becomes of a row that is asked for.
#[derive(Debug)]
pub(super) enum Place {
    /// Its answer is stored.
    Stored(Found),
    /// The model is being asked for it.
    UnderWay(Waiting, usize),
    /// The model is to be asked.
    New {
        /// There is an answer that is too old.
        expired: bool,
    },
}

/// Which of what is there a row may be answered from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seek {
    pub(super) stored: bool,
    /// Of the request's own rows, those that are equal are sent once in any case.
    pub(super) under_way: bool,
    /// Whether the model is asked for what is not there.
    pub(super) asks: bool,
    pub(super) max_age: Option<Duration>,
}

/// A call that is made for a request.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) call: Arc<Call>,
    pub(super) question: Arc<Counted<Question>>,
    /// Its rows, in their order.
    pub(super) sent: SmallVec<[Sent; 1]>,
}

/// A row that a call has asked the model for.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) digest: u64,
    pub(super) row: Row,
    /// By what it is compared, where that is not its bytes.
    pub(super) strong: Option<Strong>,
}

impl Entries {
    pub(super) fn new(config: &Config, metrics: Handles) -> Self {
        let common = Arc::new(AtomicUsize::new(0));
        let tenant = config.tenant.as_ref();
        let least = tenant.map_or(config.max_bytes, |tenant| {
            tenant.max_bytes.min(config.max_bytes)
        });
        let shards = (least / SHARD).clamp(1, MOST_SHARDS);
        // The largest power of two that is not more.
        let shards = 1 << shards.ilog2();
        Self {
            keys: Keys::default(),
            shards: (0..shards).map(|_| Mutex::new(Shard::new())).collect(),
            questions: Interner::new(common.clone(), config.max_bytes / KNOWN),
            frames: Interner::new(common.clone(), config.max_bytes / KNOWN),
            common,
            shares: AtomicUsize::new(0),
            generation: AtomicU64::new(0),
            began: Instant::now(),
            max_bytes: config.max_bytes,
            ttl: config.ttl,
            tenant: tenant.map(|tenant| (tenant.header.clone(), tenant.max_bytes)),
            tenants: RandomState::default(),
            metrics,
        }
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Returns the moment now, in microseconds from the store's beginning.
    pub(super) fn now(&self) -> u64 {
        micros(self.began.elapsed())
    }

    /// Returns what the rows of a request have in common, as entries keep it.
    pub(super) fn question(&self, cut: &Cut<'_>) -> Arc<Counted<Question>> {
        let make = || {
            let question = Question::new(cut);
            let bytes = question.bytes();
            (question, bytes)
        };
        self.questions
            .get(cut.common, |known| known.is_of(cut), make)
    }

    /// Returns what the rows of an answer have in common, as entries keep it.
    pub(super) fn frame(&self, response: &Response, by_row: bool) -> Arc<Counted<Frame>> {
        let make = || {
            let frame = Frame::new(response, by_row);
            let bytes = frame.bytes();
            (frame, bytes)
        };
        // A model's answers differ in little else.
        let mut digest = u64::from(by_row);
        for name in response.outputs.iter().map(|output| &output.name) {
            digest = self.tenants.hash_one((digest, name.as_bytes()));
        }
        for dimension in response
            .outputs
            .iter()
            .flat_map(|output| output.shape.dimensions().get(usize::from(by_row)..))
            .flatten()
        {
            digest = self.tenants.hash_one((digest, dimension));
        }
        self.frames
            .get(digest, |known| known.is_of(response, by_row), make)
    }

    /// Looks for a row, and enters it as one of the call that is made for the request where the
    /// model is to be asked for it.
    pub(super) fn place(
        &self,
        cut: &Cut<'_>,
        row: usize,
        digest: u64,
        seek: Seek,
        asking: &mut Option<Asking>,
        now: u64,
    ) -> Place {
        let strong = self.keys.strong(cut.of(row));
        let mut shard = self.shard(digest).lock();
        let mut expired = false;
        if seek.stored {
            let max_age = seek.max_age.map(micros);
            let sought = shard.find(digest, now, max_age, |entry| {
                entry.is_of(cut, row, strong.as_ref())
            });
            match sought {
                Sought::Found(found) => return Place::Stored(found),
                Sought::Expired => expired = true,
                Sought::Absent => {}
            }
        }
        if !seek.asks {
            return Place::New { expired };
        }
        let own = asking.as_ref().map(|asking| &asking.call);
        let others = seek.under_way.then(|| self.generation());
        let sent = Sent {
            digest,
            row: cut.row(row),
            strong,
        };
        if let Some((waiting, index)) = shard.flights.join(cut, &sent, own, others) {
            return Place::UnderWay(waiting, index);
        }
        let asking = asking.get_or_insert_with(|| Asking {
            call: Call::new(self.generation()),
            question: self.question(cut),
            sent: SmallVec::new(),
        });
        let question = asking.question.clone();
        shard.flights.enter(&asking.call, question, sent.clone());
        asking.sent.push(sent);
        Place::New { expired }
    }

    /// Looks for a row's answer, and changes nothing.
    pub(super) fn peek(&self, cut: &Cut<'_>, row: usize, now: u64) -> Option<Found> {
        let digest = cut.digest(&self.keys, row);
        let strong = self.keys.strong(cut.of(row));
        let shard = self.shard(digest).lock();
        shard.peek(digest, now, |entry| entry.is_of(cut, row, strong.as_ref()))
    }

    /// Ends a call's rows, and stores the answers to them, unless something has been flushed since
    /// it began.
    pub(super) fn land(&self, call: &Arc<Call>, index: usize, digest: u64, entry: Option<Entry>) {
        let mut shard = self.shard(digest).lock();
        let gone = shard.flights.leave(digest, call, index);
        let turnover = entry
            .filter(|_| self.generation() == call.generation)
            .map(|entry| self.insert(&mut shard, digest, entry));
        drop(shard);
        drop(gone);
        if let Some(turnover) = turnover {
            self.count(turnover);
        }
    }

    fn insert(&self, shard: &mut Shard, digest: u64, entry: Entry) -> Turnover {
        let before = shard.shares();
        let now = entry.stored();
        let mut turnover = shard.insert(digest, entry, self.bounds(), now);
        self.take_on(before, shard.shares());
        // What has gone may have left its shares to others.
        loop {
            let (before, gone) = (shard.shares(), turnover.space);
            shard.fit(self.bounds().bytes, &mut turnover);
            if turnover.space == gone {
                return turnover;
            }
            self.take_on(before, shard.shares());
        }
    }

    /// Returns for how long an answer is stored that comes now, at so many microseconds, to a row
    /// with this digest.
    pub(super) fn term(&self, digest: u64, tenant: u32, now: u64) -> Term {
        // Up to a tenth less, so that what came together does not go together.
        let ttl = micros(self.ttl);
        let jitter = ttl / (10 * 0x100) * (digest >> 32 & 0xff);
        Term {
            stored: now,
            expires: now.saturating_add(ttl - jitter),
            tenant,
        }
    }

    /// Forgets all, also what comes of calls under way; returns how many entries there were.
    pub(super) fn flush(&self) -> usize {
        self.generation.fetch_add(1, Ordering::AcqRel);
        let of_shards = self.shards.iter().map(|shard| {
            let mut shard = shard.lock();
            self.take_on(shard.shares(), 0);
            shard.clear()
        });
        let rows = of_shards.sum();
        self.questions.clear();
        self.frames.clear();
        rows
    }

    /// Returns what was asked for last, at most so many rows.
    pub(super) fn hottest(&self, rows: usize) -> Vec<(Arc<Counted<Question>>, Row)> {
        let of_shards = self.shards.iter().map(|shard| {
            let shard = shard.lock();
            let asked = shard.hottest().filter_map(Entry::asked);
            asked.take(rows).collect::<Vec<_>>().into_iter()
        });
        let mut of_shards: Vec<_> = of_shards.collect();
        let mut hottest = Vec::new();
        // In turns: no shard knows how hot the others' are.
        while hottest.len() < rows {
            let before = hottest.len();
            hottest.extend(of_shards.iter_mut().filter_map(Iterator::next));
            if hottest.len() == before {
                break;
            }
        }
        hottest.truncate(rows);
        hottest
    }

    /// Returns how many entries there are.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Returns the memory that all this takes.
    pub(super) fn bytes(&self) -> usize {
        let shards = self.shards.iter().map(|shard| shard.lock().bytes());
        shards.sum::<usize>() + self.common()
    }

    pub(super) fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Returns the bytes of questions and frames that no entry has taken on: those that were only
    /// used last, or whose first entries are gone.
    fn common(&self) -> usize {
        let shares = self.shares.load(Ordering::Relaxed);
        self.common.load(Ordering::Relaxed).saturating_sub(shares)
    }

    /// Takes note that the shares in a shard, which is locked, are others than before.
    fn take_on(&self, before: usize, now: usize) {
        match now.checked_sub(before) {
            Some(0) => {}
            Some(more) => drop(self.shares.fetch_add(more, Ordering::Relaxed)),
            None => drop(self.shares.fetch_sub(before - now, Ordering::Relaxed)),
        }
    }

    fn bounds(&self) -> Bounds {
        let shards = self.shards.len();
        Bounds {
            bytes: self.max_bytes.saturating_sub(self.common()) / shards,
            of_tenant: self.tenant.as_ref().map_or(0, |(_, most)| most / shards),
        }
    }

    /// Returns a digest of whose request it is; 0 where callers are not told apart.
    pub(super) fn tenant_of(&self, request: &Request) -> u32 {
        let Some((header, _)) = &self.tenant else {
            return 0;
        };
        let mut headers = request.head.metadata.iter();
        let named = headers.find(|(name, _)| name == header);
        let name = named.map(|(_, value)| &**value).unwrap_or_default();
        self.tenants.hash_one(name) as u32 | 1
    }

    fn count(&self, turnover: Turnover) {
        self.metrics.turned_over(turnover);
    }

    /// The bits that choose a shard are not those that a table looks at first.
    fn shard(&self, digest: u64) -> &Mutex<Shard> {
        let shards = self.shards.len();
        &self.shards[(digest >> 32) as usize & (shards - 1)]
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The least bytes that are worth a lock of their own.
const SHARD: usize = 1 << 20;
/// Enough that a few cores seldom meet.
const MOST_SHARDS: usize = 16;
/// What the entries' questions and the answers' frames that were used last may take: one such part
/// each, whether there are entries of them or not.
const KNOWN: usize = 16;
