use std::sync::{Arc, atomic::Ordering::Relaxed};

use smallvec::SmallVec;

use super::{Heir, Memory};
use crate::select::{Evidence, Learned, State, contexts::Context};

/// How one memory is another one's heir.
///
/// ```text
///  begin_with                          take_over
/// ------------ both learn, the old one ----------- only the heir learns, also what the old one
///   copied     tells the keeper         journal     is told of; it tells the keeper
/// ```
///
/// So nothing is lost that is told in between, nor what the keeper has not acknowledged, whichever
/// keeper the heir has: parcels keep their numbers, and are counted once where it is the same.
impl Memory {
    /// Begins where another memory of the same model is, whose arms and policy may be others, and
    /// learns what it learns until it [takes over](Self::take_over), or is dropped.
    pub fn begin_with(&self, other: &Self) {
        if self.is(other) {
            return;
        }
        let (ours, theirs) = (&*self.0, &*other.0);
        ours.means
            .begin_with(&ours.arms, &theirs.means, &theirs.arms);
        let translated = other.translated(self);
        let comparable = translated.comparable;
        let versions = comparable && self.0.kept.is_some() && other.0.kept.is_some();
        let ids = {
            let mut theirs = other.0.notes.lock();
            theirs.heir = Some(Heir::Expected(Arc::downgrade(&self.0)));
            self.put(None, translated.state(&other.0.overall.load().state));
            // It was never saved, whatever the other one was.
            self.0.learned.store(other.learned() + 1, Relaxed);
            theirs.seen.order.iter().copied().collect::<Vec<_>>()
        };
        self.put_counted(ids);
        other.0.contexts.each(|name, _, _| {
            // Feedback has to wait for one context, not for all.
            let _theirs = other.0.notes.lock();
            let known = {
                let shard = other.0.contexts.of(name);
                let known = shard.peek(name);
                known.and_then(|context: &Context| Some((context.state()?, context.version)))
            };
            if let Some((state, version)) = known {
                let version = if versions { version } else { 0 };
                self.put_at(Some(name), translated.state(&state), version);
            }
        });
        self.0.notes.lock().predecessor = Some(other.clone());
    }

    /// Takes over from what it began with: from now on only this one learns, and tells the keeper,
    /// what the other one is told of, and what that one has not told it yet.
    ///
    /// Where the keeper has what another policy learned under another name, the other one tells it
    /// what it has, and is to be asked for batches until that is acknowledged.
    pub fn take_over(&self) {
        let Some(other) = self.0.notes.lock().predecessor.take() else {
            return;
        };
        let mut theirs = other.0.notes.lock();
        let mut ours = self.0.notes.lock();
        if let Some(Heir::InForce(_)) = theirs.heir {
            return;
        }
        let policy = |memory: &Self| memory.0.kept.as_ref().map(|topic| topic.policy);
        let translated = other.translated(self);
        if policy(self).is_some() && policy(self) == policy(&other) {
            if let Some(mut journal) = theirs.journal.take() {
                if !translated.is_identity() {
                    journal.translate(
                        |state| translated.state(state),
                        |difference| translated.difference(difference),
                    );
                }
                if let Some((state, _)) = journal.working(None, &self.0.selector) {
                    self.0.set(state);
                }
                ours.journal = Some(journal);
            }
        } else if let Some(journal) = &mut ours.journal {
            journal.begin_with(self.0.overall.load().state.clone());
        }
        theirs.heir = Some(Heir::InForce(self.clone()));
    }

    /// Tells whether another one has taken over, which knows all that this one does.
    pub fn is_succeeded(&self) -> bool {
        matches!(self.0.notes.lock().heir, Some(Heir::InForce(_)))
    }

    /// Tells whether there is no other handle: nobody chooses or learns by it.
    pub fn is_alone(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Returns how what is of this one's arms becomes something of an heir's.
    pub(super) fn translated(&self, heir: &Self) -> Translation {
        let arms = &self.0.arms;
        let place = |name| arms.iter().position(|arm| arm == name);
        let policy = |memory: &Self| memory.0.kept.as_ref().map(|topic| topic.policy);
        let is_weight = |memory: &Self| memory.0.selector.rule().span.is_some();
        Translation {
            places: heir.0.arms.iter().map(place).collect(),
            arms: arms.len(),
            prior: heir.0.selector.prior(),
            comparable: match (policy(self), policy(heir)) {
                (Some(ours), Some(theirs)) => ours == theirs,
                _ => is_weight(self) == is_weight(heir),
            },
        }
    }
}

/// How what was learned by one memory is told to another.
#[derive(Debug)]
pub(super) struct Translation {
    /// Where each arm of the other is among those of the first.
    places: SmallVec<[Option<usize>; 8]>,
    /// How many arms the first has.
    arms: usize,
    prior: State,
    /// Whether their policies mean the same by their numbers.
    comparable: bool,
}

/// Evidence of the other's arms.
#[derive(Debug)]
pub(super) enum Translated {
    Chosen(Evidence<'static>),
    Known(SmallVec<[Option<f64>; 8]>),
}

impl Translation {
    fn is_identity(&self) -> bool {
        let places = self.places.iter().copied();
        self.arms == self.places.len() && places.eq((0..self.arms).map(Some))
    }

    fn state(&self, state: &State) -> State {
        let arms = self.places.iter().zip(&self.prior.arms);
        let arms = arms.map(
            |(place, prior)| match place.and_then(|place| state.arms.get(place)) {
                None => *prior,
                Some(learned) if self.comparable => *learned,
                Some(learned) => Learned {
                    observations: learned.observations,
                    loss: learned.loss,
                    ..*prior
                },
            },
        );
        State {
            arms: arms.collect(),
        }
    }

    fn difference(&self, difference: &State) -> State {
        let arms = self.places.iter().map(|place| {
            let learned = place.and_then(|place| difference.arms.get(place));
            learned.copied().unwrap_or_default()
        });
        State {
            arms: arms.collect(),
        }
    }

    /// Returns `None` where nothing is told of any arm that the other has.
    pub(super) fn evidence(&self, evidence: Evidence<'_>) -> Option<Translated> {
        match evidence {
            Evidence::Chosen {
                arm,
                probability,
                loss,
            } => {
                let arm = self.places.iter().position(|place| *place == Some(arm))?;
                Some(Translated::Chosen(Evidence::Chosen {
                    arm,
                    probability,
                    loss,
                }))
            }
            Evidence::Known(losses) => {
                let places = self.places.iter();
                let losses: SmallVec<_> = places.map(|place| *losses.get((*place)?)?).collect();
                let known = losses.iter().any(Option::is_some);
                known.then_some(Translated::Known(losses))
            }
        }
    }
}

impl Translated {
    pub(super) fn as_ref(&self) -> Evidence<'_> {
        match self {
            Self::Chosen(evidence) => *evidence,
            Self::Known(losses) => Evidence::Known(losses),
        }
    }
}
