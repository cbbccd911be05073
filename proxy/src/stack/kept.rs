use std::sync::Arc;

use arc_swap::ArcSwap;
use outrigger_filters::cache::Store;

use crate::{
    config,
    upstream::{Learned, Upstream, Watched},
};

/// What a model has answered, and who sees to it that it holds; taken over together, so that no change
/// of the model falls between two who look for it.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    store: Store,
    /// Who looks whether the server still has the model that gave the answers.
    watched: Arc<Watched>,
    /// Who is to ask again when it has another one: that of the stack in force.
    learned: Arc<ArcSwap<Learned>>,
}

impl Kept {
    /// Begins to look at the model, on the control runtime.
    pub(super) fn new(
        store: Store,
        upstream: Arc<Upstream>,
        arm: &config::Arm,
        learned: &Learned,
    ) -> Self {
        let learned = Arc::new(ArcSwap::from_pointee(learned.clone()));
        let (flushed, asked) = (store.clone(), learned.clone());
        let (model, version) = (arm.model.clone(), arm.version.clone());
        let watched = Watched::begin(upstream, model, version, move |why| {
            flushed.flush(why);
            asked.load().ask_again();
        });
        Self {
            store,
            watched: Arc::new(watched),
            learned,
        }
    }

    /// Returns the answers.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Tells whether it would be noticed if a label came to stand for another version.
    pub(super) fn covers(&self, label: &str) -> bool {
        self.watched.covers(label)
    }

    /// Belongs to another stack from now on, which learns what the server says.
    pub(super) fn belongs_to(&self, learned: &Learned) {
        self.learned.store(Arc::new(learned.clone()));
    }
}
