use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytestring::ByteString;
use parking_lot::Mutex;

use super::{
    Available, Batch, Evidence, Full, Id, Reply, Selector, Shares, State, Topic, Version,
    contexts::{Context, Contexts},
    journal::Journal,
    means::Means,
};

mod succession;

/// What was learned of one model: of all requests, and of each of its contexts. A clone is a handle
/// of the same.
///
/// Requests only read what was computed before. What feedback changes is noted for a [`Keeper`], if
/// there is one, which is told of it in the background: [`Memory::batch`] says what, and
/// [`Memory::absorb`] takes what it answers.
///
/// [`Keeper`]: super::Keeper
#[derive(Clone, Debug)]
pub struct Memory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    selector: Selector,
    arms: Box<[ByteString]>,
    all: Available,
    overall: ArcSwap<Overall>,
    contexts: Contexts,
    /// What the arms predict, where that is a number.
    means: Means,
    /// Locked before a shard of the contexts, never while one is locked.
    notes: Mutex<Notes>,
    /// What the keeper knows this as.
    kept: Option<Arc<Topic>>,
    /// Whether what others learn at the same time makes no difference.
    heedless: bool,
    /// How many answers of the keeper have come.
    round: AtomicU32,
    /// How much was learned.
    learned: AtomicU64,
}

/// What was learned of all requests.
#[derive(Debug)]
struct Overall {
    state: State,
    shares: Shares,
    /// Those of a context of which nothing is known, once one has asked for them.
    inherited: OnceLock<Shares>,
    /// The shares where some arms are not available, as they were last asked for: while an arm is
    /// down each request asks for the same.
    fewer: ArcSwapOption<(Available, Shares)>,
    /// Those of a context of which nothing is known.
    inherited_fewer: ArcSwapOption<(Available, Shares)>,
}

/// What is locked to learn; that of an heir is locked after that of whom it succeeds.
#[derive(Debug)]
struct Notes {
    seen: Seen,
    journal: Option<Journal>,
    /// What this succeeds, until it has done so.
    predecessor: Option<Memory>,
    /// What succeeds this.
    heir: Option<Heir>,
}

/// What succeeds a memory.
#[derive(Debug)]
enum Heir {
    /// It learns along; it may never come into force, and be dropped.
    Expected(Weak<Inner>),
    /// It learns instead.
    InForce(Memory),
}

/// Feedback that was counted, the last of it.
#[derive(Debug, Default)]
struct Seen {
    ids: HashSet<Id, foldhash::fast::RandomState>,
    order: VecDeque<Id>,
}

/// What became of feedback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learnt {
    /// It was counted.
    Applied,
    /// It was counted before; nothing has changed.
    Duplicate,
}

/// What there is of a memory.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// What was learned of all requests.
    pub state: State,
    /// The probabilities of all arms.
    pub shares: Shares,
    /// How many contexts are in memory.
    pub contexts: usize,
    /// What the keeper is behind; `None` without one.
    pub journal: Option<Backlog>,
}

/// What a keeper is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Differences that it has not said it has; one feedback makes two where there is a context.
    pub unacknowledged: usize,
    /// States of which it is known what it has.
    pub states: usize,
    /// How much feedback was not counted because others had been told of it before.
    pub duplicates: u64,
    /// How many parcels it has lost, and was brought again.
    pub brought_again: u64,
    /// How many states it knew less of than it once told.
    pub restored: u64,
}

impl Memory {
    /// Makes the memory of a model of whose arms, shadows left out, nothing is known, with room for
    /// that many contexts.
    pub fn new(selector: Selector, max_contexts: usize, arms: Vec<ByteString>) -> Self {
        let all = Available::first(arms.len());
        let state = selector.prior();
        Self(Arc::new(Inner {
            overall: {
                let shares = selector.probabilities(&state, all);
                ArcSwap::from_pointee(Overall::new(state, shares))
            },
            selector,
            means: Means::new(arms.len()),
            arms: arms.into(),
            all,
            contexts: Contexts::new(max_contexts),
            notes: Mutex::new(Notes {
                seen: Seen::default(),
                journal: None,
                predecessor: None,
                heir: None,
            }),
            kept: None,
            heedless: false,
            round: AtomicU32::new(0),
            learned: AtomicU64::new(0),
        }))
    }

    /// Has everything noted that a keeper is to be told, which knows this memory by a number that no
    /// other has, and the model by its name.
    ///
    /// # Panics
    ///
    /// Panics if there is another handle.
    #[must_use]
    pub fn kept(self, model: ByteString, policy: &'static str, replica: u64) -> Self {
        let mut inner = Arc::into_inner(self.0).expect("a memory is prepared before it is shared");
        inner.kept = Some(Arc::new(Topic {
            model,
            policy,
            arms: inner.arms.clone(),
            rule: inner.selector.rule(),
        }));
        let prior = inner.overall.load().state.clone();
        inner.notes.get_mut().journal = Some(Journal::new(MOST_ENTRIES, prior, replica));
        Self(Arc::new(inner))
    }

    /// Has each feedback count in full, however much others learn at the same time: to see what it
    /// is good for that it does not.
    ///
    /// # Panics
    ///
    /// Panics if there is another handle.
    #[must_use]
    pub fn heedless(self) -> Self {
        let mut inner = Arc::into_inner(self.0).expect("a memory is prepared before it is shared");
        inner.heedless = true;
        Self(Arc::new(inner))
    }

    /// Returns the probabilities of the arms that are available.
    ///
    /// A context of which nothing is known yet gets those that it would begin with; the keeper is
    /// asked for it then.
    pub fn shares(&self, context: Option<&str>, available: Available) -> Shares {
        let inner = &*self.0;
        let whole = available.has_all(inner.all);
        if let Some(name) = context {
            let mut shard = inner.contexts.of(name);
            let round = inner.round.load(Relaxed);
            let mut stale = inner.kept.is_some();
            let mut shares = None;
            if let Some(context) = shard.look(name) {
                stale &= round.wrapping_sub(context.round) >= STALE;
                shares = match whole {
                    true => context.shares().map(Shares::from_slice),
                    false => context.shares_of(available, |state| {
                        inner.selector.probabilities(state, available)
                    }),
                };
            }
            if stale {
                shard.want(name, round);
            }
            drop(shard);
            if let Some(shares) = shares {
                return shares;
            }
        }
        let overall = inner.overall.load();
        match (context, whole) {
            (None, true) => overall.shares.clone(),
            (None, false) => remembered(&overall.fewer, available, || {
                inner.selector.probabilities(&overall.state, available)
            }),
            (Some(_), true) => overall
                .inherited
                .get_or_init(|| {
                    let begin = inner.selector.inherit(&overall.state);
                    inner.selector.probabilities(&begin, inner.all)
                })
                .clone(),
            (Some(_), false) => remembered(&overall.inherited_fewer, available, || {
                let begin = inner.selector.inherit(&overall.state);
                inner.selector.probabilities(&begin, available)
            }),
        }
    }

    /// Learns from feedback, for its context and for all requests, unless feedback of this id was
    /// learned from before.
    ///
    /// # Errors
    ///
    /// Fails where so much waits for the keeper that no more can be noted. Nothing has changed then.
    pub fn learn(
        &self,
        context: Option<&str>,
        evidence: Evidence<'_>,
        id: Option<Id>,
    ) -> Result<Learnt, Full> {
        let mut notes = self.0.notes.lock();
        let heir = match &notes.heir {
            None => None,
            Some(Heir::Expected(heir)) => heir.upgrade().map(Self),
            Some(Heir::InForce(heir)) => {
                let heir = heir.clone();
                drop(notes);
                return match self.translated(&heir).evidence(evidence) {
                    Some(evidence) => heir.learn(context, evidence.as_ref(), id),
                    None => Ok(Learnt::Applied),
                };
            }
        };
        let learnt = self.0.learn(&mut notes, true, context, evidence, id)?;
        if learnt == Learnt::Applied
            && let Some(heir) = heir
            && let Some(evidence) = self.translated(&heir).evidence(evidence)
        {
            // The journal goes over to the heir as a whole: it is not to have this twice.
            let mut notes = heir.0.notes.lock();
            let evidence = evidence.as_ref();
            heir.0.learn(&mut notes, false, context, evidence, id)?;
        }
        Ok(learnt)
    }

    /// Returns what was learned of a context, or of all requests. Of a context of which nothing is
    /// known, it is what it would begin with.
    pub fn state(&self, context: Option<&str>) -> State {
        let overall = self.0.overall.load();
        let Some(name) = context else {
            return overall.state.clone();
        };
        let state = self.0.contexts.of(name).peek(name).and_then(Context::state);
        state.unwrap_or_else(|| self.0.selector.inherit(&overall.state))
    }

    /// Returns what there is.
    pub fn view(&self) -> View {
        let overall = self.0.overall.load();
        let notes = self.0.notes.lock();
        View {
            state: overall.state.clone(),
            shares: overall.shares.clone(),
            contexts: self.0.contexts.len(),
            journal: notes.journal.as_ref().map(Journal::backlog),
        }
    }

    /// Tells whether two are handles of the same.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns the selector.
    pub fn selector(&self) -> &Selector {
        &self.0.selector
    }

    /// Returns what the arms predict on average.
    pub(super) fn means(&self) -> &Means {
        &self.0.means
    }

    /// Returns the names of the arms, in the order of all states.
    pub fn arms(&self) -> &[ByteString] {
        &self.0.arms
    }

    /// Returns how often something was learned from feedback: nothing else changes what is to be
    /// kept.
    pub fn learned(&self) -> u64 {
        self.0.learned.load(Relaxed)
    }

    /// Tells whether the keeper has everything, as far as it has said so; so it is without one.
    pub fn is_acknowledged(&self) -> bool {
        let notes = self.0.notes.lock();
        let journal = notes.journal.as_ref();
        journal.is_none_or(|journal| journal.backlog().unacknowledged == 0)
    }

    /// Returns what the keeper is to be told and asked; `None` if there is no keeper.
    ///
    /// The next batch is to be made when this one is absorbed or has failed: what it tells is told
    /// again otherwise, which does no harm.
    pub fn batch(&self) -> Option<Batch> {
        let topic = self.0.kept.as_ref()?;
        let round = self.0.round.load(Relaxed) as usize;
        let wanted = self.0.contexts.wanted(MOST_WANTED, round);
        let mut notes = self.0.notes.lock();
        let journal = notes.journal.as_mut()?;
        Some(Batch {
            topic: topic.clone(),
            replica: journal.replica(),
            parts: journal.parts(wanted),
        })
    }

    /// Takes what the keeper answered to a batch. Tells whether it is to be asked again at once.
    pub fn absorb(&self, batch: &Batch, reply: Reply) -> bool {
        let inner = &*self.0;
        match &mut inner.notes.lock().journal {
            Some(journal) => journal.begin(),
            None => return false,
        }
        let round = inner.round.fetch_add(1, Relaxed).wrapping_add(1);
        let mut urgent = false;
        for (part, kept) in batch.parts.iter().zip(reply.parts) {
            // Locked for each part anew: feedback does not wait for all of them.
            let mut notes = inner.notes.lock();
            let Some(journal) = &mut notes.journal else {
                return false;
            };
            let name = part.context.as_deref();
            let known = || {
                let shard = inner.contexts.of(name?);
                let context = shard.peek(name?)?;
                let version = Version {
                    count: context.version,
                    ..Version::default()
                };
                Some((context.state()?, version))
            };
            let Some(known) = journal.absorb(part, kept, known, &inner.selector) else {
                continue;
            };
            urgent |= known.urgent;
            let Some(name) = name else {
                inner.set(known.state);
                continue;
            };
            let mut shard = inner.contexts.of(name);
            // What has left memory stays out, unless it was asked for.
            if part.parcels.is_empty() || shard.peek(name).is_some() {
                let shares = inner.selector.probabilities(&known.state, inner.all);
                let count = known.version.count;
                shard.put(name, Context::new(&known.state, &shares, count, round));
            }
        }
        let mut notes = inner.notes.lock();
        notes.journal.as_mut().is_some_and(|journal| {
            journal.end();
            urgent || journal.is_urgent(&batch.parts)
        })
    }

    /// Goes through all that was learned: of all requests, then of each context, beginning with
    /// those that were used least recently.
    pub fn each(&self, mut visit: impl FnMut(Option<&str>, &State)) {
        visit(None, &self.0.overall.load().state);
        self.0
            .contexts
            .each(|name, state, _| visit(Some(name), &state));
    }

    /// Returns by what feedback is known that was counted, the latest last.
    pub fn counted(&self) -> Vec<Id> {
        self.0.notes.lock().seen.order.iter().copied().collect()
    }

    /// Remembers what was learned by another memory, of a context or of all requests. Tells whether
    /// all of it made sense.
    pub fn put(&self, context: Option<&str>, state: State) -> bool {
        self.put_at(context, state, 0)
    }

    fn put_at(&self, context: Option<&str>, mut state: State, version: u64) -> bool {
        let inner = &*self.0;
        let _notes = inner.notes.lock();
        let sane = !inner.selector.repair(&mut state);
        match context {
            None => inner.set(state),
            Some(name) => {
                let shares = inner.selector.probabilities(&state, inner.all);
                let context = Context::new(&state, &shares, version, inner.round.load(Relaxed));
                inner.contexts.of(name).put(name, context);
            }
        }
        sane
    }

    /// Remembers that feedback was counted.
    pub fn put_counted(&self, ids: impl IntoIterator<Item = Id>) {
        let seen = &mut self.0.notes.lock().seen;
        ids.into_iter().for_each(|id| seen.put(id));
    }
}

impl Inner {
    fn set(&self, state: State) {
        let shares = self.selector.probabilities(&state, self.all);
        self.overall.store(Arc::new(Overall::new(state, shares)));
    }

    /// Learns; what has changed is noted for the keeper, or is not.
    fn learn(
        &self,
        notes: &mut Notes,
        noted: bool,
        context: Option<&str>,
        evidence: Evidence<'_>,
        id: Option<Id>,
    ) -> Result<Learnt, Full> {
        let selector = &self.selector;
        let Notes { seen, journal, .. } = notes;
        let mut journal = journal.as_mut().filter(|_| noted);
        if id.is_some_and(|id| seen.has(id)) {
            return Ok(Learnt::Duplicate);
        }
        if let Some(journal) = &mut journal {
            journal.make_room(1 + usize::from(context.is_some()))?;
        }
        if let Some(id) = id {
            seen.put(id);
        }
        let overall = self.overall.load();
        let mut state = overall.state.clone();
        let others = |journal: &Option<&mut Journal>, context: Option<&ByteString>| match journal {
            Some(journal) if !self.heedless => journal.others(context),
            _ => 0.,
        };
        let beside = others(&journal, None);
        let difference = selector.learn_beside(&mut state, evidence, beside);
        if let Some(journal) = &mut journal {
            let before = (&overall.state, Version::default());
            journal.put(None, before, difference, id);
        }
        if let Some(name) = context {
            let mut shard = self.contexts.of(name);
            let known = shard.get(name).map(|it| (it.state(), it.version, it.round));
            let (known, version, round) = known.unwrap_or((None, 0, self.round.load(Relaxed)));
            let key = journal.as_ref().map(|_| ByteString::from(name));
            // Of a context that has left memory there may still be what the keeper was not told.
            let known = known.or_else(|| {
                let (state, _) = journal.as_ref()?.working(key.as_ref(), selector)?;
                Some(state)
            });
            let mut state = known.unwrap_or_else(|| selector.inherit(&overall.state));
            let before = state.clone();
            let beside = others(&journal, key.as_ref());
            let difference = selector.learn_beside(&mut state, evidence, beside);
            if let (Some(journal), Some(key)) = (&mut journal, &key) {
                let version = Version {
                    count: version,
                    ..Version::default()
                };
                journal.put(Some(key), (&before, version), difference, id);
            }
            let shares = selector.probabilities(&state, self.all);
            shard.put(name, Context::new(&state, &shares, version, round));
        }
        self.set(state);
        self.learned.fetch_add(1, Relaxed);
        Ok(Learnt::Applied)
    }
}

impl Overall {
    fn new(state: State, shares: Shares) -> Self {
        Self {
            state,
            shares,
            inherited: OnceLock::new(),
            fewer: ArcSwapOption::empty(),
            inherited_fewer: ArcSwapOption::empty(),
        }
    }
}

impl Seen {
    fn has(&self, id: Id) -> bool {
        self.ids.contains(&id)
    }

    fn put(&mut self, id: Id) {
        if self.ids.insert(id) {
            self.order.push_back(id);
            if self.order.len() > MOST_SEEN
                && let Some(oldest) = self.order.pop_front()
            {
                self.ids.remove(&oldest);
            }
        }
    }
}

/// Returns the shares of these arms, computed only if others were asked for last.
fn remembered(
    last: &ArcSwapOption<(Available, Shares)>,
    available: Available,
    compute: impl FnOnce() -> Shares,
) -> Shares {
    if let Some(last) = &*last.load()
        && last.0 == available
    {
        return last.1.clone();
    }
    let shares = compute();
    last.store(Some(Arc::new((available, shares.clone()))));
    shares
}

/// Differences of a model that wait for the keeper one by one: some 20 MB. Those of one state are
/// added up beyond that. Tests have fewer to fill.
const MOST_ENTRIES: usize = if cfg!(test) { 4096 } else { 65_536 };

/// Contexts for which the keeper is asked at once.
const MOST_WANTED: usize = 1024;

/// Feedback by which repeated feedback is known without a keeper: some 5 MB.
const MOST_SEEN: usize = 131_072;

/// Rounds after which a context that is used is asked for again: others may have learned of it.
const STALE: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::select::{Arm, Config};

    #[test]
    fn shares_of_all_requests_are_computed_once_while_the_same_arm_is_down() {
        let names: Vec<_> = ["a", "b"].map(ByteString::from).into();
        let arms: Vec<_> = names.iter().cloned().map(Arm::new).collect();
        let memory = Memory::new(Selector::new(&Config::default(), &arms), 0, names);
        let asked = |arm| {
            memory.shares(None, Available::first(2).without(arm));
            memory.0.overall.load().fewer.load_full().unwrap()
        };
        let first = asked(0);
        assert!(Arc::ptr_eq(&first, &asked(0)));
        assert!(!Arc::ptr_eq(&first, &asked(1)));
    }
}
