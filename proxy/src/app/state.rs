use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use outrigger_filters::cache::Flush;
use serde_json::{Map, Value, json};

use crate::{
    config::format_duration,
    stack::{Arm, Model, Table},
    telemetry::Metrics,
    upstream,
};

/// What the admin pages show: the table in force, the metrics, and whether the end has begun.
#[derive(Debug)]
pub struct State {
    table: ArcSwap<Table>,
    metrics: Metrics,
    draining: AtomicBool,
}

/// Nothing was forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotFlushed {
    /// The configuration has no such model.
    NotConfigured(String),
    /// Answers of the model are not kept.
    NoCache(String),
}

impl State {
    pub(crate) fn new(table: Table, metrics: Metrics) -> Self {
        table.take_over(None);
        Self {
            table: ArcSwap::from_pointee(table),
            metrics,
            draining: AtomicBool::new(false),
        }
    }

    /// Returns the table in force.
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    pub(super) fn publish(&self, table: Table) {
        let table = Arc::new(table);
        let last = self.table.swap(table.clone());
        table.take_over(Some(&last));
    }

    pub(super) fn begin_to_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.table().drain();
    }

    /// Returns all metrics as text, as they are now.
    pub fn metrics_text(&self) -> String {
        self.table().show(&self.metrics);
        self.metrics.text()
    }

    /// Returns the metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Returns the configuration in force, with defaults written out and secrets masked.
    pub fn effective(&self) -> Value {
        self.table().config().effective()
    }

    /// Returns what was learned of each model, by name and arm.
    pub fn models(&self) -> Value {
        let table = self.table();
        let mut models = Map::new();
        for (name, arm) in arms(&table) {
            let entry = models.entry(arm.model()).or_insert_with(|| {
                let objective = format_duration(arm.latency_objective());
                json!({ "objective": objective, "arms": {} })
            });
            entry["arms"][name] = arm.view();
        }
        for model in table.models() {
            if let Some(entry) = models.get_mut(model.name()) {
                model.show_selection(entry);
            }
        }
        models.into()
    }

    /// Returns where what selection learns is kept, and how that goes.
    pub fn kept(&self) -> Value {
        let kept = self.table().learning().state().view();
        kept.unwrap_or_else(|| json!({ "kept": "memory" }))
    }

    /// Forgets the stored answers of a model, or of all models, and returns how many each arm had.
    ///
    /// # Errors
    ///
    /// Fails where the named model is not configured, or keeps no answers.
    pub fn flush(&self, model: Option<&str>) -> Result<Value, NotFlushed> {
        let table = self.table();
        if let Some(name) = model {
            match table.config().models.get(name) {
                None => return Err(NotFlushed::NotConfigured(name.to_owned())),
                Some(model) if model.cache.is_none() => {
                    return Err(NotFlushed::NoCache(name.to_owned()));
                }
                Some(_) => {}
            }
        }
        let mut flushed = Map::new();
        for (name, arm) in arms(&table) {
            if model.is_some_and(|model| model != arm.model()) {
                continue;
            }
            if let Some(rows) = arm.flush(Flush::Asked) {
                let entry = flushed.entry(arm.model()).or_insert_with(|| json!({}));
                entry[name] = rows.into();
            }
        }
        Ok(flushed.into())
    }

    /// Asks the upstreams and returns what is not ready; empty means ready.
    pub async fn unready(&self) -> Vec<String> {
        if self.draining.load(Ordering::Relaxed) {
            return vec!["this process is ending".to_owned()];
        }
        let table = self.table();
        let of_models = table.models().map(|model| of_model(model));
        let others = table.upstreams().filter(|upstream| {
            let serves = |arm: &Arc<Arm>| Arc::ptr_eq(arm.upstream(), upstream);
            !table.arms().any(serves)
        });
        let others = others.map(|upstream| upstream::unready(upstream, &[]));
        let (of_models, of_others) = tokio::join!(join_all(of_models), join_all(others));
        let mut missing: Vec<String> = of_models.into_iter().chain(of_others).flatten().collect();
        for arm in table.arms().filter(|arm| !arm.is_learned()) {
            missing.push(format!(
                "model {}: not known yet whether it takes batches",
                arm.model()
            ));
        }
        missing.sort();
        missing.dedup();
        missing
    }
}

/// Returns what a model lacks to be answered for: nothing while one of its arms is ready, for it is
/// left without the others.
async fn of_model(model: &Model) -> Vec<String> {
    let arms = model.arms().iter().filter(|arm| arm.answers());
    let asked = arms.map(|arm| {
        let (name, version) = arm.served_as();
        let served = [(name.to_owned(), version.to_owned())];
        async move { upstream::unready(arm.upstream(), &served).await }
    });
    let missing = join_all(asked).await;
    match missing.iter().any(Vec::is_empty) {
        true => Vec::new(),
        false => missing.into_iter().flatten().collect(),
    }
}

/// Returns all stacks with the names of their arms, each name once for a model.
fn arms(table: &Table) -> Vec<(String, &Arm)> {
    // Which of two arms of one name goes by it alone must not change from look to look.
    let mut sorted: Vec<&Arm> = table.arms().map(Arc::as_ref).collect();
    sorted.sort_unstable_by_key(|arm| (arm.model(), arm.upstream().name(), arm.name()));
    let mut named: Vec<(String, &Arm)> = Vec::with_capacity(sorted.len());
    for arm in sorted {
        // One model behind two listeners with servers of their own has an arm on each.
        let is_taken = named
            .iter()
            .any(|(name, other)| other.model() == arm.model() && name == arm.name());
        let name = match is_taken {
            true => format!("{}@{}", arm.name(), arm.upstream().name()),
            false => arm.name().to_owned(),
        };
        named.push((name, arm));
    }
    named
}

impl std::fmt::Display for NotFlushed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotConfigured(model) => write!(f, "model `{model}` is not configured"),
            Self::NoCache(model) => write!(f, "model `{model}` is configured without `cache`"),
        }
    }
}

impl std::error::Error for NotFlushed {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, upstream::Connector};

    #[tokio::test]
    async fn the_first_upstream_by_name_gives_an_arm_its_plain_name() {
        let config = "{listeners: [{address: '127.0.0.1:0', upstream: b},
                                   {address: '127.0.0.1:0', upstream: a},
                                   {address: '127.0.0.1:0', upstream: c}],
                       upstreams: {a: {protocol: oip-grpc, endpoints: ['http://a:1']},
                                   b: {protocol: oip-grpc, endpoints: ['http://b:1']},
                                   c: {protocol: oip-grpc, endpoints: ['http://c:1']}},
                       models: {m: {batch: {}}}}";
        let connector = Connector::new(|_| std::future::pending());
        // Each table hashes by keys of its own.
        for _ in 0..20 {
            let metrics = Metrics::new();
            let table = Table::build(Config::read(config).unwrap(), None, &metrics, &connector);
            let models = State::new(table, metrics).models();
            let arms = models["m"]["arms"].as_object().unwrap();
            assert_eq!(arms.len(), 3);
            for (arm, endpoint) in [("m", "a:1"), ("m@b", "b:1"), ("m@c", "c:1")] {
                assert_eq!(arms[arm]["endpoints"][0]["address"], endpoint);
            }
        }
    }

    #[tokio::test]
    async fn a_flush_names_each_arm_and_refuses_what_keeps_nothing() {
        let config = "{listeners: [{address: '127.0.0.1:0', upstream: b},
                                   {address: '127.0.0.1:0', upstream: a}],
                       upstreams: {a: {protocol: oip-grpc, endpoints: ['http://a:1']},
                                   b: {protocol: oip-grpc, endpoints: ['http://b:1']}},
                       models: {m: {cache: {}}, n: {batch: {}},
                                o: {cache: {}, arms: {x: {upstream: a, model: p}}}}}";
        let connector = Connector::new(|_| std::future::pending());
        let metrics = Metrics::new();
        let table = Table::build(Config::read(config).unwrap(), None, &metrics, &connector);
        let state = State::new(table, metrics);
        assert_eq!(
            state.flush(None),
            Ok(json!({ "m": { "m": 0, "m@b": 0 }, "o": { "x": 0 } }))
        );
        assert_eq!(state.flush(Some("o")), Ok(json!({ "o": { "x": 0 } })));
        let refused = |model| state.flush(Some(model)).unwrap_err().to_string();
        assert_eq!(refused("p"), "model `p` is not configured");
        assert_eq!(refused("n"), "model `n` is configured without `cache`");
        let text = state.metrics_text();
        for line in [
            "outrigger_cache_flushes_total{model=\"o\",arm=\"x\",reason=\"asked\"} 2\n",
            "outrigger_cache_bytes{model=\"m\",arm=\"m\"} 0\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        let models = state.models();
        let cache = &models["m"]["arms"]["m@b"]["cache"];
        assert_eq!(cache["says"], "no row was looked up yet");
        assert_eq!(cache["generation"], 1);
        assert!(models["n"]["arms"]["n"].get("cache").is_none());
    }
}
