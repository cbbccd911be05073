use std::{collections::HashMap, sync::Arc};

use bytestring::ByteString;

use self::ledger::{ENTRIES, Entry, Ledger};
use super::{Backlog, Base, Id, Kept, Part, Selector, State, Version};

mod ledger;

/// What was learned and is not kept yet, and what is known of what is.
///
/// Of each state there is a ledger. A difference goes through it like this:
///
/// ```text
///          put            send              kept
/// feedback ---> waiting ---------> sent ------------> kept, and held for a while
///                         frozen    |  ^                  |
///                                   '--'                  | the keeper has lost it
///                                refused: without         |
///                                what was counted before  '---> sent
/// ```
///
/// What was sent is sent again as it was, under the same number, until the keeper says that it has
/// it: a reply that was lost does no harm.
#[derive(Debug)]
pub(super) struct Journal {
    ledgers: HashMap<Option<ByteString>, Ledger, foldhash::fast::RandomState>,
    /// By what number the keeper knows who tells it of this. It goes where the journal goes, so that
    /// what is told by its next owner is not taken for something else.
    replica: u64,
    /// The number of the last parcel.
    last: u64,
    /// How many answers have come.
    round: u64,
    /// How many differences are waiting or sent, in all ledgers.
    entries: usize,
    most: usize,
    /// The round in which folding did not make room.
    full: Option<u64>,
    /// Feedback that another replica had told the keeper of first.
    taken_back: u64,
    /// Parcels that the keeper lost and was told of again.
    brought_again: u64,
    /// How often the keeper was told what it once knew.
    restored: u64,
}

/// What is known of a state after an answer.
#[derive(Debug)]
pub(super) struct Known {
    /// With all that is not kept yet.
    pub(super) state: State,
    pub(super) version: Version,
    /// Whether there is something to tell the keeper at once.
    pub(super) urgent: bool,
}

/// So many differences wait to be kept that no more are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Journal {
    /// Takes that many differences before it folds them, and that many ledgers with some.
    pub(super) fn new(most: usize, prior: State, replica: u64) -> Self {
        let mut ledgers = HashMap::default();
        ledgers.insert(None, Ledger::new(prior, Version::default(), 0));
        Self {
            ledgers,
            replica,
            last: 0,
            round: 0,
            entries: 0,
            most,
            full: None,
            taken_back: 0,
            brought_again: 0,
            restored: 0,
        }
    }

    /// Makes room for one more difference of these many states.
    pub(super) fn make_room(&mut self, states: usize) -> Result<(), Full> {
        if self.entries + states <= self.most {
            return Ok(());
        }
        // Folding goes through all ledgers: it has to be worth it for a while.
        if self.full != Some(self.round) {
            for (context, ledger) in &mut self.ledgers {
                self.entries -= ledger.fold(context.as_ref().map_or(ENTRIES, |_| FOLDED));
            }
            if self.entries + states <= self.most / 4 * 3 {
                return Ok(());
            }
            self.full = Some(self.round);
        }
        Err(Full)
    }

    /// Adds a difference to those of a state, which was `before`, at that version.
    pub(super) fn put(
        &mut self,
        context: Option<&ByteString>,
        (before, version): (&State, Version),
        difference: State,
        id: Option<Id>,
    ) {
        let key = context.cloned();
        let round = self.round;
        let ledger = self
            .ledgers
            .entry(key)
            .or_insert_with(|| Ledger::new(before.clone(), version, round));
        let ids = id.into_iter().collect();
        ledger.waiting.push(Entry {
            difference,
            ids,
            count: 1,
        });
        self.entries += 1;
    }

    /// Returns what is to be sent: of all states together first, then of contexts with something
    /// to tell, and asks for those that are wanted.
    pub(super) fn parts(&mut self, wanted: impl IntoIterator<Item = ByteString>) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut last = self.last;
        let round = self.round;
        let mut part = |context: &Option<ByteString>, ledger: &mut Ledger| {
            ledger.freeze(&mut last);
            Part {
                context: context.clone(),
                known: ledger.version,
                // A state that was never kept is not there, most likely.
                base: (ledger.restore || ledger.version.count == 0).then(|| ledger.base.clone()),
                clocks: context.is_none() && round.is_multiple_of(SAVEPOINT),
                after: ledger.kept.back().map_or(0, |held| held.parcel.number),
                parcels: ledger.sent.iter().map(|sent| sent.parcel.clone()).collect(),
            }
        };
        let mut rows = 0;
        if let Some(ledger) = self.ledgers.get_mut(&None) {
            parts.push(part(&None, ledger));
        }
        // What is new first: to see whether the keeper still has what it had can wait.
        for is_new in [true, false] {
            for (context, ledger) in &mut self.ledgers {
                let has_business = ledger.has_business(round) && ledger.is_idle() != is_new;
                if context.is_some() && has_business && rows < PARTS {
                    rows += 1;
                    parts.push(part(context, ledger));
                }
            }
        }
        for context in wanted {
            let context = Some(context);
            let ledger = self.ledgers.get(&context);
            if ledger.is_none_or(|ledger| !ledger.has_business(self.round)) {
                parts.push(Part {
                    known: ledger.map_or_else(Version::default, |ledger| ledger.version),
                    context,
                    base: None,
                    clocks: false,
                    after: 0,
                    parcels: Vec::new(),
                });
            }
        }
        self.last = last;
        parts
    }

    /// Begins with the answers to a batch.
    pub(super) fn begin(&mut self) {
        self.round += 1;
    }

    /// Takes one answer. `known` is what is known of a state that has no ledger, if anything is.
    ///
    /// Returns `None` where nothing is new.
    pub(super) fn absorb(
        &mut self,
        part: &Part,
        kept: Kept,
        known: impl FnOnce() -> Option<(State, Version)>,
        selector: &Selector,
    ) -> Option<Known> {
        if kept == Kept::Unanswered {
            return None;
        }
        let round = self.round;
        let Some(ledger) = self.ledgers.get_mut(&part.context) else {
            return self.meet(part, kept, known, selector);
        };
        let urgent = match kept {
            Kept::Same => {
                ledger.seen = round;
                ledger.others /= 2.;
                // A context may have left memory since it was last told.
                part.context.as_ref()?;
                false
            }
            Kept::Unanswered => return None,
            Kept::Missing => {
                // What was never kept and has nothing to tell is nothing to keep.
                ledger.restore = ledger.version.count > 0 || !ledger.is_idle();
                return None;
            }
            Kept::Broken => {
                ledger.restore = true;
                return None;
            }
            Kept::State { version, .. }
                if version.count < ledger.version.count
                    && version.count < ledger.base.version.count =>
            {
                // Something is lost of what the keeper once told.
                ledger.restore = true;
                self.restored += 1;
                return None;
            }
            Kept::State {
                state,
                version,
                clock,
                clocks,
                repeated,
            } => {
                ledger.seen = round;
                ledger.restore = false;
                ledger.has_heard(&state, clock);
                ledger.version = version;
                self.entries -= ledger.has_kept(clock, round);
                let lost = ledger.has_lost(clock);
                self.entries += lost;
                self.brought_again += lost as u64;
                let repeated = repeated.map_or(0, |repeated| {
                    let (entries, ids) = ledger.take_back(&repeated);
                    self.entries -= entries;
                    self.taken_back += ids as u64;
                    ids
                });
                if let Some(clocks) = clocks {
                    ledger.base = Arc::new(Base {
                        state: state.clone(),
                        version,
                        clocks,
                    });
                }
                ledger.shared = state;
                lost > 0 || repeated > 0
            }
        };
        Some(Known {
            state: ledger.working(selector),
            version: ledger.version,
            urgent,
        })
    }

    /// Takes the answer of a state that has no ledger.
    fn meet(
        &mut self,
        part: &Part,
        kept: Kept,
        known: impl FnOnce() -> Option<(State, Version)>,
        selector: &Selector,
    ) -> Option<Known> {
        // What is known here is newer than what the keeper has: it is given that.
        let has = match &kept {
            Kept::State { version, .. } => version.count,
            _ => 0,
        };
        if let Some((state, version)) = known().filter(|(_, version)| version.count > has) {
            let mut ledger = Ledger::new(state, version, self.round);
            ledger.restore = true;
            self.ledgers.insert(part.context.clone(), ledger);
            return None;
        }
        let Kept::State {
            mut state,
            version,
            clocks,
            ..
        } = kept
        else {
            return None;
        };
        if self.ledgers.len() < self.most {
            let mut ledger = Ledger::new(state.clone(), version, self.round);
            if let Some(clocks) = clocks {
                ledger.base = Arc::new(Base {
                    state: state.clone(),
                    version,
                    clocks,
                });
            }
            self.ledgers.insert(part.context.clone(), ledger);
        }
        selector.repair(&mut state);
        Some(Known {
            state,
            version,
            urgent: false,
        })
    }

    /// Tells whether a keeper that was just asked is to be asked again at once.
    pub(super) fn is_urgent(&self, parts: &[Part]) -> bool {
        // No more were told because there was no more room in the batch.
        let told = parts.iter().filter(|part| !part.parcels.is_empty());
        let was_full = told.count() >= PARTS;
        was_full
            || parts.iter().any(|part| {
                self.ledgers
                    .get(&part.context)
                    .is_some_and(|ledger| ledger.restore || ledger.waiting.len() > ENTRIES)
            })
    }

    /// Ends with the answers to a batch: what nothing was heard of for long is forgotten.
    pub(super) fn end(&mut self) {
        let round = self.round;
        if round.is_multiple_of(SWEEP) {
            for ledger in self.ledgers.values_mut() {
                ledger.let_go(round);
            }
            // Those that have nothing to do are a help only if the keeper loses everything.
            let many = self.ledgers.len() > self.most;
            self.ledgers.retain(|context, ledger| {
                context.is_none() || !ledger.is_idle() || ledger.is_of_use(round) && !many
            });
        }
    }

    /// Returns the number by which the keeper knows who tells it of this.
    pub(super) fn replica(&self) -> u64 {
        self.replica
    }

    /// Begins with a state of all contexts together, which the keeper is given if it has none.
    pub(super) fn begin_with(&mut self, state: State) {
        let ledger = Ledger::new(state, Version::default(), self.round);
        self.ledgers.insert(None, ledger);
    }

    /// Makes it one of other arms: states are translated by the first, differences by the second.
    pub(super) fn translate(
        &mut self,
        state: impl Fn(&State) -> State,
        difference: impl Fn(&State) -> State,
    ) {
        for ledger in self.ledgers.values_mut() {
            ledger.translate(&state, &difference);
        }
    }

    /// Returns the state as it is known here, if there is a ledger of it.
    pub(super) fn working(
        &self,
        context: Option<&ByteString>,
        selector: &Selector,
    ) -> Option<(State, Version)> {
        let ledger = self.ledgers.get(&context.cloned())?;
        Some((ledger.working(selector), ledger.version))
    }

    /// Returns how many losses others are learning from that are not known here yet.
    pub(super) fn others(&self, context: Option<&ByteString>) -> f64 {
        let ledger = self.ledgers.get(&context.cloned());
        ledger.map_or(0., |ledger| ledger.others)
    }

    /// Returns how much of it there is.
    pub(super) fn backlog(&self) -> Backlog {
        Backlog {
            unacknowledged: self.entries,
            states: self.ledgers.len(),
            duplicates: self.taken_back,
            brought_again: self.brought_again,
            restored: self.restored,
        }
    }
}

/// Contexts of which a keeper is told at once: a million that wait do not make one message.
const PARTS: usize = 1024;

/// Ids that a sum of one context's differences keeps.
const FOLDED: usize = 8;

/// Rounds after which all clocks are asked for, where they are many: more often than parcels are let
/// go.
const SAVEPOINT: u64 = 40;

/// Rounds after which ledgers are looked through for those that are of no use any more.
const SWEEP: u64 = 16;
