//! From sections of the file to a [`Config`] that cannot be wrong, or to what is wrong with it.

mod overload;
mod selection;
mod shared;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderName;
use outrigger_filters::{batch, cache};
use rustls::pki_types::{ServerName, UnixTime};

use self::selection::Written;
use super::fault::{Collector, Place};
use super::file;
use super::leaf;
use super::read::{At, Named, unknown};
use super::{
    Admin, Arm, ClientAuth, ClientTls, Config, Endpoint, HttpVersion, Identity, Limits, Listener,
    Model, Name, Protocol, ServerTls, Telemetry, Upstream,
};
use crate::{
    codec::grpc::metadata::{self, Role},
    tls,
};

/// Where a configuration stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings<'a> {
    /// What relative paths begin at.
    pub(super) folder: &'a Path,
    /// Whether the files that it names are to be good, too, and at which time.
    pub(super) files_at: Option<UnixTime>,
}

/// What is needed of the upstreams while the rest is resolved: those that were read whole, and the
/// names of those that were not, so that one fault does not bring others with it.
#[derive(Debug)]
struct Upstreams<'a> {
    protocols: HashMap<&'a str, Option<Protocol>>,
    /// Whether the section could be read, so that a missing name is really missing.
    known: bool,
}

/// Makes the configuration, if nothing is wrong with it.
pub(super) fn resolve(
    file: &file::File,
    surroundings: Surroundings<'_>,
    faults: &mut Collector,
) -> Option<Config> {
    let upstreams = Upstreams::of(file.upstreams.as_ref());
    let listeners = listeners(file, &upstreams, surroundings, faults);
    let models = models(file, &upstreams, surroundings, faults);
    let defined = self::upstreams(file.upstreams.as_ref(), surroundings, faults);
    unused(file, faults);
    let admin = file.admin.as_ref().and_then(|admin| admin.address.as_ref());
    let admin = admin.map(|address| {
        let bound = file
            .listeners
            .iter()
            .flat_map(|listeners| listeners.value.iter());
        for listener in bound.filter_map(|listener| listener.address.as_ref()) {
            clash(listener, address, faults);
        }
        Admin {
            address: address.value,
        }
    });
    let sections = file.models.iter().flat_map(|models| models.0.iter());
    let selects = sections
        .clone()
        .any(|(_, model)| Written::of(model).selects());
    let logs =
        sections.filter_map(|(_, model)| model.selection.as_ref()?.log.as_ref()?.path.as_ref());
    shared::logs(logs, surroundings, faults);
    let feedback = shared::feedback(file.feedback.as_ref(), selects, surroundings, faults);
    let state = shared::state(file.state.as_ref(), selects, surroundings, faults);
    Some(Config {
        listeners: listeners?,
        admin,
        upstreams: defined?,
        models,
        limits: limits(file.limits.as_ref(), faults),
        telemetry: telemetry(file.telemetry.as_ref()),
        feedback,
        state: state?,
    })
}

impl<'a> Upstreams<'a> {
    fn of(section: Option<&'a At<Named<Name, file::Upstream>>>) -> Self {
        let entries = section.iter().flat_map(|section| section.0.iter());
        let protocols = entries.map(|(name, upstream)| {
            (
                name.as_str(),
                upstream.protocol.as_ref().map(|protocol| protocol.value),
            )
        });
        Self {
            protocols: protocols.collect(),
            known: section.is_some(),
        }
    }

    /// The protocol of a named upstream, unless the name or the upstream is faulty.
    fn protocol(&self, name: &At<Name>, faults: &mut Collector) -> Option<Protocol> {
        match self.protocols.get(name.as_str()) {
            Some(protocol) => *protocol,
            None => {
                if self.known {
                    let mut known: Vec<&str> = self.protocols.keys().copied().collect();
                    known.sort_unstable();
                    faults.add(&name.place, unknown("upstream", name, known.into_iter()));
                }
                None
            }
        }
    }
}

fn listeners(
    file: &file::File,
    upstreams: &Upstreams<'_>,
    surroundings: Surroundings<'_>,
    faults: &mut Collector,
) -> Option<Vec<Listener>> {
    let sections = &file.listeners.as_ref()?.value;
    let mut bound: Vec<&At<SocketAddr>> = Vec::new();
    let mut listeners = Vec::new();
    for section in sections {
        if let Some(address) = &section.address {
            for other in &bound {
                clash(other, address, faults);
            }
            bound.push(address);
        }
        if let Some(upstream) = &section.upstream {
            upstreams.protocol(upstream, faults);
        }
        let tls = section.tls.as_ref();
        let tls = tls.and_then(|tls| server_tls(tls, surroundings, faults));
        if let (Some(address), Some(upstream)) = (&section.address, &section.upstream) {
            let upstream = upstream.value.clone();
            listeners.push(Listener {
                address: address.value,
                upstream,
                tls,
            });
        }
    }
    Some(listeners)
}

fn server_tls(
    section: &At<file::ServerTls>,
    surroundings: Surroundings<'_>,
    faults: &mut Collector,
) -> Option<ServerTls> {
    if let (Some(auth), None) = (&section.client_auth, &section.client_ca) {
        faults.add(
            &auth.place,
            "needs `client_ca`: without it no client is asked",
        );
    }
    let path = |path: &At<leaf::FilePath>| surroundings.path(path);
    let tls = ServerTls {
        identity: Identity {
            certificate: path(section.certificate.as_ref()?),
            key: path(section.key.as_ref()?),
        },
        clients: section.client_ca.as_ref().map(|ca| ClientAuth {
            ca: path(ca),
            required: section
                .client_auth
                .as_ref()
                .is_none_or(|auth| auth.value == leaf::ClientAuth::Required),
        }),
    };
    if let Some(now) = surroundings.files_at {
        for fault in tls::check_server(&tls, now) {
            let place = match fault.setting() {
                tls::Setting::Certificate => section.certificate.as_ref().map(|at| &at.place),
                tls::Setting::Key => section.key.as_ref().map(|at| &at.place),
                tls::Setting::Authorities => section.client_ca.as_ref().map(|at| &at.place),
            };
            faults.add(place.unwrap_or(&section.place), fault);
        }
    }
    Some(tls)
}

impl Surroundings<'_> {
    fn path(&self, path: &At<leaf::FilePath>) -> PathBuf {
        self.folder.join(&path.value.0)
    }
}

/// Finds fault with two addresses that the system would not bind at the same time.
fn clash(first: &At<SocketAddr>, second: &At<SocketAddr>, faults: &mut Collector) {
    if clashing(first.value, second.value) {
        let place = &first.place.path;
        faults.add(
            &second.place,
            format_args!("`{place}` listens there already"),
        );
    }
}

pub(super) fn clashing(first: SocketAddr, second: SocketAddr) -> bool {
    let same_host = first.ip() == second.ip()
        || first.is_ipv4() == second.is_ipv4()
            && (first.ip().is_unspecified() || second.ip().is_unspecified());
    first.port() != 0 && first.port() == second.port() && same_host
}

fn upstreams(
    section: Option<&At<Named<Name, file::Upstream>>>,
    surroundings: Surroundings<'_>,
    faults: &mut Collector,
) -> Option<BTreeMap<Name, Upstream>> {
    let mut upstreams = BTreeMap::new();
    for (name, section) in &section?.0 {
        if let Some(upstream) = upstream(section, surroundings, faults) {
            upstreams.insert(name.clone(), upstream);
        }
    }
    Some(upstreams)
}

fn upstream(
    section: &At<file::Upstream>,
    surroundings: Surroundings<'_>,
    faults: &mut Collector,
) -> Option<Upstream> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for endpoint in section
        .endpoints
        .iter()
        .flat_map(|endpoints| endpoints.value.iter())
    {
        let same = |other: &Endpoint| {
            (other.host(), other.port()) == (endpoint.value.host(), endpoint.value.port())
        };
        if endpoints.iter().any(same) {
            faults.add(&endpoint.place, "the endpoint is named twice");
        }
        let first = endpoints.first();
        if first.is_some_and(|first| first.is_tls() != endpoint.value.is_tls()) {
            // One upstream is one kind of server; half of its traffic in the clear is a slip.
            faults.add(
                &endpoint.place,
                "the endpoints of an upstream are all http:// or all https://",
            );
        }
        endpoints.push(endpoint.value.clone());
    }
    let tls = client_tls(section, surroundings, faults);
    let protocol = section.protocol.as_ref()?.value;
    let http = match &section.http {
        None => protocol.http(),
        Some(At {
            place,
            value: HttpVersion::Http1,
        }) if protocol.is_grpc() => {
            faults.add(place, format_args!("{protocol} needs HTTP/2"));
            HttpVersion::Http1
        }
        Some(At { value, .. }) => *value,
    };
    Some(Upstream {
        protocol,
        endpoints,
        http,
        tls,
    })
}

/// How TLS is spoken to an upstream's endpoints, if they want it.
fn client_tls(
    upstream: &At<file::Upstream>,
    surroundings: Surroundings<'_>,
    faults: &mut Collector,
) -> Option<ClientTls> {
    let section = upstream.tls.as_ref();
    let endpoints = upstream.endpoints.as_ref()?;
    let first = endpoints.iter().next()?;
    if !first.is_tls() {
        if let Some(section) = section {
            faults.add(
                &section.place,
                "the endpoints are http://, where no TLS is spoken; write https://",
            );
        }
        return None;
    }
    let identity = section.and_then(|section| match (&section.certificate, &section.key) {
        (Some(certificate), Some(key)) => Some(Identity {
            certificate: surroundings.path(certificate),
            key: surroundings.path(key),
        }),
        (Some(certificate), None) => {
            faults.add(&certificate.place, "needs a `key` beside it");
            None
        }
        (None, Some(key)) => {
            faults.add(&key.place, "needs a `certificate` beside it");
            None
        }
        (None, None) => None,
    });
    let ca = section.and_then(|section| section.ca.as_ref());
    let server_name = section.and_then(|section| section.server_name.as_ref());
    let tls = ClientTls {
        ca: ca.map(|ca| surroundings.path(ca)),
        identity,
        server_name: server_name.map(|name| name.value.0.clone()),
    };
    if tls.server_name.is_none() {
        for endpoint in endpoints.iter() {
            if ServerName::try_from(endpoint.host()).is_err() {
                faults.add(
                    &endpoint.place,
                    "no certificate can be for this host; name another as `tls.server_name`",
                );
            }
        }
    }
    if let Some(now) = surroundings.files_at {
        for fault in tls::check_client(&tls, now) {
            let place = section.and_then(|section| match fault.setting() {
                tls::Setting::Certificate => section.certificate.as_ref().map(|at| &at.place),
                tls::Setting::Key => section.key.as_ref().map(|at| &at.place),
                tls::Setting::Authorities => section.ca.as_ref().map(|at| &at.place),
            });
            faults.add(place.unwrap_or(&endpoints.place), fault);
        }
    }
    Some(tls)
}

/// Finds fault with upstreams that nothing leads to: the mistake is then in the name elsewhere.
fn unused(file: &file::File, faults: &mut Collector) {
    let (Some(upstreams), Some(listeners)) = (&file.upstreams, &file.listeners) else {
        return;
    };
    let arms = file.models.iter().flat_map(|models| models.0.iter());
    let arms = arms.flat_map(|(_, model)| model.arms.iter().flat_map(|arms| arms.0.iter()));
    let used: Vec<&str> = listeners
        .iter()
        .filter_map(|listener| listener.upstream.as_ref())
        .chain(arms.filter_map(|(_, arm)| arm.upstream.as_ref()))
        .map(|name| name.as_str())
        .collect();
    for (name, upstream) in &upstreams.0 {
        if !used.contains(&name.as_str()) {
            faults.add(
                &upstream.place,
                "no listener and no arm leads to this upstream",
            );
        }
    }
}

fn models(
    file: &file::File,
    upstreams: &Upstreams<'_>,
    surroundings: Surroundings<'_>,
    faults: &mut Collector,
) -> BTreeMap<Name, Model> {
    let mut models = BTreeMap::new();
    for (name, section) in file.models.iter().flat_map(|models| models.0.iter()) {
        let arms = match &section.arms {
            Some(arms) => self::arms(arms, upstreams, faults),
            None => vec![Arm::same(name)],
        };
        let latency_objective = match &section.latency_objective {
            Some(At {
                place,
                value: Duration::ZERO,
            }) => {
                faults.add(place, "must be more than 0");
                Duration::ZERO
            }
            Some(At { value, .. }) => *value,
            None => batch::Config::default().latency_objective,
        };
        let (batch, cache) = (section.batch.as_ref(), section.cache.as_ref());
        let ignored = [
            batch.and_then(|batch| batch.ignore_headers.as_ref()),
            cache.and_then(|cache| cache.ignore_headers.as_ref()),
        ];
        let mut ignore_headers = Vec::new();
        for names in ignored.into_iter().flatten() {
            for name in headers(names, faults) {
                if !ignore_headers.contains(&name) {
                    ignore_headers.push(name);
                }
            }
        }
        let written = Written::of(section);
        selection::check_arms(written, faults);
        let selection = selection::selection(written, faults);
        let is_ensemble = selection.as_ref().is_some_and(|of| of.ensemble);
        let answering = arms.iter().filter(|arm| arm.shadow.is_none()).count();
        let model = Model {
            name: name.clone(),
            latency_objective,
            arms,
            selection_log: selection::log(written, surroundings, faults),
            deadline: selection::deadline(written, selection.as_ref(), answering, faults),
            selection,
            admission: overload::admission(section, latency_objective, is_ensemble),
            retry: overload::retry(section, faults),
            batch: batch.map(|section| self::batch(section, latency_objective, faults)),
            cache: cache.map(|section| self::cache(section, &ignore_headers, faults)),
            ignore_headers,
        };
        models.insert(name.clone(), model);
    }
    models
}

fn arms(
    section: &At<Named<Name, file::Arm>>,
    upstreams: &Upstreams<'_>,
    faults: &mut Collector,
) -> Vec<Arm> {
    let mut arms = Vec::new();
    for (name, section) in &section.0 {
        let upstream = section.upstream.as_ref();
        let protocol = upstream.and_then(|upstream| upstreams.protocol(upstream, faults));
        if let (Some(protocol), Some(version)) = (protocol, &section.version) {
            check_version(protocol, version, faults);
        }
        if let (Some(upstream), Some(model)) = (&section.upstream, &section.model) {
            let version = section.version.as_ref();
            let mut arm = Arm {
                upstream: Some(upstream.value.clone()),
                model: model.value.clone(),
                version: version.map(|version| version.value.clone()),
                ..Arm::same(name)
            };
            selection::share(section, &mut arm);
            arms.push(arm);
        }
    }
    arms
}

/// Finds fault with a version that the server's protocol cannot say: no caller could do anything
/// about it.
fn check_version(protocol: Protocol, version: &At<Name>, faults: &mut Collector) {
    let numbered = match protocol {
        Protocol::OipGrpc | Protocol::OipRest => return,
        Protocol::TfservingGrpc | Protocol::TfservingRest => version.value.as_str(),
    };
    let digits = numbered.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || numbered.parse::<i64>().is_err() {
        let message = format_args!("versions of models are numbers where {protocol} is spoken");
        faults.add(&version.place, message);
    }
}

fn batch(
    section: &At<file::Batch>,
    latency_objective: Duration,
    faults: &mut Collector,
) -> batch::Config {
    let default = batch::Config::default();
    let count = |field: &Option<At<NonZeroUsize>>| field.as_ref().map(|count| count.value.get());
    let size = |field: &Option<At<leaf::Size>>| field.as_ref().map(|size| size.value.0);
    let config = batch::Config {
        latency_objective,
        max_batch_size: count(&section.max_batch_size),
        controller: match &section.controller {
            Some(controller) => controller.value,
            None => default.controller,
        },
        max_delay: section
            .max_delay
            .as_ref()
            .map_or(default.max_delay, |delay| delay.value),
        max_in_flight: section
            .max_in_flight
            .as_ref()
            .map_or(default.max_in_flight, |calls| calls.value),
        max_queue_rows: count(&section.max_queue_rows).unwrap_or(default.max_queue_rows),
        max_queue_bytes: size(&section.max_queue_bytes).unwrap_or(default.max_queue_bytes),
        max_batch_bytes: size(&section.max_batch_bytes).unwrap_or(default.max_batch_bytes),
        split: section
            .split
            .as_ref()
            .map_or(default.split, |split| split.value),
        default_priority: count(&section.default_priority)
            .map_or(default.default_priority, |class| class as u64),
        cancel: section
            .cancel
            .as_ref()
            .map_or(default.cancel, |cancel| cancel.value),
        holdout: section
            .holdout
            .as_ref()
            .map_or(default.holdout, |share| share.value),
    };
    if let Some(delay) = section
        .max_delay
        .as_ref()
        .filter(|delay| delay.value >= latency_objective && !delay.value.is_zero())
    {
        let objective = super::units::format_duration(latency_objective);
        let message =
            format_args!("leaves nothing for the model: `latency_objective` is {objective}");
        faults.add(&delay.place, message);
    }
    if let (Some(controller), batch::Controller::Fixed, None) = (
        &section.controller,
        config.controller,
        config.max_batch_size,
    ) {
        faults.add(
            &controller.place,
            "a fixed controller needs `max_batch_size`",
        );
    }
    let place = |field: Option<&Place>| field.unwrap_or(&section.place).clone();
    if config
        .max_batch_size
        .is_some_and(|rows| rows > config.max_queue_rows)
    {
        let at = section.max_batch_size.as_ref().map(|size| &size.place);
        let message = format!(
            "is more than may wait: `max_queue_rows` is {}, so no call can become that large",
            config.max_queue_rows
        );
        faults.add(&place(at), message);
    }
    if config.max_batch_bytes > config.max_queue_bytes {
        let at = section.max_batch_bytes.as_ref().map(|size| &size.place);
        let at = at.or(section.max_queue_bytes.as_ref().map(|size| &size.place));
        let message = format!(
            "`max_batch_bytes` ({}) is more than may wait: `max_queue_bytes` is {}",
            super::units::format_size(config.max_batch_bytes),
            super::units::format_size(config.max_queue_bytes),
        );
        faults.add(&place(at), message);
    }
    config
}

fn cache(
    section: &At<file::Cache>,
    ignored: &[HeaderName],
    faults: &mut Collector,
) -> cache::Config {
    let default = cache::Config::default();
    let max_bytes = section.max_bytes.as_ref();
    let config = cache::Config {
        max_bytes: max_bytes.map_or(default.max_bytes, |size| size.value.0),
        ttl: section.ttl.as_ref().map_or(default.ttl, |ttl| ttl.value),
        unit: section
            .unit
            .as_ref()
            .map_or(default.unit, |unit| unit.value),
        tenant: None,
        warm: section
            .warm
            .as_ref()
            .map_or(default.warm, |rows| rows.value.0),
        bypass: section
            .bypass
            .as_ref()
            .map_or(default.bypass, |bypass| bypass.value),
    };
    if let Some(at) = max_bytes.filter(|size| size.value.0 < LEAST_CACHE) {
        let least = super::units::format_size(LEAST_CACHE);
        faults.add(
            &at.place,
            format_args!("must be at least {least}: less holds nothing worth a look-up"),
        );
    }
    if let Some(at) = &section.ttl {
        if at.value.is_zero() {
            faults.add(
                &at.place,
                "must be more than 0; leave `cache` out to keep nothing",
            );
        } else if at.value > LONGEST_TTL {
            faults.add(&at.place, "must be at most 8760h, which is a year");
        }
    }
    if let Some(at) = section.warm.as_ref().filter(|at| at.value.0 > MOST_WARM) {
        faults.add(&at.place, format_args!("must be at most {MOST_WARM}"));
    }
    let tenant = section.tenant.as_ref();
    let tenant = tenant.and_then(|section| self::tenant(section, &config, ignored, faults));
    cache::Config { tenant, ..config }
}

fn tenant(
    section: &At<file::Tenant>,
    cache: &cache::Config,
    ignored: &[HeaderName],
    faults: &mut Collector,
) -> Option<cache::Tenant> {
    let max_bytes = match &section.max_bytes {
        None => cache.max_bytes / TENANTS,
        Some(at) => {
            if at.value.0 > cache.max_bytes {
                let message = format!(
                    "is more than the whole cache may take: its `max_bytes` is {}",
                    super::units::format_size(cache.max_bytes)
                );
                faults.add(&at.place, message);
            } else if at.value.0 < LEAST_TENANT {
                let least = super::units::format_size(LEAST_TENANT);
                let message = format_args!("must be at least {least}: less holds no answer");
                faults.add(&at.place, message);
            }
            at.value.0
        }
    };
    let header = section.header.as_ref()?;
    let name = header.value.as_str();
    if ignored.contains(&header.value) {
        faults.add(
            &header.place,
            "tells nobody apart: `ignore_headers` names it",
        );
    } else if metadata::role(name) != Role::Caller || CONTROLS.contains(&name) {
        faults.add(
            &header.place,
            "tells nobody apart: it says nothing of who asks, and is not looked at",
        );
    }
    Some(cache::Tenant {
        header: name.into(),
        max_bytes,
    })
}

fn headers(section: &At<Vec<At<HeaderName>>>, faults: &mut Collector) -> Vec<HeaderName> {
    let mut names: Vec<HeaderName> = Vec::new();
    for name in &section.value {
        if names.contains(&name.value) {
            faults.add(&name.place, "the header is named twice");
        }
        names.push(name.value.clone());
    }
    names
}

fn limits(section: Option<&At<file::Limits>>, faults: &mut Collector) -> Limits {
    let default = Limits::default();
    let Some(section) = section else {
        return default;
    };
    let limits = Limits {
        max_message: section
            .max_message
            .as_ref()
            .map_or(default.max_message, |size| size.value.0),
        max_gathered: section
            .max_gathered
            .as_ref()
            .map_or(default.max_gathered, |size| size.value.0),
        max_queue_rows: section
            .max_queue_rows
            .as_ref()
            .map_or(default.max_queue_rows, |count| count.value.get()),
        max_queue_bytes: section
            .max_queue_bytes
            .as_ref()
            .map_or(default.max_queue_bytes, |size| size.value.0),
        max_connections: section
            .max_connections
            .as_ref()
            .map_or(default.max_connections, |count| count.value.get()),
        drain: section
            .drain
            .as_ref()
            .map_or(default.drain, |drain| drain.value),
    };
    if limits.max_gathered < limits.max_message {
        let (at, message) = match (&section.max_gathered, &section.max_message) {
            (Some(at), _) => (
                &at.place,
                format!(
                    "is less than one message may be: `max_message` is {}",
                    super::units::format_size(limits.max_message)
                ),
            ),
            (None, at) => (
                at.as_ref().map_or(&section.place, |at| &at.place),
                format!(
                    "is more than all messages may be together: `max_gathered` is {}",
                    super::units::format_size(limits.max_gathered)
                ),
            ),
        };
        faults.add(at, message);
    }
    limits
}

fn telemetry(section: Option<&At<file::Telemetry>>) -> Telemetry {
    let access_log = section.and_then(|section| section.access_log.as_ref());
    Telemetry {
        access_log: access_log.is_some_and(|access_log| access_log.value),
    }
}

/// The smallest cache: its shards hold some answers each.
const LEAST_CACHE: usize = 64 << 10;
/// The longest time that an answer is given again; more is a slip, and a cache outlives no process.
const LONGEST_TTL: Duration = Duration::from_secs(365 * 24 * 3600);
/// The most rows that a model is asked to warm up: eight at a time, ten seconds of a model that
/// takes 8 ms.
const MOST_WARM: usize = 10_000;
/// What share of a cache one tenant has where nothing is said: one of so many.
const TENANTS: usize = 8;
/// The smallest share of a tenant, which is what one has of the smallest cache.
const LEAST_TENANT: usize = LEAST_CACHE / TENANTS;
/// Headers by which callers speak to the cache, which never sees them as headers.
const CONTROLS: [&str; 2] = ["cache-control", "pragma"];
