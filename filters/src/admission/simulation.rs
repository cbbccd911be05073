//! The filter's mind before simulated servers, event by event, on a clock of its own.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap, VecDeque},
    num::NonZeroUsize,
    sync::Arc,
    task::{Wake, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    Concurrency, Config,
    queue::{By, Outcome, Urgency},
    state::{Arrival, State, Told},
};
use crate::random::Random;

/// How long calls take that are alone, around a mean of one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Spread {
    /// But for a noise of 3%.
    Clockwork,
    Exponential,
    /// Log-normal: of a hundred calls one takes fourteen times the mean.
    Heavy,
}

/// What a server does with several calls.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// So many at a time, in the order in which they come.
    Instances(usize),
    /// All at once, up to so many: each takes longer by its share for each other one.
    Continuous { most: usize, share: f64 },
    /// So many cores for all; beyond so many calls each costs all of them something.
    Thrashes { cores: f64, above: f64, cost: f64 },
}

#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) kind: Kind,
    pub(super) spread: Spread,
    /// Seconds of a call that is alone.
    pub(super) call: f64,
    /// Seconds on the way, there and back.
    pub(super) way: f64,
    /// Whether it says so when a call's time is over, and goes on with it nevertheless, as Triton
    /// does.
    pub(super) watches: bool,
    random: Random,
    now: f64,
    /// When calls end: those that are served in order.
    ends: BinaryHeap<Reverse<(u64, usize)>>,
    free: Vec<f64>,
    /// Those that share: by how much each has to progress.
    shared: BinaryHeap<Reverse<(u64, usize)>>,
    queue: VecDeque<(f64, usize)>,
    progress: f64,
}

/// Who comes.
#[derive(Clone, Debug)]
pub(super) struct Load {
    /// Requests a second.
    pub(super) rate: f64,
    /// Seconds that each kind of request has, and of which class it is, by its share.
    pub(super) kinds: Vec<(f64, Option<f64>, u64)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Outcomes {
    pub(super) seconds: f64,
    /// For each kind: those that came, those that were answered in time, and at all.
    pub(super) came: Vec<usize>,
    pub(super) in_time: Vec<usize>,
    pub(super) answered: usize,
    pub(super) late: usize,
    /// Of those in time, in seconds.
    pub(super) took: Vec<f64>,
    pub(super) most_waiting: usize,
}

#[derive(Debug)]
struct Woken(usize, Arc<Mutex<Vec<usize>>>);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.1.lock().push(self.0);
    }
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    kind: usize,
    came: f64,
    deadline: Option<f64>,
}

#[derive(Debug)]
pub(super) struct Simulation {
    pub(super) state: State,
    pub(super) server: Server,
    objective: f64,
    base: Instant,
    random: Random,
    arrival: f64,
    now: f64,
    by: By,
    woken: Arc<Mutex<Vec<usize>>>,
    /// By their nodes.
    waiting: HashMap<usize, Asked>,
    dying: BTreeSet<(u64, usize)>,
    /// What the server has to do, with the calls for which it is.
    sent: HashMap<usize, (usize, Asked)>,
    /// When it says of them that their time is over.
    due: BTreeSet<(u64, usize)>,
    jobs: usize,
}

impl Server {
    pub(super) fn new(kind: Kind, spread: Spread, call: f64, way: f64) -> Self {
        Self {
            kind,
            spread,
            call,
            way,
            watches: false,
            random: Random::new(7),
            now: 0.,
            ends: BinaryHeap::new(),
            free: match kind {
                Kind::Instances(instances) => vec![0.; instances],
                _ => Vec::new(),
            },
            shared: BinaryHeap::new(),
            queue: VecDeque::new(),
            progress: 0.,
        }
    }

    /// Returns the most answers a second with any number of calls.
    pub(super) fn most(&self) -> f64 {
        let rate = |calls: usize| calls as f64 * self.speed(calls);
        match self.kind {
            Kind::Instances(instances) => instances as f64 / self.call,
            Kind::Continuous { most, .. } => rate(most),
            Kind::Thrashes { .. } => (1..1000).map(rate).fold(0., f64::max),
        }
    }

    /// Changes the number of instances; those that are gone drop what they have begun.
    pub(super) fn instances(&mut self, instances: usize) {
        self.free.resize(instances, self.now);
    }

    /// Returns the calls a second of each of so many that share.
    fn speed(&self, calls: usize) -> f64 {
        let calls = calls as f64;
        let slower = match self.kind {
            Kind::Instances(_) => 1.,
            Kind::Continuous { share, .. } => 1. + share * (calls - 1.),
            Kind::Thrashes { cores, above, cost } => {
                (calls / cores).max(1.) * (1. + cost * (calls - above).max(0.))
            }
        };
        1. / (self.call * slower)
    }

    fn work(&mut self) -> f64 {
        match self.spread {
            Spread::Clockwork => 1. + 0.03 * self.normal(),
            Spread::Exponential => self.random.exponential(),
            Spread::Heavy => {
                let sigma = 1.5;
                (sigma * self.normal() - sigma * sigma / 2.).exp()
            }
        }
    }

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.random.uniform()).sum::<f64>() - 6.
    }

    fn catch_up(&mut self, now: f64) {
        if !self.shared.is_empty() {
            self.progress += (now - self.now) * self.speed(self.shared.len());
        }
        self.now = now;
    }

    fn send(&mut self, now: f64, call: usize) {
        self.catch_up(now);
        let work = self.work();
        if let Kind::Instances(_) = self.kind {
            let time = work * self.call;
            let way = self.way / 2.;
            let free = self
                .free
                .iter_mut()
                .min_by(|a, b| a.total_cmp(b))
                .expect("an instance");
            *free = free.max(now + way) + time;
            self.ends.push(Reverse(((*free + way).to_bits(), call)));
            return;
        }
        let most = match self.kind {
            Kind::Continuous { most, .. } => most,
            _ => usize::MAX,
        };
        match self.shared.len() < most {
            true => self
                .shared
                .push(Reverse(((self.progress + work).to_bits(), call))),
            false => self.queue.push_back((work, call)),
        }
    }

    /// Returns when the next call ends.
    fn next(&self) -> f64 {
        let ordered = self.ends.peek().map(|Reverse((at, _))| f64::from_bits(*at));
        let shared = self.shared.peek().map(|Reverse((at, _))| {
            let left = (f64::from_bits(*at) - self.progress).max(0.);
            self.now + left / self.speed(self.shared.len())
        });
        ordered
            .into_iter()
            .chain(shared)
            .fold(f64::INFINITY, f64::min)
    }

    /// Ends the next call.
    fn end(&mut self, now: f64) -> usize {
        self.catch_up(now);
        if let Some(Reverse((_, call))) = self.ends.pop() {
            return call;
        }
        let Reverse((at, call)) = self.shared.pop().expect("a call is under way");
        self.progress = f64::from_bits(at);
        if let Some((work, next)) = self.queue.pop_front() {
            self.shared
                .push(Reverse(((self.progress + work).to_bits(), next)));
        }
        call
    }
}

impl Simulation {
    pub(super) fn new(server: Server, limit: Option<usize>, objective: f64, by: By) -> Self {
        let config = Config {
            latency_objective: Duration::from_secs_f64(objective),
            max_concurrency: match limit.and_then(NonZeroUsize::new) {
                Some(calls) => Concurrency::Fixed(calls),
                None => Concurrency::Auto,
            },
            ..Config::default()
        };
        let base = Instant::now();
        let mut state = State::new(&config, base);
        state.queue.order_by(by);
        Self {
            state,
            server,
            objective,
            base,
            random: Random::new(11),
            arrival: 0.,
            now: 0.,
            by,
            woken: Arc::default(),
            waiting: HashMap::new(),
            dying: BTreeSet::new(),
            sent: HashMap::new(),
            due: BTreeSet::new(),
            jobs: 0,
        }
    }

    fn at(&self, seconds: f64) -> Instant {
        self.base + Duration::from_secs_f64(seconds)
    }

    /// Lets requests come at random for so many seconds.
    pub(super) fn run(&mut self, load: &Load, seconds: f64) -> Outcomes {
        let mut outcomes = Outcomes {
            seconds,
            came: vec![0; load.kinds.len()],
            in_time: vec![0; load.kinds.len()],
            ..Outcomes::default()
        };
        let until = self.now + seconds;
        self.arrival = self.now + self.random.exponential() / load.rate;
        loop {
            let end = self.server.next();
            let due = (self.due.first()).map_or(f64::INFINITY, |(at, _)| f64::from_bits(*at));
            let next = end.min(self.arrival).min(due);
            if next > until {
                self.now = until;
                return outcomes;
            }
            self.now = next;
            self.bury(&mut outcomes);
            if due <= next && due < end {
                self.expire(&mut outcomes);
                continue;
            }
            match end <= self.arrival {
                true => self.end(&mut outcomes),
                false => {
                    self.arrive(load, &mut outcomes);
                    self.arrival += self.random.exponential() / load.rate;
                }
            }
            let waiting = self.state.queue.len();
            outcomes.most_waiting = outcomes.most_waiting.max(waiting);
        }
    }

    /// Takes those out who cannot be in time, as their alarms would.
    fn bury(&mut self, outcomes: &mut Outcomes) {
        while let Some((deadline, node)) = self.dying.first().copied() {
            let deadline = self.at(f64::from_bits(deadline));
            if self.state.hopeless_from(deadline) > self.at(self.now) {
                return;
            }
            self.dying.pop_first();
            if self.waiting.remove(&node).is_some() {
                assert!(self.state.queue.leave(node).is_none());
                outcomes.late += 1;
            }
        }
    }

    fn arrive(&mut self, load: &Load, outcomes: &mut Outcomes) {
        let mut draw = self.random.uniform();
        let kind = load.kinds.iter().position(|(share, ..)| {
            draw -= share;
            draw < 0.
        });
        let kind = kind.unwrap_or(load.kinds.len() - 1);
        let (_, deadline, class) = load.kinds[kind];
        outcomes.came[kind] += 1;
        let asked = Asked {
            kind,
            came: self.now,
            deadline: deadline.map(|time| self.now + time),
        };
        let urgency = Urgency {
            priority: class,
            deadline: asked.deadline.map(|at| self.at(at)),
            arrived: self.at(self.now),
            in_sequence: false,
        };
        let mut told = Told::default();
        let arrival = self.state.arrive(&urgency, &mut told);
        self.tell(told, outcomes);
        match arrival {
            Arrival::Go(call) => self.send(call, asked),
            // There is always one expected wait, which only the order by deadline can keep.
            Arrival::Late(_) if self.by == By::LastArrival => self.wait(&urgency, false, asked),
            Arrival::Hopeless | Arrival::Late(_) => outcomes.late += 1,
            // As many as may wait.
            Arrival::Wait { overdue } => {
                if self.waiting.len() == 1000 {
                    outcomes.late += 1;
                    let Some(last) = self.state.queue.behind(&urgency, overdue) else {
                        return;
                    };
                    self.state.queue.leave(last);
                    self.waiting.remove(&last);
                }
                self.wait(&urgency, overdue && self.by == By::Deadline, asked);
            }
        }
    }

    fn wait(&mut self, urgency: &Urgency, overdue: bool, asked: Asked) {
        let node = self.state.queue.free_node();
        let waker = Waker::from(Arc::new(Woken(node, Arc::clone(&self.woken))));
        assert_eq!(self.state.push(urgency, overdue, None, 0, waker), node);
        self.waiting.insert(node, asked);
        if let Some(deadline) = asked.deadline {
            self.dying.insert((deadline.to_bits(), node));
        }
    }

    /// Sends a call; a server that watches deadlines will say when its time is over.
    fn send(&mut self, call: usize, asked: Asked) {
        self.jobs += 1;
        self.server.send(self.now, self.jobs);
        self.sent.insert(self.jobs, (call, asked));
        if let Some(deadline) = asked.deadline.filter(|_| self.server.watches) {
            self.due.insert((deadline.to_bits(), self.jobs));
        }
    }

    /// Ends the call whose time is over; the server goes on with it.
    fn expire(&mut self, outcomes: &mut Outcomes) {
        let (_, job) = self.due.pop_first().expect("one is due");
        if let Some((call, _)) = self.sent.remove(&job) {
            let told = self.state.end(call, Some(false), self.at(self.now));
            self.tell(told, outcomes);
        }
    }

    fn end(&mut self, outcomes: &mut Outcomes) {
        let job = self.server.end(self.now);
        let Some((call, asked)) = self.sent.remove(&job) else {
            return;
        };
        let took = self.now - asked.came;
        outcomes.answered += 1;
        let due = asked.deadline.unwrap_or(asked.came + self.objective);
        if self.now <= due {
            outcomes.in_time[asked.kind] += 1;
            outcomes.took.push(took);
        }
        let told = self.state.end(call, Some(true), self.at(self.now));
        self.tell(told, outcomes);
    }

    /// Sends those who were given places, and counts those who were not.
    fn tell(&mut self, told: Told, outcomes: &mut Outcomes) {
        told.wakers.into_iter().for_each(Waker::wake);
        let woken = std::mem::take(&mut *self.woken.lock());
        for node in woken {
            let asked = self.waiting.remove(&node).expect("it waited");
            if let Some(deadline) = asked.deadline {
                self.dying.remove(&(deadline.to_bits(), node));
            }
            match self.state.queue.poll(node, Waker::noop()) {
                Some(Outcome::Granted(call)) => {
                    self.send(call, asked);
                }
                Some(_) => outcomes.late += 1,
                None => panic!("woken for nothing"),
            }
        }
    }
}

impl Load {
    /// All have so much time.
    pub(super) fn due(rate: f64, seconds: f64) -> Self {
        Self {
            rate,
            kinds: vec![(1., Some(seconds), 0)],
        }
    }
}

impl Outcomes {
    /// Returns the answers in time, a second.
    pub(super) fn goodput(&self) -> f64 {
        self.in_time.iter().sum::<usize>() as f64 / self.seconds
    }

    pub(super) fn percentile(&mut self, of_100: usize) -> f64 {
        self.took.sort_by(f64::total_cmp);
        let at = self.took.len() * of_100 / 100;
        self.took.get(at).copied().unwrap_or(f64::NAN)
    }
}

fn servers() -> Vec<(&'static str, Server)> {
    use Kind::{Continuous, Instances, Thrashes};
    use Spread::{Clockwork, Exponential, Heavy};
    vec![
        (
            "1 instance",
            Server::new(Instances(1), Clockwork, 0.010, 0.0002),
        ),
        (
            "1, exponential",
            Server::new(Instances(1), Exponential, 0.010, 0.0002),
        ),
        (
            "4 instances",
            Server::new(Instances(4), Clockwork, 0.010, 0.0002),
        ),
        (
            "4, exponential",
            Server::new(Instances(4), Exponential, 0.010, 0.0002),
        ),
        (
            "4, heavy tails",
            Server::new(Instances(4), Heavy, 0.010, 0.0002),
        ),
        (
            "16, exponential",
            Server::new(Instances(16), Exponential, 0.010, 0.0002),
        ),
        (
            "64 instances",
            Server::new(Instances(64), Clockwork, 0.010, 0.0002),
        ),
        (
            "64, exponential",
            Server::new(Instances(64), Exponential, 0.010, 0.0002),
        ),
        (
            "64, heavy tails",
            Server::new(Instances(64), Heavy, 0.010, 0.0002),
        ),
        (
            "1, 1 ms, slow way",
            Server::new(Instances(1), Exponential, 0.001, 0.005),
        ),
        (
            "continuous, 100",
            Server::new(
                Continuous {
                    most: 100,
                    share: 0.02,
                },
                Exponential,
                0.010,
                0.,
            ),
        ),
        (
            "thrashes above 8",
            Server::new(
                Thrashes {
                    cores: 4.,
                    above: 8.,
                    cost: 0.05,
                },
                Exponential,
                0.010,
                0.,
            ),
        ),
    ]
}

#[tokio::test]
async fn the_limit_reaches_what_the_best_static_one_does() {
    println!(
        "| server | deadline | load | best static | its goodput | `auto` | limit | to best | p50 | p99 |"
    );
    let mut ratios = Vec::new();
    for (name, server) in servers() {
        let most = server.most();
        let slowest = match server.kind {
            Kind::Continuous { most, .. } => 1. / server.speed(most),
            _ => server.call.max(server.way),
        };
        let deadline = 5. * slowest;
        for times in [0.9, 2.] {
            let load = Load::due(most * times, deadline);
            let run = |limit: Option<usize>, warm: f64, calls: f64| {
                let mut it = Simulation::new(server.clone(), limit, deadline, By::Deadline);
                it.run(&load, warm / most);
                let outcomes = it.run(&load, calls / most);
                (outcomes, it.state.limit.calls())
            };
            let (best, at) = [1, 2, 4, 5, 8, 12, 20, 80, 100]
                .iter()
                .map(|limit| (run(Some(*limit), 400., 3000.).0.goodput(), *limit))
                .max_by(|a, b| a.0.total_cmp(&b.0))
                .expect("some limit is the best");
            let (mut outcomes, limit) = run(None, 4000., 8000.);
            let ratio = outcomes.goodput() / best;
            println!(
                "| {name} | {:.0} ms | {times} | {at} | {:.2} | {:.2} | {limit} | {ratio:.2} | {:.0} ms | {:.0} ms |",
                deadline * 1e3,
                best / most,
                outcomes.goodput() / most,
                outcomes.percentile(50) * 1e3,
                outcomes.percentile(99) * 1e3,
            );
            // What a search costs, and noise.
            assert!(ratio > 0.8, "{name} {times}: {ratio}");
            ratios.push(ratio);
        }
    }
    let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
    println!("mean {mean:.3}");
    assert!(mean > 0.95, "{mean}");
}

#[tokio::test]
async fn under_overload_nearly_all_that_can_be_is_answered_in_time_and_not_at_the_last_moment() {
    println!("| calls | deadlines | load | order | goodput | p50 | p99 |");
    let call = 0.010;
    for (spread, name) in [
        (Spread::Clockwork, "clockwork"),
        (Spread::Exponential, "exponential"),
    ] {
        let server = Server::new(Kind::Instances(4), spread, call, 0.0002);
        let most = server.most();
        for (deadlines, kinds, least) in [
            ("100 ms", vec![(1., Some(0.1), 0)], 0.95),
            (
                "50 and 300 ms",
                vec![(0.5, Some(0.05), 0), (0.5, Some(0.3), 0)],
                0.92,
            ),
            ("none, objective 100 ms", vec![(1., None, 0)], 0.8),
            (
                "100 ms, or none",
                vec![(0.5, Some(0.1), 0), (0.5, None, 0)],
                0.8,
            ),
        ] {
            for times in [1., 2., 4.] {
                for by in [By::Deadline, By::Arrival, By::LastArrival] {
                    let mut it = Simulation::new(server.clone(), Some(5), 0.1, by);
                    let load = Load {
                        rate: most * times,
                        kinds: kinds.clone(),
                    };
                    it.run(&load, 3.);
                    let mut outcomes = it.run(&load, 7.);
                    let goodput = outcomes.goodput() / most;
                    println!(
                        "| {name} | {deadlines} | {times} | {by:?} | {goodput:.2} | {:.0} ms | {:.0} ms |",
                        outcomes.percentile(50) * 1e3,
                        outcomes.percentile(99) * 1e3,
                    );
                    if by == By::Deadline {
                        let least = if times < 2. { 0.9 } else { least };
                        assert!(goodput > least, "{name} {deadlines} {times}: {goodput}");
                        let half = outcomes.percentile(50);
                        assert!(
                            times < 2. || half < 0.04,
                            "{name} {deadlines} {times}: {half}"
                        );
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn an_urgent_class_below_what_the_endpoint_can_do_hardly_notices_twice_as_much() {
    for spread in [Spread::Clockwork, Spread::Exponential] {
        let server = Server::new(Kind::Instances(4), spread, 0.010, 0.0002);
        let rate = 2. * server.most();
        // The urgent ones are 0.6 of what it can do.
        let kinds = vec![(0.3, Some(0.1), 1), (0.7, Some(0.1), 10)];
        let mut it = Simulation::new(server, None, 0.1, By::Deadline);
        it.run(
            &Load {
                rate,
                kinds: kinds.clone(),
            },
            5.,
        );
        let outcomes = it.run(&Load { rate, kinds }, 20.);
        let share = outcomes.in_time[0] as f64 / outcomes.came[0] as f64;
        assert!(share > 0.99, "{spread:?}: {share}");
        // And what is left is for the others.
        let whole = outcomes.goodput() / it.server.most();
        assert!(whole > 0.9, "{spread:?}: {whole}");
    }
}

#[tokio::test]
async fn the_limit_follows_instances_that_go_and_come() {
    for spread in [Spread::Clockwork, Spread::Exponential] {
        let server = Server::new(Kind::Instances(16), spread, 0.010, 0.0002);
        let load = Load::due(2. * server.most(), 0.1);
        let mut it = Simulation::new(server, None, 0.1, By::Deadline);
        for instances in [16, 4, 16] {
            it.server.instances(instances);
            it.run(&load, 5.);
            let outcomes = it.run(&load, 10.);
            let goodput = outcomes.goodput() * it.server.call / instances as f64;
            println!(
                "{spread:?}: {instances} {goodput:.2} {}",
                it.state.limit.calls()
            );
            assert!(goodput > 0.85, "{spread:?} {instances}: {goodput}");
        }
    }
}

#[tokio::test]
async fn a_server_that_works_on_what_has_expired_is_not_given_more_than_it_can_do() {
    for classes in [1, 2] {
        for (times, watches) in [(2., true), (2., false), (4., true)] {
            let mut server = Server::new(Kind::Instances(1), Spread::Clockwork, 0.0044, 0.0002);
            server.watches = watches;
            let rate = times * server.most();
            let kinds = match classes {
                1 => vec![(1., Some(0.05), 0)],
                _ => vec![(0.2, Some(0.05), 1), (0.8, Some(0.05), 2)],
            };
            let load = Load { rate, kinds };
            let most = server.most();
            // From the very first call on it is offered too much.
            let mut it = Simulation::new(server, None, 0.05, By::Deadline);
            it.run(&load, 2.);
            let outcomes = it.run(&load, 10.);
            let goodput = outcomes.goodput() / most;
            let case = format!("{classes} classes, {times}, {watches}");
            println!("{case}: {goodput:.2}, {} calls", it.state.limit.calls());
            assert!(goodput > 0.9, "{case}: {goodput}");
            if classes == 2 && times < 3. {
                let urgent = outcomes.in_time[0] as f64 / outcomes.came[0] as f64;
                assert!(urgent > 0.98, "{case}: {urgent}");
            }
        }
    }
}
