use std::fmt;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use rustls::pki_types::UnixTime;

use super::fault::Setting;

/// The metrics of TLS.
#[derive(Clone, Debug)]
pub struct Metrics {
    handshakes: Family<HandshakeLabels, Counter>,
    reloads: Family<ReloadLabels, Counter>,
    expiry: Family<ExpiryLabels, Gauge>,
}

/// Whose certificates they are, in the words of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    /// A listener, by its address.
    Listener(String),
    /// An upstream, by its name.
    Upstream(String),
}

/// The handles of one owner: how its handshakes ended.
#[derive(Clone, Debug)]
pub(super) struct Handshakes {
    pub(super) completed: Counter,
    pub(super) failed: Counter,
    /// Not to its end in time, or before whoever wanted it had left.
    pub(super) unfinished: Counter,
    /// Not begun: what came first was no TLS.
    pub(super) plaintext: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    listener: String,
    upstream: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ExpiryLabels {
    listener: String,
    upstream: String,
    file: &'static str,
}

impl Metrics {
    /// Registers everything.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            handshakes: Family::default(),
            reloads: Family::default(),
            expiry: Family::default(),
        };
        registry.register(
            "tls_handshakes",
            "TLS handshakes with clients and servers by how they ended",
            metrics.handshakes.clone(),
        );
        registry.register(
            "tls_reloads",
            "Changes of certificate files, applied or refused",
            metrics.reloads.clone(),
        );
        registry.register(
            "tls_certificate_expiry_seconds",
            "When a certificate expires, in Unix time; of several authorities the first",
            metrics.expiry.clone(),
        );
        metrics
    }

    /// Returns the handles for an owner's handshakes.
    pub(super) fn handshakes(&self, owner: &Owner) -> Handshakes {
        let (listener, upstream) = owner.labels();
        let counter = |result| {
            let labels = HandshakeLabels {
                listener: listener.clone(),
                upstream: upstream.clone(),
                result,
            };
            self.handshakes.get_or_create(&labels).clone()
        };
        Handshakes {
            completed: counter("completed"),
            failed: counter("failed"),
            unfinished: counter("unfinished"),
            plaintext: match owner {
                Owner::Listener(_) => counter("plaintext"),
                // A server that speaks no TLS fails: it was asked to.
                Owner::Upstream(_) => Counter::default(),
            },
        }
    }

    /// Counts changed files that were applied or refused.
    pub(super) fn reloaded(&self, applied: bool) {
        let result = if applied { "applied" } else { "refused" };
        self.reloads.get_or_create(&ReloadLabels { result }).inc();
    }

    /// Says when an owner's certificates expire.
    pub(super) fn expires(&self, owner: &Owner, expiries: &[(Setting, UnixTime)]) {
        let (listener, upstream) = owner.labels();
        for (setting, at) in expiries {
            let labels = ExpiryLabels {
                listener: listener.clone(),
                upstream: upstream.clone(),
                file: match (setting, owner) {
                    (Setting::Certificate | Setting::Key, _) => "certificate",
                    (Setting::Authorities, Owner::Listener(_)) => "client_ca",
                    (Setting::Authorities, Owner::Upstream(_)) => "ca",
                },
            };
            let at = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
            self.expiry.get_or_create(&labels).set(at);
        }
    }

    /// Forgets when certificates expire.
    pub(super) fn forget_expiries(&self) {
        self.expiry.clear();
    }
}

impl Owner {
    fn labels(&self) -> (String, String) {
        match self {
            Self::Listener(address) => (address.clone(), String::new()),
            Self::Upstream(name) => (String::new(), name.clone()),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listener(address) => write!(f, "listener {address}"),
            // Without a configuration file there is one only, and nobody named it.
            Self::Upstream(name) if name == "upstream" => f.write_str(name),
            Self::Upstream(name) => write!(f, "upstream {name}"),
        }
    }
}
