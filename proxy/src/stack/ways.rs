use outrigger_filters::{
    batch::Batchable,
    cache::Unit,
    inference::{BoxInfer, Request},
};
use tower::ServiceExt as _;

use crate::{config, upstream::Learned};

/// The ways of requests through a model's filters, by the version that they name; a clone shares
/// the queues and what is stored.
///
/// What the filters know holds for the version that is served where none is named: requests for
/// another one go the usual way where its server says the same of it, and each by itself until then.
#[derive(Clone, Debug)]
pub(super) struct Ways {
    usual: BoxInfer,
    /// For versions that take no batches; left out where there is no difference.
    alone: Option<BoxInfer>,
    learned: Learned,
    /// The configured bound of batches; `None` where requests are not merged.
    batch: Option<Option<usize>>,
    /// Whether the configuration says that the model takes rows.
    is_by_row: bool,
}

impl Ways {
    pub(super) fn new(
        usual: BoxInfer,
        alone: Option<BoxInfer>,
        learned: Learned,
        config: &config::Model,
    ) -> Self {
        let cache = config.cache.as_ref();
        Self {
            usual,
            alone,
            learned,
            batch: config.batch.as_ref().map(|batch| batch.max_batch_size),
            is_by_row: cache.is_some_and(|cache| cache.unit == Unit::Row),
        }
    }

    /// Returns the way of requests that name this version, and tells whether they are merged where
    /// that is configured.
    pub(super) fn of(&self, version: &str, label: &str) -> (&BoxInfer, bool) {
        match &self.alone {
            Some(alone) if !self.is_batchable(version, label) => (alone, self.batch.is_none()),
            _ => (&self.usual, true),
        }
    }

    /// Asks for an answer that nobody reads.
    pub(super) async fn ask(&self, request: Request) {
        let head = &request.head;
        let way = self.of(&head.version, &head.label).0.clone();
        // What fails now will be asked again by whoever wants it.
        drop(way.oneshot(request).await);
    }

    fn is_batchable(&self, version: &str, label: &str) -> bool {
        if self.learned.is_usual(version, label) {
            return true;
        }
        let Some(known) = self.learned.of(version, label) else {
            return false;
        };
        let Some(configured) = self.batch else {
            return match known.batchable {
                Batchable::Yes { .. } => true,
                Batchable::Unknown => self.is_by_row,
                Batchable::Unasked | Batchable::No(_) => false,
            };
        };
        match (known.batchable, self.learned.capability().get()) {
            (
                Batchable::Yes {
                    max_batch_size: None,
                },
                _,
            ) => true,
            (
                Batchable::Yes {
                    max_batch_size: Some(most),
                },
                usual,
            ) => {
                let usual = match usual {
                    Batchable::Yes { max_batch_size } => max_batch_size,
                    _ => None,
                };
                let bound = usual.into_iter().chain(configured).min();
                bound.is_some_and(|bound| bound <= most)
            }
            (Batchable::Unknown, _) => configured.is_some(),
            (Batchable::Unasked | Batchable::No(_), _) => false,
        }
    }
}
