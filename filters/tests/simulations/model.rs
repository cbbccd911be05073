use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use outrigger_filters::inference::{Code, Error, Request, Response, ResponseParts, Status, Tensor};
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};
use tower::Service;

use crate::{
    case::{self, Noise},
    clock::Clock,
    random::{Random, happens, seeded},
    records::Records,
};

/// A model: calls wait for one of its executors in the order in which they come, and each takes
/// `beta + alpha * rows`.
#[derive(Clone, Debug)]
pub(crate) struct Model(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    case: case::Model,
    clock: Clock,
    records: Arc<Records>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When each executor has done what it has.
    free: Vec<Instant>,
    random: Random,
    calls: u64,
}

impl Model {
    pub(crate) fn new(case: &case::Model, clock: Clock, records: Arc<Records>, seed: u64) -> Self {
        let state = Mutex::new(State {
            free: vec![clock.start(); case.executors],
            random: seeded(seed, 1),
            calls: 0,
        });
        Self(Arc::new(Inner {
            case: case.clone(),
            clock,
            records,
            state,
        }))
    }
}

impl Inner {
    /// Serves a call, whether or not anybody waits for it.
    async fn serve(
        self: Arc<Self>,
        request: Request,
        answer: oneshot::Sender<Result<Response, Error>>,
    ) {
        let sent = Instant::now();
        let rows = numbers(&request);
        let bad = self.records.sent(&rows);
        let since = sent - self.clock.start();
        let phase = self.case.phases.iter().rfind(|phase| phase.from <= since);
        let slower = phase.map_or(1., |phase| phase.slower);
        let (until, busy, fails, hangs) = {
            let mut state = self.state.lock();
            state.calls += 1;
            let noise = match self.case.noise {
                None => 0.,
                Some(Noise::Exponential(mean)) => mean * state.random.exponential(),
                Some(Noise::Uniform(most)) => most * state.random.uniform(),
            };
            let least = self.case.beta + self.case.alpha.mul_f64(rows.len() as f64);
            let busy = least.mul_f64(slower * (1. + noise));
            let fails = phase.is_some_and(|phase| happens(&mut state.random, phase.failing));
            let hangs = match &self.case.hangs {
                Some(hangs) if state.calls.is_multiple_of(hangs.one_in) => Some(hangs.lasts),
                _ => None,
            };
            let free = state.free.iter_mut().min().expect("an executor");
            let until = (*free).max(sent) + busy;
            // A call that the server has lost occupies nothing.
            if hangs.is_none() {
                *free = until;
            }
            (until, busy, fails, hangs)
        };
        match hangs {
            Some(lasts) => self.clock.sleep(lasts).await,
            None => self.clock.sleep_until(until).await,
        }
        self.records.called(&rows, sent, busy);
        let result = match (bad, fails) {
            (true, _) => Err(Status::new(Code::InvalidArgument, "a row is bad").into()),
            (false, true) => Err(Status::new(Code::Unavailable, "out of order").into()),
            (false, false) => Ok(echo(&request)),
        };
        let _gone = answer.send(result);
    }
}

impl Service<Request> for Model {
    type Response = Response;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let (answer, answered) = oneshot::channel();
        // A server goes on with what it has, even if the call is cancelled.
        tokio::spawn(Arc::clone(&self.0).serve(request, answer));
        Box::pin(async move { answered.await.map_err(|_| "the run is over")? })
    }
}

impl case::Model {
    /// Returns the best static limit of rows, and the rows a second that calls of so many make.
    ///
    /// It is the largest of which 99 of 100 calls keep within three quarters of the objective; or
    /// within all of it, where two calls of a single row are over it.
    pub(crate) fn best(&self, objective: Duration) -> (usize, f64) {
        let (tail, mean) = match self.noise {
            None => (0., 0.),
            Some(Noise::Exponential(mean)) => (mean * f64::ln(100.), mean),
            Some(Noise::Uniform(most)) => (0.99 * most, most / 2.),
        };
        let (beta, alpha) = (self.beta.as_secs_f64(), self.alpha.as_secs_f64());
        let objective = objective.as_secs_f64();
        let share = match 2. * (beta + alpha) <= objective {
            true => 0.75,
            false => 1.,
        };
        let rows = ((objective * share / (1. + tail) - beta) / alpha)
            .floor()
            .max(1.);
        let rate = rows / ((beta + alpha * rows) * (1. + mean)) * self.executors as f64;
        (rows as usize, rate)
    }
}

/// Returns for each row the number of the request that it is of.
fn numbers(request: &Request) -> Vec<u64> {
    let data = request.inputs[0].data.to_bytes();
    let number = |row: &[u8]| u64::from_le_bytes(row.try_into().expect("rows of eight bytes"));
    data.chunks(8).map(number).collect()
}

/// Answers each row with itself.
fn echo(request: &Request) -> Response {
    Response::from(ResponseParts {
        model: request.head.model.clone(),
        id: request.head.id.clone(),
        outputs: request
            .inputs
            .iter()
            .map(|input| Tensor {
                name: "y".into(),
                ..input.clone()
            })
            .collect(),
        ..ResponseParts::default()
    })
}
