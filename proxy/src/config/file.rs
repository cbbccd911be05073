//! The sections of the configuration as they are written. The comments are what users read in the
//! schema. Whether the parts fit together is for [`super::resolve`] to say.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use http::HeaderName;
use outrigger_filters::{
    admission::Concurrency,
    batch::{Controller, InFlight, Share},
    cache::{Bypass, Unit},
    overload::Cancel,
    select::{Missing, Policy, Value},
};

use super::leaf::{
    ClientAuth, Count, FailureLoss, FilePath, Fraction, LossKind, Perhaps, Positive, ServerName,
    Shadow, Size, Weight,
};
use super::read::{At, Named, section};
use super::{Endpoint, HttpVersion, Name, Protocol, RedisUrl};

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
        /// How feedback is known for our own. Only where a model has `selection`.
        feedback: Feedback = optional,
        /// Where what selection has learned is kept. Left out: in memory, for as long as the process
        /// lives. Only where a model has `selection`.
        state: State = optional,
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
        /// The models that may answer, by a name of your own, at most 64. Left out: the model of the
        /// same name at the listener's upstream.
        arms: Named<Name, Arm> = optional,
        /// Merges concurrent requests into one call. Left out: off.
        batch: Batch = optional,
        /// Answers from what the model has answered before, row by row. Left out: off.
        cache: Cache = optional,
        /// Which arm answers a request, and what is learned from feedback. Left out: by the arms'
        /// weights, where there are several arms or a default output, and without a prediction id
        /// where there are not.
        selection: Selection = optional,
        /// What is answered where there is no answer worth giving.
        deadline: Deadline = optional,
        /// Bounds the calls that are under way where nothing is merged; what is over it waits, the
        /// most urgent first, and is refused at once where it would be too late. Left out: on with
        /// its usual settings where `deadline` or `hedge` is there, and for ensembles.
        admission: Admission = optional,
        /// Sends again what was lost with its connection. Left out: on with its usual settings where
        /// anything else is configured for the model.
        retry: Retry = optional,
        /// Sends a request to a second endpoint when the first takes long. Left out: off.
        hedge: Hedge = optional,
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
        /// Its share beside those of the other arms: of the choices of policy `fixed`, and of what
        /// the others begin with. Left out: 1.
        weight: Weight = optional,
        /// The least probability with which it is chosen while it is up. Left out: 0.
        min_probability: Fraction = optional,
        /// The greatest probability with which it is chosen while others are up. Left out: 1.
        max_probability: Fraction = optional,
        /// The share of requests of which it gets a copy that nobody waits for; `true` is all of
        /// them. Such an arm never answers, and nothing is learned of it but how often it agrees.
        /// Left out: it answers.
        shadow: Shadow = optional,
    }
}

section! {
    /// Which arm answers a request, and what is learned from feedback.
    struct Selection {
        /// How arms are chosen: `fixed` (default) by their weights, `epsilon-greedy` mostly the one
        /// with the least mean loss, `exp3` by weights that fall with the losses of those that were
        /// chosen, `thompson` by the probability that an arm is the best. With `exp4` all arms
        /// answer, and vote with weights that fall with their losses.
        policy: Perhaps<Policy> = optional,
        /// How fast weights fall, more than 0 and at most 10; of `exp3` (left out: 0.2) and of
        /// `exp4` (left out: 0.3).
        learning_rate: Positive = optional,
        /// The share of choices that are made evenly among all arms; of `exp3`. Left out: 0.01.
        exploration: Fraction = optional,
        /// What each update gives of the weights evenly to all arms, so that none is lost for good,
        /// at most 0.5; of `exp3` (left out: 0.0001) and of `exp4` (left out: 0.01).
        share: Fraction = optional,
        /// What a loss still counts after another one; 1 forgets nothing. Of `epsilon-greedy`, where
        /// it goes by losses of the same arm (left out: 0.99), and of `thompson`, where it goes by
        /// those of any (left out: 0.995).
        discount: Fraction = optional,
        /// The share of choices that are made evenly among all arms; of `epsilon-greedy`. Left out:
        /// 0.05.
        epsilon: Fraction = optional,
        /// Whether all arms answer, and their answers are put together: a vote on labels, the mean of
        /// numbers. For policy `fixed`; with `exp4` it is always so. Default: false.
        ensemble: bool = optional,
        /// Tells callers apart by a header, and learns for each of them apart. Left out: all alike.
        context: Context = optional,
        /// The output that is judged. Left out: the first.
        label: Name = optional,
        /// How far an answer is from the truth that feedback brings: `zero-one` (default) for
        /// labels, `absolute` or `squared` for numbers, `log` for the scores of labels.
        loss: Perhaps<LossKind> = optional,
        /// What is as bad as anything worse: a distance, for `absolute` and `squared` (left out: 1),
        /// or a loss in nats, for `log` (left out: that of a probability of 1 in 100).
        loss_scale: Positive = optional,
        /// What an arm loses, from 0 to 1, when its call fails by its own fault, or `ignore`: nothing
        /// is learned of it. Default: 1.0.
        failure_loss: FailureLoss = optional,
        /// Whether nothing is learned for the time being. Default: false.
        freeze: bool = optional,
        /// Where random choices begin, so that they can be repeated. Left out: somewhere else at
        /// each start.
        seed: Count = optional,
        /// Writes down what was chosen, with which probability, and what came of it, to judge other
        /// policies by. Left out: nothing is written.
        log: SelectionLog = optional,
    }
}

section! {
    /// Callers for each of whom is learned apart. One who is new begins with what was learned of all.
    struct Context {
        /// The header that names them. It may be one of `ignore_headers`: then callers are told apart
        /// by it for the choice alone, and share calls and stored answers.
        header: HeaderName = required,
        /// How many are remembered in memory, at most 10000000; those who were not seen for the
        /// longest time are forgotten first, or looked up again where `state` is shared.
        /// Default: 100000.
        max_contexts: NonZeroUsize = optional,
    }
}

section! {
    /// A log of choices and of what came of them, a JSON object a line.
    struct SelectionLog {
        /// The file, which belongs to this model alone.
        path: FilePath = required,
        /// Bytes of the file, at least 64KiB; beyond them it is renamed, and another one is begun.
        /// Default: 64MiB.
        max_bytes: Size = optional,
        /// Files that are kept, with the one that is written to; at most 1000. Default: 4.
        files: NonZeroUsize = optional,
        /// The share of requests that are written down. Default: 1.0.
        sample: Fraction = optional,
    }
}

section! {
    /// What is answered where there is no answer worth giving.
    struct Deadline {
        /// How long an answer may take of requests that name no time themselves (`grpc-timeout`,
        /// `outrigger-timeout`). Left out: as long as it takes.
        default: Duration = optional,
        /// How many arms of an ensemble must have answered by the deadline, or there is no answer
        /// but the default output. Left out: 1.
        quorum: NonZeroUsize = optional,
        /// Whether an ensemble answers as soon as no other vote could change which label wins; the
        /// confidence is then that of the votes that are in. Default: false, all are waited for
        /// until the deadline.
        enough: bool = optional,
        /// The answer to a row, by outputs, that is given when no arm has answered, or none well
        /// enough: the values of one row, like `label: [0]`. Left out: there is none.
        default_output: Named<Name, Vec<At<Value>>> = optional,
        /// The share of an ensemble's weights that must agree with an answer, or the default output
        /// is given. Left out: every answer is given.
        min_confidence: Fraction = optional,
        /// What stands for an arm of an ensemble of numbers that has not answered: `leave-out`
        /// (default) nothing, `mean` the mean of what it has answered so far.
        missing: Missing = optional,
        /// Whether the time that is left is told servers of the Open Inference Protocol as the
        /// request's parameter `timeout` too, in microseconds, by which Triton's queues go where the
        /// model allows it (`allow_timeout_override`). Default: false.
        timeout_parameter: bool = optional,
    }
}

section! {
    /// How many calls are under way, of requests that are not merged.
    struct Admission {
        /// Calls under way at the same time, for each endpoint, or `auto` (default): as many as make
        /// it answer more.
        max_concurrency: Concurrency = optional,
        /// Requests that may wait, for all endpoints of an arm; over it callers are refused.
        /// Default: 1000.
        max_queue_requests: NonZeroUsize = optional,
        /// Bytes of messages that may wait, for all endpoints of an arm; over it callers are refused.
        /// Default: 64MiB.
        max_queue_bytes: Size = optional,
        /// The class of requests that name no priority; of classes the least number goes first.
        /// Default: 10.
        default_priority: NonZeroUsize = optional,
        /// What becomes of a call whose caller has left: `never` (default) lets it go on and drops
        /// what it brings, `abandoned` cancels it at the server.
        cancel: Cancel = optional,
    }
}

section! {
    /// When a request is sent again. Those that are part of a sequence, or name shared memory, never
    /// are: the server may have kept something of the first.
    struct Retry {
        /// The share of requests that may be sent again because their connection was lost before
        /// there was an answer. Default: 0.1; 0 is off.
        budget: Share = optional,
    }
}

section! {
    /// When a request is sent to a second endpoint beside the first.
    struct Hedge {
        /// After the time within which this share of requests is answered. Default: 0.95.
        quantile: Share = optional,
        /// The share of requests that may be sent twice. Default: 0.05.
        budget: Share = optional,
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

section! {
    /// How feedback is known for our own: the prediction id that comes back with it is signed.
    struct Feedback {
        /// The file of the key, of at least 16 bytes, which all replicas share. Left out: a random
        /// one, so that feedback must come to the process that has answered.
        key: FilePath = optional,
        /// The file of the key that was used before, whose ids are still taken.
        previous_key: FilePath = optional,
        /// How old a prediction id may be, at most a year. Default: 24h.
        max_age: Duration = optional,
    }
}

section! {
    /// Where what selection has learned is kept: in a Redis that all replicas share, or in a
    /// directory. No request waits for either.
    struct State {
        /// The URL of Redis: `redis://[user:password@]host:port/database`,
        /// `redis+sentinel://host:port,host:port/master/database` or
        /// `redis+cluster://host:port,host:port`; with TLS `rediss` instead of `redis`. What is no
        /// letter or figure of a user or password is written as in `%40`. A password is better kept
        /// in a file.
        redis: RedisUrl = optional,
        /// The file of the password of Redis.
        password_file: FilePath = optional,
        /// The file of the authorities of the certificates of Redis. Left out: the system's.
        ca: FilePath = optional,
        /// What the names of keys in Redis begin with; who shares it, shares what is learned.
        /// Default: outrigger.
        prefix: Name = optional,
        /// How often differences are exchanged with Redis, from 10ms to 1m. Default: 250ms.
        interval: Duration = optional,
        /// How long Redis remembers a caller who was not heard of, at least 1m. Default: 720h.
        context_ttl: Duration = optional,
        /// The directory, instead of Redis: a file for each model, which this process alone writes
        /// to.
        directory: FilePath = optional,
    }
}
