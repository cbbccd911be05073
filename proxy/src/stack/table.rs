use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
    time::Duration,
};

use bytestring::ByteString;
use outrigger_filters::overload::Room;

use tracing::error;

use super::{
    Arm, Model,
    control::Stacks,
    gather::Gathered,
    learning::{Learning, Taught},
};
use crate::{
    config::{self, Config},
    telemetry::{Metrics, Requests},
    upstream::{Connector, Upstream},
};

/// Everything that a configuration stands for: upstreams, models' stacks and listeners' routes.
#[derive(Debug)]
pub struct Table {
    config: Arc<Config>,
    upstreams: HashMap<config::Name, Arc<Upstream>>,
    models: HashMap<(config::Name, Option<config::Name>), Arc<Model>>,
    arms: HashMap<Key, Arc<Arm>>,
    /// What learns of the models' arms, of each model that has a selection.
    taught: HashMap<config::Name, Taught>,
    learning: Learning,
    routes: Vec<Arc<Route>>,
    gathered: Arc<Gathered>,
    /// What may wait to be merged, for all models.
    room: Arc<Room>,
    /// Every stack that lives, also of other tables.
    stacks: Arc<Stacks>,
}

/// An arm of a model, and the upstream that serves it: without arms of its own, a model is served
/// by the upstream of each listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    model: config::Name,
    arm: config::Name,
    upstream: config::Name,
}

/// What a listener does with a request.
#[derive(Debug)]
pub struct Route {
    /// Where everything goes that no model claims.
    pub(crate) upstream: Arc<Upstream>,
    /// The models that are claimed, by the name that clients send.
    pub(crate) models: HashMap<ByteString, Arc<Model>>,
    /// The bytes of the longest message that is read as a whole.
    pub(crate) max_message: usize,
    /// The bytes of such messages of all listeners at the moment.
    pub(crate) gathered: Arc<Gathered>,
    /// The most that these may be.
    pub(crate) max_gathered: usize,
    /// Counts of passed-on gRPC requests.
    pub(crate) grpc: Arc<Requests>,
    /// Counts of other passed-on requests.
    pub(crate) http: Arc<Requests>,
    /// Whose caches are flushed when a server's models change.
    pub(super) stacks: Arc<Stacks>,
}

impl Table {
    /// Builds a table. Upstreams and models of which nothing changed are carried over from the
    /// last one, with their connections and with what they learned. Of a model that changed, stored
    /// answers are, as long as they are right.
    pub fn build(
        config: Config,
        last: Option<&Self>,
        metrics: &Metrics,
        connector: &Connector,
    ) -> Self {
        let config = Arc::new(config);
        let upstreams: HashMap<config::Name, Arc<Upstream>> = config
            .upstreams
            .iter()
            .map(|(name, upstream)| {
                let kept = last
                    .filter(|last| last.config.upstreams.get(name) == Some(upstream))
                    .and_then(|last| last.upstreams.get(name).cloned());
                let built =
                    kept.unwrap_or_else(|| Arc::new(Upstream::new(name, upstream, connector)));
                (name.clone(), built)
            })
            .collect();
        let mut models = HashMap::new();
        let mut arms = HashMap::new();
        let mut routes = Vec::new();
        let gathered = last.map(|last| last.gathered.clone()).unwrap_or_default();
        let room = last.map_or_else(
            || Room::whole(config.limits.max_queue_rows, config.limits.max_queue_bytes),
            |last| last.room.clone(),
        );
        let stacks = last.map(|last| last.stacks.clone()).unwrap_or_default();
        let grpc = Arc::new(metrics.requests("", "grpc"));
        let http = Arc::new(metrics.requests("", "http"));
        let before = last.map(|last| (&last.learning, &*last.config));
        let learning = Learning::open(&config, before, metrics);
        let taught: HashMap<config::Name, Taught> = config
            .models
            .iter()
            .filter_map(|(name, model)| {
                let before = last.and_then(|last| {
                    let taught = last.taught.get(name)?;
                    Some((taught, &last.learning, &*last.config))
                });
                let taught = learning.of_model(&config, model, before, metrics)?;
                Some((name.clone(), taught))
            })
            .collect();
        let build = |key: &Key, model: &config::Model, arm: &config::Arm| {
            let target = upstreams.get(&key.upstream)?;
            let before = last.and_then(|last| last.arms.get(key));
            let kept = before.filter(|kept| {
                // Of the limits, a stack depends on this one.
                let limit = last.map(|last| last.config.limits.max_message);
                limit == Some(config.limits.max_message)
                    && kept.is_of(model, arm)
                    && Arc::ptr_eq(kept.upstream(), target)
            });
            Some(kept.cloned().unwrap_or_else(|| {
                let before = before.map(Arc::as_ref);
                let limits = &config.limits;
                let built = Arm::build(model, arm, target, limits, &room, metrics, before);
                let built = Arc::new(built);
                let stack: Weak<Arm> = Arc::downgrade(&built);
                stacks.add(stack);
                built
            }))
        };
        for listener in &config.listeners {
            let Some(upstream) = upstreams.get(&listener.upstream) else {
                continue;
            };
            let mut claimed = HashMap::new();
            for (name, model) in &config.models {
                let own = model.arms.iter().any(|arm| arm.upstream.is_none());
                let key = (name.clone(), own.then(|| listener.upstream.clone()));
                let built = match models.get(&key) {
                    Some(built) => Some(Arc::clone(built)),
                    None => {
                        let mut of_model = Vec::with_capacity(model.arms.len());
                        for arm in &model.arms {
                            let key = Key {
                                model: name.clone(),
                                arm: arm.name.clone(),
                                upstream: arm
                                    .upstream
                                    .as_ref()
                                    .unwrap_or(&listener.upstream)
                                    .clone(),
                            };
                            if let Some(built) = build(&key, model, arm) {
                                arms.insert(key, built.clone());
                                of_model.push(built);
                            }
                        }
                        let learner = taught.get(name).map(|taught| taught.learner.clone());
                        // What is known of the arms' health stays with a model that is the same.
                        let kept = last.and_then(|last| last.models.get(&key));
                        let kept =
                            kept.filter(|kept| kept.is_of(model, &of_model, learner.as_ref()));
                        let build = || Model::new(model, of_model, learner, metrics);
                        kept.cloned().or_else(|| build().map(Arc::new))
                    }
                };
                if let Some(built) = built {
                    models.insert(key, built.clone());
                    claimed.insert(ByteString::from(name.as_str()), built);
                }
            }
            routes.push(Arc::new(Route {
                upstream: upstream.clone(),
                models: claimed,
                max_message: config.limits.max_message,
                gathered: gathered.clone(),
                max_gathered: config.limits.max_gathered,
                grpc: grpc.clone(),
                http: http.clone(),
                stacks: stacks.clone(),
            }));
        }
        Self {
            config,
            upstreams,
            models,
            arms,
            taught,
            learning,
            routes,
            gathered,
            room,
            stacks,
        }
    }

    /// Puts the bounds in force that outlive a table, and lets the stacks go that have no place in
    /// this one: what waits in them for company waits no more.
    pub fn take_over(&self, last: Option<&Self>) {
        let limits = &self.config.limits;
        self.room
            .resize(limits.max_queue_rows, limits.max_queue_bytes);
        for (key, arm) in last.iter().flat_map(|last| &last.arms) {
            let stays = self.arms.get(key);
            if !stays.is_some_and(|stays| Arc::ptr_eq(stays, arm)) {
                arm.drain();
            }
        }
        self.arms.values().for_each(|arm| arm.take_over());
        self.learning.take_over(self.taught.values());
    }

    /// Brings the gauges up to date that are summed up over endpoints.
    pub fn show(&self, metrics: &Metrics) {
        // Behind two listeners with servers of their own a model has two stacks of one name.
        let mut benefits: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut caches: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for arm in self.arms.values() {
            let of_arm = (arm.model(), arm.name());
            benefits.entry(of_arm).or_default().extend(arm.benefits());
            if let Some(view) = arm.cache() {
                caches.entry(of_arm).or_default().push(view);
            }
        }
        self.models.values().for_each(|model| model.show());
        self.learning.state().show();
        benefits.retain(|_, endpoints| !endpoints.is_empty());
        metrics.batch().show(&benefits);
        metrics.cache().show(&caches);
    }

    /// Ends all waiting for company: nothing new comes.
    pub fn drain(&self) {
        self.arms.values().for_each(|arm| arm.drain());
    }

    /// Returns the configuration that the table was built from.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Returns the routes, in the order of the listeners.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// Returns the models.
    pub fn models(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.models.values()
    }

    /// Returns where what was learned is kept.
    pub fn learning(&self) -> &Learning {
        &self.learning
    }

    /// Writes down what was learned and chosen, for so long at most.
    pub async fn keep(&self, within: Duration) {
        let taught: Vec<Taught> = self.taught.values().cloned().collect();
        let written = tokio::task::spawn_blocking(move || {
            taught.iter().for_each(|taught| taught.flush(within));
        });
        let (_, written) = tokio::join!(self.learning.state().finish(within), written);
        if let Err(error) = written {
            error!(%error, "the logs of choices were not ended");
        }
    }

    /// Returns the stacks of all models' arms.
    pub fn arms(&self) -> impl Iterator<Item = &Arc<Arm>> {
        self.arms.values()
    }

    /// Returns what may wait to be merged, for all models.
    #[cfg(test)]
    pub(super) fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// Returns the upstreams.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.values()
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[tokio::test]
    async fn stacks_of_one_name_are_shown_together_and_those_that_are_gone_no_more() {
        let metrics = Metrics::new();
        let refuse = Connector::new(|_| async { Err(io::ErrorKind::ConnectionRefused.into()) });
        let build = |model: &str, last: Option<&Table>| {
            let config = format!(
                "listeners:
  - {{ address: '127.0.0.1:9001', upstream: one }}
  - {{ address: '127.0.0.1:9002', upstream: two }}
upstreams:
  one: {{ protocol: oip-grpc, endpoints: ['http://a:1', 'http://a:2'] }}
  two: {{ protocol: oip-grpc, endpoints: ['http://b:1'] }}
models: {{ m: {model} }}"
            );
            Table::build(Config::read(&config).unwrap(), last, &metrics, &refuse)
        };
        let endpoints = || {
            let text = metrics.text();
            let mut lines = text.lines().map(str::to_owned);
            lines.find(|line| {
                line.starts_with("outrigger_batch_endpoints{") && line.contains("unknown")
            })
        };
        let table = build("{ batch: {} }", None);
        assert_eq!(table.models().count(), 2);
        table.show(&metrics);
        let of_both = r#"outrigger_batch_endpoints{model="m",arm="m",pays="unknown"} 3"#;
        assert_eq!(endpoints().as_deref(), Some(of_both));
        build("{}", Some(&table)).show(&metrics);
        assert_eq!(endpoints(), None);
    }
}
