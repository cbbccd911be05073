//! Endpoints that are lost and come back: everybody has exactly one answer.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use outrigger_filters::{
    batch::{Batch, BatchLayer, Batchable, Capability, Config, Controller, Handles, InFlight},
    inference::{
        Code, Datatype, Error, Form, Head, Parameter, Parameters, Payload, Request, RequestParts,
        Response, ResponseParts, Shape, Status, Tensor,
    },
    overload::{Cancel, Room},
};
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::{
    sync::watch,
    time::{Instant, advance, timeout_at},
};
use tower::{Layer as _, Service};

use super::{
    balance::{self, Balance, tests::replicas},
    observed::Observed,
    replicas::Replicas,
};

/// One step of a random life of the endpoints.
#[derive(Clone, Debug)]
enum Step {
    Send {
        rows: usize,
        alone: bool,
        patience: Option<u64>,
    },
    Leave(usize),
    Lose(usize, Health),
    Return(usize),
    Advance(u64),
    /// So many seconds in which nothing comes.
    Rest(u64),
    Drain,
}

/// What becomes of the calls to an endpoint, also of those under way.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Health {
    /// They are answered after two milliseconds.
    Well,
    /// They fail.
    Away,
    /// They hang, and fail when anything changes.
    Hangs,
}

/// The server behind an endpoint.
#[derive(Clone, Debug)]
struct Server {
    health: watch::Receiver<Health>,
    seen: Arc<Mutex<Seen>>,
}

/// How often each request was sent, by its mark, to whichever server.
type Seen = HashMap<u8, usize>;

type Stack = Balance<Batch<Observed<Server>>>;

struct Caller {
    mark: u8,
    rows: usize,
    answer: Pin<Box<balance::ResponseFuture<Batch<Observed<Server>>>>>,
}

struct World {
    stack: Stack,
    replicas: Arc<Replicas>,
    batches: Vec<Batch<Observed<Server>>>,
    servers: Vec<watch::Sender<Health>>,
    seen: Arc<Mutex<Seen>>,
    room: Arc<Room>,
    callers: Vec<Caller>,
    sent: u8,
}

impl Service<Request> for Server {
    type Response = Response;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let mut marks = request.inputs[0].data.to_bytes().to_vec();
        marks.dedup();
        for mark in marks {
            *self.seen.lock().entry(mark).or_default() += 1;
        }
        let mut health = self.health.clone();
        let until = Instant::now() + Duration::from_millis(2);
        Box::pin(async move {
            loop {
                let now = *health.borrow_and_update();
                match now {
                    Health::Well => match timeout_at(until, health.changed()).await {
                        Ok(_changed) => {}
                        Err(_) => return Ok(echo(&request)),
                    },
                    Health::Away => break,
                    Health::Hangs => {
                        let _changed = health.changed().await;
                        break;
                    }
                }
            }
            Err(Status::new(Code::Unavailable, "away").into())
        })
    }
}

impl World {
    fn new(endpoints: usize, config: Config) -> Self {
        let replicas = replicas(endpoints);
        let seen = Arc::<Mutex<Seen>>::default();
        let room = Room::whole(1000, 1 << 20);
        let capability = Capability::new(Batchable::Yes {
            max_batch_size: None,
        });
        let layer = BatchLayer::new(config, capability, Handles::default()).within(room.clone());
        let mut servers = Vec::new();
        let mut batches = Vec::new();
        for index in 0..endpoints {
            let (server, health) = watch::channel(Health::Well);
            let seen = seen.clone();
            let observed = Observed::new(Server { health, seen }, replicas.clone(), index);
            batches.push(layer.layer(observed));
            servers.push(server);
        }
        Self {
            stack: Balance::new(replicas.clone(), batches.iter().cloned()),
            replicas,
            batches,
            servers,
            seen,
            room,
            callers: Vec::new(),
            sent: 0,
        }
    }

    fn send(&mut self, rows: usize, alone: bool, patience: Option<u64>) {
        self.sent += 1;
        let mut request = request(self.sent, rows);
        request.head.deadline =
            patience.map(|millis| Instant::now() + Duration::from_millis(millis));
        if alone {
            let in_sequence = Parameter::Int64(1);
            request.parameters.insert("sequence_id".into(), in_sequence);
        }
        self.callers.push(Caller {
            mark: self.sent,
            rows,
            answer: Box::pin(self.stack.call(request)),
        });
    }

    /// Lets everything come to rest; returns how many answers came that are no errors.
    async fn settle(&mut self) -> usize {
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
        let mut well = 0;
        self.callers.retain_mut(|caller| {
            let mut cx = Context::from_waker(Waker::noop());
            match caller.answer.as_mut().poll(&mut cx) {
                Poll::Pending => true,
                Poll::Ready(answer) => {
                    if let Ok(answer) = answer {
                        well += 1;
                        assert_eq!(&*answer.id, caller.mark.to_string());
                        let own = vec![caller.mark; caller.rows];
                        assert_eq!(answer.outputs[0].data.to_bytes(), own);
                    }
                    false
                }
            }
        });
        assert!(self.seen.lock().values().all(|times| *times == 1));
        well
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Send {
                rows,
                alone,
                patience,
            } => self.send(rows, alone, patience),
            Step::Leave(which) if !self.callers.is_empty() => {
                drop(self.callers.remove(which % self.callers.len()));
            }
            Step::Leave(_) => {}
            Step::Lose(which, health) => {
                let which = which % self.servers.len();
                self.servers[which].send_replace(health);
            }
            Step::Return(which) => {
                let which = which % self.servers.len();
                self.servers[which].send_replace(Health::Well);
            }
            Step::Advance(millis) => advance(Duration::from_millis(millis)).await,
            Step::Rest(seconds) => {
                // Whatever ends does so before the leap: else it would seem to have taken as long.
                for _ in 0..100 {
                    advance(Duration::from_millis(1)).await;
                    self.settle().await;
                }
                advance(Duration::from_secs(seconds)).await;
            }
            Step::Drain => self.batches.iter().for_each(Batch::drain),
        }
    }

    async fn live(mut self, steps: Vec<Step>) {
        for step in steps {
            self.step(step).await;
            self.settle().await;
        }
        // When all are back, everybody has an answer soon.
        for server in &self.servers {
            server.send_replace(Health::Well);
        }
        for _ in 0..1000 {
            self.settle().await;
            if self.callers.is_empty() {
                break;
            }
            advance(Duration::from_millis(1)).await;
        }
        assert_eq!(self.callers.len(), 0, "without an answer");
        self.nothing_is_left().await;
        // And in a while everything is as it was, whichever was left out.
        advance(Duration::from_secs(60)).await;
        for _ in 0..20 {
            self.send(1, false, None);
            let mut well = self.settle().await;
            // A call, and what may be waited for company.
            for _ in 0..5 {
                advance(Duration::from_millis(1)).await;
                well += self.settle().await;
            }
            assert_eq!((well, self.callers.len()), (1, 0));
        }
        assert!(self.replicas.all_in());
        self.nothing_is_left().await;
    }

    async fn nothing_is_left(&mut self) {
        // Calls whose callers have left go on.
        advance(Duration::from_millis(2)).await;
        self.settle().await;
        assert_eq!(self.room.used(), (0, 0));
        for batch in &self.batches {
            let view = batch.view();
            let held = (view.queue_rows, view.in_flight, view.beside, batch.load());
            assert_eq!(held, (0, 0, 0, 0));
        }
    }
}

fn request(mark: u8, rows: usize) -> Request {
    Request::from(RequestParts {
        head: Head {
            model: "m".into(),
            id: mark.to_string().into(),
            ..Head::default()
        },
        inputs: vec![Tensor {
            name: "x".into(),
            datatype: Datatype::Uint8,
            shape: Shape::new([rows as i64]),
            parameters: Parameters::default(),
            data: Payload::from(bytes::Bytes::from(vec![mark; rows])),
            form: Form::Raw,
            unknown: Payload::new(),
        }],
        ..RequestParts::default()
    })
}

/// Answers each row with itself.
fn echo(request: &Request) -> Response {
    Response::from(ResponseParts {
        model: request.head.model.clone(),
        id: request.head.id.clone(),
        outputs: request.inputs.clone(),
        ..ResponseParts::default()
    })
}

fn step() -> impl Strategy<Value = Step> {
    let lost = prop::sample::select(vec![Health::Away, Health::Hangs]);
    prop_oneof![
        10 => (1..5_usize, prop::bool::weighted(0.1), prop::option::weighted(0.2, 1..9_u64))
            .prop_map(|(rows, alone, patience)| Step::Send { rows, alone, patience }),
        1 => any::<usize>().prop_map(Step::Leave),
        1 => (any::<usize>(), lost).prop_map(|(which, health)| Step::Lose(which, health)),
        1 => any::<usize>().prop_map(Step::Return),
        4 => (0..5_u64).prop_map(Step::Advance),
        // Longer than a call may hang before others are sent beside it.
        1 => (1..40_u64).prop_map(Step::Rest),
        1 => Just(Step::Drain),
    ]
}

fn config() -> impl Strategy<Value = Config> {
    let in_flight = prop_oneof![
        3 => (1..4_usize).prop_map(InFlight::Fixed),
        1 => Just(InFlight::Auto),
    ];
    let cancel = prop::sample::select(Cancel::ALL.to_vec());
    let controller = prop::sample::select(Controller::ALL.to_vec());
    (in_flight, cancel, controller, 0..3_u64, 1..9_usize).prop_map(
        |(max_in_flight, cancel, controller, delay, size)| Config {
            max_in_flight,
            cancel,
            controller,
            max_delay: Duration::from_millis(delay),
            max_batch_size: Some(size),
            max_queue_rows: 24,
            ..Config::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whichever_endpoints_are_lost_and_come_back_everybody_has_exactly_one_answer(
        steps in prop::collection::vec(step(), 1..120),
        endpoints in 1..5_usize,
        config in config(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            World::new(endpoints, config).live(steps).await;
        });
    }
}
