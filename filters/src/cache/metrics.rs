use std::collections::BTreeMap;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{Flush, View, store::Turnover};

/// The metric families of the cache, registered once a process.
#[derive(Clone, Debug)]
pub struct Metrics {
    rows: Family<Outcome, Counter>,
    removed: Family<Reason, Counter>,
    refused: Family<Reason, Counter>,
    flushes: Family<Reason, Counter>,
    bytes: Family<Arm, Gauge>,
    entries: Family<Arm, Gauge>,
    bypassed: Family<Arm, Gauge>,
}

/// The metrics of one arm of a model.
#[derive(Clone, Debug)]
pub struct Handles {
    pub(super) hit: Counter,
    pub(super) joined: Counter,
    pub(super) miss: Counter,
    pub(super) bypass: Counter,
    space: Counter,
    expired: Counter,
    quota: Counter,
    pub(super) flushed: Counter,
    admission: Counter,
    large: Counter,
    flushes: [Counter; Flush::ALL.len()],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Arm {
    model: String,
    arm: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    model: String,
    arm: String,
    result: Word,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    model: String,
    arm: String,
    reason: Word,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Word(&'static str);

impl Metrics {
    /// Registers the families under their full names in a registry without a prefix.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            rows: Family::default(),
            removed: Family::default(),
            refused: Family::default(),
            flushes: Family::default(),
            bytes: Family::default(),
            entries: Family::default(),
            bypassed: Family::default(),
        };
        // The registry adds the full stop to a help text and `_total` to a counter's name.
        registry.register(
            "outrigger_cache_rows",
            "Rows by where their answers came from: the cache, a call that was under way for the same row, or the model; or past the cache",
            metrics.rows.clone(),
        );
        registry.register(
            "outrigger_cache_removed",
            "Stored answers that went, by reason",
            metrics.removed.clone(),
        );
        registry.register(
            "outrigger_cache_refused",
            "Answers that were not stored, by reason",
            metrics.refused.clone(),
        );
        registry.register(
            "outrigger_cache_flushes",
            "How often all was forgotten, by reason",
            metrics.flushes.clone(),
        );
        registry.register(
            "outrigger_cache_bytes",
            "Bytes that the cache takes, with all that it keeps besides answers",
            metrics.bytes.clone(),
        );
        registry.register(
            "outrigger_cache_entries",
            "Stored answers",
            metrics.entries.clone(),
        );
        registry.register(
            "outrigger_cache_bypassed",
            "Whether the cache stands aside because looking answers up costs more than it saves",
            metrics.bypassed.clone(),
        );
        metrics
    }

    /// Shows what the caches hold, by model and arm; of others nothing is shown any more.
    pub fn show(&self, caches: &BTreeMap<(&str, &str), Vec<View>>) {
        self.bytes.clear();
        self.entries.clear();
        self.bypassed.clear();
        let whole = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        for ((model, arm), views) in caches {
            let arm = Arm {
                model: (*model).to_owned(),
                arm: (*arm).to_owned(),
            };
            let sum = |of: fn(&View) -> usize| whole(views.iter().map(of).sum());
            self.bytes.get_or_create(&arm).set(sum(|view| view.bytes));
            self.entries.get_or_create(&arm).set(sum(|view| view.rows));
            let bypassed = views.iter().any(|view| view.bypasses);
            self.bypassed.get_or_create(&arm).set(bypassed.into());
        }
    }

    /// Returns what the caches of one arm of a model write.
    pub fn handles(&self, model: &str, arm: &str) -> Handles {
        let rows = |word| {
            self.rows.get_or_create_owned(&Outcome {
                model: model.to_owned(),
                arm: arm.to_owned(),
                result: Word(word),
            })
        };
        let reason = |family: &Family<Reason, Counter>, word| {
            family.get_or_create_owned(&Reason {
                model: model.to_owned(),
                arm: arm.to_owned(),
                reason: Word(word),
            })
        };
        let removed = |word| reason(&self.removed, word);
        let refused = |word| reason(&self.refused, word);
        Handles {
            hit: rows("hit"),
            joined: rows("joined"),
            miss: rows("miss"),
            bypass: rows("bypass"),
            space: removed("space"),
            expired: removed("expired"),
            quota: removed("quota"),
            flushed: removed("flush"),
            admission: refused("admission"),
            large: refused("large"),
            flushes: Flush::ALL.map(|why| reason(&self.flushes, why.name())),
        }
    }
}

impl Handles {
    /// Counts what went, or did not come in, for the sake of one answer.
    pub(super) fn turned_over(&self, turnover: Turnover) {
        let counts = [
            (&self.space, turnover.space),
            (&self.expired, turnover.expired),
            (&self.quota, turnover.quota),
            (&self.admission, turnover.not_admitted),
            (&self.large, turnover.too_large),
        ];
        for (counter, count) in counts {
            if count > 0 {
                counter.inc_by(count);
            }
        }
    }

    pub(super) fn flushes(&self, why: Flush) -> &Counter {
        &self.flushes[why as usize]
    }
}

impl Default for Handles {
    /// Makes metrics that nobody reads, for a filter outside of a process that exports them.
    fn default() -> Self {
        Metrics::register(&mut Registry::default()).handles("", "")
    }
}

impl EncodeLabelValue for Word {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }
}
