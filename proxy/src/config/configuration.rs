use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use http::HeaderName;
use outrigger_filters::{
    admission::{self, Concurrency},
    batch::{self, InFlight},
    cache::{self, Unit},
    select::{self, Loss, Policy, Value},
};
use serde_json::{Map, Value as Json, json};

use super::fault::{Collector, Faults, Place, Position};
use super::leaf::LossKind;
use super::read::Read;
use super::resolve::Surroundings;
use super::units::{format_duration, format_size};
use super::{
    Admin, Arm, ClientTls, Deadline, Endpoint, Feedback, HttpVersion, Identity, Limits, Listener,
    Model, Name, Protocol, Redis, SelectionLog, ServerTls, State, Telemetry, Upstream, document,
    file, resolve, secret,
};

/// A configuration that holds together: every name leads somewhere, every bound is one.
///
/// Two that are equal ask for the same, so a reload can tell what to keep.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where clients come in, at least one.
    pub listeners: Vec<Listener>,
    /// Where operators and probes come in, if anywhere.
    pub admin: Option<Admin>,
    /// The servers behind, by name.
    pub upstreams: BTreeMap<Name, Upstream>,
    /// The models that more shall happen to than passing through, by the name that clients send.
    pub models: BTreeMap<Name, Model>,
    /// Bounds of the process.
    pub limits: Limits,
    /// What is told about requests.
    pub telemetry: Telemetry,
    /// How feedback is known for our own.
    pub feedback: Feedback,
    /// Where what selection has learned is kept.
    pub state: State,
}

impl Config {
    /// Bytes of a configuration at most.
    pub const MAX_BYTES: usize = 1 << 20;

    /// Reads YAML or JSON, and no other file.
    ///
    /// # Errors
    /// Everything that is wrong with it, with line, column and path.
    pub fn read(text: impl AsRef<[u8]>) -> Result<Self, Faults> {
        let surroundings = Surroundings {
            folder: Path::new(""),
            files_at: None,
        };
        Self::read_in(surroundings, text.as_ref())
    }

    /// Reads YAML or JSON in a place, perhaps with the files that it names.
    pub(super) fn read_in(surroundings: Surroundings<'_>, bytes: &[u8]) -> Result<Self, Faults> {
        let mut faults = Collector::default();
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
                let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
                faults.add(
                    &Place::root(Position { line, column: 1 }),
                    "the text is not UTF-8",
                );
                return faults.finish(None, "");
            }
        };
        if text.len() > Self::MAX_BYTES {
            let most = format_size(Self::MAX_BYTES);
            let message = format_args!("the file is larger than {most}");
            faults.add(&Place::root(Position::START), message);
            return faults.finish(None, "");
        }
        let config = document::parse(text, &mut faults).and_then(|root| {
            let file = file::File::read(&root, &Place::root(root.position), &mut faults)?;
            resolve::resolve(&file, surroundings, &mut faults)
        });
        faults.finish(config, text)
    }

    /// The configuration of a proxy in front of one server, through which everything passes.
    ///
    /// # Errors
    /// Both addresses are the same.
    pub fn drop_in(
        listen: SocketAddr,
        upstream: Endpoint,
        protocol: Protocol,
        admin: Option<SocketAddr>,
    ) -> Result<Self, Faults> {
        let name = Name::upstream();
        let config = Self {
            listeners: vec![Listener {
                address: listen,
                upstream: name.clone(),
                tls: None,
            }],
            admin: None,
            upstreams: BTreeMap::from([(
                name,
                Upstream {
                    protocol,
                    tls: upstream.is_tls().then(ClientTls::default),
                    endpoints: vec![upstream],
                    http: protocol.http(),
                },
            )]),
            models: BTreeMap::new(),
            limits: Limits::default(),
            telemetry: Telemetry::default(),
            feedback: Feedback::default(),
            state: State::default(),
        };
        match admin {
            Some(admin) => config.with_admin(admin),
            None => Ok(config),
        }
    }

    /// Moves the admin pages to another address.
    ///
    /// # Errors
    /// A listener has the address.
    pub fn with_admin(mut self, address: SocketAddr) -> Result<Self, Faults> {
        let mut faults = Collector::default();
        if self
            .listeners
            .iter()
            .any(|listener| resolve::clashing(listener.address, address))
        {
            faults.add(
                &Place::flag("--admin"),
                format_args!("a listener has {address} already"),
            );
        }
        self.admin = Some(Admin { address });
        faults.finish(Some(self), "")
    }

    /// Whether anything is selected, and so may be learned.
    #[must_use]
    pub fn selects(&self) -> bool {
        self.models.values().any(|model| model.selection.is_some())
    }

    /// The configuration with every default written out and every secret masked, in the form of
    /// the file.
    #[must_use]
    pub fn effective(&self) -> Json {
        let mut effective = json!({
            "listeners": self.listeners.iter().map(listener).collect::<Vec<_>>(),
            "upstreams": section(&self.upstreams, upstream),
            "limits": {
                "max_message": format_size(self.limits.max_message),
                "max_gathered": format_size(self.limits.max_gathered),
                "max_queue_rows": self.limits.max_queue_rows,
                "max_queue_bytes": format_size(self.limits.max_queue_bytes),
                "max_connections": self.limits.max_connections,
                "drain": format_duration(self.limits.drain),
            },
            "telemetry": { "access_log": self.telemetry.access_log },
        });
        if let Some(admin) = &self.admin {
            effective["admin"] = json!({ "address": admin.address.to_string() });
        }
        if !self.models.is_empty() {
            effective["models"] = section(&self.models, model);
        }
        // Where nothing is selected, neither has a meaning.
        if self.selects() {
            effective["feedback"] = feedback(&self.feedback);
            match &self.state {
                State::Memory => {}
                State::Redis(state) => effective["state"] = redis(state),
                State::Directory(directory) => {
                    effective["state"] = json!({ "directory": path(directory) });
                }
            }
        }
        masked(effective)
    }
}

/// The JSON Schema of what [`Config::read`] accepts.
#[must_use]
pub fn schema() -> Json {
    let mut schema = file::File::schema();
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "Outrigger".into();
    schema
}

fn section<T>(values: &BTreeMap<Name, T>, show: impl Fn(&T) -> Json) -> Json {
    values
        .iter()
        .map(|(name, value)| (name.to_string(), show(value)))
        .collect::<Map<_, _>>()
        .into()
}

fn listener(listener: &Listener) -> Json {
    let mut shown =
        json!({ "address": listener.address.to_string(), "upstream": listener.upstream.as_str() });
    if let Some(tls) = &listener.tls {
        shown["tls"] = server_tls(tls);
    }
    shown
}

fn server_tls(tls: &ServerTls) -> Json {
    let mut shown = Map::new();
    identity(&tls.identity, &mut shown);
    if let Some(clients) = &tls.clients {
        shown.insert("client_ca".to_owned(), path(&clients.ca));
        let auth = if clients.required {
            "required"
        } else {
            "optional"
        };
        shown.insert("client_auth".to_owned(), auth.into());
    }
    shown.into()
}

fn client_tls(tls: &ClientTls) -> Json {
    let mut shown = Map::new();
    if let Some(ca) = &tls.ca {
        shown.insert("ca".to_owned(), path(ca));
    }
    if let Some(identity) = &tls.identity {
        self::identity(identity, &mut shown);
    }
    if let Some(name) = &tls.server_name {
        shown.insert("server_name".to_owned(), name.to_str().into());
    }
    shown.into()
}

fn identity(identity: &Identity, shown: &mut Map<String, Json>) {
    shown.insert("certificate".to_owned(), path(&identity.certificate));
    shown.insert("key".to_owned(), path(&identity.key));
}

fn path(path: &Path) -> Json {
    path.display().to_string().into()
}

fn upstream(upstream: &Upstream) -> Json {
    let mut shown = json!({
        "protocol": upstream.protocol.as_str(),
        "endpoints": upstream.endpoints.iter().map(Endpoint::to_string).collect::<Vec<_>>(),
        "http": match upstream.http {
            HttpVersion::Http1 => 1,
            HttpVersion::Http2 => 2,
        },
    });
    if let Some(tls) = &upstream.tls {
        shown["tls"] = client_tls(tls);
    }
    shown
}

fn model(model: &Model) -> Json {
    let mut shown = json!({ "latency_objective": format_duration(model.latency_objective) });
    let mut arms = Map::new();
    for arm in &model.arms {
        // An arm that names no upstream is the one that stands where none was written.
        let Some(upstream) = &arm.upstream else {
            continue;
        };
        let mut shown = json!({ "upstream": upstream.as_str(), "model": arm.model.as_str() });
        if let Some(version) = &arm.version {
            shown["version"] = version.as_str().into();
        }
        if model.selection.is_some() {
            share(arm, &mut shown);
        }
        arms.insert(arm.name.to_string(), shown);
    }
    if !arms.is_empty() {
        shown["arms"] = arms.into();
    }
    if let Some(selection) = &model.selection {
        shown["selection"] = self::selection(selection);
        if let Some(log) = &model.selection_log {
            shown["selection"]["log"] = self::log(log);
        }
    }
    if let Some(deadline) = &model.deadline {
        shown["deadline"] = self::deadline(deadline);
        if let Some(selection) = model.selection.as_ref().filter(|of| of.ensemble) {
            shown["deadline"]["missing"] = selection.missing.as_str().into();
        }
    }
    if let Some(admission) = &model.admission {
        shown["admission"] = self::admission(admission);
    }
    if let Some(retry) = &model.retry {
        shown["retry"] = json!({ "budget": retry.budget.get() });
        if let Some(hedge) = &retry.hedge {
            shown["hedge"] = json!({
                "quantile": hedge.quantile.get(),
                "budget": hedge.budget.get(),
            });
        }
    }
    if let Some(batch) = &model.batch {
        shown["batch"] = self::batch(batch);
    }
    if let Some(cache) = &model.cache {
        shown["cache"] = self::cache(cache);
    }
    // What one of them ignores, the other one does as well.
    for section in ["batch", "cache"] {
        if let Some(shown) = shown.get_mut(section)
            && !model.ignore_headers.is_empty()
        {
            let names = model.ignore_headers.iter().map(HeaderName::as_str);
            shown["ignore_headers"] = names.collect();
        }
    }
    shown
}

/// Shows how an arm stands beside the others.
fn share(arm: &Arm, shown: &mut Json) {
    match arm.shadow {
        Some(share) => shown["shadow"] = share.into(),
        None => {
            shown["weight"] = arm.weight.into();
            shown["min_probability"] = arm.min_probability.into();
            shown["max_probability"] = arm.max_probability.into();
        }
    }
}

fn selection(selection: &select::Config) -> Json {
    let mut shown = json!({
        "policy": selection.policy.as_str(),
        "ensemble": selection.ensemble,
        "freeze": selection.freeze,
        "failure_loss": match selection.failure {
            Some(loss) => Json::from(loss),
            None => "ignore".into(),
        },
    });
    match selection.policy {
        Policy::Fixed => {}
        Policy::EpsilonGreedy { epsilon, discount } => {
            shown["epsilon"] = epsilon.into();
            shown["discount"] = discount.into();
        }
        Policy::Exp3 {
            learning_rate,
            exploration,
            share,
        } => {
            shown["learning_rate"] = learning_rate.into();
            shown["exploration"] = exploration.into();
            shown["share"] = share.into();
        }
        Policy::Exp4 {
            learning_rate,
            share,
        } => {
            shown["learning_rate"] = learning_rate.into();
            shown["share"] = share.into();
        }
        Policy::Thompson { discount } => shown["discount"] = discount.into(),
    }
    let (loss, scale) = match selection.loss {
        Loss::ZeroOne => (LossKind::ZeroOne, None),
        Loss::Absolute { scale } => (LossKind::Absolute, Some(scale)),
        Loss::Squared { scale } => (LossKind::Squared, Some(scale)),
        Loss::Log { scale } => (LossKind::Log, Some(scale)),
    };
    shown["loss"] = loss.as_str().into();
    if let Some(scale) = scale {
        shown["loss_scale"] = scale.into();
    }
    if let Some(context) = &selection.context {
        shown["context"] = json!({
            "header": &*context.header,
            "max_contexts": context.max_contexts,
        });
    }
    if let Some(label) = &selection.label {
        shown["label"] = (&**label).into();
    }
    if let Some(seed) = selection.seed {
        shown["seed"] = seed.into();
    }
    shown
}

fn log(log: &SelectionLog) -> Json {
    json!({
        "path": path(&log.path),
        "max_bytes": format_size(log.max_bytes),
        "files": log.files,
        "sample": log.sample,
    })
}

fn deadline(deadline: &Deadline) -> Json {
    let mut shown = json!({});
    if let Some(default) = deadline.default {
        shown["default"] = format_duration(default).into();
    }
    if let Some(quorum) = deadline.quorum {
        shown["quorum"] = quorum.into();
    }
    shown["enough"] = deadline.enough.into();
    if !deadline.default_output.is_empty() {
        let outputs = deadline.default_output.iter();
        let outputs = outputs.map(|(name, values)| {
            let values = values.iter().map(|value| match value {
                Value::Number(number) => Json::from(*number),
                // No more than 64 bits are read.
                Value::Integer(number) => i64::try_from(*number).ok().into(),
                Value::Bool(value) => (*value).into(),
                Value::String(text) => (&**text).into(),
            });
            (name.to_string(), values.collect())
        });
        shown["default_output"] = outputs.collect::<Map<_, _>>().into();
    }
    if let Some(confidence) = deadline.min_confidence {
        shown["min_confidence"] = confidence.into();
    }
    shown["timeout_parameter"] = deadline.timeout_parameter.into();
    shown
}

fn admission(admission: &admission::Config) -> Json {
    json!({
        "max_concurrency": match admission.max_concurrency {
            Concurrency::Fixed(calls) => Json::from(calls.get()),
            Concurrency::Auto => "auto".into(),
        },
        "max_queue_requests": admission.max_queue_requests,
        "max_queue_bytes": format_size(admission.max_queue_bytes),
        "default_priority": admission.default_priority,
        "cancel": admission.cancel.as_str(),
    })
}

fn feedback(feedback: &Feedback) -> Json {
    let mut shown = json!({ "max_age": format_duration(feedback.max_age) });
    for (key, file) in [
        ("key", &feedback.key),
        ("previous_key", &feedback.previous_key),
    ] {
        if let Some(file) = file {
            shown[key] = path(file);
        }
    }
    shown
}

fn redis(redis: &Redis) -> Json {
    let mut shown = json!({
        "redis": redis.url.to_string(),
        "prefix": redis.prefix.as_str(),
        "interval": format_duration(redis.interval),
        "context_ttl": format_duration(redis.context_ttl),
    });
    for (key, file) in [("password_file", &redis.password_file), ("ca", &redis.ca)] {
        if let Some(file) = file {
            shown[key] = path(file);
        }
    }
    shown
}

fn cache(cache: &cache::Config) -> Json {
    let mut shown = json!({
        "max_bytes": format_size(cache.max_bytes),
        "ttl": format_duration(cache.ttl),
        "warm": cache.warm,
        "bypass": cache.bypass.as_str(),
    });
    if cache.unit != Unit::Auto {
        shown["unit"] = cache.unit.as_str().into();
    }
    if let Some(tenant) = &cache.tenant {
        shown["tenant"] = json!({
            "header": &*tenant.header,
            "max_bytes": format_size(tenant.max_bytes),
        });
    }
    shown
}

fn batch(batch: &batch::Config) -> Json {
    let mut shown = json!({
        "max_delay": format_duration(batch.max_delay),
        "controller": batch.controller.as_str(),
        "max_in_flight": match batch.max_in_flight {
            InFlight::Fixed(calls) => Json::from(calls),
            InFlight::Auto => "auto".into(),
        },
        "max_queue_rows": batch.max_queue_rows,
        "max_queue_bytes": format_size(batch.max_queue_bytes),
        "max_batch_bytes": format_size(batch.max_batch_bytes),
        "split": batch.split,
        "default_priority": batch.default_priority,
        "cancel": batch.cancel.as_str(),
        "holdout": batch.holdout.get(),
    });
    if let Some(rows) = batch.max_batch_size {
        shown["max_batch_size"] = rows.into();
    }
    shown
}

/// The value with the passwords of its URLs masked.
fn masked(value: Json) -> Json {
    match value {
        Json::String(text) => secret::mask(&text).into_owned().into(),
        Json::Array(items) => items.into_iter().map(masked).collect(),
        Json::Object(entries) => Json::Object(
            entries
                .into_iter()
                .map(|(key, value)| (key, masked(value)))
                .collect(),
        ),
        Json::Null | Json::Bool(_) | Json::Number(_) => value,
    }
}
