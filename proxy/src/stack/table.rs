use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
};

use bytestring::ByteString;
use outrigger_filters::batch::Room;

use super::{Model, control::Stacks, gather::Gathered};
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
    models: HashMap<Key, Arc<Model>>,
    routes: Vec<Arc<Route>>,
    gathered: Arc<Gathered>,
    /// What may wait to be merged, for all models.
    room: Arc<Room>,
    /// Every stack that lives, also of other tables.
    stacks: Arc<Stacks>,
}

/// A model and the upstream that serves it: without arms of its own, a model is served by the
/// upstream of each listener.
type Key = (config::Name, config::Name);

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
        let mut routes = Vec::new();
        let gathered = last.map(|last| last.gathered.clone()).unwrap_or_default();
        let room = last.map_or_else(
            || Room::whole(config.limits.max_queue_rows, config.limits.max_queue_bytes),
            |last| last.room.clone(),
        );
        let stacks = last.map(|last| last.stacks.clone()).unwrap_or_default();
        let grpc = Arc::new(metrics.requests("", "grpc"));
        let http = Arc::new(metrics.requests("", "http"));
        for listener in &config.listeners {
            let Some(upstream) = upstreams.get(&listener.upstream) else {
                continue;
            };
            let mut claimed = HashMap::new();
            for (name, model) in &config.models {
                let Some(arm) = model.arms.first() else {
                    continue;
                };
                let target = arm.upstream.as_ref().unwrap_or(&listener.upstream);
                let Some(target) = upstreams.get(target) else {
                    continue;
                };
                let key = (
                    name.clone(),
                    arm.upstream.clone().unwrap_or(listener.upstream.clone()),
                );
                let built = models.entry(key.clone()).or_insert_with(|| {
                    let before = last.and_then(|last| last.models.get(&key));
                    let kept = before.filter(|kept| {
                        // Of the limits, a stack depends on this one.
                        let limit = last.map(|last| last.config.limits.max_message);
                        limit == Some(config.limits.max_message)
                            && kept.config() == model
                            && Arc::ptr_eq(kept.upstream(), target)
                    });
                    kept.cloned().unwrap_or_else(|| {
                        let built = Arc::new(Model::build(
                            model,
                            arm,
                            target,
                            &config.limits,
                            &room,
                            metrics,
                            before.map(Arc::as_ref),
                        ));
                        let stack: Weak<Model> = Arc::downgrade(&built);
                        stacks.add(stack);
                        built
                    })
                });
                claimed.insert(ByteString::from(name.as_str()), built.clone());
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
            routes,
            gathered,
            room,
            stacks,
        }
    }

    /// Puts the bounds in force that outlive a table, and lets the stacks go that have no place in
    /// this one: what waits in them for company waits no more.
    pub fn take_over(&self, last: &Self) {
        let limits = &self.config.limits;
        self.room
            .resize(limits.max_queue_rows, limits.max_queue_bytes);
        for (key, model) in &last.models {
            let stays = self.models.get(key);
            if !stays.is_some_and(|stays| Arc::ptr_eq(stays, model)) {
                model.drain();
            }
        }
        self.models.values().for_each(|model| model.take_over());
    }

    /// Brings the gauges up to date that are summed up over endpoints.
    pub fn show(&self, metrics: &Metrics) {
        // Behind two listeners with servers of their own a model has two stacks of one name.
        let mut benefits: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut caches: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for model in self.models.values() {
            let of_arm = (model.name(), model.arm());
            benefits.entry(of_arm).or_default().extend(model.benefits());
            if let Some(view) = model.cache() {
                caches.entry(of_arm).or_default().push(view);
            }
        }
        benefits.retain(|_, endpoints| !endpoints.is_empty());
        metrics.batch().show(&benefits);
        metrics.cache().show(&caches);
    }

    /// Ends all waiting for company: nothing new comes.
    pub fn drain(&self) {
        self.models.values().for_each(|model| model.drain());
    }

    /// Returns the configuration that the table was built from.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Returns the routes, in the order of the listeners.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// Returns the models' stacks.
    pub fn models(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.models.values()
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
