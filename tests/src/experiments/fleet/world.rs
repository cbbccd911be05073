use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};

use bytestring::ByteString;
use outrigger::state::Redis;
use outrigger_filters::select::{
    Arm, Available, Batch, Config, Evidence, Id, Memory, Policy, Pool, Reply, Selector,
};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::wire;
use super::zipf::Zipf;

/// Replicas of one model that learn from the same stream of requests, on a clock of their own.
///
/// ```text
///             random replica          random replica            what all share
///  request --> shares, arm --> feedback --> learn     ask ------> keep
///                                             ^                    |
///                                             '---- half of RTT <--'
/// ```
#[derive(Clone, Debug)]
pub(super) struct World {
    /// How arms are chosen.
    pub(super) policy: Policy,
    /// How many replicas there are.
    pub(super) replicas: usize,
    /// Requests a second of all replicas together; of each is told how good the answer was.
    pub(super) rate: f64,
    /// Seconds between two exchanges of a replica; none if they share nothing.
    pub(super) interval: Option<f64>,
    /// Whether a loss counts for less where others learn much at the same time, as it does.
    pub(super) heeds: bool,
    /// How many requests there are; the best arm is lost from a quarter to a half of them.
    pub(super) queries: u64,
    /// How many callers are told apart, if any are.
    pub(super) contexts: Option<Contexts>,
    /// Where the dice begin.
    pub(super) seed: u64,
}

/// Callers who are told apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contexts {
    /// How many there are; the n-th most frequent one asks 1/n as often as the first.
    pub(super) count: usize,
    /// How many a replica remembers.
    pub(super) remembered: usize,
    /// Whether a caller always comes to the same replica.
    pub(super) sticky: bool,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// How long it lasted, and how much of that is counted of what the store was asked.
    pub(super) seconds: f64,
    /// See above.
    pub(super) counted_seconds: f64,
    /// The share of wrong answers.
    pub(super) error: f64,
    /// The share of wrong answers in the first fortieth without the best arm.
    pub(super) error_lost: f64,
    /// The share of wrong answers in the last quarter.
    pub(super) error_end: f64,
    /// Seconds from the loss of the best arm until 99 of 100 replicas prefer the next one.
    pub(super) agreed_lost: Option<f64>,
    /// Seconds from its return until 99 of 100 replicas prefer it.
    pub(super) agreed_back: Option<f64>,
    /// Seconds from the last feedback until every replica had counted everything.
    pub(super) known: Option<f64>,
    /// Batches that the store was brought, in the second half.
    pub(super) exchanges: u64,
    /// Calls of the script: one for each state of a batch.
    pub(super) calls: u64,
    /// Calls that brought something.
    pub(super) told: u64,
    /// Bytes that the store was sent, and that it answered.
    pub(super) bytes: (u64, u64),
    /// Contexts that a replica had in memory, in the mean.
    pub(super) contexts: f64,
    /// The most differences that waited in one replica.
    pub(super) waited: usize,
    /// Feedback that was refused.
    pub(super) refused: u64,
    /// Contexts that were seen at all.
    pub(super) met: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Query,
    Ask(usize),
    Reach(usize),
    Answer(usize),
}

/// The course of a [`World`].
struct Course<'a> {
    world: &'a World,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    number: u64,
    dice: SmallRng,
    fleet: Vec<Replica>,
    pool: Pool,
    keeper: &'a Redis,
    zipf: Option<Zipf>,
    query: u64,
    wrong: Wrong,
    seen: Seen,
    met: HashSet<u64>,
    /// How many replicas prefer each arm.
    prefer: [usize; ARMS],
    changed: u64,
    ended: Option<u64>,
    /// How many replicas have counted everything after the end.
    knowing: usize,
    learned: u64,
}

struct Replica {
    memory: Memory,
    asked: Option<(Batch, Reply)>,
    at_once: usize,
    prefers: usize,
    knows: bool,
}

#[derive(Default)]
struct Wrong {
    all: u64,
    lost: u64,
    end: u64,
}

impl World {
    /// Lets it run.
    pub(super) fn run(&self, keeper: &Redis) -> Seen {
        let mut course = Course::new(self, keeper);
        while let Some(Reverse((now, _, event))) = course.events.pop() {
            course.now = now;
            match event {
                Event::Query => course.query(),
                Event::Ask(replica) => course.ask(replica),
                Event::Reach(replica) => course.reach(replica),
                Event::Answer(replica) => course.answer(replica),
            }
            if course.is_over() {
                break;
            }
        }
        course.finish()
    }

    /// The share of wrong answers where the best arm is always known.
    pub(super) fn oracle() -> f64 {
        0.75 * ERRORS[BEST] + 0.25 * ERRORS[SECOND]
    }

    fn asks_all(&self) -> bool {
        matches!(self.policy, Policy::Exp4 { .. })
    }

    fn memory(&self, number: u64) -> Memory {
        let names: Vec<ByteString> = (0..ARMS).map(|arm| NAMES[arm].into()).collect();
        let arms: Vec<_> = names.iter().cloned().map(Arm::new).collect();
        let config = Config {
            policy: self.policy,
            ..Config::default()
        };
        let most = self.contexts.map_or(0, |contexts| contexts.remembered);
        let memory = Memory::new(Selector::new(&config, &arms), most, names);
        let memory = memory.kept("digits".into(), self.policy.as_str(), number);
        match self.heeds {
            true => memory,
            false => memory.heedless(),
        }
    }
}

impl<'a> Course<'a> {
    fn new(world: &'a World, keeper: &'a Redis) -> Self {
        let mut dice = SmallRng::seed_from_u64(world.seed);
        let fleet = (0..world.replicas).map(|_| Replica {
            memory: world.memory(dice.random()),
            asked: None,
            at_once: 0,
            prefers: 0,
            knows: false,
        });
        let fleet: Vec<_> = fleet.collect();
        let mut course = Self {
            world,
            now: 0,
            events: BinaryHeap::new(),
            number: 0,
            fleet,
            pool: Pool::default(),
            keeper,
            zipf: world.contexts.map(|contexts| Zipf::new(contexts.count)),
            query: 0,
            wrong: Wrong::default(),
            seen: Seen::default(),
            met: HashSet::new(),
            prefer: [0; ARMS],
            changed: 0,
            ended: None,
            knowing: 0,
            learned: 0,
            dice,
        };
        course.prefer[0] = world.replicas;
        course.after(0., Event::Query);
        if let Some(interval) = world.interval {
            for replica in 0..world.replicas {
                let wait = interval * course.dice.random::<f64>();
                course.after(wait, Event::Ask(replica));
            }
        }
        course
    }

    fn after(&mut self, seconds: f64, event: Event) {
        self.number += 1;
        let at = self.now + (seconds * 1e9) as u64;
        self.events.push(Reverse((at, self.number, event)));
    }

    fn is_over(&self) -> bool {
        let Some(ended) = self.ended else {
            return false;
        };
        self.world.interval.is_none()
            || self.world.contexts.is_some()
            || self.knowing == self.fleet.len()
            || self.now > ended + LONGEST
    }

    fn query(&mut self) {
        let world = self.world;
        let query = self.query;
        self.query += 1;
        let quarter = world.queries / 4;
        if query == quarter || query == 2 * quarter {
            self.changed = self.now;
        }
        let lost = (quarter..2 * quarter).contains(&query);
        let context = self.zipf.as_ref().map(|zipf| zipf.draw(&mut self.dice));
        let name = context.map(|context| format!("user-{context:08}"));
        let sticky = world.contexts.is_some_and(|contexts| contexts.sticky);
        let mut somebody = || match (sticky, context) {
            (true, Some(context)) => context % world.replicas,
            _ => self.dice.random_range(0..world.replicas),
        };
        let (asked, told) = (somebody(), somebody());
        if let Some(context) = context {
            self.met.insert(context as u64);
        }
        let shares = self.fleet[asked]
            .memory
            .shares(name.as_deref(), Available::first(ARMS));
        let labels = self.labels(lost);
        let losses = labels.map(|label| Some(f64::from(label != 0)));
        let arm = Selector::choose(&shares, self.dice.random()).unwrap_or(0);
        let (evidence, wrong) = if world.asks_all() {
            (Evidence::Known(&losses), vote(&labels, &shares) != 0)
        } else {
            let evidence = Evidence::Chosen {
                arm,
                probability: shares[arm],
                loss: losses[arm].unwrap_or(1.),
            };
            (evidence, labels[arm] != 0)
        };
        let count = |yes: bool| u64::from(yes && wrong);
        self.wrong.all += count(true);
        self.wrong.lost += count((quarter..quarter + world.queries / 40).contains(&query));
        self.wrong.end += count(query >= 3 * quarter);
        let id = Id {
            nonce: query + 1,
            row: 0,
        };
        match self.fleet[told]
            .memory
            .learn(name.as_deref(), evidence, Some(id))
        {
            Ok(_) => self.learned += 1,
            Err(_) => self.seen.refused += 1,
        }
        self.look(told, query);
        if self.query < world.queries {
            let wait = -(1. - self.dice.random::<f64>()).ln() / world.rate;
            self.after(wait, Event::Query);
        } else {
            self.ended = Some(self.now);
        }
    }

    /// What each arm answers; 0 is right.
    fn labels(&mut self, lost: bool) -> [u64; ARMS] {
        let mut labels = ERRORS.map(|error| match self.dice.random_bool(error) {
            true => self.dice.random_range(1..LABELS),
            false => 0,
        });
        if lost {
            labels[BEST] = self.dice.random_range(0..LABELS);
        }
        labels
    }

    /// Looks which arm a replica prefers, and whether enough of them prefer the right one.
    fn look(&mut self, replica: usize, query: u64) {
        let shares = self.fleet[replica]
            .memory
            .shares(None, Available::first(ARMS));
        let best = (0..ARMS)
            .max_by(|one, other| shares[*one].total_cmp(&shares[*other]))
            .unwrap_or(0);
        let before = std::mem::replace(&mut self.fleet[replica].prefers, best);
        self.prefer[before] -= 1;
        self.prefer[best] += 1;
        let quarter = self.world.queries / 4;
        let (right, agreed) = match query {
            query if query < quarter => return,
            query if query < 2 * quarter => (SECOND, &mut self.seen.agreed_lost),
            _ => (BEST, &mut self.seen.agreed_back),
        };
        if agreed.is_none() && self.prefer[right] as f64 >= AGREED * self.fleet.len() as f64 {
            *agreed = Some((self.now - self.changed) as f64 / 1e9);
        }
    }

    fn ask(&mut self, replica: usize) {
        if let Some(batch) = self.fleet[replica].memory.batch() {
            self.fleet[replica].asked = Some((batch, Reply::default()));
            self.after(WAY, Event::Reach(replica));
        }
    }

    fn reach(&mut self, replica: usize) {
        let Some((batch, reply)) = &mut self.fleet[replica].asked else {
            return;
        };
        *reply = self.pool.keep(batch);
        if self.query >= self.world.queries / 2 && self.ended.is_none() {
            let seen = &mut self.seen;
            seen.exchanges += 1;
            seen.calls += batch.parts.len() as u64;
            let told = batch.parts.iter().filter(|part| !part.parcels.is_empty());
            seen.told += told.count() as u64;
            seen.bytes.0 += self.keeper.written(batch) as u64;
            seen.bytes.1 += wire::answered(batch, reply);
        }
        self.after(WAY, Event::Answer(replica));
    }

    fn answer(&mut self, replica: usize) {
        let one = &mut self.fleet[replica];
        let Some((batch, reply)) = one.asked.take() else {
            return;
        };
        if self.number.is_multiple_of(WATCHED) {
            let waits = one.memory.view().journal.map_or(0, |it| it.unacknowledged);
            self.seen.waited = self.seen.waited.max(waits);
        }
        let urgent = one.memory.absorb(&batch, reply);
        one.at_once = if urgent { one.at_once + 1 } else { 0 };
        let at_once = urgent && one.at_once < AT_ONCE;
        self.look(replica, self.query.saturating_sub(1));
        self.know(replica);
        let interval = self.world.interval.unwrap_or(f64::INFINITY);
        let wait = match at_once {
            true => 0.,
            false => interval * (0.75 + 0.5 * self.dice.random::<f64>()),
        };
        self.after(wait, Event::Ask(replica));
    }

    /// Looks whether a replica has counted everything.
    fn know(&mut self, replica: usize) {
        let (Some(ended), false) = (self.ended, self.fleet[replica].knows) else {
            return;
        };
        let state = self.fleet[replica].memory.state(None);
        let counted: f64 = state.arms.iter().map(|arm| arm.observations).sum();
        let each = if self.world.asks_all() { ARMS } else { 1 };
        if counted as u64 == self.learned * each as u64 {
            self.fleet[replica].knows = true;
            self.knowing += 1;
            if self.knowing == self.fleet.len() {
                self.seen.known = Some((self.now - ended) as f64 / 1e9);
            }
        }
    }

    fn finish(mut self) -> Seen {
        let queries = self.world.queries as f64;
        let ended = self.ended.unwrap_or(self.now);
        let contexts = self.fleet.iter().map(|one| one.memory.view().contexts);
        self.seen.contexts = contexts.sum::<usize>() as f64 / self.fleet.len() as f64;
        self.seen.seconds = ended as f64 / 1e9;
        self.seen.counted_seconds = (ended - self.changed) as f64 / 1e9;
        self.seen.error = self.wrong.all as f64 / queries;
        self.seen.error_lost = self.wrong.lost as f64 / (queries / 40.);
        self.seen.error_end = self.wrong.end as f64 / (queries / 4.);
        self.seen.met = self.met.len();
        self.seen
    }
}

/// Returns the label of the most weight.
fn vote(labels: &[u64], weights: &[f64]) -> u64 {
    let mut votes = [0.; LABELS as usize];
    for (label, weight) in labels.iter().zip(weights) {
        votes[*label as usize] += weight;
    }
    let best = (0..LABELS).max_by(|a, b| votes[*a as usize].total_cmp(&votes[*b as usize]));
    best.unwrap_or(0)
}

/// How often each of five real digit models is wrong (`containers/native`).
const ERRORS: [f64; ARMS] = [0.28, 0.203, 0.085, 0.424, 0.013];
const NAMES: [&str; ARMS] = ["tree-6", "bayes", "logistic", "tree-4", "svm"];
const ARMS: usize = 5;
/// The best arm, which is lost for a while, and the next one.
const BEST: usize = 4;
const SECOND: usize = 2;
const LABELS: u64 = 10;
/// Seconds that a message takes to the store, and an answer from it.
const WAY: f64 = 0.0005;
/// The share of replicas that have to prefer the right arm.
const AGREED: f64 = 0.99;
/// Nanoseconds after the end within which everyone has to know everything.
const LONGEST: u64 = 60_000_000_000;
/// Exchanges without a wait in between, as in the proxy.
const AT_ONCE: usize = 128;
/// Events of which one has the journal looked at.
const WATCHED: u64 = 16;
