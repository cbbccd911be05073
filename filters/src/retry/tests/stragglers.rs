//! Servers that pause now and then, as for the collection of garbage, with and without copies.

use std::sync::atomic::AtomicU64;

use tokio::{
    sync::{Semaphore, oneshot},
    time::sleep_until,
};

use super::*;
use crate::random::Random;

/// Three servers that each work on four requests at a time, a hundredth of a second each in the mean,
/// and pause for a tenth of a second every two seconds in the mean.
#[derive(Clone)]
struct Fleet(Arc<Everything>);

struct Everything {
    servers: Vec<Server>,
    random: Mutex<Random>,
    /// Requests that a server has begun with.
    begun: AtomicU64,
}

struct Server {
    slots: Arc<Semaphore>,
    /// Requests that wait or are worked on.
    load: Arc<AtomicUsize>,
    /// When it pauses, and until when.
    pauses: Vec<(Instant, Instant)>,
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Fleet {
    fn new(seed: u64, lasts: Duration) -> Self {
        let mut random = Random::new(seed);
        let start = Instant::now();
        let servers = (0..SERVERS).map(|_| {
            let (mut at, mut pauses) = (start, Vec::new());
            while at < start + lasts {
                at += EVERY.mul_f64(random.exponential());
                pauses.push((at, at + PAUSE));
                at += PAUSE;
            }
            Server {
                slots: Arc::new(Semaphore::new(SLOTS)),
                load: Arc::default(),
                pauses,
            }
        });
        Self(Arc::new(Everything {
            servers: servers.collect(),
            random: Mutex::new(random),
            begun: AtomicU64::new(0),
        }))
    }

    fn load(&self, place: usize) -> usize {
        self.0.servers[place].load.load(Relaxed)
    }

    /// Chooses the one with less to do of two.
    fn choose(&self, mut of: Vec<usize>) -> Option<usize> {
        let mut random = self.0.random.lock();
        while of.len() > 2 {
            let place = (random.uniform() * of.len() as f64) as usize;
            of.swap_remove(place);
        }
        if random.uniform() < 0.5 {
            of.reverse();
        }
        of.into_iter().min_by_key(|place| self.load(*place))
    }

    fn begin(&self, place: usize, request: &Request) -> (usize, <Self as Endpoints>::Future) {
        let fleet = self.clone();
        let server = &self.0.servers[place];
        server.load.fetch_add(1, Relaxed);
        let counted = Counted(server.load.clone());
        let slots = server.slots.clone();
        let work = Duration::from_micros(request.head.priority);
        let call = async move {
            let slot = slots.acquire_owned().await?;
            fleet.0.begun.fetch_add(1, Relaxed);
            let (answer, answered) = oneshot::channel();
            // What has begun goes on without its caller.
            tokio::spawn(async move {
                let _both = (slot, counted);
                let server = &fleet.0.servers[place];
                sleep_until(server.end(Instant::now(), work)).await;
                let _left = answer.send(());
            });
            answered.await?;
            Ok(ResponseParts::default().into())
        };
        (place, Box::pin(call))
    }
}

impl Server {
    /// Returns when work ends that begins at an instant.
    fn end(&self, begin: Instant, work: Duration) -> Instant {
        let mut end = begin + work;
        let mut now = begin;
        let next = self.pauses.partition_point(|(_, until)| *until <= begin);
        for (from, until) in &self.pauses[next..] {
            if *from >= end {
                break;
            }
            end += *until - now.max(*from);
            now = *until;
        }
        end
    }
}

impl Endpoints for Fleet {
    type Future = Pin<Box<dyn Future<Output = Result<Response, Error>> + Send>>;

    fn count(&self) -> usize {
        SERVERS
    }

    fn send(&self, request: Request) -> (usize, Self::Future) {
        let all = (0..SERVERS).collect();
        let place = self.choose(all).expect("there are some");
        self.begin(place, &request)
    }

    fn send_elsewhere(
        &self,
        request: Request,
        than: usize,
        spare: bool,
    ) -> Result<(usize, Self::Future), Request> {
        let others = (0..SERVERS).filter(|place| *place != than);
        let others: Vec<_> = others
            .filter(|place| !spare || self.load(*place) < SLOTS)
            .collect();
        match self.choose(others) {
            Some(place) => Ok(self.begin(place, &request)),
            None => Err(request),
        }
    }
}

/// What was seen: percentiles in milliseconds, and the requests that servers began with, by those
/// that came.
#[derive(Debug)]
struct Seen {
    p50: f64,
    p99: f64,
    p999: f64,
    extra: f64,
}

async fn simulate(config: Config, load: f64, requests: usize) -> Seen {
    let rate = load * (SERVERS * SLOTS) as f64 / WORK.as_secs_f64();
    let lasts = Duration::from_secs_f64(2. * requests as f64 / rate + 10.);
    let fleet = Fleet::new(11, lasts);
    let knows = Knows {
        is_lost: |_| false,
        is_repeatable: Arc::new(|_| true),
    };
    let retry = RetryLayer::new(config, knows, Handles::default()).layer(fleet.clone());
    let mut random = Random::new(12);
    let mut at = Instant::now();
    let mut callers = Vec::new();
    for _ in 0..requests {
        at += Duration::from_secs_f64(random.exponential() / rate);
        sleep_until(at).await;
        let mut retry = retry.clone();
        let mut request = request("", None);
        // A copy takes what the first try takes, and where nothing is copied all is the same.
        let work = WORK.mul_f64(0.5 + 0.5 * random.exponential());
        request.head.priority = work.as_micros() as u64;
        callers.push(tokio::spawn(async move {
            let began = Instant::now();
            let call = retry.call(request);
            call.await.expect("it is answered");
            began.elapsed().as_secs_f64() * 1e3
        }));
    }
    let mut times = Vec::new();
    for caller in callers {
        times.push(caller.await.expect("nothing panics"));
    }
    times.sort_by(f64::total_cmp);
    let percentile = |share: f64| times[(share * requests as f64) as usize];
    Seen {
        p50: percentile(0.5),
        p99: percentile(0.99),
        p999: percentile(0.999),
        extra: fleet.0.begun.load(Relaxed) as f64 / requests as f64 - 1.,
    }
}

/// The figures of the README: `cargo test -p outrigger-filters stragglers -- --nocapture`.
#[tokio::test(start_paused = true)]
async fn copies_of_the_slowest_spare_callers_the_pauses_and_cost_servers_a_twentieth() {
    println!("| load | | p50 | p99 | p99.9 | more work |");
    for load in [0.3, 0.5, 0.7, 0.9] {
        let without = simulate(lost(0.1), load, REQUESTS).await;
        let config = Config {
            hedge: Some(Hedge::default()),
            ..Config::default()
        };
        let with = simulate(config, load, REQUESTS).await;
        for (name, seen) in [("without", &without), ("with", &with)] {
            println!(
                "| {load} | {name} | {:.0} | {:.0} | {:.0} | {:.1} % |",
                seen.p50,
                seen.p99,
                seen.p999,
                seen.extra * 100.
            );
        }
        assert!(with.extra <= 0.052, "{load}: {with:?}");
        assert!(
            with.p999 <= 1.1 * without.p999 && with.p99 <= 1.1 * without.p99,
            "{load}: {with:?} {without:?}"
        );
        if load <= 0.5 {
            assert!(
                with.p99 <= 0.5 * without.p99,
                "{load}: {with:?} {without:?}"
            );
        }
    }
}

const SERVERS: usize = 3;
const SLOTS: usize = 4;
const WORK: Duration = Duration::from_millis(10);
const PAUSE: Duration = Duration::from_millis(100);
const EVERY: Duration = Duration::from_secs(2);
const REQUESTS: usize = 10_000;
