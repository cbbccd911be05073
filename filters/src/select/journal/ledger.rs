use std::{collections::VecDeque, mem, sync::Arc};

use smallvec::SmallVec;

use crate::select::{Base, Id, Parcel, Repeated, Selector, State, Version};

/// What is known of one state.
#[derive(Debug)]
pub(super) struct Ledger {
    /// What the keeper had when it was last asked.
    pub(super) shared: State,
    pub(super) version: Version,
    /// A state with all of its clocks; it is what the keeper is given if it knows less.
    pub(super) base: Arc<Base>,
    /// Whether the keeper is given the base the next time.
    pub(super) restore: bool,
    pub(super) waiting: Vec<Entry>,
    pub(super) sent: VecDeque<Sent>,
    pub(super) kept: VecDeque<Held>,
    /// The round of the last answer that had this state.
    pub(super) seen: u64,
    /// The round in which something was kept the last time.
    written: u64,
    /// How many losses others brought of late between two answers.
    pub(super) others: f64,
}

/// What feedback has changed.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) difference: State,
    pub(super) ids: SmallVec<[Id; 1]>,
    /// Of how many feedbacks it is the sum, but for those that were told by others, too.
    pub(super) count: usize,
}

/// Entries that are sent together.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) entries: Vec<Entry>,
    pub(super) parcel: Arc<Parcel>,
}

/// A parcel that the keeper has, held in case it loses it.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) parcel: Arc<Parcel>,
    /// How many feedbacks are in it.
    count: usize,
    /// The round in which it was kept.
    round: u64,
}

impl Ledger {
    pub(super) fn new(state: State, version: Version, round: u64) -> Self {
        Self {
            base: Arc::new(Base {
                state: state.clone(),
                version,
                clocks: Box::default(),
            }),
            shared: state,
            version,
            restore: false,
            waiting: Vec::new(),
            sent: VecDeque::new(),
            kept: VecDeque::new(),
            seen: round,
            written: 0,
            others: 0.,
        }
    }

    /// Puts what waits into a parcel, unless several are on their way.
    pub(super) fn freeze(&mut self, last: &mut u64) {
        if self.waiting.is_empty() || self.sent.len() >= PARCELS {
            return;
        }
        let rest = self.waiting.split_off(self.waiting.len().min(ENTRIES));
        let entries = mem::replace(&mut self.waiting, rest);
        *last += 1;
        self.sent.push_back(Sent::new(*last, entries));
    }

    /// Tells whether there is something to tell the keeper, or to ask whether it still has it.
    pub(super) fn has_business(&self, round: u64) -> bool {
        let unverified = !self.kept.is_empty() && self.seen < self.written + VERIFY;
        !self.is_idle() || self.restore || unverified && round >= self.written + VERIFY
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.sent.is_empty()
    }

    pub(super) fn is_of_use(&self, round: u64) -> bool {
        self.has_business(round) || round < self.seen + REMEMBERED
    }

    /// Lets go of parcels that the keeper has had for so long that it will not lose them any more.
    pub(super) fn let_go(&mut self, round: u64) {
        let most = self.kept.len().saturating_sub(HELD);
        self.kept.drain(..most);
        while self
            .kept
            .front()
            .is_some_and(|held| held.round + AGE < round)
        {
            self.kept.pop_front();
        }
    }

    /// Takes note of how much others have brought since the last answer.
    pub(super) fn has_heard(&mut self, state: &State, clock: u64) {
        // What was there before the first answer was not brought at once.
        if self.version.count == 0 {
            return;
        }
        let told = |state: &State| -> f64 { state.arms.iter().map(|arm| arm.observations).sum() };
        let sent = self.sent.iter();
        let ours = sent.take_while(|sent| sent.parcel.number <= clock);
        let ours: f64 = ours.map(|sent| told(&sent.parcel.difference)).sum();
        let theirs = told(state) - told(&self.shared) - ours;
        // It may be less the next time by chance, but it was not less for nothing.
        self.others = theirs.max(self.others / 2.).max(0.);
    }

    /// Takes note of what the keeper has, and returns how many entries that were.
    pub(super) fn has_kept(&mut self, clock: u64, round: u64) -> usize {
        let mut entries = 0;
        let has = |sent: &Sent| sent.parcel.number <= clock;
        while self.sent.front().is_some_and(has)
            && let Some(sent) = self.sent.pop_front()
        {
            entries += sent.entries.len();
            self.written = round;
            self.kept.push_back(Held {
                count: sent.entries.iter().map(|entry| entry.count).sum(),
                parcel: sent.parcel,
                round,
            });
        }
        entries
    }

    /// Takes back what the keeper has lost, to send it again, and returns how many parcels.
    pub(super) fn has_lost(&mut self, clock: u64) -> usize {
        let mut lost = 0;
        let lacks = |held: &Held| held.parcel.number > clock;
        while self.kept.back().is_some_and(lacks)
            && let Some(Held { parcel, count, .. }) = self.kept.pop_back()
        {
            lost += 1;
            let entries = vec![Entry {
                difference: parcel.difference.clone(),
                ids: parcel.ids.iter().copied().collect(),
                count,
            }];
            self.sent.push_front(Sent { entries, parcel });
        }
        lost
    }

    /// Takes feedback out of a parcel that was counted before; returns how many entries that were,
    /// and how many ids.
    pub(super) fn take_back(&mut self, repeated: &Repeated) -> (usize, usize) {
        let number = repeated.number;
        let Some(place) = self
            .sent
            .iter()
            .position(|sent| sent.parcel.number == number)
        else {
            return (0, 0);
        };
        let sent = &mut self.sent[place];
        let known = repeated.ids.iter();
        let known: Vec<Id> = known
            .filter_map(|id| sent.parcel.ids.get(*id).copied())
            .collect();
        let before = sent.entries.len();
        sent.entries.retain_mut(|entry| {
            let ids = entry.ids.len();
            entry.ids.retain(|id| !known.contains(id));
            entry.count = entry.count.saturating_sub(ids - entry.ids.len());
            // One of several feedbacks cannot be taken out of their sum.
            entry.count > 0
        });
        let taken = before - sent.entries.len();
        match sent.entries.is_empty() {
            true => drop(self.sent.remove(place)),
            false => *sent = Sent::new(number, mem::take(&mut sent.entries)),
        }
        (taken, known.len())
    }

    /// Makes one of all entries that wait; returns by how many there are less.
    ///
    /// Of the feedback in it so many ids are left: what was told to another replica as well is
    /// recognised by them, but that must not take more room than there is.
    pub(super) fn fold(&mut self, ids: usize) -> usize {
        let before = self.waiting.len();
        let mut entries = mem::take(&mut self.waiting).into_iter();
        if let Some(mut folded) = entries.next() {
            for entry in entries {
                folded.difference += &entry.difference;
                folded.ids.extend(entry.ids);
                folded.count += entry.count;
            }
            let forgotten = folded.ids.len().saturating_sub(ids);
            folded.ids.drain(..forgotten);
            self.waiting.push(folded);
        }
        before - self.waiting.len()
    }

    /// Makes it one of other arms: states are translated by the first, differences by the second.
    pub(super) fn translate(
        &mut self,
        state: &impl Fn(&State) -> State,
        difference: &impl Fn(&State) -> State,
    ) {
        self.shared = state(&self.shared);
        self.base = Arc::new(Base {
            state: state(&self.base.state),
            ..Base::clone(&self.base)
        });
        let parcel = |parcel: &Parcel| {
            Arc::new(Parcel {
                number: parcel.number,
                difference: difference(&parcel.difference),
                ids: parcel.ids.clone(),
            })
        };
        for entry in &mut self.waiting {
            entry.difference = difference(&entry.difference);
        }
        for sent in &mut self.sent {
            sent.parcel = parcel(&sent.parcel);
            for entry in &mut sent.entries {
                entry.difference = difference(&entry.difference);
            }
        }
        for held in &mut self.kept {
            held.parcel = parcel(&held.parcel);
        }
    }

    /// Returns what the keeper had with all that it does not have.
    pub(super) fn working(&self, selector: &Selector) -> State {
        let mut state = self.shared.clone();
        selector.repair(&mut state);
        for sent in &self.sent {
            state += &sent.parcel.difference;
            selector.repair(&mut state);
        }
        for entry in &self.waiting {
            state += &entry.difference;
            selector.repair(&mut state);
        }
        state
    }
}

impl Sent {
    fn new(number: u64, entries: Vec<Entry>) -> Self {
        let mut difference = State::new(
            entries
                .first()
                .map_or(0, |entry| entry.difference.arms.len()),
        );
        let mut ids = Vec::new();
        for entry in &entries {
            difference += &entry.difference;
            ids.extend_from_slice(&entry.ids);
        }
        let parcel = Arc::new(Parcel {
            number,
            difference,
            ids,
        });
        Self { entries, parcel }
    }
}

/// Parcels of one state on their way at once: more are made when the first has arrived.
const PARCELS: usize = 4;

/// Differences in one parcel: what a keeper adds in one step, in which it does nothing else.
pub(super) const ENTRIES: usize = 1024;

/// Parcels that are held after they were kept, in case the keeper loses them: a minute's at four
/// rounds a second.
const HELD: usize = 256;

/// Rounds after which it is not held any more, if nothing else came: less time than that after which
/// a keeper forgets the clocks of those it has not heard of.
const AGE: u64 = 2400;

/// Rounds after which the keeper is asked whether it still has what it kept. A store that copies
/// itself to its successor later than it answers has done so by then, or never will.
const VERIFY: u64 = 12;

/// Rounds for which it is remembered what a keeper said of a state: longer than others hold what
/// may be in it.
const REMEMBERED: u64 = 240;
