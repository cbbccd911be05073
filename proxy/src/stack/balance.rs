use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use outrigger_filters::{
    inference::{Error, Infer, Request, Response},
    retry::Endpoints,
};
use pin_project_lite::pin_project;
use smallvec::SmallVec;
use tokio::time::Instant;
use tower::Service;

use super::replicas::{Replicas, Trial};
use crate::upstream::two_of;

/// Sends each request to that of two endpoints chosen at random that is expected to answer sooner,
/// of those that can be reached and are not left out: one that cannot answer, or fails, does so
/// sooner than any, and would draw all requests.
///
/// Two choices keep the longest queue short without every request looking at every endpoint
/// (Mitzenmacher, "The power of two choices", 2001).
#[derive(Clone, Debug)]
pub(crate) struct Balance<S> {
    replicas: Arc<Replicas>,
    /// Shared, in the order of the replicas: a stack is cloned for each request, and its queues
    /// are not.
    services: Arc<[S]>,
}

/// What a balance asks of an endpoint's service.
pub(crate) trait Loaded {
    /// Returns how much work is waiting and under way, in any unit that endpoints share.
    fn load(&self) -> usize;

    /// Returns how long a request would take that comes now; `None` before the first answer.
    fn completion(&self, now: Instant) -> Option<Duration>;

    /// Tells whether a request that comes now would not wait for others.
    fn has_spare(&self) -> bool;
}

pin_project! {
    /// The answer to a request, from the endpoint that was chosen.
    #[must_use = "futures do nothing unless polled"]
    pub(crate) struct ResponseFuture<S: Infer> {
        #[pin]
        state: State<S>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S: Infer> {
        Called { #[pin] call: S::Future, trial: Option<Trial> },
        Nowhere,
    }
}

/// An endpoint for a request, by its place.
#[derive(Debug)]
enum Choice {
    Used(usize),
    Tried(Trial),
}

impl<S> Balance<S> {
    /// Balances over the services of a model's endpoints, in the same order.
    pub(crate) fn new(replicas: Arc<Replicas>, services: impl IntoIterator<Item = S>) -> Self {
        Self {
            replicas,
            services: services.into_iter().collect(),
        }
    }
}

impl<S> Service<Request> for Balance<S>
where
    S: Infer + Loaded,
{
    type Response = Response;
    type Error = Error;
    type Future = ResponseFuture<S>;

    /// Endpoints are always ready: each refuses at once what it has no place for.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match self.choose(Instant::now()) {
            Some(choice) => self.begin(choice, request).1,
            None => ResponseFuture::nowhere(),
        }
    }
}

impl<S> Endpoints for Balance<S>
where
    S: Infer + Loaded + 'static,
    S::Future: 'static,
{
    type Future = ResponseFuture<S>;

    fn count(&self) -> usize {
        self.services.len()
    }

    fn send(&self, request: Request) -> (usize, Self::Future) {
        match self.choose(Instant::now()) {
            Some(choice) => self.begin(choice, request),
            None => (0, ResponseFuture::nowhere()),
        }
    }

    fn send_elsewhere(
        &self,
        request: Request,
        than: usize,
        spare: bool,
    ) -> Result<(usize, Self::Future), Request> {
        match self.choose_other(than, spare, Instant::now()) {
            Some(index) => Ok(self.begin(Choice::Used(index), request)),
            None => Err(request),
        }
    }
}

impl<S: Infer> Balance<S> {
    fn begin(&self, choice: Choice, request: Request) -> (usize, ResponseFuture<S>) {
        let (index, trial) = match choice {
            Choice::Used(index) => (index, None),
            Choice::Tried(trial) => (trial.index(), Some(trial)),
        };
        // A clone shares its queue with the original, and is ready as the original is.
        let call = self.services[index].clone().call(request);
        let state = State::Called { call, trial };
        (index, ResponseFuture { state })
    }
}

impl<S: Loaded> Balance<S> {
    fn choose(&self, now: Instant) -> Option<Choice> {
        match self.services.len() {
            0 => return None,
            1 => return Some(Choice::Used(0)),
            _ => {}
        }
        let (first, second) = two_of(self.services.len());
        if self.replicas.all_in() && self.is_reached(first) && self.is_reached(second) {
            return Some(Choice::Used(self.sooner(first, second, now)));
        }
        self.choose_of_those_left(now)
    }

    fn choose_of_those_left(&self, now: Instant) -> Option<Choice> {
        let reached: SmallVec<[usize; 8]> = (0..self.services.len())
            .filter(|index| self.is_reached(*index))
            .collect();
        let used = match self.replicas.sift(&reached, now) {
            Ok(trial) => return Some(Choice::Tried(trial)),
            Err(used) => used,
        };
        // Where only those are left that are left out, all count as in use.
        let of = [used, reached].into_iter().find(|some| !some.is_empty());
        let Some(of) = of else {
            return Some(Choice::Used(two_of(self.services.len()).0));
        };
        let (first, second) = two_of(of.len());
        Some(Choice::Used(self.sooner(of[first], of[second], now)))
    }

    /// Chooses among the others than one that can be reached and are not left out; `spare`: and which
    /// have capacity to spare.
    fn choose_other(&self, than: usize, spare: bool, now: Instant) -> Option<usize> {
        let others: SmallVec<[usize; 8]> = (0..self.services.len())
            .filter(|index| *index != than && self.is_reached(*index))
            .filter(|index| !self.replicas.is_out(*index))
            .filter(|index| !spare || self.services[*index].has_spare())
            .collect();
        if others.is_empty() {
            return None;
        }
        let (first, second) = two_of(others.len());
        Some(self.sooner(others[first], others[second], now))
    }

    fn is_reached(&self, index: usize) -> bool {
        self.replicas.endpoint(index).backoff().is_none()
    }

    /// Returns which of two is expected to answer sooner; where one of them was never asked, the
    /// one with less to do, and else that one. Those that refuse calls count for less.
    fn sooner(&self, first: usize, second: usize, now: Instant) -> usize {
        let (a, b) = (&self.services[first], &self.services[second]);
        let penalty = |index: usize| self.replicas.pace(index).penalty(now);
        let (a_penalty, b_penalty) = (penalty(first), penalty(second));
        let second_is_sooner = match (a.completion(now), b.completion(now)) {
            (Some(a), Some(b)) => b.as_secs_f64() * b_penalty < a.as_secs_f64() * a_penalty,
            (a_known, b_known) => {
                let a_load = (a.load() as f64 + 1.) * a_penalty;
                let b_load = (b.load() as f64 + 1.) * b_penalty;
                (b_load, b_known.is_some()) < (a_load, a_known.is_some())
            }
        };
        if second_is_sooner { second } else { first }
    }
}

impl<S: Infer> ResponseFuture<S> {
    fn nowhere() -> Self {
        Self {
            state: State::Nowhere,
        }
    }
}

impl<S: Infer> Future for ResponseFuture<S> {
    type Output = Result<Response, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Called { call, .. } => call.poll(cx).map_err(Into::into),
            StateProjection::Nowhere => Poll::Ready(Err(NoEndpoint(()).into())),
        }
    }
}

/// A model's upstream has no endpoints.
#[derive(Debug)]
pub(crate) struct NoEndpoint(());

impl std::fmt::Display for NoEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the upstream has no endpoints")
    }
}

impl std::error::Error for NoEndpoint {}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        cmp::Reverse,
        collections::{BTreeMap, BinaryHeap, HashSet},
        io,
        ops::Range,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use rand::RngExt as _;

    use super::{super::pace::Begun, *};
    use crate::{
        body::Body,
        config::{HttpVersion, Protocol},
        telemetry::Metrics,
        upstream::{Connector, Endpoint, call_endpoint},
    };

    /// A service of which only counts how much it has to do, and for how long.
    #[derive(Debug)]
    struct Fake {
        calls: AtomicUsize,
        seconds: Option<u64>,
        paced: Option<(Arc<Replicas>, usize)>,
    }

    impl Loaded for Fake {
        fn load(&self) -> usize {
            self.calls.load(Ordering::Relaxed)
        }

        fn completion(&self, now: Instant) -> Option<Duration> {
            match &self.paced {
                Some((replicas, index)) => replicas.pace(*index).completion(self.load(), now),
                None => self.seconds.map(Duration::from_secs),
            }
        }

        fn has_spare(&self) -> bool {
            self.load() == 0
        }
    }

    pub(in crate::stack) fn replicas(count: usize) -> Arc<Replicas> {
        let refuse = Connector::new(|_| async { Err(io::ErrorKind::ConnectionRefused.into()) });
        let endpoint = |index: usize| {
            Arc::new(Endpoint::new(
                format!("a:{}", index + 1).parse().unwrap(),
                Protocol::OipGrpc,
                HttpVersion::Http2,
                refuse.clone(),
            ))
        };
        let endpoints: Vec<_> = (0..count).map(endpoint).collect();
        let metrics = Metrics::new();
        Replicas::of("m", &endpoints, |endpoint| {
            metrics.ejections("m", "u", endpoint.authority().as_str())
        })
    }

    fn balance(loads: &[(usize, Option<u64>)]) -> Balance<Fake> {
        let fakes = loads.iter().map(|(calls, seconds)| Fake {
            calls: AtomicUsize::new(*calls),
            seconds: *seconds,
            paced: None,
        });
        Balance::new(replicas(loads.len()), fakes)
    }

    fn chosen(balance: &Balance<Fake>) -> HashSet<usize> {
        (0..1000)
            .filter_map(|_| balance.choose(Instant::now()))
            .map(|choice| match choice {
                Choice::Used(index) => index,
                Choice::Tried(trial) => trial.index(),
            })
            .collect()
    }

    #[tokio::test]
    async fn the_last_to_answer_of_several_endpoints_is_never_chosen() {
        assert_eq!(chosen(&balance(&[])), HashSet::new());
        assert_eq!(chosen(&balance(&[(7, Some(9))])), HashSet::from([0]));
        let expected = balance(&[(9, Some(1)), (0, Some(2)), (1, Some(9))]);
        assert_eq!(chosen(&expected), HashSet::from([0, 1]));
    }

    #[tokio::test]
    async fn who_was_never_asked_is_asked_first_but_not_by_all() {
        let idle = balance(&[(0, Some(0)), (0, None)]);
        assert_eq!(chosen(&idle), HashSet::from([1]));
        let asked = balance(&[(0, Some(0)), (1, None)]);
        assert_eq!(chosen(&asked), HashSet::from([0]));
        let unknown = balance(&[(2, None), (1, None)]);
        assert_eq!(chosen(&unknown), HashSet::from([1]));
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_is_gone_draws_nothing_until_it_is_tried_again() {
        let balance = balance(&[(0, None), (5, None), (6, None)]);
        let gone = balance.replicas.endpoint(0).clone();
        call_endpoint(&gone, http::Request::new(Body::empty()))
            .await
            .expect_err("it refuses");
        assert_eq!(chosen(&balance), HashSet::from([1]));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(chosen(&balance), HashSet::from([0, 1]));
    }

    #[tokio::test]
    async fn where_only_those_are_left_that_fail_they_are_used() {
        let balance = balance(&[(0, None), (0, None)]);
        let now = Instant::now();
        (0..10).for_each(|_| balance.replicas.failed(0, now, now, 1.));
        assert_eq!(chosen(&balance), HashSet::from([1]));
        let gone = balance.replicas.endpoint(1).clone();
        call_endpoint(&gone, http::Request::new(Body::empty()))
            .await
            .expect_err("it refuses");
        assert_eq!(chosen(&balance), HashSet::from([0]));
    }

    #[tokio::test]
    async fn a_second_try_goes_to_another_endpoint_in_use_and_a_copy_to_one_with_nothing_to_do() {
        let balance = balance(&[(0, None), (3, None), (0, None), (9, None)]);
        let now = Instant::now();
        let others = |than, spare| -> HashSet<_> {
            (0..1000)
                .filter_map(|_| balance.choose_other(than, spare, now))
                .collect()
        };
        assert_eq!(others(0, false), HashSet::from([1, 2]));
        assert_eq!(others(0, true), HashSet::from([2]));
        assert_eq!(others(1, true), HashSet::from([0, 2]));
        (0..10).for_each(|_| balance.replicas.failed(2, now, now, 1.));
        assert_eq!(others(0, false), HashSet::from([1]));
        assert_eq!(others(0, true), HashSet::new());
        let gone = balance.replicas.endpoint(0).clone();
        call_endpoint(&gone, http::Request::new(Body::empty()))
            .await
            .expect_err("it refuses");
        assert_eq!(others(1, true), HashSet::new());
        assert_eq!(others(1, false), HashSet::from([3]));
        assert_eq!(others(3, false), HashSet::from([1]));
    }

    /// What becomes of a call.
    #[derive(Clone, Copy, Debug)]
    enum Fate {
        /// It is answered after those before it, and so many seconds.
        Answered(f64),
        /// It fails after a millisecond.
        Failed,
        /// It is refused after a millisecond, which is no fault.
        Refused,
    }

    /// What was seen in each second.
    #[derive(Debug, Default)]
    struct Seen {
        /// The calls of each endpoint, and those of them that failed.
        calls: Vec<BTreeMap<u64, usize>>,
        failed: Vec<BTreeMap<u64, usize>>,
        /// Milliseconds that each answered call took.
        times: Vec<f64>,
        /// How many endpoints were left out at once, at most.
        most_out: usize,
    }

    #[derive(Debug)]
    struct Call {
        index: usize,
        began: f64,
        begun: Begun,
        answered: bool,
        trial: Option<Trial>,
    }

    impl Seen {
        fn share(&self, endpoint: usize, seconds: Range<u64>) -> f64 {
            let calls = |index: usize| count(&self.calls[index], &seconds);
            let all: usize = (0..self.calls.len()).map(calls).sum();
            calls(endpoint) as f64 / all as f64
        }

        fn failures(&self, seconds: Range<u64>) -> usize {
            let each = self.failed.iter().map(|failed| count(failed, &seconds));
            each.sum()
        }

        fn p99(&mut self) -> f64 {
            self.times.sort_by(f64::total_cmp);
            self.times[self.times.len() * 99 / 100]
        }
    }

    fn count(calls: &BTreeMap<u64, usize>, seconds: &Range<u64>) -> usize {
        calls.range(seconds.clone()).map(|(_, calls)| calls).sum()
    }

    /// Lets calls come at random, so many a second for a minute, to servers that take one after
    /// the other; by the balance, or each to the server that truly answers soonest.
    fn simulate(
        endpoints: usize,
        rate: f64,
        by_balance: bool,
        fate: impl Fn(usize, f64) -> Fate,
    ) -> Seen {
        let mut rng = rand::rng();
        let base = Instant::now();
        let at = |seconds: f64| base + Duration::from_secs_f64(seconds);
        let replicas = replicas(endpoints);
        let fakes = (0..endpoints).map(|index| Fake {
            calls: AtomicUsize::new(0),
            seconds: None,
            paced: Some((replicas.clone(), index)),
        });
        let balance = Balance::new(replicas.clone(), fakes);
        let mut seen = Seen {
            calls: vec![BTreeMap::new(); endpoints],
            failed: vec![BTreeMap::new(); endpoints],
            ..Seen::default()
        };
        let mut free = vec![0_f64; endpoints];
        let mut ends: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
        let mut calls: Vec<Call> = Vec::new();
        let mut now = 0.;
        while now < 60. {
            now -= (1. - rng.random::<f64>()).ln() / rate;
            while let Some(Reverse((nanos, call))) = ends.peek().copied() {
                let end = nanos as f64 * 1e-9;
                if end > now {
                    break;
                }
                ends.pop();
                let call = &mut calls[call];
                let (index, began) = (call.index, at(call.began));
                balance.services[index]
                    .calls
                    .fetch_sub(1, Ordering::Relaxed);
                let pace = replicas.pace(index);
                pace.ended(call.begun, call.answered, at(end));
                if call.answered {
                    seen.times.push((end - call.began) * 1e3);
                    replicas.answered(index, began, at(end));
                } else {
                    *seen.failed[index].entry(end as u64).or_default() += 1;
                    match fate(index, call.began) {
                        Fate::Refused => replicas.pace(index).refused(),
                        _ => replicas.failed(index, began, at(end), 0.5),
                    }
                }
                call.trial = None;
                let out = (0..endpoints).filter(|index| replicas.is_out(*index));
                seen.most_out = seen.most_out.max(out.count());
            }
            let end = |index: usize| match fate(index, now) {
                Fate::Answered(time) => free[index].max(now) + time,
                Fate::Failed | Fate::Refused => now + 0.001,
            };
            let (index, trial) = match by_balance {
                true => match balance.choose(at(now)).unwrap() {
                    Choice::Used(index) => (index, None),
                    Choice::Tried(trial) => (trial.index(), Some(trial)),
                },
                false => {
                    let soonest = (0..endpoints).min_by(|a, b| end(*a).total_cmp(&end(*b)));
                    (soonest.unwrap(), None)
                }
            };
            let end = end(index);
            let answered = matches!(fate(index, now), Fate::Answered(_));
            if answered {
                free[index] = end;
            }
            *seen.calls[index].entry(now as u64).or_default() += 1;
            let calls_there = &balance.services[index].calls;
            let beside = calls_there.fetch_add(1, Ordering::Relaxed);
            ends.push(Reverse(((end * 1e9) as u64, calls.len())));
            calls.push(Call {
                index,
                began: now,
                begun: replicas.pace(index).begin(beside, at(now)),
                answered,
                trial,
            });
        }
        seen
    }

    const USUAL: Fate = Fate::Answered(0.01);

    /// Together they answer 325 calls a second.
    #[tokio::test]
    async fn one_slow_endpoint_of_four_does_not_decide_how_long_calls_take() {
        let fate = |index, _| match index {
            0 => Fate::Answered(0.04),
            _ => USUAL,
        };
        for rate in [60., 160., 240.] {
            let mut seen = simulate(4, rate, true, fate);
            let (p99, share) = (seen.p99(), seen.share(0, 0..60));
            let best = simulate(4, rate, false, fate).p99();
            assert!(p99 < best * 2., "{rate}: {p99} {best}");
            assert!(share < 0.03, "{rate}: {share}");
        }
    }

    #[tokio::test]
    async fn an_endpoint_that_fails_at_once_costs_a_few_calls_and_then_one_now_and_then() {
        let seen = simulate(4, 200., true, |index, _| match index {
            0 => Fate::Failed,
            _ => USUAL,
        });
        // Five in a row, and those that were under way.
        assert!((5..=8).contains(&seen.failures(0..1)), "{seen:?}");
        // After about 1, 3, 7, 15, 31 and 61 seconds, or a little sooner.
        assert!((4..=7).contains(&seen.failures(1..60)), "{seen:?}");
        assert_eq!(seen.most_out, 1);
    }

    #[tokio::test]
    async fn an_endpoint_that_refuses_at_once_draws_little_although_the_other_has_much_to_do() {
        // It never answered, or refuses for a while.
        for since in [0., 10.] {
            let seen = simulate(2, 80., true, |index, now| match index {
                0 if (since..40.).contains(&now) => Fate::Refused,
                _ => USUAL,
            });
            let share = seen.share(0, 12..40);
            assert!(share < 0.1, "{share}");
            // Nobody is left out for that, and it has its share again.
            assert_eq!(seen.most_out, 0);
            let share = seen.share(0, 50..60);
            assert!((0.3..0.7).contains(&share), "{share}");
        }
    }

    #[tokio::test]
    async fn an_endpoint_that_dies_and_comes_back_has_its_share_again() {
        let seen = simulate(4, 200., true, |index, now| match index {
            0 if (10. ..20.).contains(&now) => Fate::Failed,
            _ => USUAL,
        });
        assert!((0.2..0.3).contains(&seen.share(0, 1..10)), "{seen:?}");
        assert!(seen.failures(10..21) <= 12, "{seen:?}");
        assert!(seen.share(0, 12..20) < 0.01, "{seen:?}");
        // It was left out for at most as long again as it was dead.
        assert!((0.2..0.3).contains(&seen.share(0, 30..60)), "{seen:?}");
    }

    #[tokio::test]
    async fn where_all_fail_some_stay_and_all_are_back_at_once() {
        let seen = simulate(4, 200., true, |_, now| match now {
            10.0..20.0 => Fate::Failed,
            _ => USUAL,
        });
        assert!(seen.most_out < 4);
        assert_eq!(seen.failures(21..60), 0);
        for endpoint in 0..4 {
            let share = seen.share(endpoint, 25..60);
            assert!((0.2..0.3).contains(&share), "{share}");
        }
    }

    #[tokio::test]
    async fn the_last_endpoint_is_never_left_out() {
        let one = simulate(1, 50., true, |_, now| match now {
            ..30. => Fate::Failed,
            _ => USUAL,
        });
        assert_eq!((one.most_out, one.share(0, 0..60)), (0, 1.));
        let two = simulate(2, 100., true, |_, _| Fate::Failed);
        assert!(two.most_out < 2);
    }

    #[tokio::test]
    async fn an_endpoint_that_was_ten_times_as_slow_has_its_share_again() {
        let seen = simulate(4, 200., true, |index, now| match index {
            0 if (10. ..20.).contains(&now) => Fate::Answered(0.1),
            _ => USUAL,
        });
        assert!(seen.share(0, 12..20) < 0.02, "{seen:?}");
        assert!((0.2..0.3).contains(&seen.share(0, 45..60)), "{seen:?}");
    }
}
