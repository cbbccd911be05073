use std::{sync::Arc, time::Duration};

use outrigger_filters::{
    admission::{Admission, AdmissionLayer},
    batch::{Batch, BatchLayer, Batchable, BenefitView, Capability, Unbatchable},
    cache::{self, CacheLayer, Flush, Store, Unit},
    inference::{BoxInfer, Error, Form, Infer, Metadata, Request},
    overload::Room,
    retry::{Knows, RetryLayer},
};
use serde_json::json;
use tokio::{runtime::Handle, time::Instant};
use tower::{
    Layer as _, ServiceBuilder,
    util::{BoxCloneSyncService, option_layer},
};

use super::{
    balance::{Balance, Loaded},
    control::Keeps,
    kept::Kept,
    observed::Observed,
    rename::RenameLayer,
    replicas::Replicas,
    views,
    warm::Warming,
    ways::Ways,
};
use crate::{
    config::{self, Limits, Protocol},
    telemetry::Metrics,
    upstream::{Client, Description, Learned, Upstream, is_lost, verdict},
};

/// A call to one endpoint, of which it is seen what becomes of it.
type Call = Observed<Client>;

/// What stands above the endpoints.
#[derive(Clone, Debug)]
struct Filters {
    rename: Option<RenameLayer>,
    cache: Option<CacheLayer>,
    retry: Option<RetryLayer>,
}

/// A model on one upstream that may answer for a model of the configuration: its stack of filters,
/// and what they learned.
///
/// ```text
/// rename -> cache -> retry -> balance -> [per endpoint: batch -> observed -> upstream]
///      '--> cache -> retry -> balance -> [per endpoint: admission -> observed -> upstream], for
///                                         versions that take no batches: whole requests, in the
///                                         same store
/// ```
#[derive(Debug)]
pub struct Arm {
    config: config::Model,
    arm: config::Arm,
    upstream: Arc<Upstream>,
    ways: Ways,
    /// What the model has answered, where that is kept.
    kept: Option<Kept>,
    /// Who asks again for what was asked for last, where that is configured.
    warming: Option<Warming>,
    /// The endpoints, and which are left out.
    replicas: Arc<Replicas>,
    calls: Vec<Call>,
    batches: Vec<Batch<Call>>,
    /// The queues of requests that are not merged, where there are any.
    admissions: Vec<Admission<Call>>,
    retry: Option<RetryLayer>,
    /// What the server says of the model; asking ends with the stack.
    learned: Learned,
}

impl Arm {
    /// Builds a model's stack; must run within the control runtime, where the server is asked
    /// whether the model takes batches.
    ///
    /// Of the model's last stack, what is stored is taken over, unless what has changed could make
    /// a stored answer a wrong one.
    pub(super) fn build(
        config: &config::Model,
        arm: &config::Arm,
        upstream: &Arc<Upstream>,
        limits: &Limits,
        room: &Arc<Room>,
        metrics: &Metrics,
        last: Option<&Self>,
    ) -> Self {
        let kept = last.and_then(|last| {
            let kept = last.kept.clone().filter(|_| {
                Arc::ptr_eq(&last.upstream, upstream)
                    && last.arm == *arm
                    && last.config.cache == config.cache
                    // An answer may be that to a header which was ignored until now.
                    && last.config.ignore_headers == config.ignore_headers
            })?;
            // The store goes by what was learned: it must not learn it anew.
            Some((kept, last.learned.capability().clone()))
        });
        let (kept, capability) = kept.unzip();
        let learned = Learned::new(
            Handle::current(),
            upstream.clone(),
            arm.model.clone(),
            arm.version.clone(),
            capability.unwrap_or_else(|| Capability::new(Batchable::Unasked)),
        );
        let is_taken_over = kept.is_some();
        let kept = config.cache.as_ref().map(|cache| {
            kept.unwrap_or_else(|| {
                let cache = cache::Config {
                    unit: unit(cache, config),
                    ..cache.clone()
                };
                let handles = metrics.cache().handles(&config.name, &arm.name);
                let store = Store::new(cache, learned.capability().clone(), handles);
                Kept::new(store, upstream.clone(), arm, &learned)
            })
        });
        let cache = kept.as_ref().zip(config.cache.as_ref());
        let cache = cache.map(|(kept, cache)| {
            CacheLayer::with_store(kept.store().clone()).with_unit(unit(cache, config))
        });
        let duration = metrics.upstream(upstream.name());
        let replicas = Replicas::new(&config.name, upstream, metrics);
        let endpoints = upstream.endpoints().iter().enumerate();
        let calls: Vec<Call> = endpoints
            .map(|(index, endpoint)| {
                let client = Client::new(
                    upstream.clone(),
                    endpoint.clone(),
                    learned.clone(),
                    limits.max_message,
                    duration.clone(),
                    tells_timeout(config),
                );
                Observed::new(client, replicas.clone(), index)
            })
            .collect();
        let mut batches = Vec::new();
        let admission = config.admission.as_ref().map(|admission| {
            let handles = metrics.admission().handles(&config.name, &arm.name);
            AdmissionLayer::new(admission.clone(), handles).within(room.clone())
        });
        let admissions: Vec<_> = (admission.iter())
            .flat_map(|layer| calls.iter().map(|call| layer.layer(call.clone())))
            .collect();
        let retry = config.retry.map(|retry| {
            let handles = metrics.retry().handles(&config.name, &arm.name);
            RetryLayer::new(retry, knows(learned.capability().clone()), handles)
        });
        let filters = Filters {
            rename: RenameLayer::new(config, arm),
            cache,
            retry: retry.clone(),
        };
        let single = |filters: &Filters| match admissions.is_empty() {
            true => filters.before(Balance::new(replicas.clone(), calls.iter().cloned())),
            false => filters.before(Balance::new(replicas.clone(), admissions.iter().cloned())),
        };
        let whole = filters.of_whole_requests();
        let (usual, alone) = match &config.batch {
            Some(batch) => {
                let handles = metrics.batch().handles(&config.name, &arm.name);
                let layer = BatchLayer::new(batch.clone(), learned.capability().clone(), handles)
                    .with_verdict(verdict)
                    .within(room.clone());
                batches = calls.iter().map(|call| layer.layer(call.clone())).collect();
                let balance = Balance::new(replicas.clone(), batches.iter().cloned());
                (filters.before(balance), Some(single(&whole)))
            }
            None => {
                let alone = whole.cache.is_some().then(|| single(&whole));
                (single(&filters), alone)
            }
        };
        if asks(config) {
            learned.begin();
        }
        let ways = Ways::new(usual, alone, learned.clone(), config);
        let store = kept.as_ref().map(Kept::store);
        let warming = store.filter(|store| store.config().warm > 0);
        let warming = warming.map(|store| {
            let warming = Warming::begin(store, ways.clone());
            // What was taken over is the last stack's until this one is in force.
            if !is_taken_over {
                warming.follow(store);
            }
            warming
        });
        Self {
            config: config.clone(),
            arm: arm.clone(),
            upstream: upstream.clone(),
            ways,
            kept,
            warming,
            replicas,
            calls,
            batches,
            admissions,
            retry,
            learned,
        }
    }
}

impl Arm {
    /// Returns the name of the model that it answers for, as clients send it.
    pub fn model(&self) -> &str {
        &self.config.name
    }

    /// Tells whether it is what a model's configuration says of an arm: whatever else has changed,
    /// its stack would be built the same again.
    pub(super) fn is_of(&self, model: &config::Model, arm: &config::Arm) -> bool {
        self.arm == *arm
            && self.config.name == model.name
            && self.config.latency_objective == model.latency_objective
            && self.config.batch == model.batch
            && self.config.cache == model.cache
            && self.config.ignore_headers == model.ignore_headers
            && self.config.admission == model.admission
            && self.config.retry == model.retry
            && tells_timeout(&self.config) == tells_timeout(model)
            && asks(&self.config) == asks(model)
    }

    /// Ends all waiting for company, from now on.
    pub(super) fn drain(&self) {
        self.batches.iter().for_each(Batch::drain);
    }

    /// Returns what 99 of 100 requests shall keep to.
    pub fn latency_objective(&self) -> Duration {
        self.config.latency_objective
    }

    /// Returns the upstream that serves the model.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Returns the model's name on its server.
    pub fn served_as(&self) -> (&str, &str) {
        (
            &self.arm.model,
            self.arm.version.as_deref().unwrap_or_default(),
        )
    }

    /// Returns what its server says of it.
    pub(super) fn learned(&self) -> &Learned {
        &self.learned
    }

    /// Tells whether the configuration says which version is asked for.
    pub(super) fn pins_version(&self) -> bool {
        self.arm.version.is_some()
    }

    /// Tells whether the server knows the model under another name than the callers, or is asked for
    /// a version of the configuration's.
    pub(super) fn is_renamed(&self) -> bool {
        self.arm.model != self.config.name || self.arm.version.is_some()
    }

    /// Returns the stack for requests that name this version; a clone shares its queues. Tells
    /// besides whether they are merged where that is configured.
    pub(super) fn stack(&self, version: &str, label: &str) -> (BoxInfer, bool) {
        let (way, is_merged) = self.ways.of(version, label);
        (way.clone(), is_merged)
    }

    /// Tells whether a caller's message is read for this arm as it is for another one.
    pub(super) fn reads_like(&self, other: &Self, caller: Protocol) -> bool {
        if std::ptr::eq(self, other) {
            return true;
        }
        let server = self.upstream.protocol();
        // What is read without names is read by what the server says of the model, and a server of
        // REST says in which form it takes tensors.
        let by_word = [caller, server].contains(&Protocol::TfservingRest);
        let by_form = server == Protocol::OipRest && !Arc::ptr_eq(&self.upstream, &other.upstream);
        server == other.upstream.protocol()
            && self.pins_version() == other.pins_version()
            && !by_word
            && !by_form
    }

    /// Tells whether answers are kept.
    pub(super) fn has_cache(&self) -> bool {
        self.kept.is_some()
    }

    /// Tells whether a stored answer to a request that names a label would be forgotten in time when
    /// the label comes to stand for another version; the label is looked for from now on.
    pub(super) fn watches(&self, label: &str) -> bool {
        let kept = self.kept.as_ref();
        kept.is_none_or(|kept| kept.covers(label))
    }

    /// Forgets all stored answers, and returns how many there were; `None` where none are kept.
    /// What was asked for last is asked again soon, as far as the configuration says.
    pub fn flush(&self, why: Flush) -> Option<usize> {
        self.kept.as_ref().map(|kept| kept.store().flush(why))
    }

    /// Sees to what is stored from now on, in place of the stack that it was taken over from.
    pub(super) fn take_over(&self) {
        let Some(kept) = &self.kept else {
            return;
        };
        kept.belongs_to(&self.learned);
        if let Some(warming) = &self.warming {
            warming.follow(kept.store());
        }
    }

    /// Tells whether nothing shall happen to a caller's requests: no filter, no other name, and
    /// the server speaks what the caller speaks.
    pub(super) fn is_plain(&self, protocol: Protocol) -> bool {
        self.config.batch.is_none()
            && self.config.cache.is_none()
            && self.config.admission.is_none()
            && self.config.retry.is_none()
            && self.arm.upstream.is_none()
            && !self.is_renamed()
            && self.upstream.protocol() == protocol
    }

    /// Returns what the server says of the version that a caller's request names, where the request
    /// or its answer is read by it; it is waited for where the two speak different protocols.
    ///
    /// # Errors
    ///
    /// Fails where something would have no name or datatype without, and the server does not say
    /// it; with the server's own reason.
    pub(super) async fn description(
        &self,
        caller: Protocol,
        version: &str,
        label: &str,
    ) -> Result<Option<Arc<Description>>, Error> {
        let server = self.upstream.protocol();
        // Theirs is the only JSON that leaves names and datatypes out.
        let named = [caller, server].contains(&Protocol::TfservingRest);
        Ok(match (named, caller == server) {
            (true, true) => self.learned.of(version, label),
            (true, false) => Some(self.learned.wait_of(version, label).await?),
            // The form of tensors is the same for all versions.
            (false, true) => self.learned.description(),
            (false, false) if server == Protocol::OipRest => self.learned.wait().await.ok(),
            (false, false) => None,
        })
    }

    /// Returns the form in which the server takes tensors: requests of all protocols are brought
    /// into it, and so can share a call.
    pub(super) fn form(&self, description: Option<&Description>) -> Form {
        match self.upstream.protocol() {
            Protocol::OipGrpc | Protocol::TfservingGrpc => Form::Raw,
            Protocol::OipRest if description.is_some_and(|known| known.binary) => Form::Raw,
            Protocol::OipRest => Form::Flat,
            Protocol::TfservingRest => Form::Rows,
        }
    }

    /// Takes the headers that may differ within a batch out of what decides who shares one, or a
    /// stored answer.
    pub(super) fn without_ignored_headers(&self, request: Request) -> Request {
        let ignored = |name: &str| {
            self.config
                .ignore_headers
                .iter()
                .any(|header| header == name)
        };
        if !request.head.metadata.iter().any(|(name, _)| ignored(name)) {
            return request;
        }
        let kept = request
            .head
            .metadata
            .iter()
            .filter(|(name, _)| !ignored(name))
            .cloned();
        let kept = Metadata::new(kept.collect());
        request.with_metadata(kept)
    }

    /// Tells whether the model's server has been asked what the model can take; some servers do
    /// not say.
    pub fn is_learned(&self) -> bool {
        !asks(&self.config) || self.learned.capability().get() != Batchable::Unasked
    }

    /// Returns what batching brings at each endpoint.
    pub fn benefits(&self) -> impl Iterator<Item = BenefitView> {
        self.batches.iter().map(|batch| batch.view().benefit)
    }

    /// Returns what is stored and what came of it, where answers are kept.
    pub fn cache(&self) -> Option<cache::View> {
        self.kept.as_ref().map(|kept| kept.store().view())
    }

    /// Shows what was learned, for `/models`.
    pub fn view(&self) -> serde_json::Value {
        let now = Instant::now();
        let mut benefits = Vec::new();
        let endpoints: Vec<_> = (self.calls.iter().enumerate())
            .map(|(index, call)| {
                let batch = self.batches.get(index);
                let admission = self.admissions.get(index);
                let expected = match (batch, admission) {
                    (Some(batch), _) => batch.completion(now),
                    (None, Some(admission)) => admission.completion(now),
                    (None, None) => call.completion(now),
                };
                let mut endpoint = json!({
                    "address": self.replicas.endpoint(index).authority().as_str(),
                    "ejected": self.replicas.is_out(index),
                    "expected_completion": expected.map(|expected| expected.as_secs_f64()),
                });
                if let Some(view) = batch.map(Batch::view) {
                    endpoint["controller"] = json!(view.controller.as_str());
                    endpoint["batch_limit"] = json!(view.batch_limit);
                    endpoint["queue_rows"] = json!(view.queue_rows);
                    endpoint["queue_bytes"] = json!(view.queue_bytes);
                    endpoint["in_flight"] = json!(view.in_flight);
                    endpoint["max_in_flight"] = json!(view.places);
                    endpoint["beside"] = json!(view.beside);
                    endpoint["p50"] = json!(view.p50.map(|p50| p50.as_secs_f64()));
                    endpoint["p99"] = json!(view.p99.map(|p99| p99.as_secs_f64()));
                    endpoint["batching"] = json!(view.benefit.pays.as_str());
                    benefits.push(view.benefit);
                } else if let Some(view) = admission.map(Admission::view) {
                    endpoint["max_in_flight"] = json!(view.limit);
                    endpoint["in_flight"] = json!(view.in_flight);
                    endpoint["beside"] = json!(view.beside);
                    endpoint["queue_requests"] = json!(view.queue_requests);
                    endpoint["queue_bytes"] = json!(view.queue_bytes);
                    endpoint["p50"] = json!(view.p50.map(|p50| p50.as_secs_f64()));
                    endpoint["p95"] = json!(view.p95.map(|p95| p95.as_secs_f64()));
                }
                endpoint
            })
            .collect();
        let mut shown = json!({
            "upstream": self.upstream.name(),
            "model": &*self.arm.model,
            "batchable": match self.learned.capability().get() {
                Batchable::Unasked => json!("unasked"),
                Batchable::Unknown => json!("unknown"),
                Batchable::No(reason) => json!(format!("no: {reason}")),
                Batchable::Yes { max_batch_size } => json!({ "max_batch_size": max_batch_size }),
            },
            "endpoints": endpoints,
        });
        if let Some(benefit) = BenefitView::of_arm(&benefits) {
            shown["benefit"] = views::benefit(&benefit);
        }
        if let Some(after) = self
            .retry
            .as_ref()
            .and_then(|retry| retry.view().hedge_after)
        {
            shown["hedge_after"] = json!(after.as_secs_f64());
        }
        if let Some(view) = self.cache() {
            shown["cache"] = views::cache(&view);
        }
        shown
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.arm.name
    }

    /// Tells whether it answers callers: a shadow never does.
    pub fn answers(&self) -> bool {
        self.arm.shadow.is_none()
    }

    /// Returns its settings.
    pub(super) fn settings(&self) -> &config::Arm {
        &self.arm
    }
}

/// What an entry holds: rows also where only the configuration says that the model takes them.
fn unit(cache: &cache::Config, config: &config::Model) -> Unit {
    let bound = config.batch.as_ref().and_then(|batch| batch.max_batch_size);
    match (cache.unit, bound) {
        (Unit::Auto, Some(_)) => Unit::Row,
        (unit, _) => unit,
    }
}

/// Tells whether the server is asked what the model takes and gives, before a request needs it.
fn asks(config: &config::Model) -> bool {
    let deadline = config.deadline.as_ref();
    let has_default = deadline.is_some_and(|deadline| !deadline.default_output.is_empty());
    // A copy must not be sent to a model that keeps a state.
    let hedges = config.retry.is_some_and(|retry| retry.hedge.is_some());
    config.batch.is_some() || config.cache.is_some() || has_default || hedges
}

/// Tells whether the server is told the time that is left as a parameter.
fn tells_timeout(config: &config::Model) -> bool {
    let deadline = config.deadline.as_ref();
    deadline.is_some_and(|deadline| deadline.timeout_parameter)
}

/// What only the proxy knows of a second try.
fn knows(capability: Capability) -> Knows {
    Knows {
        is_lost,
        is_repeatable: Arc::new(move |request| {
            let keeps_state = matches!(
                capability.get(),
                Batchable::No(Unbatchable::Stateful | Unbatchable::Decoupled)
            );
            // What has more parameters than are looked at may be one of a sequence.
            !keeps_state && request.apart().is_none()
        }),
    }
}

impl Filters {
    /// The same, for requests that are kept as a whole.
    fn of_whole_requests(&self) -> Self {
        Self {
            cache: (self.cache.clone()).map(|cache| cache.with_unit(Unit::Request)),
            ..self.clone()
        }
    }

    /// Puts them in front of a model's endpoints.
    fn before<S>(&self, balance: Balance<S>) -> BoxInfer
    where
        S: Infer + Loaded + Sync + 'static,
        S::Future: 'static,
    {
        let stack = ServiceBuilder::new()
            .layer(option_layer(self.rename.clone()))
            // Below the names: all callers who mean the same model share what it answered. Above the
            // balance: all endpoints do, and what is stored waits for none.
            .layer(option_layer(self.cache.clone()))
            // Below the cache: what is sent again is asked for once. Above the balance, which says
            // which endpoint is another one.
            .layer(option_layer(self.retry.clone()))
            .service(balance);
        BoxCloneSyncService::new(stack)
    }
}

impl<S> Loaded for Batch<S> {
    fn load(&self) -> usize {
        Batch::load(self)
    }

    fn completion(&self, now: Instant) -> Option<Duration> {
        Batch::completion(self, now)
    }

    fn has_spare(&self) -> bool {
        Batch::has_spare(self)
    }
}

impl<S> Loaded for Admission<S> {
    fn load(&self) -> usize {
        Admission::load(self)
    }

    fn completion(&self, now: Instant) -> Option<Duration> {
        Admission::completion(self, now)
    }

    fn has_spare(&self) -> bool {
        Admission::has_spare(self)
    }
}

impl Keeps for Arm {
    fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    fn flush(&self, why: Flush) {
        Self::flush(self, why);
    }

    fn ask_again(&self) {
        self.learned.ask_again();
    }
}
