//! The sections of the configuration as they are written. The comments are what users read in the
//! schema. Whether the parts fit together is for [`super::resolve`] to say.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use http::HeaderName;
use outrigger_filters::{
    batch::{Cancel, Controller, InFlight, Share},
    cache::{Bypass, Unit},
};

use super::leaf::{ClientAuth, Count, FilePath, ServerName, Size};
use super::read::{At, Named, section};
use super::{Endpoint, HttpVersion, Name, Protocol};

section! {
    /// The configuration of Outrigger.
    struct File {
        /// Where clients come in.
        listeners: Vec<At<Listener>> = required,
        /// Where operators and probes come in. Left out: nowhere.
        admin: Admin = optional,
        /// The servers behind, by a name of your own.
        upstreams: Named<Name, Upstream> = required,
        /// The models that more shall happen to than passing through, by the name that clients
        /// send.
        models: Named<Name, Model> = optional,
        /// Bounds of the process.
        limits: Limits = optional,
        /// What is told about requests.
        telemetry: Telemetry = optional,
    }
    later {
        state: "model selection",
    }
}

section! {
    /// A port that clients connect to. HTTP/1.1 and HTTP/2 are both understood on it.
    struct Listener {
        /// The IP address and port to bind, like `0.0.0.0:9001`. Port 0 lets the system choose.
        address: SocketAddr = required,
        /// The upstream of everything that no model claims.
        upstream: Name = required,
        /// Speaks TLS with clients. Left out: plain text.
        tls: ServerTls = optional,
    }
    later {
        transparent: "transparent listeners",
    }
}

section! {
    /// TLS with clients. Files are in PEM form, and are read again when they change; what is
    /// relative begins at the folder of the configuration.
    struct ServerTls {
        /// The file of the certificate, and of those that lead from it to its authority.
        certificate: FilePath = required,
        /// The file of the certificate's private key.
        key: FilePath = required,
        /// The file of the authorities of clients' certificates. Left out: clients are not asked.
        client_ca: FilePath = optional,
        /// What is done with clients that show no certificate: `required` (default) refuses them,
        /// `optional` serves them. A wrong certificate is refused either way.
        client_auth: ClientAuth = optional,
    }
}

section! {
    /// The port of `/live`, `/ready`, `/metrics`, `/config`, `/models` and `/cache/flush`.
    struct Admin {
        /// The IP address and port to bind, like `127.0.0.1:9900`.
        address: SocketAddr = required,
    }
}

section! {
    /// Servers that answer the same calls.
    struct Upstream {
        /// What the servers speak.
        protocol: Protocol = required,
        /// Their URLs, like `http://127.0.0.1:8001` or `https://models.example`, all of one scheme.
        /// Requests are shared out among them.
        endpoints: Vec<At<Endpoint>> = required,
        /// The version of HTTP that carries the protocol. Default: 2 for gRPC, 1 for REST.
        http: HttpVersion = optional,
        /// How TLS is spoken to endpoints with `https://`. Left out: with the system's roots, and
        /// without a certificate of our own.
        tls: ClientTls = optional,
    }
}

section! {
    /// TLS with servers. Files are in PEM form, and are read again when they change; what is
    /// relative begins at the folder of the configuration.
    struct ClientTls {
        /// The file of the authorities of servers' certificates. Left out: the system's.
        ca: FilePath = optional,
        /// The file of the certificate that servers are shown. Left out: none.
        certificate: FilePath = optional,
        /// The file of its private key.
        key: FilePath = optional,
        /// The name that servers' certificates must be for. Left out: the endpoint's host.
        server_name: ServerName = optional,
    }
}

section! {
    /// A model that clients name. Without any settings it is passed through.
    struct Model {
        /// What 99 of 100 requests shall keep to, queue and model together. Default: 20ms.
        latency_objective: Duration = optional,
        /// The models that may answer, by a name of your own; in this version one.
        /// Left out: the model of the same name at the listener's upstream.
        arms: Named<Name, Arm> = optional,
        /// Merges concurrent requests into one call. Left out: off.
        batch: Batch = optional,
        /// Answers from what the model has answered before, row by row. Left out: off.
        cache: Cache = optional,
    }
    later {
        selection: "model selection",
        deadline: "deadlines",
    }
}

section! {
    /// A model on a server.
    struct Arm {
        /// The upstream that serves it.
        upstream: Name = required,
        /// Its name there.
        model: Name = required,
        /// The version to ask for, in quotes. Left out: what the client asks for.
        version: Name = optional,
    }
}

section! {
    /// How concurrent requests are merged into one call.
    struct Batch {
        /// The most rows in a call. Left out: what the server says of the model; a server that
        /// says nothing is sent no batches. Saying it here says that the model can be batched.
        max_batch_size: NonZeroUsize = optional,
        /// How long an endpoint that is free may wait for further rows; it waits only while company
        /// is likely and worth it. Default: 0ms, a lone request goes at once.
        max_delay: Duration = optional,
        /// How the limit of rows follows the model: `quantile` (default) allows what 99 of 100
        /// calls can take within the objective, `aimd` grows it while calls keep within the
        /// objective and shrinks it when they do not, `fixed` stays at `max_batch_size`.
        controller: Controller = optional,
        /// Calls under way at the same time, for each endpoint, or `auto`: as many as make it
        /// answer more. Default: 1.
        max_in_flight: InFlight = optional,
        /// Rows that may wait, for all endpoints of an arm; over it callers are refused. Default: 25000.
        max_queue_rows: NonZeroUsize = optional,
        /// Bytes of messages that may wait, for all endpoints of an arm; over it callers are refused.
        /// Default: 64MiB.
        max_queue_bytes: Size = optional,
        /// Bytes of tensors in a call. Default: 32MiB.
        max_batch_bytes: Size = optional,
        /// Whether a request with more rows than calls may have is sent in parts, and its answer put
        /// together. Default: false, it is a call of its own.
        split: bool = optional,
        /// The class of requests that name no priority; of classes the least number goes first.
        /// Default: 10.
        default_priority: NonZeroUsize = optional,
        /// What becomes of a call whose callers have all left: `never` (default) lets it go on and
        /// drops what it brings, `abandoned` cancels it at the server.
        cancel: Cancel = optional,
        /// The share of requests, and of the model's time, that goes to calls of one request, to see
        /// what batching is worth, and to stop it where it does not pay. Default: 0.005; 0 is off.
        holdout: Share = optional,
        /// Headers that may differ between the requests of a batch: a merged call has none of them,
        /// so no answer may depend on them, and the cache ignores them as well. Requests whose other
        /// headers differ are never merged.
        ignore_headers: Vec<At<HeaderName>> = optional,
    }
}

section! {
    /// How answers are kept and given again. Only for models that answer the same to the same:
    /// `outrigger probe` tells whether one does.
    struct Cache {
        /// Bytes that the answers take, with all that is kept of them besides; at least 64KiB.
        /// Default: 64MiB.
        max_bytes: Size = optional,
        /// How long an answer may be given again, at most; some go up to a tenth sooner, so that
        /// not all go at once. Default: 10m.
        ttl: Duration = optional,
        /// What is kept: the answer to each `row`, whatever request it came in, or to each
        /// `request` as a whole. Left out: rows where the server says that the model takes batches,
        /// or `batch.max_batch_size` does, and whole requests otherwise.
        unit: Unit = optional,
        /// Tells callers apart by a header, so that none fills the cache alone. Left out: one may.
        tenant: Tenant = optional,
        /// Rows that the model is asked again after everything was forgotten, because its version
        /// changed or somebody asked for it: those that were asked for last, one by one, at most
        /// 10000. They are sent with the headers of those who asked. Default: 0.
        warm: Count = optional,
        /// Whether rows go past the cache while looking them up costs more than it saves: `auto`
        /// (default) or `never`.
        bypass: Bypass = optional,
        /// Headers on which no answer depends: requests that differ in them share one, and, where
        /// they are merged, a call, which then has none of them. Other calls go out with them. Those
        /// of `batch.ignore_headers` are ignored in any case. Requests whose other headers differ
        /// never share an answer.
        ignore_headers: Vec<At<HeaderName>> = optional,
    }
}

section! {
    /// Callers who are told apart.
    struct Tenant {
        /// The header that names them, which is none of those that are ignored. Stored answers are
        /// never shared by callers whose headers differ; this one has a bound of its own besides.
        header: HeaderName = required,
        /// Bytes that the answers to one of them take, at least 8KiB. Left out: an eighth of the
        /// cache's `max_bytes`.
        max_bytes: Size = optional,
    }
}

section! {
    /// Bounds of the process.
    struct Limits {
        /// Bytes of a message that is read whole to be merged; what passes through is not.
        /// Default: 64MiB.
        max_message: Size = optional,
        /// Bytes of such messages at the same time, in the whole process; over it callers are
        /// refused. At least `max_message`. Default: 512MiB.
        max_gathered: Size = optional,
        /// Rows that may wait to be merged, for all models together; over it callers are refused.
        /// Default: 100000.
        max_queue_rows: NonZeroUsize = optional,
        /// Bytes of messages that may wait to be merged, for all models together; over it callers
        /// are refused. Default: 256MiB.
        max_queue_bytes: Size = optional,
        /// Connections of clients at the same time. Default: 10000.
        max_connections: NonZeroUsize = optional,
        /// How long requests under way may take to end after SIGTERM. Default: 30s.
        drain: Duration = optional,
    }
}

section! {
    /// What is told about requests.
    struct Telemetry {
        /// Whether each request is logged. Default: false.
        access_log: bool = optional,
    }
    later {
        otlp: "traces",
        sample_ratio: "traces",
    }
}
