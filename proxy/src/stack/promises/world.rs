//! A proxy over pipes, its servers and its callers, and what has to be true of all that they did.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Version};
use outrigger_filters::inference::{
    Datatype, Form, Head, Parameters, Payload, RequestParts, Shape, Tensor,
};
use tokio::{
    io,
    runtime::Handle,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::{
    plan::{Caller, Case, Patience},
    server::{Act, Greeting, INFER, PIPE, Server},
};
use crate::{
    body::Body,
    codec::oip_grpc,
    config::Config,
    server::{self, Drain, Draining, Handler as _, Outcome},
    stack::{Held, Router, Table},
    telemetry::Metrics,
    upstream::Connector,
};

/// What became of a caller.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) caller: Caller,
    pub(super) began: Instant,
    pub(super) ended: Instant,
    pub(super) how: How,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum How {
    /// It was answered with rows.
    Answered { rows: Vec<i64>, default: bool },
    /// It was told a status of gRPC.
    Told(u8, String),
    /// Its stream was reset.
    Reset(Option<h2::Reason>),
    /// It left.
    Left,
}

pub(super) struct World {
    case: Case,
    servers: Vec<Server>,
    table: Table,
    router: Router,
    draining: Draining,
    _drain: Drain,
    _metrics: Metrics,
}

impl World {
    pub(super) fn new(case: &Case) -> Self {
        let servers: Vec<Server> = case
            .servers
            .iter()
            .map(|script| Server::new(script.acts.clone(), script.greetings.clone()))
            .collect();
        let called = servers.clone();
        let connector = Connector::new(move |authority| {
            let server = usize::from(authority.port_u16().unwrap()) - 1;
            std::future::ready(called[server].connect())
        });
        let metrics = Metrics::new();
        let config = case.stack.config(servers.len());
        let config = Config::read(&config).unwrap_or_else(|faults| panic!("{faults}\n{config}"));
        let table = Table::build(config, None, &metrics, &connector);
        let (drain, draining) = Drain::new();
        Self {
            case: case.clone(),
            servers,
            router: Router::new(table.routes()[0].clone()),
            table,
            draining,
            _drain: drain,
            _metrics: metrics,
        }
    }

    /// Connects a client of HTTP/2.
    async fn connect(&self) -> h2::client::SendRequest<Bytes> {
        let (near, far) = io::duplex(PIPE);
        let (router, draining) = (self.router.clone(), self.draining.clone());
        tokio::spawn(server::serve(far, router, draining));
        let mut builder = h2::client::Builder::new();
        builder
            .initial_max_send_streams(4096)
            .max_local_error_reset_streams(None);
        let (sender, connection) = builder.handshake(near).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// Asks without a connection; the answer is what the caller is told by it: a status of gRPC.
    pub(super) fn handle(&self, caller: &Caller) -> impl Future<Output = String> + Send + 'static {
        let request = head(caller).body(Body::full(message(caller), None));
        let handling = self.router.handle(request.unwrap());
        async move {
            let Outcome::Answer(answer) = handling.await else {
                return "reset".to_owned();
            };
            let status = answer.headers().get("grpc-status");
            let status = status.map(|status| status.to_str().unwrap().to_owned());
            status.unwrap_or_default()
        }
    }

    /// Lets the case happen, and says what became of its callers; all of them have ended.
    pub(super) async fn live(&self) -> Vec<Ended> {
        if self.case.stack.asks() {
            self.learned().await;
        }
        let began = Instant::now();
        let connections = [self.connect().await, self.connect().await];
        let mut callers = JoinSet::new();
        for (nth, caller) in self.case.callers.iter().enumerate() {
            let sender = connections[nth % connections.len()].clone();
            callers.spawn(call(sender, began, caller.clone()));
        }
        // Who names no deadline waits as long as a server hangs.
        let last = self.case.callers.iter().map(|caller| caller.at).max();
        let released = began + Duration::from_millis(last.unwrap_or(0)) + PATIENCE;
        let servers = self.servers.clone();
        callers.spawn(async move {
            sleep_until(released).await;
            servers.iter().for_each(Server::release);
            None
        });
        let ended = timeout_at(released + AT_MOST, callers.join_all()).await;
        let ended = ended.expect("somebody has no answer");
        ended.into_iter().flatten().collect()
    }

    /// Waits until the servers have said what the model takes, as far as they can be reached.
    async fn learned(&self) {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until && !self.table.arms().all(|arm| arm.is_learned()) {
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Checks what the callers were told, and when.
    pub(super) fn everybody_has_its_own_answer_in_time(&self, ended: &[Ended]) {
        assert_eq!(ended.len(), self.case.callers.len());
        for one in ended {
            match &one.how {
                How::Answered { rows, default } => {
                    let own = vec![one.caller.mark; one.caller.rows];
                    let wanted = if *default { vec![-1; own.len()] } else { own };
                    assert_eq!(rows, &wanted, "{one:?}");
                }
                How::Told(code, _) => {
                    let own = [4, 8, 14].contains(code);
                    assert!(own || self.case.may_fail_with(*code), "{one:?}");
                }
                How::Reset(reason) => {
                    let said = reason.is_some_and(|reason| self.case.resets_with(reason));
                    assert!(said, "{one:?}");
                }
                How::Left => {}
            }
            if let Some(deadline) = self.deadline(one)
                && one.how != How::Left
            {
                assert!(
                    one.ended <= deadline,
                    "{:?} late: {one:?}",
                    one.ended - deadline
                );
            }
        }
    }

    /// Checks what the servers were asked, and when.
    pub(super) fn nothing_is_sent_that_nobody_waits_for(&self, ended: &[Ended]) {
        for seen in self.servers.iter().flat_map(Server::seen) {
            let is_live = |mark: &&i64| {
                ended.iter().any(|one| {
                    let due = self.deadline(one);
                    // A call that waits for a connection, or that the server has refused unseen,
                    // counts as sent where calls go on without their callers. The others of an
                    // ensemble are asked also for the cache and the policy.
                    let stays = self.case.stack.asks_all()
                        && (one.how != How::Left || self.case.stack.ends_early());
                    let until = match self.case.goes_on() || stays {
                        true => due.unwrap_or(seen.at),
                        false => one.ended,
                    };
                    one.caller.mark == **mark
                        && (one.began..=until).contains(&seen.at)
                        && due.is_none_or(|due| seen.at < due)
                })
            };
            let live = seen.marks.iter().filter(is_live).count();
            let asked = |one: &&Ended| seen.marks.contains(&one.caller.mark);
            let callers: Vec<&Ended> = ended.iter().filter(asked).collect();
            assert!(live > 0, "nobody waits for {seen:?} of {callers:?}");
            let due: Option<Vec<Instant>> = seen
                .marks
                .iter()
                .flat_map(|mark| {
                    let of_mark = ended.iter().filter(|one| one.caller.mark == *mark);
                    of_mark.filter(|one| one.began <= seen.at)
                })
                .map(|one| self.deadline(one))
                .collect();
            if let Some(due) = due {
                let due = due.into_iter().max().unwrap();
                let told = seen.told.expect("the time that is left is told");
                let left = due.saturating_duration_since(seen.at);
                assert!(told <= left, "told {told:?} of {left:?}: {seen:?}");
            }
        }
    }

    /// Checks that nothing is held for anybody, after a while in which nobody came.
    pub(super) async fn nothing_is_left(self) {
        sleep(Duration::from_secs(20)).await;
        for upstream in self.table.upstreams() {
            for endpoint in upstream.endpoints() {
                assert_eq!(endpoint.calls(), 0, "calls under way");
                let made = endpoint.dials();
                assert!(
                    made <= 1 || !self.case.is_reachable(),
                    "{made} connections were made"
                );
            }
        }
        for arm in self.table.arms() {
            let view = arm.view();
            for endpoint in view["endpoints"].as_array().unwrap() {
                for count in HELD {
                    let held = endpoint[count].as_u64().unwrap_or(0);
                    assert_eq!(held, 0, "{count} of {endpoint}");
                }
            }
        }
        let route = &self.table.routes()[0];
        let first = Held::new(route.gathered.clone(), 0).grow(1);
        assert!(first.is_ok(), "bytes are gathered");
        assert_eq!(self.table.room().used(), (0, 0), "room is taken");
        // Whatever was begun for anybody has ended: with the proxy, nothing lives on.
        drop(self);
        for _ in 0..1000 {
            if Handle::current().metrics().num_alive_tasks() == 0 {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        let alive = Handle::current().metrics().num_alive_tasks();
        panic!("{alive} tasks live on");
    }

    /// Returns until when a caller has to be answered, by what it or the configuration says.
    fn deadline(&self, one: &Ended) -> Option<Instant> {
        let millis = match one.caller.patience {
            Patience::Grpc(millis) | Patience::Own(millis) => Some(millis),
            Patience::Usual => self.case.stack.default_deadline(),
        };
        Some(one.began + Duration::from_millis(millis?))
    }
}

impl Case {
    fn acts(&self) -> impl Iterator<Item = &Act> {
        self.servers.iter().flat_map(|script| &script.acts)
    }

    fn may_fail_with(&self, code: u8) -> bool {
        let closes = self.acts().any(|act| matches!(act, Act::Close(_)));
        let said = |act: &Act| matches!(act, Act::Fail(_, said) if *said == code);
        self.acts().any(said) || closes && code == 13
    }

    fn resets_with(&self, reason: h2::Reason) -> bool {
        let resets = |act: &Act| match act {
            Act::Reset(_, said) => *said == reason,
            // What was under way is reset by the library.
            Act::Close(_) => true,
            _ => false,
        };
        self.acts().any(resets)
    }

    /// Tells whether a call that waits for a connection may go on without its caller.
    fn goes_on(&self) -> bool {
        let refuses = |act: &Act| matches!(act, Act::Close(_) | Act::Reset(..));
        let mut scripts = self.servers.iter();
        let waits = scripts.any(|script| !script.greetings.is_empty());
        let outlives = self.stack.outlives() || self.stack.asks_all();
        outlives && (waits || self.acts().any(refuses))
    }

    /// Tells whether no server ever ends a connection or takes none.
    fn is_reachable(&self) -> bool {
        let lasts = !self.acts().any(|act| matches!(act, Act::Close(_)));
        let greets = |greeting: &Greeting| matches!(greeting, Greeting::After(_));
        let mut greetings = self.servers.iter().flat_map(|script| &script.greetings);
        lasts && greetings.all(greets)
    }
}

/// Calls as a caller does.
async fn call(
    sender: h2::client::SendRequest<Bytes>,
    start: Instant,
    caller: Caller,
) -> Option<Ended> {
    sleep_until(start + Duration::from_millis(caller.at)).await;
    let began = Instant::now();
    let calls = exchange(sender, &caller);
    let how = match caller.leaves {
        // As soon as it has sent.
        Some(0) => tokio::select! {
            biased;
            how = calls => how,
            () = tokio::task::yield_now() => How::Left,
        },
        Some(millis) => {
            let until = began + Duration::from_millis(millis);
            timeout_at(until, calls).await.unwrap_or(How::Left)
        }
        None => calls.await,
    };
    Some(Ended {
        caller,
        began,
        ended: Instant::now(),
        how,
    })
}

async fn exchange(sender: h2::client::SendRequest<Bytes>, caller: &Caller) -> How {
    match answered(sender, caller).await {
        Ok(how) => how,
        Err(error) => How::Reset(error.reason()),
    }
}

async fn answered(
    sender: h2::client::SendRequest<Bytes>,
    caller: &Caller,
) -> Result<How, h2::Error> {
    let mut sender = sender.ready().await?;
    let (answer, mut stream) = sender.send_request(head(caller).body(()).unwrap(), false)?;
    stream.send_data(message(caller), true)?;
    let (head, mut body) = answer.await?.into_parts();
    let mut data = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        data.extend_from_slice(&piece);
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    let field = |name: &str| -> Option<String> {
        let of = |headers: &HeaderMap| Some(headers.get(name)?.to_str().unwrap().to_owned());
        of(&trailers).or_else(|| of(&head.headers))
    };
    let code = field("grpc-status").expect("a status").parse().unwrap();
    if code != 0 {
        return Ok(How::Told(code, field("grpc-message").unwrap_or_default()));
    }
    let parts = oip_grpc::decode_response(&Bytes::from(data).slice(5..)).unwrap();
    let rows = parts.outputs[0].data.to_bytes();
    let rows = rows
        .chunks(8)
        .map(|row| i64::from_le_bytes(row.try_into().unwrap()));
    Ok(How::Answered {
        rows: rows.collect(),
        default: field("outrigger-default").is_some(),
    })
}

fn head(caller: &Caller) -> http::request::Builder {
    let mut request = Request::post(format!("http://proxy{INFER}"))
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    match caller.patience {
        Patience::Usual => {}
        Patience::Grpc(millis) => request = request.header("grpc-timeout", format!("{millis}m")),
        Patience::Own(millis) => {
            request = request.header("outrigger-timeout", format!("{millis}ms"));
        }
    }
    request
}

/// Each row says whose it is.
fn message(caller: &Caller) -> Bytes {
    let rows: Vec<u8> = (0..caller.rows)
        .flat_map(|_| caller.mark.to_le_bytes())
        .collect();
    let parts = RequestParts {
        head: Head {
            model: "m".into(),
            id: caller.mark.to_string().into(),
            ..Head::default()
        },
        inputs: vec![Tensor {
            name: "x".into(),
            datatype: Datatype::Int64,
            shape: Shape::new([i64::try_from(caller.rows).unwrap(), 1]),
            form: Form::Raw,
            data: Bytes::from(rows).into(),
            parameters: Parameters::default(),
            unknown: Payload::new(),
        }],
        ..RequestParts::default()
    };
    oip_grpc::encode_request(&parts).unwrap().to_bytes()
}

/// How long after the last caller all servers answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long after that everybody has an answer: a silent endpoint is given up after five seconds,
/// and then left alone for two.
const AT_MOST: Duration = Duration::from_secs(30);
/// What `/models` shows of an endpoint that is nothing when nobody is there.
const HELD: [&str; 5] = [
    "queue_rows",
    "queue_requests",
    "queue_bytes",
    "in_flight",
    "beside",
];
