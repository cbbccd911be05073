use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use outrigger_filters::{admission, batch, cache, deadline, inference::Code, retry, select};
use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tokio::time::Instant;
use tracing::info;

use crate::{state, tls};

/// All metrics of a process. Handles are taken when stacks are built; a request only adds.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<RequestLabels, Counter>,
    request_duration: Family<ModelLabels, Histogram>,
    upstream_duration: Family<UpstreamLabels, Histogram>,
    reloads: Family<ReloadLabels, Counter>,
    connections: Gauge,
    ejected: Family<EndpointLabels, Gauge>,
    ejections: Family<EndpointLabels, Counter>,
    admission: admission::Metrics,
    retry: retry::Metrics,
    batch: batch::Metrics,
    cache: cache::Metrics,
    select: select::Metrics,
    deadline: deadline::Metrics,
    state: state::Metrics,
    tls: tls::Metrics,
    access_log: Arc<AtomicBool>,
}

/// The handles of one model and protocol: how many requests ended how, and when.
///
/// Requests that no model of the configuration claims are counted with an empty model.
#[derive(Debug)]
pub struct Requests {
    model: String,
    protocol: &'static str,
    family: Family<RequestLabels, Counter>,
    grpc: [OnceLock<Counter>; Code::ALL.len()],
    /// By status, beginning with 100; there where one request was not gRPC's.
    http: OnceLock<Box<[OnceLock<Counter>; HTTP_STATUSES]>>,
    duration: Histogram,
    access_log: Arc<AtomicBool>,
}

/// The handles of one endpoint of a model.
#[derive(Clone, Debug)]
pub struct Ejections {
    /// Whether it is left out.
    pub ejected: Gauge,
    /// How often it was left out.
    pub total: Counter,
}

/// One request's clock.
#[derive(Debug)]
pub struct Timer {
    started: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    model: String,
    protocol: &'static str,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    model: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamLabels {
    upstream: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    model: String,
    upstream: String,
    endpoint: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    result: &'static str,
}

impl Metrics {
    /// Registers everything under the prefix `outrigger`.
    pub fn new() -> Self {
        let mut whole = Registry::default();
        let registry = whole.sub_registry_with_prefix("outrigger");
        let requests = Family::default();
        registry.register("requests", "Requests by how they ended", requests.clone());
        let request_duration: Family<ModelLabels, Histogram> =
            Family::new_with_constructor(|| Histogram::new(DURATIONS));
        registry.register(
            "request_duration_seconds",
            "Time from a request's head to the end of its answer",
            request_duration.clone(),
        );
        let upstream_duration: Family<UpstreamLabels, Histogram> =
            Family::new_with_constructor(|| Histogram::new(DURATIONS));
        registry.register(
            "upstream_duration_seconds",
            "Time of inference calls to an upstream",
            upstream_duration.clone(),
        );
        let reloads = Family::default();
        registry.register(
            "config_reloads",
            "Reloads of the configuration",
            reloads.clone(),
        );
        let connections = Gauge::default();
        registry.register(
            "connections",
            "Open connections of clients",
            connections.clone(),
        );
        let ejected = Family::default();
        registry.register(
            "endpoint_ejected",
            "Whether an endpoint is left out because it fails or is far slower than the others",
            ejected.clone(),
        );
        let ejections = Family::default();
        registry.register(
            "endpoint_ejections",
            "How often an endpoint was left out",
            ejections.clone(),
        );
        let tls = tls::Metrics::register(registry);
        let state = state::Metrics::register(registry);
        let admission = admission::Metrics::register(&mut whole);
        let retry = retry::Metrics::register(&mut whole);
        let batch = batch::Metrics::register(&mut whole);
        let cache = cache::Metrics::register(&mut whole);
        let select = select::Metrics::register(&mut whole);
        let deadline = deadline::Metrics::register(&mut whole);
        Self {
            registry: Mutex::new(whole),
            requests,
            request_duration,
            upstream_duration,
            reloads,
            connections,
            ejected,
            ejections,
            admission,
            retry,
            batch,
            cache,
            select,
            deadline,
            state,
            tls,
            access_log: Arc::default(),
        }
    }

    /// Returns the handles for requests of a model in a protocol.
    pub fn requests(&self, model: &str, protocol: &'static str) -> Requests {
        let labels = ModelLabels {
            model: model.to_owned(),
        };
        Requests {
            model: model.to_owned(),
            protocol,
            family: self.requests.clone(),
            grpc: Default::default(),
            http: OnceLock::new(),
            duration: self.request_duration.get_or_create(&labels).clone(),
            access_log: self.access_log.clone(),
        }
    }

    /// Has every request logged when it ends, from now on, or none.
    pub fn log_requests(&self, log: bool) {
        self.access_log.store(log, Ordering::Relaxed);
    }

    /// Returns the handle for the time of an upstream's calls.
    pub fn upstream(&self, upstream: &str) -> Histogram {
        let labels = UpstreamLabels {
            upstream: upstream.to_owned(),
        };
        self.upstream_duration.get_or_create(&labels).clone()
    }

    /// Returns the handles for an endpoint of a model.
    pub fn ejections(&self, model: &str, upstream: &str, endpoint: &str) -> Ejections {
        let labels = EndpointLabels {
            model: model.to_owned(),
            upstream: upstream.to_owned(),
            endpoint: endpoint.to_owned(),
        };
        Ejections {
            ejected: self.ejected.get_or_create(&labels).clone(),
            total: self.ejections.get_or_create(&labels).clone(),
        }
    }

    /// Returns the admission filter's metrics.
    pub fn admission(&self) -> &admission::Metrics {
        &self.admission
    }

    /// Returns the metrics of second tries.
    pub fn retry(&self) -> &retry::Metrics {
        &self.retry
    }

    /// Returns the batch filter's metrics.
    pub fn batch(&self) -> &batch::Metrics {
        &self.batch
    }

    /// Returns selection's metrics.
    pub fn select(&self) -> &select::Metrics {
        &self.select
    }

    /// Returns those of deadlines.
    pub fn deadline(&self) -> &deadline::Metrics {
        &self.deadline
    }

    /// Returns those of the state that is shared.
    pub fn state(&self) -> &state::Metrics {
        &self.state
    }

    /// Returns the cache's metrics.
    pub fn cache(&self) -> &cache::Metrics {
        &self.cache
    }

    /// Returns the metrics of TLS.
    pub fn tls(&self) -> &tls::Metrics {
        &self.tls
    }

    /// Counts a reload, applied or refused.
    pub fn reloaded(&self, applied: bool) {
        let result = if applied { "applied" } else { "refused" };
        self.reloads.get_or_create(&ReloadLabels { result }).inc();
    }

    /// Returns the number of open client connections.
    pub fn connections(&self) -> &Gauge {
        &self.connections
    }

    /// Writes everything in Prometheus' text form (OpenMetrics 1.0).
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = encode(&mut text, &self.registry.lock());
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Requests {
    /// Counts a gRPC request that ended with a code.
    pub fn ended_grpc(&self, code: Code, timer: &Timer) {
        self.grpc[usize::from(code.number())]
            .get_or_init(|| self.counter(code.name()))
            .inc();
        self.ended(code.name(), timer);
    }

    /// Counts a request of another kind that ended with an HTTP status.
    pub fn ended_http(&self, status: http::StatusCode, timer: &Timer) {
        let kept = usize::from(status.as_u16())
            .checked_sub(100)
            .and_then(|index| self.http_counters().get(index));
        match kept {
            Some(counter) => counter.get_or_init(|| self.counter(status.as_str())).inc(),
            // No standard has one; a server may.
            None => self.counter(status.as_str()).inc(),
        };
        self.ended(status.as_str(), timer);
    }

    fn http_counters(&self) -> &[OnceLock<Counter>; HTTP_STATUSES] {
        self.http
            .get_or_init(|| Box::new([const { OnceLock::new() }; HTTP_STATUSES]))
    }

    fn ended(&self, code: &str, timer: &Timer) {
        let seconds = timer.seconds();
        self.duration.observe(seconds);
        if self.access_log.load(Ordering::Relaxed) {
            info!(target: "outrigger::access", model = self.model, protocol = self.protocol, code, seconds);
        }
    }

    fn counter(&self, code: &str) -> Counter {
        let labels = RequestLabels {
            model: self.model.clone(),
            protocol: self.protocol,
            code: code.to_owned(),
        };
        self.family.get_or_create(&labels).clone()
    }
}

impl Timer {
    /// Starts now.
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
        }
    }

    /// Returns the seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

/// From 100 to 599: those that have a class.
const HTTP_STATUSES: usize = 500;

/// From what a proxy adds to what people give up on; 20 ms is the usual objective.
const DURATIONS: [f64; 11] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0,
];

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[tokio::test]
    async fn each_status_of_http_is_counted_by_its_own_code() {
        let metrics = Metrics::new();
        let requests = metrics.requests("digits", "oip-rest");
        let timer = Timer::start();
        for status in [200, 200, 404, 100, 599, 600, 999] {
            let status = StatusCode::from_u16(status).unwrap();
            requests.ended_http(status, &timer);
        }
        requests.ended_grpc(Code::Ok, &timer);
        let text = metrics.text();
        for (code, count) in [
            ("200", 2),
            ("404", 1),
            ("100", 1),
            ("599", 1),
            ("600", 1),
            ("999", 1),
            ("OK", 1),
        ] {
            let line = format!(
                "outrigger_requests_total{{model=\"digits\",protocol=\"oip-rest\",code=\"{code}\"}} {count}\n"
            );
            assert!(text.contains(&line), "{line}{text}");
        }
    }
}
